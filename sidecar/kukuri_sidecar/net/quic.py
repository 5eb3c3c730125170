"""QUIC on our UDP sockets: dial, accept, and one user per connection who is called synchronously.

Everything a user does while it is called leaves together, one transmit per connection; what anybody writes at
other times leaves at the end of the loop pass. Runs on asyncio and on trio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Protocol, cast

import anyio
from anyio.lowlevel import checkpoint

from kukuri_sidecar.errors import LocalProtocolError, NoAddresses, Offline, ShuttingDown, SidecarError
from kukuri_sidecar.net.udp import Datagram, UdpCounters, UdpSockets
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.demux import Kind, classify
from kukuri_sidecar.proto.quic.connection import ConnectionCore, Phase
from kukuri_sidecar.proto.quic.counters import QuicCounters
from kukuri_sidecar.proto.quic.endpoint import EndpointCore
from kukuri_sidecar.proto.quic.events import (
    Closed,
    ConnectionLost,
    DialFailed,
    Established,
    LossKind,
    Progressed,
    QuicEvent,
    StreamData,
    StreamReset,
    StreamStopped,
)
from kukuri_sidecar.proto.quic.limits import QuicLimits
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.keys import SecretKey

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

__all__ = [
    "Connection",
    "ConnectionLost",
    "ConnectionUser",
    "LossKind",
    "QuicConfig",
    "QuicEndpoint",
    "QuicLimits",
]

ANY_V4 = SocketAddr("0.0.0.0", 0)  # noqa: S104  every interface: that is what a peer is for


STALL_S = 0.2  # architecture.md section 7: a lag of our own beyond which peers get the benefit of the doubt
MAX_DRAIN_BATCHES = 32  # ours: about what a 2 MiB socket buffer holds


class ConnectionUser(Protocol):
    """Who a connection belongs to. Called on the loop, synchronously; must not block and must not raise."""

    def stream_data(self, connection: Connection, stream_id: int, data: bytes, end: bool) -> None:
        """Take bytes in order; call ``connection.consume`` when they are really consumed."""

    def stream_reset(self, connection: Connection, stream_id: int, code: int) -> None:
        """The peer abandoned its sending side. Forget what is unread: its credit is already returned."""

    def stream_stopped(self, connection: Connection, stream_id: int, code: int) -> None:
        """The peer does not want our data; further sends on the stream are dropped."""

    def progressed(self, connection: Connection) -> None:
        """Acknowledgements arrived: ``backlog`` may have fallen."""

    def closed(self, connection: Connection, reason: ConnectionLost) -> None:
        """The connection is over; called exactly once, last."""


@dataclass(frozen=True, slots=True)
class QuicConfig:
    """Where to bind (port 0: any free one) and within which limits to work."""

    bind_v4: SocketAddr | None = ANY_V4
    bind_v6: SocketAddr | None = None
    limits: QuicLimits = field(default_factory=QuicLimits)


class Connection:
    """Authenticated and live, until ``closed`` of its user was called."""

    __slots__ = ("_core", "_endpoint", "user")

    def __init__(self, endpoint: QuicEndpoint, core: ConnectionCore, user: ConnectionUser) -> None:
        self._endpoint = endpoint
        self._core = core
        self.user = user

    @property
    def peer(self) -> EndpointId:
        """The proven id of the other side."""
        return cast("EndpointId", self._core.peer)

    @property
    def alpn(self) -> str:
        """The negotiated protocol."""
        return self._core.alpn

    @property
    def inbound(self) -> bool:
        """Say whether the peer dialled us."""
        return self._core.inbound

    @property
    def established_at(self) -> float:
        """When it became live, on the loop's clock."""
        return self._core.established_at

    @property
    def address(self) -> SocketAddr:
        """Where the peer is now; a link-local scope is our own affair and stays out."""
        host, port = self._core.address
        return SocketAddr(host.partition("%")[0], port)

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time, None before the first sample."""
        return self._core.rtt_s

    @property
    def is_closed(self) -> bool:
        """Say whether nothing can be sent any more; the user's ``closed`` was called or is about to be."""
        return self._core.is_closed

    def open_uni(self) -> int:
        """Open a stream to the peer and return its id; LimitReached when the peer allows no more."""
        return self._core.open_uni()

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Queue data; leaves at the end of this loop pass.

        Dropped and counted when the stream or connection is over. LimitReached above
        ``limits.max_stream_backlog_bytes``: look at ``backlog`` long before.
        """
        self._core.send(stream_id, data, is_end=end)
        self._endpoint._wake()

    def backlog(self, stream_id: int | None = None) -> int:
        """Return bytes accepted and not yet acknowledged; of all streams with None."""
        return self._core.backlog(stream_id)

    def acked(self, stream_id: int) -> int:
        """Return bytes acknowledged from the start of the stream, contiguous."""
        return self._core.acked(stream_id)

    def consume(self, stream_id: int, count: int) -> None:
        """Give the credit of ``count`` received bytes back to the peer."""
        self._core.consume(stream_id, count)
        self._endpoint._wake()

    def stop_receiving(self, stream_id: int, code: int) -> None:
        """Ask the peer to stop (STOP_SENDING); what still comes is dropped, its credit returns by itself."""
        self._core.stop_receiving(stream_id, code)
        self._endpoint._wake()

    def reset(self, stream_id: int, code: int) -> None:
        """Abandon our sending side of the stream."""
        self._core.reset(stream_id, code)
        self._endpoint._wake()

    def close(self, code: int = 0, reason: str = "") -> None:
        """Close; unsent data is lost. The user's ``closed`` follows at the end of this loop pass."""
        self._core.close(code, reason)
        self._endpoint._wake()

    def __repr__(self) -> str:
        way = "from" if self.inbound else "to"
        return f"Connection({way} {self.peer.short()} at {self.address}, {self.alpn})"


