"""What a sidecar costs while it does nothing: CPU, disk, and the imports behind its start."""

import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from host import INITIALIZE, PING, Host, Program, cpu_ticks, files
from rows import Row, median

ROOT = Path(__file__).parents[2]
IDLE_S = 5.0
LOADED_S = 2.0  # whatever is loaded after the first answer is loaded by then
PACKAGES_SHOWN = 6
MAX_MB, MAX_ARCHIVE_MB = 40, 12.5

_LOAD = """
import sys, time
import kukuri_sidecar.rpc.methods, kukuri_sidecar.rpc.server, uvloop
from kukuri_sidecar.rpc.node_task import load
modules, start = len(sys.modules), time.perf_counter()
load()
print((time.perf_counter() - start) * 1000, len(sys.modules) - modules)
"""


def idle(sidecar: Program) -> Iterator[Row]:
    with Host(sidecar) as waiting, Host(sidecar) as running:
        waiting.call(PING)
        running.call(INITIALIZE)
        time.sleep(LOADED_S)
        before = cpu_ticks(waiting.pid), cpu_ticks(running.pid)
        time.sleep(IDLE_S)
        ticks = cpu_ticks(waiting.pid) - before[0], cpu_ticks(running.pid) - before[1]
    for when, count in zip(("before", "after"), ticks, strict=True):
        value = f"{count} ticks of 10 ms in {IDLE_S:.0f} s"
        yield Row(f"idle CPU {when} initialize", value, "0 ticks", count == 0, {"ticks": count})


def size(directory: Path, scratch: Path) -> Iterator[Row]:
    found = files(directory)
    mb = sum(file.stat().st_size for file in found) / 1e6
    value = f"{mb:.1f} MB in {len(found)} files"
    yield Row(f"size of {directory.name}/", value, f"<= {MAX_MB} MB", mb <= MAX_MB, {"mb": mb})
    archive = scratch / "sidecar.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(directory, directory.name)
    mb = archive.stat().st_size / 1e6
    name, target = f"size of {directory.name}.tar.xz", f"<= {MAX_ARCHIVE_MB} MB"
    yield Row(name, f"{mb:.1f} MB", target, mb <= MAX_ARCHIVE_MB, {"mb": mb})


def imports(count: int) -> Iterator[Row]:
    """The lazy part, unfrozen: this interpreter, the sources beside this file."""
    ms, modules = [], 0
    for _ in range(count):
        done = _python("-c", _LOAD)
        if done.returncode:
            yield Row("import of the lazy part, unfrozen", "not measured: this Python lacks a dependency")
            return
        spent, added = done.stdout.split()
        ms.append(float(spent))
        modules = int(added)
    value = f"p50 {median(ms):.0f}  min {min(ms):.0f} ms, {modules} modules"
    yield Row("import of the lazy part, unfrozen", value, figures={"p50_ms": median(ms), "modules": modules})

    by_package: Counter[str] = Counter()
    for line in _python("-X", "importtime", "-c", _LOAD).stderr.splitlines():
        micros, _, rest = line.removeprefix("import time:").partition("|")
        if micros.strip().isdigit():
            package = rest.rpartition("|")[2].strip().partition(".")[0]
            by_package[package] += int(micros)
    largest = by_package.most_common(PACKAGES_SHOWN)
    value = "  ".join(f"{package} {micros / 1000:.0f}" for package, micros in largest)
    yield Row("all imports by package, ms", value, figures=dict(largest))


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "sidecar")}
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True)
