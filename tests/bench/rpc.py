"""Start-up, memory, round trips, ends and size of a frozen sidecar, beside their targets. Linux, stdlib only.

    python tests/bench/rpc.py dist/kukuri-sidecar/kukuri-sidecar [--json FILE] [--anchor] [--quick]

Fair as performance.md section 1 asks: variants take turns, medians, CPU time beside wall time, and what the
machine itself costs (`cat`, Node) in the same run. Wall times mean little under load, so the load is printed.
The targets are those of host-and-packaging.md section 15.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import exits
from footprint import idle, imports, size
from host import PING, Program, request
from round_trips import round_trips
from rows import Row, table
from starts import resident, starts

HERE = Path(__file__).parent
ANCHOR = "deltachat-rpc-server"
ANCHOR_LINE = request("get_all_account_ids").replace(b"{}", b"[]")
MIN_BINARY_BYTES = 1 << 20  # the package also holds a small Python script of the same name


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("binary", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--anchor", action="store_true", help=f"also measure {ANCHOR} from PyPI")
    parser.add_argument("--quick", action="store_true", help="few repetitions: does the bench itself work?")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for row in _measure(arguments.binary.resolve(), Path(scratch), arguments.anchor, arguments.quick):
            print(row, flush=True)
            rows.append(row)
    print(f"\n{table(rows)}")
    load, cores = os.getloadavg()[1], os.cpu_count() or 1
    if load > cores / 2:
        busy = f"{load:.1f} on {cores} cores"
        print(f"\nThe machine was busy ({busy}): of the times, min and CPU say more than p50.")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def _measure(binary: Path, scratch: Path, with_anchor: bool, quick: bool) -> Iterator[Row]:
    yield _machine("at the start")
    sidecar = Program([str(binary)], PING)
    references = {"cat": Program(["cat"], PING)}
    if node := shutil.which("node"):
        references["Node readline"] = Program([node, str(HERE / "readline.mjs")], PING)
    if with_anchor and (anchor := _install_anchor(scratch)):
        os.environ["DC_ACCOUNTS_PATH"] = str(scratch / "accounts")
        references[ANCHOR] = Program([str(anchor)], ANCHOR_LINE)
    if quick:
        yield from starts(sidecar, references, warm=3, cold=2, at_once=1)
    else:
        yield from starts(sidecar, references, warm=15, cold=7, at_once=5)
    yield from resident(sidecar, references)
    count, pipelined = (500, 2000) if quick else (5000, 20_000)
    yield from round_trips(sidecar, references, count=count, pipelined=pipelined)
    yield from exits.rows(sidecar)
    yield from idle(sidecar)
    yield from size(binary.parent, scratch)
    yield from imports(2 if quick else 7)
    yield _machine("at the end")


def _machine(when: str) -> Row:
    load = os.getloadavg()[0]
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    value = f"{os.cpu_count()} cores, load {load:.2f}, {system}"
    return Row(f"machine {when}", value, figures={"cores": os.cpu_count(), "load": load})


def _install_anchor(scratch: Path) -> Path | None:
    target = scratch / "anchor"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--target", str(target), ANCHOR], capture_output=True, text=True)
    for file in target.rglob(ANCHOR):
        if file.is_file() and file.stat().st_size >= MIN_BINARY_BYTES:
            file.chmod(0o755)
            return file
    print(f"{ANCHOR} cannot be installed: {done.stderr.strip()[-300:]}", file=sys.stderr)
    return None


if __name__ == "__main__":
    main()
