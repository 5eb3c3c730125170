"""From spawn to the first answer, and what a program holds in memory then. Variants take turns."""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from host import INITIALIZE, PING, Host, Memory, Program, cpu_seconds, files, memory
from rows import Figures, Row, median, quantile

AT_ONCE = 3
MEMORY_SAMPLES = 3


def starts(
    sidecar: Program, references: Mapping[str, Program], *, warm: int, cold: int, at_once: int
) -> Iterator[Row]:
    variants: dict[str, tuple[Program, int | None]] = {
        "start -> first answer (ping)": (sidecar, 100),
        "start -> initialize answered": (sidecar.asking(INITIALIZE), 500),
        **{f"start of {name}": (program, None) for name, program in references.items()},
    }
    wall: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(warm):
        for name, (program, _) in variants.items():
            _start(program, wall[name], cpu[name])
    for name, (_, limit_ms) in variants.items():
        yield _row(f"{name}, warm", wall[name], cpu[name], limit_ms)

    cold_wall: list[float] = []
    cold_cpu: list[float] = []
    for _ in range(cold):
        _evict(Path(sidecar.command[0]).parent)
        _start(sidecar, cold_wall, cold_cpu)
    yield _row("start -> first answer (ping), cold", cold_wall, cold_cpu, 150)

    for name, line in (("first answer (ping)", PING), ("initialize answered", INITIALIZE)):
        ms = [one for _ in range(at_once) for one in _start_at_once(sidecar.asking(line))]
        yield _row(f"{AT_ONCE} at once: start -> {name}", ms, [], None)


def resident(sidecar: Program, references: Mapping[str, Program]) -> Iterator[Row]:
    first, loaded = [], []
    for _ in range(MEMORY_SAMPLES):
        with Host(sidecar) as host:
            host.call(PING)
            first.append(memory(host.pid))  # at once: the rest is being loaded from here on
            host.call(INITIALIZE)
            loaded.append(memory(host.pid))
    yield _memory_row("memory after the first answer", first, 22)
    yield _memory_row("memory after initialize", loaded, 50)
    for name, program in references.items():
        with Host(program) as host:
            host.call(program.line)
            yield _memory_row(f"memory of {name}", [memory(host.pid)], None)


def _start(program: Program, wall_ms: list[float], cpu_ms: list[float]) -> None:
    """Add the milliseconds until the answer, and those of them that were spent on a CPU."""
    with Host(program) as host:
        host.call(program.line)
        wall_ms.append((time.perf_counter() - host.started_at) * 1000)
        cpu_ms.append(cpu_seconds(host.pid) * 1000)


def _start_at_once(program: Program) -> list[float]:
    hosts = [Host(program) for _ in range(AT_ONCE)]
    ms = [0.0] * AT_ONCE

    def wait(index: int, host: Host) -> None:
        host.call(program.line)
        ms[index] = (time.perf_counter() - host.started_at) * 1000

    waits = [threading.Thread(target=wait, args=pair) for pair in enumerate(hosts)]
    for thread in waits:
        thread.start()
    for thread in waits:
        thread.join()
    for host in hosts:
        host.end()
    return ms


def _evict(directory: Path) -> None:
    """Drop the program's own files from the page cache; libc and the like stay."""
    for file in files(directory):
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)  # only clean pages can be dropped
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def _row(name: str, ms: Sequence[float], cpu_ms: Sequence[float], limit_ms: int | None) -> Row:
    p50, p95 = median(ms), quantile(ms, 0.95)
    value = f"p50 {p50:.0f}  p95 {p95:.0f}  min {min(ms):.0f} ms"
    figures: Figures = {"p50_ms": p50, "p95_ms": p95, "min_ms": min(ms), "n": len(ms)}
    if cpu_ms:
        figures["cpu_ms"] = median(cpu_ms)
        value += f"  (CPU {median(cpu_ms):.0f})"
    if limit_ms is None:
        return Row(name, value, figures=figures)
    return Row(name, value, f"p50 <= {limit_ms} ms", p50 <= limit_ms, figures)


def _memory_row(name: str, samples: list[Memory], limit_mib: int | None) -> Row:
    found = sorted(samples)[len(samples) // 2]
    processes = "1 process" if found.processes == 1 else f"{found.processes} processes"
    value = f"RSS {found.rss:.1f}  PSS {found.pss:.1f} MiB, {processes}"
    figures: Figures = {"rss_mib": found.rss, "pss_mib": found.pss, "processes": found.processes}
    if limit_mib is None:
        return Row(name, value, figures=figures)
    return Row(name, value, f"RSS <= {limit_mib} MiB", found.rss <= limit_mib, figures)
