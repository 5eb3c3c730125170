"""The wire: reads bytes into frames, writes frames. Nothing ever blocks the loop.

Uses asyncio, not anyio: its pipe transport is 40 times faster than a thread hop per line, and the first
answer leaves before anyio (24 ms) is imported. Two transports: pipes and sockets on POSIX are written corked,
one non-blocking write per loop turn; files, ttys and Windows go through a thread for each direction.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from kukuri_sidecar.rpc.descriptors import are_pipes
from kukuri_sidecar.rpc.framing import Fault, Frame, Framer

READ_BYTES = 65_536
WRITES_PER_TURN = 16  # ours: 1 MiB, then the network gets its turn
FRAMES_PER_TURN = 200  # ours: 2 ms of pings, for the same reason; one read may hold thousands


class Link:
    """Frames in and out over one transport.

    ``receive`` takes a frame and is called only while ``has_room``; ``take`` gives the bytes of the next
    write. What was read but not received yet waits here: at most one read. ``on_end`` tells why nothing more
    will come or go, ``on_stuck`` that reading stops for lack of room, ``on_write`` that bytes were written.
    """

    def __init__(
        self,
        framer: Framer,
        *,
        receive: Callable[[Frame], None],
        has_room: Callable[[], bool],
        take: Callable[[], bytes],
        on_end: Callable[[str], None],
        on_stuck: Callable[[], None],
        on_write: Callable[[], None],
    ) -> None:
        self._framer = framer
        self._receive = receive
        self._has_room = has_room
        self._take = take
        self._on_end = on_end
        self._on_stuck = on_stuck
        self._on_write = on_write
        self._loop = asyncio.get_running_loop()
        self._backlog: deque[Frame] = deque()
        self._transport: Transport | None = None
        self._is_flush_due = False
        self._is_writing = False
        self._is_closed = False
        self._is_paused = False
        self.broken = asyncio.Event()  # nobody reads stdout any more
        self.caught_up = asyncio.Event()  # everything that was read is received
        self.caught_up.set()
        self.flushed = asyncio.Event()  # nothing waits to be written
        self.flushed.set()

    @property
    def is_stuck(self) -> bool:
        """Say whether reading waits for room; then only EndWatch can see the host leave."""
        return self._is_paused and not self._has_room()

    async def start(self, stdin_fd: int, stdout_fd: int) -> None:
        """Begin to read and write."""
        kind = PipeTransport if are_pipes(stdin_fd, stdout_fd) else ThreadTransport
        self._transport = kind(self, stdin_fd, stdout_fd)
        await self._transport.start()

    def close_input(self) -> None:
        """Read no more; what was read already is still received."""
        self._is_closed = True
        self._pause()

    def wake(self) -> None:
        """Write, in this loop turn, what ``take`` gives; receive frames that wait for room."""
        if not self._is_flush_due and not self.broken.is_set():
            self._is_flush_due = True
            self.flushed.clear()
            self._loop.call_soon(self._flush)

    # --- Called by the transport

    def on_data(self, data: bytes) -> None:
        """Take what was read."""
        self._backlog.extend(self._framer.feed(data))
        self._advance()

    def on_eof(self) -> None:
        """Take note that nothing more will be read."""
        self._on_end("EOF")

    def on_write_done(self) -> None:
        """Go on after a write that did not complete at once."""
        self._is_writing = False
        self._on_write()
        self.wake()

    def on_broken(self, exc: OSError) -> None:
        """Take note that nobody reads stdout any more."""
        self.broken.set()
        self.flushed.set()
        self._on_end(f"stdout broken: {exc.strerror}")

    # --- Inside

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._transport is None or self.broken.is_set():
            return
        for _ in range(WRITES_PER_TURN):
            if self._is_writing:
                break
            chunk = self._take()
            if not chunk:
                self.flushed.set()
                break
            if self._transport.write(chunk):
                self._on_write()
            else:
                self._is_writing = not self.broken.is_set()
        else:
            self.wake()
        self._advance()

    def _advance(self) -> None:
        for _ in range(FRAMES_PER_TURN):
            if not self._backlog or not self._has_room():
                break
            frame = self._backlog.popleft()
            self._receive(frame)
            if frame is Fault.BROKEN:
                self._on_end(f"stdin: {frame.value}")
        else:
            self.wake()
        if not self._backlog:
            self.caught_up.set()
        else:
            self.caught_up.clear()
        if self._backlog or not self._has_room():
            self._pause()
        elif self._is_paused and not self._is_closed and self._transport is not None:
            self._is_paused = False
            self._transport.resume()

    def _pause(self) -> None:
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause()
        if self.is_stuck:
            self._on_stuck()


class Transport(Protocol):
    """Bytes in, bytes out; calls the link's ``on_*`` on the loop's thread."""

    async def start(self) -> None:
        """Begin to read."""
        ...

    def pause(self) -> None:
        """Stop reading."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def write(self, data: bytes) -> bool:
        """Write; False: not done yet, ``on_write_done`` follows and nothing may be written before."""
        ...


