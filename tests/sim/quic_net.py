"""A network of `net.quic` stand-ins on the virtual clock, for tests of the services above it.

Connections are objects: streams in order, fixed latency, acknowledgements, closes, partitions, deaths.
Everything above (pool, swarm, topics, gossip core) is the production code.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf

import anyio
from anyio.abc import TaskGroup

from kukuri_sidecar.errors import DialTimeout, Refused
from kukuri_sidecar.net.quic import ConnectionLost, ConnectionUser, LossKind
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId

LATENCY_S = 0.02
IDLE_S = 15.0
RETRANSMIT_S = 0.25


class SimConnection:
    """One side of a connection; speaks the interface of `net.quic.Connection`."""

    def __init__(self, net: SimNet, owner: SimEndpoint, other: SimEndpoint, *, inbound: bool) -> None:
        self.net, self.owner, self.other, self.inbound = net, owner, other, inbound
        self.peer: EndpointId = other.endpoint_id
        self.address = other.address
        self.alpn = "/iroh-gossip/1"
        self.established_at = anyio.current_time()
        self.rtt_s = 2 * LATENCY_S
        self.is_closed = False
        self.reads = True  # False: what we send is never acknowledged, as if the peer's window were full
        self.twin: SimConnection
        self.user: ConnectionUser
        self._streams = itertools.count(2 + inbound, 4)
        self._written: dict[int, int] = {}
        self._acked: dict[int, int] = {}

    def open_uni(self) -> int:
        return next(self._streams)

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        if self.is_closed:
            return
        self._written[stream_id] = self._written.get(stream_id, 0) + len(data)

        def arrive() -> None:
            if self.twin.is_closed or not self.reads:
                return
            self.twin.user.stream_data(self.twin, stream_id, data, end)
            self.net.later(self, lambda: self._on_ack(stream_id, len(data)))

        self.net.later(self, arrive)

    def _on_ack(self, stream_id: int, size: int) -> None:
        if not self.is_closed:
            self._acked[stream_id] = self._acked.get(stream_id, 0) + size
            self.user.progressed(self)

    def backlog(self, stream_id: int | None = None) -> int:
        streams = self._written if stream_id is None else [stream_id]
        return sum(self._written.get(s, 0) - self._acked.get(s, 0) for s in streams)

    def acked(self, stream_id: int) -> int:
        return self._acked.get(stream_id, 0)

    def consume(self, stream_id: int, count: int) -> None:
        pass

    def close(self, code: int = 0, reason: str = "") -> None:
        if self.is_closed:
            return
        self.end(ConnectionLost(code, reason, by_peer=False, kind=LossKind.LOCAL))
        lost = ConnectionLost(code, reason, by_peer=True, kind=LossKind.CLOSED)
        self.net.later(self, lambda: self.twin.end(lost))

    def end(self, lost: ConnectionLost) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.owner.live.pop(self, None)
            # At the end of the loop pass, as the real one does: never from inside `close`.
            self.net.soon(lambda: self.user.closed(self, lost))


Accept = Callable[[SimConnection], ConnectionUser | None]


class SimEndpoint:
    """Speaks what `node.peers` needs of `net.quic.QuicEndpoint`."""

    def __init__(
        self,
        net: SimNet,
        endpoint_id: EndpointId,
        port: int,
        accept: Callable[[SimConnection], ConnectionUser | None],
    ) -> None:
        self.net, self.endpoint_id, self.accept = net, endpoint_id, accept
        self.address = SocketAddr("127.0.0.1", port)
        self.bound = (self.address,)
        self.is_up = True
        self.live: dict[SimConnection, None] = {}
        self.dials: list[tuple[EndpointId, float]] = []
        self._dialling: dict[EndpointId, list[SocketAddr]] = {}

    def add_addresses(self, endpoint_id: EndpointId, addresses: Sequence[SocketAddr]) -> None:
        self._dialling.get(endpoint_id, []).extend(addresses)

    def _answering(self, endpoint_id: EndpointId, addresses: Sequence[SocketAddr]) -> SimEndpoint | None:
        found = [self.net.at[address] for address in addresses if address in self.net.at]
        return next((t for t in found if t.endpoint_id == endpoint_id and self.net.is_open(self, t)), None)

    @property
    def connections(self) -> list[SimConnection]:
        return list(self.live)

    async def dial(
        self,
        endpoint_id: EndpointId,
        addresses: Sequence[SocketAddr],
        alpn: str,
        user_for: Callable[[SimConnection], ConnectionUser],
        *,
        timeout_s: float,
    ) -> SimConnection:
        self.dials.append((endpoint_id, anyio.current_time()))
        tried = self._dialling[endpoint_id] = list(addresses)
        give_up_at = anyio.current_time() + timeout_s
        while (target := self._answering(endpoint_id, tried)) is None:
            if anyio.current_time() >= give_up_at:
                raise DialTimeout("no address of the peer answered in time", tried=tried)
            await anyio.sleep(RETRANSMIT_S)
        await anyio.sleep(3 * LATENCY_S)
        mine = SimConnection(self.net, self, target, inbound=False)
        theirs = SimConnection(self.net, target, self, inbound=True)
        mine.twin, theirs.twin = theirs, mine
        user = target.accept(theirs)
        if user is None:
            raise Refused("the peer refused the connection", code=2, reason="")
        theirs.user = user
        target.live[theirs] = None
        self.live[mine] = None
        mine.user = user_for(mine)
        return mine


class SimNet:
    """Who can reach whom, and when it arrives."""

    def __init__(self) -> None:
        self.at: dict[SocketAddr, SimEndpoint] = {}
        self.sides: dict[EndpointId, int] = {}  # partition; endpoints on different sides are cut off
        self.apart: set[frozenset[EndpointId]] = set()  # pairs that never reach one another
        self._tasks: TaskGroup
        self._ports = itertools.count(1000)

    def endpoint(self, endpoint_id: EndpointId, accept: Accept) -> SimEndpoint:
        endpoint = SimEndpoint(self, endpoint_id, next(self._ports), accept)
        self.at[endpoint.address] = endpoint
        return endpoint

    def is_open(self, a: SimEndpoint, b: SimEndpoint) -> bool:
        same_side = self.sides.get(a.endpoint_id, 0) == self.sides.get(b.endpoint_id, 0)
        is_apart = frozenset((a.endpoint_id, b.endpoint_id)) in self.apart
        return a.is_up and b.is_up and same_side and not is_apart

    def later(self, connection: SimConnection, action: Callable[[], None]) -> None:
        """Run after one latency, in order; lost when the way is cut by then."""

        def deliver() -> None:
            if self.is_open(connection.owner, connection.other):
                action()

        self._at(anyio.current_time() + LATENCY_S, deliver)

    def soon(self, action: Callable[[], None]) -> None:
        self._at(-inf, action)

    def kill(self, endpoint: SimEndpoint) -> None:
        """Power off: nobody is told; the others notice after the idle time."""
        endpoint.is_up = False
        self._cut(lambda a, b: endpoint in (a, b))

    def partition(self, *sides: Sequence[SimEndpoint]) -> None:
        """Cut the net; connections across die silently, each end notices after the idle time."""
        self.sides = {e.endpoint_id: number for number, side in enumerate(sides) for e in side}
        self._cut(lambda a, b: not self.is_open(a, b))

    def heal(self) -> None:
        self.sides = {}

    def _cut(self, is_cut: Callable[[SimEndpoint, SimEndpoint], bool]) -> None:
        idle = ConnectionLost(0, "idle", by_peer=False, kind=LossKind.IDLE)
        for endpoint in self.at.values():
            for connection in endpoint.connections:
                if is_cut(connection.owner, connection.other):
                    self._at(anyio.current_time() + IDLE_S, lambda c=connection: c.end(idle))

    def _at(self, when: float, action: Callable[[], None]) -> None:
        self._queue(when, action)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[SimNet]:
        async with anyio.create_task_group() as tasks:
            send, receive = anyio.create_memory_object_stream[tuple[float, Callable[[], None]]](inf)
            soon_send, soon_receive = anyio.create_memory_object_stream[tuple[float, Callable[[], None]]](inf)

            def queue(when: float, action: Callable[[], None]) -> None:
                if when == -inf:
                    soon_send.send_nowait((when, action))
                elif when > anyio.current_time() + LATENCY_S:
                    tasks.start_soon(self._wait, when, action)
                else:
                    send.send_nowait((when, action))

            self._queue = queue
            tasks.start_soon(self._run, receive)
            tasks.start_soon(self._run, soon_receive)
            with send, receive, soon_send, soon_receive:
                yield self
                tasks.cancel_scope.cancel()

    @staticmethod
    async def _wait(when: float, action: Callable[[], None]) -> None:
        await anyio.sleep_until(when)
        action()

    @staticmethod
    async def _run(stream: AsyncIterator[tuple[float, Callable[[], None]]]) -> None:
        async for when, action in stream:
            if when > anyio.current_time():
                await anyio.sleep_until(when)
            action()
