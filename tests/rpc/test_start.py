"""The first answer needs asyncio and msgspec, nothing else; the rest is imported behind it."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from rpc.process import REAL, ROOT, Host

HEAVY = {
    "anyio",
    "aioquic",
    "nacl",
    "dns",
    "jsonrpcserver",
    "jsonschema",
    "cryptography",
    "blake3",
    "argparse",
}
OWN_HEAVY = (
    "kukuri_sidecar.node",
    "kukuri_sidecar.proto",
    "kukuri_sidecar.wire",
    "kukuri_sidecar.rpc.schema",
)
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "sidecar")}

# What `cli.serve` imports before it reads the first byte.
SERVE = "import kukuri_sidecar.cli; from kukuri_sidecar.rpc import logs, methods, server"


def test_nothing_heavy_is_imported_before_the_first_answer() -> None:
    code = f"{SERVE}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENV)
    modules = run.stdout.split()
    assert not HEAVY & {name.split(".")[0] for name in modules}
    assert not [name for name in modules if name.startswith(OWN_HEAVY)]


def test_start_to_first_answer_beside_its_floor(record_property: Callable[[str, object], None]) -> None:
    """Printed beside what interpreter and libraries cost: on a shared machine only the ratio says much."""
    answers, floors = [], []
    for _ in range(5):
        start = time.monotonic()
        floor = [sys.executable, "-c", "import asyncio, uvloop, msgspec"]
        subprocess.run(floor, check=True, env=ENV)
        floors.append(time.monotonic() - start)
        start = time.monotonic()
        with Host(*REAL) as host:
            host.result("ping")
            answers.append(time.monotonic() - start)
    figures = {
        "first answer ms": round(statistics.median(answers) * 1000),
        "interpreter and libraries ms": round(statistics.median(floors) * 1000),
    }
    print(figures)
    record_property("start", figures)
    assert min(answers) < 3 * min(floors)


def test_the_rest_is_loaded_behind_the_first_answer() -> None:
    """Without being asked: a host that pings first finds `initialize` ready."""
    with Host() as host:
        maps = f"/proc/{host.process.pid}/maps"
        host.result("ping")
        deadline = time.monotonic() + 15
        while True:
            with open(maps) as file:
                if "_sodium" in file.read():
                    break
            assert time.monotonic() < deadline


def test_the_self_test_imports_everything() -> None:
    run = subprocess.run([*REAL, "--selftest"], capture_output=True, text=True, timeout=20, env=ENV)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("selftest ok, ")
