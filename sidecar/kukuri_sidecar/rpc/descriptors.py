"""Claims fds 0 and 1 for the wire. Imports next to nothing, so that it can come before everything else."""

from __future__ import annotations

import os
import stat


def claim() -> tuple[int, int]:
    """Take stdin and stdout away from everybody else; returns the private descriptors.

    fd 0 becomes the null device and fd 1 becomes stderr, so a stray print, a C library or a child process can
    neither eat requests nor tear frames. Raises OSError when there is no stdin or stdout.
    """
    try:
        os.fstat(2)
    except OSError:  # started without stderr
        _move(os.open(os.devnull, os.O_WRONLY), 2)
    stdin_fd, stdout_fd = _private(0), _private(1)
    _move(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return stdin_fd, stdout_fd


def are_pipes(*fds: int) -> bool:
    """Say whether the loop can wait for these: pipes and sockets, on POSIX."""
    modes = [os.fstat(fd).st_mode for fd in fds]
    return os.name == "posix" and all(stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) for mode in modes)


def _private(fd: int) -> int:
    """Duplicate to a close-on-exec descriptor beyond the standard three."""
    if os.name != "posix":
        return os.dup(fd)
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _move(source: int, target: int) -> None:
    if source != target:
        os.dup2(source, target)
        os.close(source)
