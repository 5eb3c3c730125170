#!/bin/sh
# Build the real Rust peers into a target folder outside the tree; prints where the programs are.
#   tests/peers/build_rust_peers.sh
# A cold build takes about 3 minutes on 2 cores, a warm one seconds. CARGO_TARGET_DIR and CARGO_BUILD_JOBS are respected.
set -eu

if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo not found: the interop tests need the real Rust peer." >&2
    echo "Install Rust 1.91 or later (https://rustup.rs) and run this script again." >&2
    exit 1
fi

here=$(cd "$(dirname "$0")" && pwd)
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kukuri-sidecar/cargo-target}
export CARGO_TARGET_DIR

for peer in iroh-peer tracker-peer; do
    cargo build --locked --quiet --manifest-path "$here/$peer/Cargo.toml"
    echo "$CARGO_TARGET_DIR/debug/$peer"
done