class PipeTransport(asyncio.Protocol):
    """Pipes and sockets on POSIX, on the loop itself."""

    def __init__(self, link: Link, stdin_fd: int, stdout_fd: int) -> None:
        self._link = link
        self._stdin_fd = stdin_fd
        self._stdout_fd = stdout_fd
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.ReadTransport | None = None
        self._rest = memoryview(b"")

    async def start(self) -> None:
        """Begin to read."""
        os.set_blocking(self._stdout_fd, False)
        pipe = os.fdopen(self._stdin_fd, "rb", buffering=0)
        self._reader, _ = await self._loop.connect_read_pipe(lambda: self, pipe)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio: reading is possible; data may come before ``start`` returns."""
        if isinstance(transport, asyncio.ReadTransport):
            self._reader = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio: bytes arrived."""
        self._link.on_data(data)

    def eof_received(self) -> None:
        """Asyncio: the host closed its end."""
        self._link.on_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio: reading failed or ended."""
        self._link.on_eof()

    def pause(self) -> None:
        """Stop reading; from now on only EndWatch sees the host leave."""
        if self._reader is not None and not self._reader.is_closing():
            self._reader.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._reader is not None and not self._reader.is_closing():
            self._reader.resume_reading()

    def write(self, data: bytes) -> bool:
        """Write what the pipe takes, the rest when it takes more."""
        self._rest = memoryview(data)
        if self._write_some():
            return True
        if not self._link.broken.is_set():
            self._loop.add_writer(self._stdout_fd, self._on_writable)
        return False

    def _on_writable(self) -> None:
        if self._write_some() or self._link.broken.is_set():
            self._loop.remove_writer(self._stdout_fd)
            self._link.on_write_done()

    def _write_some(self) -> bool:
        try:
            self._rest = self._rest[os.write(self._stdout_fd, self._rest) :]
        except BlockingIOError:
            return False
        except OSError as exc:
            self._link.on_broken(exc)
            return False
        return not self._rest


class ThreadTransport:
    """Files, ttys, anything on Windows: a daemon thread for each direction, in chunks.

    Neither thread can be cancelled while it is blocked, so the process must end by ``os._exit``.
    """

    def __init__(self, link: Link, stdin_fd: int, stdout_fd: int) -> None:
        self._link = link
        self._stdin_fd = stdin_fd
        self._stdout_fd = stdout_fd
        self._loop = asyncio.get_running_loop()
        self._may_read = threading.Semaphore(1)  # one chunk at a time is on its way to the loop
        self._owes_read = False
        self._is_paused = False
        self._chunk = b""
        self._has_chunk = threading.Semaphore(0)

    async def start(self) -> None:
        """Begin to read."""
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"stdio{target.__name__}", daemon=True).start()

    def pause(self) -> None:
        """Stop reading after the chunk that is being read."""
        self._is_paused = True

    def resume(self) -> None:
        """Read on."""
        self._is_paused = False
        if self._owes_read:
            self._owes_read = False
            self._may_read.release()

    def write(self, data: bytes) -> bool:
        """Hand the data to the writer."""
        self._chunk = data
        self._has_chunk.release()
        return False

    def _read(self) -> None:
        while True:
            self._may_read.acquire()
            try:
                data = os.read(self._stdin_fd, READ_BYTES)
            except OSError:
                data = b""
            if not data:
                return self._on_loop(self._link.on_eof)
            self._on_loop(partial(self._on_chunk, data))

    def _on_chunk(self, data: bytes) -> None:
        self._link.on_data(data)
        if self._is_paused:
            self._owes_read = True
        else:
            self._may_read.release()

    def _write(self) -> None:
        while True:
            self._has_chunk.acquire()
            view = memoryview(self._chunk)
            try:
                while view:
                    view = view[os.write(self._stdout_fd, view) :]
            except OSError as exc:
                return self._on_loop(partial(self._link.on_broken, exc))
            self._on_loop(self._link.on_write_done)

    def _on_loop(self, action: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
            self._loop.call_soon_threadsafe(action)
