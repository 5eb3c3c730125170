"""Users of real QUIC connections for tests, and endpoints on loopback."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from kukuri_sidecar.net.quic import Connection, ConnectionLost, QuicConfig, QuicEndpoint, QuicLimits
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.keys import SecretKey

ALPN = "kukuri-sidecar/test/0"
LOOPBACK_V4 = SocketAddr("127.0.0.1", 0)
LOOPBACK_V6 = SocketAddr("::1", 0)


class Recorder:
    """Writes down every call and gives credit back at once."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.data: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.lost: ConnectionLost | None = None
        self.is_stalled = False
        self.on_data: Callable[[Connection, int, bytes], None] = lambda *_: None
        self._changed = anyio.Event()

    def stream_data(self, connection: Connection, stream_id: int, data: bytes, end: bool) -> None:
        assert self.lost is None
        self.data.setdefault(stream_id, bytearray()).extend(data)
        if not self.is_stalled:
            connection.consume(stream_id, len(data))
        if end:
            self.ended.add(stream_id)
        self.on_data(connection, stream_id, data)
        self._note("data", stream_id, len(data), end)

    def stream_reset(self, connection: Connection, stream_id: int, code: int) -> None:
        self._note("reset", stream_id, code)

    def stream_stopped(self, connection: Connection, stream_id: int, code: int) -> None:
        self._note("stopped", stream_id, code)

    def progressed(self, connection: Connection) -> None:
        self._note("progressed")

    def closed(self, connection: Connection, reason: ConnectionLost) -> None:
        assert self.lost is None, "closed is called once"
        self.lost = reason
        self._note("closed")

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 8) -> None:
        """Wait until ``condition`` holds; it is looked at after every call."""
        with anyio.fail_after(timeout_s):
            while not condition():
                await self._changed.wait()


class Node:
    """A running endpoint whose inbound connections get a Recorder each."""

    def __init__(
        self, *, alpns: Sequence[str] = (ALPN,), v4: bool = True, v6: bool = False, **limits: object
    ) -> None:
        self.secret = SecretKey(random.SystemRandom().randbytes(32))
        self.inbound: list[tuple[Connection, Recorder]] = []
        self.wants = True
        self.others: list = []
        self._arrived = anyio.Event()
        self.endpoint = QuicEndpoint(
            self.secret,
            QuicConfig(
                bind_v4=LOOPBACK_V4 if v4 else None,
                bind_v6=LOOPBACK_V6 if v6 else None,
                limits=QuicLimits(**limits),
            ),
            alpns=alpns,
            accept=self._accept,
            rng=random.SystemRandom(),
            other_datagrams=self.others.extend,
        )

    @property
    def id(self):
        return self.secret.endpoint_id

    @property
    def bound(self) -> tuple[SocketAddr, ...]:
        return self.endpoint.bound

    def _accept(self, connection: Connection) -> Recorder | None:
        if not self.wants:
            return None
        user = Recorder()
        self.inbound.append((connection, user))
        self._arrived.set()
        return user

    async def arrival(self) -> tuple[Connection, Recorder]:
        with anyio.fail_after(8):
            await self._arrived.wait()
        return self.inbound[-1]

    async def dial(
        self, other: Node, *addresses: SocketAddr, alpn: str = ALPN, timeout_s: float = 8
    ) -> tuple[Connection, Recorder]:
        user = Recorder()
        where = addresses or other.bound
        return await self.endpoint.dial(other.id, where, alpn, lambda _: user, timeout_s=timeout_s), user


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    """Run the nodes; each is cancelled, and so closes politely, at the end."""
    async with AsyncExitStack() as stack:
        for node in nodes:
            group = await stack.enter_async_context(anyio.create_task_group())
            await group.start(node.endpoint.run)
            stack.callback(group.cancel_scope.cancel)
        yield
