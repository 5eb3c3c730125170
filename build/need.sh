#!/bin/sh
# need.sh TOOL...: say clearly which tool is missing or too old, and how to get it. Prints nothing when all is well.
# Tools: python node cargo
set -u
missing=0
say() { printf 'missing: %s\n  get it: %s\n' "$1" "$2" >&2; missing=1; }

python_ok() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

for tool in "$@"; do
  case $tool in
    python)
      python_ok "${PYTHON:-python3}" || say "Python 3.11 or newer with venv (${PYTHON:-python3} is not)" \
        "https://www.python.org/downloads, or your package manager (Debian: apt install python3 python3-venv); or name one: make PYTHON=python3.12" ;;
    node)
      major=$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/')
      [ "${major:-0}" -ge 20 ] || say "Node.js 20 or newer (found: ${major:-none})" "https://nodejs.org, or your package manager" ;;
    cargo)
      cargo --version >/dev/null 2>&1 || say "cargo (Rust 1.91 or newer), for the real iroh peers" "https://rustup.rs" ;;
    *) say "$tool" "?" ;;
  esac
done
exit $missing
