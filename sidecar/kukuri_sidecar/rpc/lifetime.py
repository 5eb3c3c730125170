"""Every reason to end, noticed and enforced from threads, whatever the event loop is doing.

Reasons: the host hangs up (seen with unread input, with reading paused and with a blocked loop), the parent
dies while somebody else holds the pipe, SIGTERM and its like, and ``end`` called by the owner, for instance
after reading EOF. The first one starts the deadline; when it passes, the process is gone with code 70.

Not PR_SET_PDEATHSIG: it fires when the parent's *thread* ends (host-and-packaging.md section 6).
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable

DEADLINE_S = 1.5  # api.md section 3
EXIT_INTERNAL_ERROR = 70  # api.md section 3; sysexits.h EX_SOFTWARE
HANG_UP = "stdin hang-up"


class EndWatch:
    """Watches from the moment it is made; make it before any other thread, because it blocks signals.

    ``on_end`` is called once, on some thread; it must be quick and must not raise. Set it before the loop
    runs: an end that was noticed earlier is reported when it is set.
    """

    def __init__(self, stdin_fd: int, parent_pid: int, deadline_s: float = DEADLINE_S) -> None:
        self.reason: str | None = None
        self._deadline_s = deadline_s
        self._on_end: Callable[[], None] | None = None
        self._lock = threading.Lock()
        if os.name != "posix":
            return  # Windows: the reader thread sees EOF; a parent handle is not watched yet
        signals = _end_signals()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        _spawn("end-signal", lambda: self._wait_for_signal(signals))
        _spawn("end-poll", lambda: self._poll(stdin_fd, parent_pid))

    def on_end(self, action: Callable[[], None]) -> None:
        """Set what to do at the end."""
        with self._lock:
            self._on_end = action
            due = self.reason is not None
        if due:
            action()

    def end(self, reason: str) -> None:
        """Start the end; only the first reason counts."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
            action = self._on_end
        timer = threading.Timer(self._deadline_s, _force)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # no thread to be had: then the deadline is now
            _force()
        if action is not None:
            action()

    def _wait_for_signal(self, signals: set[signal.Signals]) -> None:
        self.end(signal.Signals(signal.sigwait(signals)).name)

    def _poll(self, stdin_fd: int, parent_pid: int) -> None:
        poll = select.poll()
        # POLLHUP comes unasked, so nothing wakes us before the host leaves. A socketpair (Node) that is only
        # half-closed shows POLLRDHUP instead, which exists on Linux.
        poll.register(stdin_fd, getattr(select, "POLLRDHUP", 0))
        parent_fd = -1
        if parent_pid > 1 and hasattr(os, "pidfd_open"):
            try:
                parent_fd = os.pidfd_open(parent_pid)
            except OSError:
                pass  # no such process, no such system call, no descriptor left: stdin still tells
            else:
                poll.register(parent_fd, select.POLLIN)
            if os.getppid() != parent_pid:  # gone before we looked; its number may belong to another by now
                return self.end("parent gone")
        fd = poll.poll()[0][0]
        self.end("parent gone" if fd == parent_fd else HANG_UP)


def _end_signals() -> set[signal.Signals]:
    signals = {signal.SIGTERM, signal.SIGINT}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup stays nohup
        signals.add(signal.SIGHUP)
    return signals


def _spawn(name: str, target: Callable[[], None]) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()


def _force() -> None:
    os._exit(EXIT_INTERNAL_ERROR)
