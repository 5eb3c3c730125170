"""How long a sidecar lives on after each reason to end, in each state in which ending is hard."""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from host import INITIALIZE, PIPE_BYTES, Host, Program, memory, request, seconds_until_gone
from rows import Row

MAX_S = 1.5  # api.md section 3
LIMIT_S = 4.0  # then it counts as "never"
MAX_GROWTH_MIB = 10
FILL_S = 0.3  # a stdin that takes nothing for so long is full
SETTLE_S = 0.4
SUBSCRIPTIONS = 8
FLOOD_TOPICS = 250
BURST = 400  # 32 execute, 256 wait, the rest is refused
FULL_BYTES = PIPE_BYTES * 3 // 4  # each write begins a page of its own: a full pipe may hold less
DOCUMENTS = 2  # answers of rpc.discover, more than a pipe holds
SOMEBODY = "197f6b23e16c8532c6abc838facd5ea789be0c76b2920334039bfa8b3d368d61"  # any valid endpoint id


@dataclass(frozen=True)
class Exit:
    """One end: seconds from the trigger, None for never; code None when the process was not our child."""

    state: str
    trigger: str
    seconds: float | None
    code: int | None
    growth_mib: float


def rows(sidecar: Program) -> Iterator[Row]:
    """Every state with every trigger."""
    growth = 0.0
    for end in _ends(sidecar):
        growth = max(growth, end.growth_mib)
        seconds = "never" if end.seconds is None else f"{end.seconds:.2f} s"
        code = f", exit code {end.code}" if end.code else ""
        is_good = end.seconds is not None and end.seconds < MAX_S and not code
        figures = {"seconds": end.seconds, "code": end.code, "growth_mib": end.growth_mib}
        yield Row(
            f"end: {end.state} / {end.trigger}", seconds + code, f"< {MAX_S} s, code 0", is_good, figures
        )
    value, target = f"{growth:.1f} MiB", f"< {MAX_GROWTH_MIB} MiB"
    yield Row("largest RSS growth in these states", value, target, growth < MAX_GROWTH_MIB, {"mib": growth})


def _ends(sidecar: Program) -> Iterator[Exit]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        states = {
            "idle": _idle,
            "event flood unread": _event_flood,
            f"{BURST} requests in one chunk": _burst,
            "answers stalled, stdin full": _stdin_full,
            "request in flight": partial(_in_flight, silent.getsockname()[1]),
            "host not reading": _not_reading,
        }
        for state, enter in states.items():
            for trigger, pull in TRIGGERS.items():
                seconds, code, growth_mib = _one(sidecar, enter, pull)
                yield Exit(state, trigger, seconds, code, growth_mib)


def _one(
    sidecar: Program, enter: Callable[[Host], None], pull: Callable[[Host], None]
) -> tuple[float | None, int | None, float]:
    via_parent = pull is _parent_killed
    with Host(sidecar, via_parent=via_parent) as host:
        host.call(INITIALIZE)
        pid_fd = os.pidfd_open(host.pid)
        try:
            before = memory(host.pid).rss
            enter(host)
            growth = memory(host.pid).rss - before
            pull(host)
            seconds = seconds_until_gone(pid_fd, LIMIT_S)
            if seconds is None:
                signal.pidfd_send_signal(pid_fd, signal.SIGKILL)
        finally:
            os.close(pid_fd)
        code = host.child.wait()
    return seconds, None if via_parent else code, growth


# --- States: from then on nobody reads stdout --------------------------------------------------------------


def _idle(_host: Host) -> None:
    pass


def _event_flood(host: Host) -> None:
    """Notifications have no answers, so that only events wait."""
    for number in range(SUBSCRIPTIONS):
        host.call(request("events.subscribe", request_id=number))
    for _ in range(FLOOD_TOPICS):
        topic = {"topic_id": os.urandom(32).hex()}
        host.write(request("topic.join", topic, None) + request("topic.leave", topic, None))
    time.sleep(SETTLE_S)
    _must_be_stalled(host)


def _burst(host: Host) -> None:
    """More requests than may be in flight, small enough to be read at once."""
    chunk = b"".join(request("node.info", request_id=number) for number in range(BURST))
    written = os.write(host.stdin, chunk)
    assert written == len(chunk), "not one chunk"
    time.sleep(SETTLE_S)
    _must_be_stalled(host)


def _stdin_full(host: Host) -> None:
    """The sidecar holds all the answers it may hold and has stopped to read."""
    os.set_blocking(host.stdin, False)
    data = memoryview(request("rpc.discover") * 20_000)
    while select.select([], [host.stdin], [], FILL_S)[1]:
        with suppress(BlockingIOError):
            data = data[os.write(host.stdin, data) :]
        assert data, "everything was accepted"
    _must_be_stalled(host)


def _in_flight(silent_port: int, host: Host) -> None:
    """A dial that nobody answers."""
    peer = f"{SOMEBODY}@127.0.0.1:{silent_port}"
    host.write(request("peer.connect", {"peer": peer, "timeout_ms": 60_000}))
    time.sleep(SETTLE_S)
    assert not host.unread_bytes(), "the dial has ended already"


def _not_reading(host: Host) -> None:
    """Answers wait, but less than the sidecar may hold: it still reads."""
    host.write(request("rpc.discover") * DOCUMENTS)
    time.sleep(SETTLE_S)
    _must_be_stalled(host)


def _must_be_stalled(host: Host) -> None:
    assert host.unread_bytes() >= FULL_BYTES, f"only {host.unread_bytes()} bytes wait"


# --- Triggers ----------------------------------------------------------------------------------------------


def _eof(host: Host) -> None:
    host.close_stdin()


def _sigterm(host: Host) -> None:
    os.kill(host.pid, signal.SIGTERM)


def _host_gone(host: Host) -> None:
    host.close_stdin()
    host.close_stdout()


def _parent_killed(host: Host) -> None:
    """The pipes stay open in our hands, so only the parent's death tells."""
    host.child.kill()


TRIGGERS: dict[str, Callable[[Host], None]] = {
    "stdin EOF": _eof,
    "SIGTERM": _sigterm,
    "both pipes closed": _host_gone,
    "parent SIGKILLed": _parent_killed,
}