class _Dial:
    """One ``dial`` call in progress."""

    __slots__ = ("connection", "done", "error", "user_for")

    def __init__(self, user_for: Callable[[Connection], ConnectionUser]) -> None:
        self.user_for = user_for
        self.done = anyio.Event()
        self.connection: Connection | None = None
        self.error: SidecarError | None = None


class QuicEndpoint:
    """All QUIC connections of one identity, on its own sockets."""

    def __init__(
        self,
        secret: SecretKey,
        config: QuicConfig,
        *,
        alpns: Sequence[str],
        accept: Callable[[Connection], ConnectionUser | None],
        rng: Rng,
        other_datagrams: Callable[[list[Datagram]], None] | None = None,
    ) -> None:
        """``accept`` names the user of an inbound connection, or None to refuse it.

        ``other_datagrams`` gets what is not QUIC (``demux.classify``); without it such datagrams are dropped.
        """
        self.bound: tuple[SocketAddr, ...] = ()
        self._config = config
        self._accept = accept
        self._other_datagrams = other_datagrams
        self._core = EndpointCore(secret, alpns=alpns, limits=config.limits, rng=rng)
        self._sockets: UdpSockets | None = None
        self._connections: dict[ConnectionCore, Connection] = {}
        self._dials: dict[ConnectionCore, _Dial] = {}
        self._work = anyio.Event()  # set: the flusher has something to do
        self._earlier = anyio.Event()  # set: the deadline moved before the armed one
        self._armed = inf
        self._is_pumping = False
        self._is_closing = False

    # --- For everybody -------------------------------------------------------------------------------------

    @property
    def connections(self) -> Iterator[Connection]:
        """The live connections."""
        return iter(list(self._connections.values()))

    @property
    def counters(self) -> QuicCounters:
        """What happened on the QUIC side."""
        return self._core.counters

    @property
    def udp_counters(self) -> UdpCounters:
        """What happened on the sockets."""
        return UdpCounters() if self._sockets is None else self._sockets.counters

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Bind and serve until cancelled, then close all connections politely. OSError when binding fails."""
        self._sockets = sockets = UdpSockets(self._config.bind_v4, self._config.bind_v6)
        self.bound = tuple(udp.address for udp in sockets.sockets)
        try:
            async with anyio.create_task_group() as group:
                for udp in sockets.sockets:
                    group.start_soon(udp.run, self._on_batch)
                group.start_soon(self._flush_loop)
                group.start_soon(self._timer_loop)
                task_status.started()
        finally:
            self._shut_down(0, "shutting down")
            sockets.close()

    async def dial(
        self,
        endpoint_id: EndpointId | None,
        addresses: Sequence[SocketAddr],
        alpn: str,
        user_for: Callable[[Connection], ConnectionUser],
        *,
        timeout_s: float,
    ) -> Connection:
        """Connect over all ``addresses`` at once; the first that proves to be ``endpoint_id`` wins.

        With None whoever answers first is welcome: its id is what ``Connection.peer`` says then.
        Raises NoAddresses, DialTimeout, HandshakeFailed, IdentityMismatch, Refused, Offline or LimitReached.
        ``user_for`` names the connection's user the moment it lives, before this returns.
        Cancelling ends the attempt, or closes the connection.
        """
        sockets = self._running()
        usable = [address for address in dict.fromkeys(addresses) if sockets.reaches(address)]
        if not usable:
            if addresses and not self.bound:
                raise Offline("no socket is bound")
            raise NoAddresses("no usable address of the peer is known", known=list(addresses))
        now = anyio.current_time()
        core = self._core.dial(endpoint_id, alpn, usable, now, now + timeout_s)
        dial = self._dials[core] = _Dial(user_for)
        self._pump(now)
        try:
            await dial.done.wait()
        except BaseException:
            self._dials.pop(core, None)
            core.close(0, "dial cancelled")
            self._pump(anyio.current_time())
            raise
        if dial.connection is None:
            raise dial.error or ShuttingDown("the endpoint is closing")
        return dial.connection

    def add_addresses(self, endpoint_id: EndpointId, addresses: Sequence[SocketAddr]) -> None:
        """Give more addresses to the dials of ``endpoint_id`` that are under way."""
        sockets = self._running()
        usable = [address for address in addresses if sockets.reaches(address)]
        for core in self._dials:
            if core.peer == endpoint_id:
                self._core.add_candidates(core, usable)
        self._wake()

    def send_datagrams(self, datagrams: Sequence[Datagram]) -> None:
        """Send what another protocol has for the shared sockets; what cannot be sent is lost, as UDP may."""
        if self._sockets is not None:
            self._sockets.send(datagrams)

    async def close_all(self, code: int, reason: str, grace_s: float) -> None:
        """Close every connection; wait up to ``grace_s`` until users were told and the frames handed out."""
        with anyio.move_on_after(grace_s):
            for connection in self.connections:
                connection.close(code, reason)
            while self._core.needs_transmit:
                await checkpoint()

    # --- The loop ------------------------------------------------------------------------------------------

    def _running(self) -> UdpSockets:
        if self._sockets is None or self._is_closing:
            raise ShuttingDown("the endpoint does not run")
        return self._sockets

    def _wake(self) -> None:
        if not self._is_pumping:
            self._work.set()

    def _on_batch(self, batch: list[Datagram]) -> None:
        if self._other_datagrams is not None:
            cids = self._core.our_cids
            others = [item for item in batch if classify(item[0], cids) is not Kind.QUIC]
            if others:
                batch = [item for item in batch if classify(item[0], cids) is Kind.QUIC]
                self._other_datagrams(others)
        now = anyio.current_time()
        self._core.receive(batch, now)
        self._pump(now)

    async def _flush_loop(self) -> None:
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            self._pump(anyio.current_time())

    async def _timer_loop(self) -> None:
        while True:
            self._armed = self._core.deadline()
            self._earlier = anyio.Event()
            with anyio.CancelScope(deadline=self._armed):
                await self._earlier.wait()
            self._on_time(anyio.current_time())

    def _on_time(self, now: float) -> None:
        if now >= self._armed + STALL_S:
            # We were late ourselves (busy, suspended): hear what the peers said before judging them.
            for udp in () if self._sockets is None else self._sockets.sockets:
                for _ in range(MAX_DRAIN_BATCHES):
                    batch = udp.drain()
                    if not batch:
                        break
                    self._on_batch(batch)
        if now >= self._core.deadline():
            self._core.on_deadline(now)
            self._pump(now)

    def _pump(self, now: float) -> None:
        """Tell the users what happened and send what is due, until nothing is left of either."""
        if self._is_pumping:
            return
        core = self._core
        self._is_pumping = True
        try:
            while core.needs_transmit:
                for event in core.take_events():
                    self._dispatch(event)
                datagrams = core.transmit(now)
                if datagrams and self._sockets is not None:
                    for address in self._sockets.send(datagrams):
                        core.unreachable(address)
        finally:
            self._is_pumping = False
        if core.deadline() < self._armed:
            self._earlier.set()

    def _dispatch(self, event: QuicEvent) -> None:
        core = event.connection
        connection = self._connections.get(core)
        if connection is not None:
            match event:
                case StreamData():
                    connection.user.stream_data(connection, event.stream_id, event.data, event.end)
                case Progressed():
                    connection.user.progressed(connection)
                case StreamReset():
                    connection.user.stream_reset(connection, event.stream_id, event.code)
                case StreamStopped():
                    connection.user.stream_stopped(connection, event.stream_id, event.code)
                case Closed():
                    del self._connections[core]
                    connection.user.closed(connection, event.lost)
                case Established() | DialFailed():
                    raise LocalProtocolError("an established connection cannot be established again")
        elif type(event) is Established:
            self._established(core)
        elif type(event) is DialFailed:
            dial = self._dials.pop(core, None)
            if dial is not None:
                dial.error = event.error
                dial.done.set()

    def _established(self, core: ConnectionCore) -> None:
        connection = Connection(self, core, _NOBODY)
        if core.inbound:
            user = self._accept(connection)
            if user is None:
                self._core.counters.refused += 1
                core.refuse("not wanted")
                return
            connection.user = user
            self._connections[core] = connection
            return
        dial = self._dials.pop(core, None)
        if dial is None or core.phase is Phase.CLOSED:
            core.close(0, "dial cancelled")
            return
        self._connections[core] = dial.connection = connection
        connection.user = dial.user_for(connection)
        dial.done.set()

    def _shut_down(self, code: int, reason: str) -> None:
        self._is_closing = True
        dials, self._dials = self._dials, {}
        for core in [*self._connections, *dials]:
            core.close(code, reason)
        self._pump(anyio.current_time())
        for dial in dials.values():
            dial.done.set()  # without an error of its own: ShuttingDown


class _Nobody:
    """The user of a connection that nobody has taken yet."""

    def stream_data(self, connection: Connection, stream_id: int, data: bytes, end: bool) -> None:
        connection.consume(stream_id, len(data))

    def stream_reset(self, connection: Connection, stream_id: int, code: int) -> None: ...

    def stream_stopped(self, connection: Connection, stream_id: int, code: int) -> None: ...

    def progressed(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, reason: ConnectionLost) -> None: ...


_NOBODY = _Nobody()
