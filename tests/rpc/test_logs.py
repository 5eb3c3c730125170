"""Log lines: bounded, collapsed, never blocking, free of what a log must not hold."""

import json
import logging
import os
import select
from collections.abc import Iterator

import pytest

from kukuri_sidecar.rpc.api import LogLine
from kukuri_sidecar.rpc.logs import (
    MAX_LINES,
    MAX_MESSAGE_CHARS,
    MAX_WAITING_LINES,
    LogHandler,
    LogRing,
    StderrWriter,
)


def row(message: str, level: str = "info", module: str = "m", ts_ms: int = 0) -> LogLine:
    return LogLine(ts_ms=ts_ms, level=level, module=module, message=message, repeated=1)  # type: ignore[arg-type]


Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def read(fd: int) -> str:
    out = b""
    while select.select([fd], [], [], 0)[0]:
        out += os.read(fd, 65_536)
    return out.decode()


@pytest.fixture
def handler(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> Iterator[LogHandler]:
    made = LogHandler(None, None)
    made.stderr = StderrWriter(made._notice, pipe[1])
    logger = logging.getLogger("kukuri_sidecar")
    logger.addHandler(made)
    monkeypatch.setattr(logger, "propagate", False)
    yield made
    logger.removeHandler(made)
    logger.setLevel(logging.NOTSET)


log = logging.getLogger("kukuri_sidecar.node.topics")


# --- ring ----------------------------------------------------------------------------------------------


def test_equal_lines_in_a_row_are_one_with_a_count() -> None:
    ring = LogRing()
    for ts_ms, message in enumerate(["a", "a", "b", "a", "a", "a"]):
        ring.add(row(message, ts_ms=ts_ms))
    lines, dropped = ring.tail("debug", 10)
    assert [(line.message, line.repeated, line.ts_ms) for line in lines] == [
        ("a", 2, 1),
        ("b", 1, 2),
        ("a", 3, 5),
    ]
    assert dropped == 0


@pytest.mark.parametrize(("count", "dropped"), [(MAX_LINES - 1, 0), (MAX_LINES, 0), (MAX_LINES + 1, 1)])
def test_the_ring_at_its_limit(count: int, dropped: int) -> None:
    ring = LogRing()
    for index in range(count):
        ring.add(row(str(index)))
    lines, lost = ring.tail("debug", 10_000)
    assert (len(lines), lost) == (min(count, MAX_LINES), dropped)
    assert lines[-1].message == str(count - 1)


def test_tail_takes_the_newest_of_a_level_newest_last() -> None:
    ring = LogRing()
    for index, level in enumerate(["debug", "info", "warning", "error", "info"]):
        ring.add(row(str(index), level))
    assert [line.message for line in ring.tail("info", 3)[0]] == ["2", "3", "4"]
    assert [line.message for line in ring.tail("warning", 9)[0]] == ["2", "3"]


# --- handler -------------------------------------------------------------------------------------------


def test_a_record_becomes_one_json_line(handler: LogHandler, pipe: Pipe) -> None:
    log.warning("joined %s\n%s", "0ca1e314ab", "\ud800")
    handler.stderr.flush(5)
    (line,) = read(pipe[0]).splitlines()
    fields = json.loads(line)
    assert fields.pop("ts_ms") > 1_600_000_000_000
    assert fields == {
        "level": "warning",
        "module": "node.topics",
        "message": "joined 0ca1e314ab\n\\ud800",
        "repeated": 1,
    }


def test_text_lines_are_one_line_each(handler: LogHandler, pipe: Pipe) -> None:
    handler.follow("debug", "text")
    log.debug("one\ntwo \x1b[31m")
    handler.stderr.flush(5)
    assert read(pipe[0]) == "debug node.topics: one\\ntwo \\x1b[31m\n"


def test_a_traceback_goes_to_stderr_only(handler: LogHandler, pipe: Pipe) -> None:
    try:
        raise RuntimeError("inside")
    except RuntimeError:
        log.exception("internal error")
    handler.stderr.flush(5)
    assert "RuntimeError: inside" in json.loads(read(pipe[0]))["traceback"]
    assert handler.ring.tail("debug", 1)[0][0].message == "internal error"


def test_of_repeats_the_powers_of_ten_go_out(handler: LogHandler, pipe: Pipe) -> None:
    seen = []
    handler.on_line = lambda line: seen.append(line.repeated)
    for _ in range(120):
        log.info("again")
    handler.stderr.flush(5)
    assert seen == [1, 10, 100]
    assert [json.loads(line)["repeated"] for line in read(pipe[0]).splitlines()] == [1, 10, 100]


def test_long_and_broken_messages_end_nobody(handler: LogHandler) -> None:
    for message, args in (("x" * 5_000, ()), ("%d", ("no number",))):
        handler.emit(logging.LogRecord("m", logging.INFO, "", 1, message, args, None))
    long, broken = handler.ring.tail("debug", 2)[0]
    assert len(long.message) == MAX_MESSAGE_CHARS
    assert broken.message.startswith("unprintable log message")


def test_level_and_format_follow_the_configuration_unless_chosen(pipe: Pipe) -> None:
    root = logging.getLogger("kukuri_sidecar")
    try:
        free, chosen = LogHandler(None, None), LogHandler("error", "text")
        assert root.level == logging.ERROR
        free.follow("debug", "text")
        assert (root.level, free._format) == (logging.DEBUG, "text")
        chosen.follow("debug", "json")
        assert (root.level, chosen._format) == (logging.ERROR, "text")
    finally:
        root.setLevel(logging.NOTSET)


# --- stderr --------------------------------------------------------------------------------------------


def notice(dropped: int) -> bytes:
    return b"dropped %d\n" % dropped


def test_a_reader_that_stalls_costs_bounded_memory_and_is_told(pipe: Pipe) -> None:
    writer = StderrWriter(notice, pipe[1])
    line = b"x" * 999 + b"\n"
    writer.write(line)
    writer.flush(5)
    for _ in range(5 * MAX_WAITING_LINES):
        writer.write(line)
    assert len(writer._waiting) <= MAX_WAITING_LINES
    received, text = 0, ""
    while "dropped" not in text:
        assert select.select([pipe[0]], [], [], 5)[0]
        text = os.read(pipe[0], 65_536).decode()
        received += text.count("\n")
    told = int(text.split("dropped ")[1].split("\n")[0])
    writer.flush(5)
    received += read(pipe[0]).count("\n")
    assert received - 1 + told == 1 + 5 * MAX_WAITING_LINES


def test_a_non_blocking_stderr_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe[1], False)
    writer = StderrWriter(notice, pipe[1])
    for _ in range(500):
        writer.write(b"x" * 999 + b"\n")
    received = 0
    while received < 500_000:
        assert select.select([pipe[0]], [], [], 5)[0]
        received += len(os.read(pipe[0], 65_536))


def test_a_closed_stderr_ends_the_writing_and_nothing_else() -> None:
    reader, fd = os.pipe()
    os.close(reader)
    writer = StderrWriter(notice, fd)
    for _ in range(10):
        writer.write(b"x\n")
        writer.flush(5)
    os.close(fd)
