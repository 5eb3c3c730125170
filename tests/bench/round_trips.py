"""Requests on a running program: one at a time, and as many as it takes.

All programs live side by side and take turns, so that a change of the machine meets all of them; what `cat`
needs is the floor.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from host import INITIALIZE, PING, PIPE_BYTES, Host, Program, request
from rows import Row, median, quantile

LOADED_S = 2.0  # whatever is loaded after the first answer is loaded by then
WARM_UP = 300
BLOCKS = 10
BURST_LINES = 100
PIPELINED_RUNS = 3
SIDECAR = "sidecar, ping"
LIBRARY = "sidecar, node.info"


def round_trips(
    sidecar: Program, references: Mapping[str, Program], *, count: int, pipelined: int
) -> Iterator[Row]:
    with ExitStack() as stack:
        talks: dict[str, tuple[Host, bytes]] = {
            name: (stack.enter_context(Host(program)), program.line) for name, program in references.items()
        }
        node = stack.enter_context(Host(sidecar))
        node.call(INITIALIZE)
        talks[SIDECAR] = node, PING
        talks[LIBRARY] = node, request("node.info")
        time.sleep(LOADED_S)

        us: dict[str, list[float]] = {name: [] for name in talks}
        for host, line in talks.values():
            _talk(host, line, WARM_UP)
        for _ in range(BLOCKS):
            for name, (host, line) in talks.items():
                us[name] += _talk(host, line, count // BLOCKS)
        for name, sample in us.items():
            yield _row(name, sample)

        del talks[LIBRARY]  # more than 288 at once are refused
        rates: dict[str, list[float]] = {name: [] for name in talks}
        for _ in range(PIPELINED_RUNS):
            for name, (host, line) in talks.items():
                rates[name].append(_pipelined(host, line, pipelined))
        for name, sample in rates.items():
            rate = median(sample)
            yield Row(f"pipelined: {name}", f"{rate:,.0f} requests/s", figures={"per_s": rate})


def _talk(host: Host, line: bytes, count: int) -> list[float]:
    """Microseconds of each round trip."""
    write, read, clock = os.write, os.read, time.perf_counter_ns
    stdin, stdout = host.stdin, host.stdout
    out = []
    for _ in range(count):
        start = clock()
        write(stdin, line)
        answer = read(stdout, PIPE_BYTES)
        out.append((clock() - start) / 1000)
        if not answer.endswith(b"\n"):
            raise RuntimeError(f"half an answer: {answer!r}")
    return out


def _pipelined(host: Host, line: bytes, count: int) -> float:
    """Answers per second when requests come as fast as they are taken."""
    chunk = line * BURST_LINES

    def feed() -> None:
        for _ in range(count // BURST_LINES):
            host.write(chunk)

    feeder = threading.Thread(target=feed)
    start = time.perf_counter()
    feeder.start()
    left = count
    while left > 0:
        left -= os.read(host.stdout, PIPE_BYTES).count(b"\n")
    feeder.join()
    return count / (time.perf_counter() - start)


def _row(name: str, us: list[float]) -> Row:
    p50, p99 = median(us), quantile(us, 0.99)
    value = f"p50 {p50:.1f}  p99 {p99:.0f} us"
    figures: dict[str, float | int | str | None] = {"p50_us": p50, "p99_us": p99, "n": len(us)}
    if name != SIDECAR:
        return Row(f"round trip: {name}", value, figures=figures)
    return Row(f"round trip: {name}", value, "<= 25 / 100 us, quiet", p50 <= 25 and p99 <= 100, figures)
