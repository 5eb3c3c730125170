"""A host for tests: starts the real process, writes and reads its pipes, with a deadline on everything."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
DEADLINE_S = 10.0
REAL = (sys.executable, "-m", "kukuri_sidecar")
TOY = (
    sys.executable,
    str(Path(__file__).parent / "toy_sidecar.py"),
)  # the real process with a few more methods

Json = Any  # what JSON holds


class Host:
    """One process. ``stdin_socket`` gives it a socketpair instead of a pipe, as Node does."""

    def __init__(
        self,
        *program: str,
        stdin_socket: bool = False,
        env: dict[str, str] | None = None,
        stdin: int | None = None,
    ) -> None:
        paths = f"{ROOT / 'sidecar'}{os.pathsep}{ROOT / 'tests'}"
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "error", **(env or {})}
        self.socket: socket.socket | None = None
        theirs: socket.socket | None = None
        if stdin_socket:
            self.socket, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            program or REAL,
            stdin=theirs or (subprocess.PIPE if stdin is None else stdin),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        if theirs is not None:
            theirs.close()
        self._buffer = b""
        self._events: deque[Json] = deque()
        self._last_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.socket is not None:
            self.socket.close()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    @property
    def stdin_fd(self) -> int:
        if self.socket is not None:
            return self.socket.fileno()
        assert self.process.stdin is not None
        return self.process.stdin.fileno()

    @property
    def stdout_fd(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, *messages: Json) -> None:
        """Write lines, all in one write; blocks like a careless host."""
        data = b"".join(
            one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in messages
        )
        os.set_blocking(self.stdin_fd, True)
        view = memoryview(data)
        while view:
            view = view[os.write(self.stdin_fd, view) :]

    def send_later(self, data: bytes) -> None:
        """Send from a thread, because the process may not be reading right now."""
        threading.Thread(target=self.send, args=(data,), daemon=True).start()

    def push(self, data: bytes, patience_s: float = 0.3) -> int:
        """Write until everything is taken, or nothing has been taken for a while; returns the bytes taken."""
        os.set_blocking(self.stdin_fd, False)
        taken = 0
        while taken < len(data):
            _, ready, _ = select.select([], [self.stdin_fd], [], patience_s)
            if not ready:
                break
            taken += os.write(self.stdin_fd, data[taken : taken + 65_536])
        return taken

    def request(self, method: str, **params: Json) -> int:
        """Send a request, return its id."""
        self._last_id += 1
        self.send({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})
        return self._last_id

    def call(self, method: str, **params: Json) -> Json:
        """Send a request, return its answer; `event` gives what came in between."""
        wanted = self.request(method, **params)
        while True:
            message = self.read()
            if isinstance(message, dict) and message.get("method") == "event":
                self._events.append(message["params"])
                continue
            assert message["id"] == wanted, message
            return message

    def event(self) -> Json:
        """Return the next event."""
        if not self._events:
            message = self.read()
            assert message["method"] == "event", message
            self._events.append(message["params"])
        return self._events.popleft()

    def result(self, method: str, **params: Json) -> Json:
        answer = self.call(method, **params)
        assert "result" in answer, answer
        return answer["result"]

    def read(self, timeout_s: float = DEADLINE_S) -> Json:
        """Return the next line as JSON; EOFError when stdout has ended."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            self._read_more(deadline)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def read_framed(self, timeout_s: float = DEADLINE_S) -> Json:
        """Return the next Content-Length frame as JSON."""
        deadline = time.monotonic() + timeout_s
        while b"\r\n\r\n" not in self._buffer:
            self._read_more(deadline)
        header, _, rest = self._buffer.partition(b"\r\n\r\n")
        name, _, length = header.partition(b": ")
        assert name == b"Content-Length"
        while len(rest) < int(length):
            self._buffer = b""
            self._read_more(deadline)
            rest += self._buffer
        self._buffer = rest[int(length) :]
        return json.loads(rest[: int(length)])

    def drain(self) -> list[Json]:
        """Return every line until stdout ends."""
        out = []
        try:
            while True:
                out.append(self.read())
        except EOFError:
            return out

    def is_readable(self, timeout_s: float) -> bool:
        return bool(self._buffer or select.select([self.stdout_fd], [], [], timeout_s)[0])

    def close_stdin(self) -> None:
        if self.socket is not None:
            self.socket.shutdown(socket.SHUT_WR)
        else:
            assert self.process.stdin is not None
            self.process.stdin.close()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        return self.process.wait(timeout_s)

    def await_stderr(self, text: str, timeout_s: float = DEADLINE_S) -> None:
        """Read stderr until the text has come."""
        assert self.process.stderr is not None
        deadline = time.monotonic() + timeout_s
        seen = b""
        while text.encode() not in seen:
            ready, _, _ = select.select([self.process.stderr], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self.process.stderr.fileno(), 65_536) if ready else b""
            if not data:
                raise TimeoutError(f"stderr says {seen!r}")
            seen += data

    def stderr(self) -> str:
        """Everything on stderr; only after the end."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def _read_more(self, deadline: float) -> None:
        ready, _, _ = select.select([self.stdout_fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"no answer; so far {self._buffer[:200]!r}")
        data = os.read(self.stdout_fd, 1 << 20)
        if not data:
            raise EOFError
        self._buffer += data


def line(method: str, request_id: int | str | None = None, **params: Json) -> bytes:
    """One request as a line; without an id a notification."""
    message: Json = {"jsonrpc": "2.0", "method": method}
    if request_id is not None:
        message["id"] = request_id
    if params:
        message["params"] = params
    return json.dumps(message).encode() + b"\n"
