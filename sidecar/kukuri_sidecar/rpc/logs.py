"""Log lines: a ring for `log.get`, JSON or text on stderr, `log` events. Nothing here ever blocks the caller.

Redaction is by construction: the rest of the program never logs a payload or a secret, and ids only as
``.short()``. Tracebacks go to stderr, not into the ring, because they name local paths.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from kukuri_sidecar.net.clock import wall_ms
from kukuri_sidecar.rpc.api import LogLevel, LogLine

LogFormat = Literal["json", "text"]

MAX_LINES = 1000  # api.md 4.8
MAX_MESSAGE_CHARS = 1000  # ours: keeps a full ring at a few MB
MAX_WAITING_LINES = 1000  # ours: what a stalled stderr may hold back; more is dropped and counted
ROOT = "kukuri_sidecar"

_LEVELS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_encoder = msgspec.json.Encoder()


class LogRing:
    """The last lines; equal lines in a row are one line with a count. Safe from any thread."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque(maxlen=MAX_LINES)
        self._dropped = 0
        self._lock = threading.Lock()

    def add(self, line: LogLine) -> LogLine:
        """Keep the line; returns a copy of the kept one, whose ``repeated`` tells whether it was new."""
        with self._lock:
            last = self._lines[-1] if self._lines else None
            if last is None or _identity(last) != _identity(line):
                self._dropped += len(self._lines) == MAX_LINES
                self._lines.append(line)
                last = line
            else:
                last.repeated += 1
                last.ts_ms = line.ts_ms
            return msgspec.structs.replace(last)

    def tail(self, level: LogLevel, limit: int) -> tuple[list[LogLine], int]:
        """Return the newest ``limit`` lines of at least ``level``, newest last, and how many are gone."""
        least = _LEVELS[level]
        with self._lock:
            found = [line for line in reversed(self._lines) if _LEVELS[line.level] >= least][:limit]
            return [msgspec.structs.replace(line) for line in reversed(found)], self._dropped


class StderrWriter:
    """Writes from a thread of its own: a host that does not read stderr stalls nobody.

    ``notice`` makes a line that tells how many lines were dropped.
    """

    def __init__(self, notice: Callable[[int], bytes], fd: int = 2) -> None:
        self._notice = notice
        self._fd = fd
        self._waiting: deque[bytes] = deque()
        self._state = threading.Condition()
        self._dropped = 0
        self._busy = False
        self._closed = False
        threading.Thread(target=self._run, name="stderr", daemon=True).start()

    def write(self, line: bytes) -> None:
        """Queue one line, or count it as dropped."""
        with self._state:
            if self._closed or len(self._waiting) >= MAX_WAITING_LINES:
                self._dropped += 1
            else:
                self._waiting.append(line)
                self._state.notify_all()

    def flush(self, seconds: float) -> None:
        """Wait until everything is written, at most so long."""
        with self._state:
            self._state.wait_for(lambda: not self._waiting and not self._busy, seconds)

    def _run(self) -> None:
        while True:
            with self._state:
                self._busy = False
                self._state.notify_all()
                self._state.wait_for(lambda: bool(self._waiting))
                chunk = b"".join(self._waiting)
                self._waiting.clear()
                if self._dropped:
                    chunk += self._notice(self._dropped)
                    self._dropped = 0
                self._busy = True
            try:
                self._write(chunk)
            except OSError:  # nobody will ever read it
                with self._state:
                    self._closed, self._busy = True, False
                    self._waiting.clear()
                    self._state.notify_all()
                return

    def _write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # with 2>&1 stdout's O_NONBLOCK is ours as well
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()


class LogHandler(logging.Handler):
    """Turns records into lines for the ring, for stderr and for ``on_line``, which any thread may call."""

    def __init__(self, level: LogLevel | None, log_format: LogFormat | None) -> None:
        super().__init__()
        self._chosen_level = level
        self._chosen_format = log_format
        self.follow("info", "json")
        self.ring = LogRing()
        self.stderr = StderrWriter(self._notice)
        self.on_line: Callable[[LogLine], None] | None = None

    def follow(self, level: LogLevel, log_format: LogFormat) -> None:
        """Take level and format from the configuration, unless the command line has chosen them."""
        self._format = self._chosen_format or log_format
        logging.getLogger(ROOT).setLevel(_LEVELS[self._chosen_level or level])

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record. Of a line that repeats, the 1st, 10th, 100th … occurrence goes out."""
        kept = self.ring.add(_line(record))
        if _is_power_of_ten(kept.repeated):
            traceback = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
            self.stderr.write(self._render(kept, traceback))
            if self.on_line is not None:
                self.on_line(kept)

    def _render(self, line: LogLine, traceback: str | None = None) -> bytes:
        if self._format == "json":
            fields = msgspec.structs.asdict(line)
            if traceback is not None:
                fields["traceback"] = _printable(traceback)
            return _encoder.encode(fields) + b"\n"
        times = f" (x{line.repeated})" if line.repeated > 1 else ""
        text = f"{line.level} {line.module}: {line.message.encode('unicode_escape').decode()}{times}\n"
        return (text + (f"{traceback}\n" if traceback else "")).encode(errors="backslashreplace")

    def _notice(self, dropped: int) -> bytes:
        message = f"{dropped} log lines dropped: nobody read stderr"
        return self._render(
            LogLine(
                ts_ms=wall_ms(),
                level="warning",
                module="rpc.logs",
                message=message,
                repeated=1,
            )
        )


def install(level: LogLevel | None, log_format: LogFormat | None) -> LogHandler:
    """Send our own lines, and everybody else's warnings, to a new handler; None: as configured."""
    handler = LogHandler(level, log_format)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.raiseExceptions = False
    return handler


def _line(record: logging.LogRecord) -> LogLine:
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # a wrong format string must not end the caller
        message = f"unprintable log message {record.msg!r}"
    return LogLine(
        ts_ms=int(record.created * 1000),
        level=_level(record.levelno),
        module=record.name.removeprefix(ROOT + "."),
        message=_printable(message[:MAX_MESSAGE_CHARS]),
        repeated=1,
    )


def _level(number: int) -> LogLevel:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"


def _identity(line: LogLine) -> tuple[str, str, str]:
    return line.level, line.module, line.message


def _printable(text: str) -> str:
    """Replace lone surrogates, which JSON over UTF-8 cannot carry."""
    return text.encode(errors="backslashreplace").decode()


def _is_power_of_ten(count: int) -> bool:
    return str(count).rstrip("0") == "1"
