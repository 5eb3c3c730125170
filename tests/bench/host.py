"""A child process as a host sees it: lines in and out, memory, CPU, the moment it is gone. Linux."""

import fcntl
import json
import os
import select
import shlex
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

ANSWER_TIMEOUT_S = 20.0
PIPE_BYTES = 65_536

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


def request(method: str, params: dict[str, Any] | None = None, request_id: int | None = 1) -> bytes:
    """One line; without an id a notification."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params or {}}
    if request_id is not None:
        message["id"] = request_id
    return json.dumps(message).encode() + b"\n"


INITIALIZE = request(
    "initialize",
    {"api_version": 1, "ephemeral": True, "config": {"net": {"bind_v4": "127.0.0.1:0", "bind_v6": None}}},
)


class Memory(NamedTuple):
    """MiB, summed over the process and its descendants."""

    rss: float
    pss: float
    processes: int


@dataclass(frozen=True)
class Program:
    """What to start, and a line that it answers."""

    command: Sequence[str]
    line: bytes

    def asking(self, line: bytes) -> "Program":
        return replace(self, line=line)


class Host:
    """Starts a program with pipes on stdin and stdout. ``via_parent`` puts a shell between us and it."""

    def __init__(self, program: Program, *, via_parent: bool = False) -> None:
        command = program.command
        self.started_at = time.perf_counter()
        if via_parent:  # `exit` keeps the shell from becoming the program
            command = ["sh", "-c", f"{shlex.join(command)}; exit $?"]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.stdin = self.child.stdin.fileno()
        self.stdout = self.child.stdout.fileno()
        self._via_parent = via_parent
        self._pid = 0 if via_parent else self.child.pid
        self._rest = b""

    @property
    def pid(self) -> int:
        """The program's pid; behind a shell it is known once the program has answered."""
        if not self._pid:
            (self._pid,) = children(self.child.pid)
        return self._pid

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.stdin, data) :]

    def read_line(self, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
        """The next line; TimeoutError or EOFError instead of a bench that hangs."""
        until = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            if not select.select([self.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"no answer within {timeout_s} s")
            data = os.read(self.stdout, PIPE_BYTES)
            if not data:
                raise EOFError("stdout was closed")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def call(self, line: bytes) -> bytes:
        """Send one request, return its answer; an error is none."""
        self.write(line)
        answer = self.read_line()
        if b'"error"' in answer:
            raise RuntimeError(f"{line!r} was answered by {answer!r}")
        return answer

    def unread_bytes(self) -> int:
        """How much waits in the stdout pipe."""
        (count,) = struct.unpack("i", fcntl.ioctl(self.stdout, termios.FIONREAD, bytes(4)))
        return int(count)

    def close_stdin(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()

    def close_stdout(self) -> None:
        assert self.child.stdout is not None
        self.child.stdout.close()

    def end(self) -> None:
        """Close both pipes and reap; kill what does not leave by itself."""
        self.close_stdin()
        self.close_stdout()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def tree(pid: int) -> list[int]:
    """The process and everything it started."""
    return [pid, *(found for child in children(pid) for found in tree(child))]


def memory(pid: int) -> Memory:
    kib = {"Rss:": 0, "Pss:": 0}
    pids = tree(pid)
    for member in pids:
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            name, *values = line.split()
            if name in kib:
                kib[name] += int(values[0])
    return Memory(kib["Rss:"] / 1024, kib["Pss:"] / 1024, len(pids))


def cpu_seconds(pid: int) -> float:
    """CPU time of one process, of its ended threads too; finer than ticks."""
    return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) returns, which Python lacks


def cpu_ticks(pid: int) -> int:
    """User and system time of all threads, in clock ticks of 10 ms."""
    total = 0
    for member in tree(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total


def files(directory: Path) -> list[Path]:
    """All regular files below it."""
    return [file for file in directory.rglob("*") if file.is_file() and not file.is_symlink()]


def seconds_until_gone(pid_fd: int, limit_s: float) -> float | None:
    """Wait for the end of a process, ours or not; None: it still lives."""
    poll = select.poll()
    poll.register(pid_fd, select.POLLIN)
    start = time.perf_counter()
    return time.perf_counter() - start if poll.poll(limit_s * 1000) else None
