"""Connections by peer: dialled once, shared by all topics, counted only while they live."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

import anyio
from anyio.abc import TaskGroup, TaskStatus

from kukuri_sidecar.errors import (
    Cancelled,
    DialTimeout,
    DnsFailure,
    InvalidPeer,
    LimitReached,
    NoAddresses,
    RelayUnavailable,
    SidecarError,
    TransportError,
    UnknownPeer,
)
from kukuri_sidecar.net.clock import Instants, WallMs
from kukuri_sidecar.net.hosts import resolve_host
from kukuri_sidecar.net.quic import Connection, ConnectionLost, ConnectionUser, LossKind, QuicEndpoint
from kukuri_sidecar.node.address_book import AddressBook
from kukuri_sidecar.node.config import Config
from kukuri_sidecar.node.discovery.provider import Discovered
from kukuri_sidecar.node.events import Emit, PeerChanged, PeerState
from kukuri_sidecar.proto.backoff import backoff
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.wire.addr import HostPort, PeerHint, SocketAddr
from kukuri_sidecar.wire.capabilities import Capability
from kukuri_sidecar.wire.ids import EndpointId, TopicId

MAX_PARALLEL_DIALS = 8  # trust.md 2.6
MAX_SPARE_CONNECTIONS = 3  # simultaneous dials leave one or two behind; more is a peer's mistake
MEET_TIMEOUT_S = 3.0  # for a stranger's address; most announces of a public DHT are stale
MAX_RECORDS = 1024  # peers we keep a back-off or an error for
MAX_DIAL_ADDRESSES = 16  # one dial fans out to so many at most
HEALTHY_AFTER_S = 60.0  # a connection that lived so long resets the back-off
STALE_AFTER_S = 1.0  # a dial that nobody answered so long is helped by a search
SEARCH_TIMEOUT_S = 15.0  # the pool's own limit; a look-up in the public DHT takes 2 to 8 s
SEARCH_PAUSE_MIN_S = (
    0.5  # between fruitless searches for one peer: each asks 30 strangers and tells them whom
)
SEARCH_PAUSE_MAX_S = 300.0  # ... we are interested in

Find = Callable[[EndpointId, Callable[[Discovered], None], float], Awaitable[dict[str, str]]]
"""Searches for a peer until all sources are through or the seconds are over; returns who failed, and how."""


@dataclass(frozen=True, slots=True)
class ConnectedPeer:
    """A live, authenticated connection, for ``peer.connect``."""

    endpoint_id: EndpointId
    path: str
    address: SocketAddr | None
    rtt_ms: int | None


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One row of ``peer.list``; instants are Unix milliseconds."""

    endpoint_id: EndpointId
    state: PeerState
    origins: tuple[str, ...]
    path: str | None
    address: SocketAddr | None
    rtt_ms: int | None
    topics: tuple[TopicId, ...]
    connected_ms: int | None
    retry_at_ms: int | None
    last_error: str | None
    is_sidecar: bool


@dataclass
class _Dial:
    done: anyio.Event = field(default_factory=anyio.Event)  # it ended, or the peer came to us meanwhile
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    is_given_up: bool = False


@dataclass
class _Peer:
    connections: list[Connection] = field(default_factory=list)  # the newest last: it is the one to send on
    dial: _Dial | None = None  # present while one is under way
    failures: int = 0
    retry_at: float = -inf  # monotonic seconds
    last_error: SidecarError | None = None
    connected_ms: int | None = None
    is_for_host: bool = False  # the host wants it; otherwise topics do, which may lose interest
    searches: int = 0  # in a row that did not lead to a connection
    search_at: float = -inf  # monotonic seconds; before, no search by ourselves
    is_forgotten: bool = False  # dropped as soon as nothing is under way any more
    capabilities: Capability | None = None  # None: a plain node, as far as we know


class _Search:
    """A search for one peer while it is dialled."""

    def __init__(self) -> None:
        self.wanted = anyio.Event()  # the dial has failed, or cannot even begin
        self.news = anyio.Event()
        self.is_over = False
        self.errors: dict[str, str] = {}

    def tell(self) -> None:
        """Wake the dial."""
        self.news.set()
        self.news = anyio.Event()

    def end(self) -> None:
        """Nothing more will come."""
        self.is_over = True
        self.tell()


class Peers:
    """The pool. ``run`` owns the dials; everything else is called on the loop and answers at once."""

    def __init__(
        self,
        *,
        own_id: EndpointId,
        alpn: str,
        config: Config,
        book: AddressBook,
        emit: Emit,
        rng: Rng,
        wall_ms: WallMs,
    ) -> None:
        self.own_id = own_id
        self._alpn = alpn
        self._config = config
        self._book = book
        self._emit = emit
        self._rng = rng
        self._wall_ms = wall_ms
        self._instants = Instants(wall_ms)
        self._peers: dict[EndpointId, _Peer] = {}
        self._dials: TaskGroup | None = None
        self._slots: anyio.CapacityLimiter | None = None
        self._endpoint: QuicEndpoint | None = None
        self._find: Find | None = None
        self._user_for: Callable[[Connection], ConnectionUser] = _nobody
        self._unreachable: Callable[[EndpointId, SidecarError], None] = lambda *_: None
        self._topics_of: Callable[[EndpointId], tuple[TopicId, ...]] = lambda _: ()

    def wire(
        self,
        endpoint: QuicEndpoint,
        user_for: Callable[[Connection], ConnectionUser],
        unreachable: Callable[[EndpointId, SidecarError], None],
        topics_of: Callable[[EndpointId], tuple[TopicId, ...]],
        find: Find | None = None,
    ) -> None:
        """Name the endpoint that dials, the service that uses the connections and who finds peers by id.

        Before ``run``.
        """
        self._endpoint = endpoint
        self._find = find
        self._user_for, self._unreachable, self._topics_of = user_for, unreachable, topics_of

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own the dials until cancelled."""
        self._slots = anyio.CapacityLimiter(MAX_PARALLEL_DIALS)
        async with anyio.create_task_group() as tasks:
            self._dials = tasks
            task_status.started()
            await anyio.sleep_forever()

    # --- what the topics service asks ------------------------------------------------------------------

    def connection(self, endpoint_id: EndpointId) -> Connection | None:
        """Return the connection to send on, if one lives."""
        peer = self._peers.get(endpoint_id)
        return peer.connections[-1] if peer and peer.connections else None

    def want(self, endpoint_id: EndpointId, *, for_host: bool = False) -> bool:
        """Start a dial unless one runs or the peer is in its back-off; say whether an outcome will follow.

        The outcome is a call of ``user_for`` or of ``unreachable``, never before this method has returned.
        """
        peer = self._record(endpoint_id)
        peer.is_for_host = peer.is_for_host or for_host
        if peer.connections or peer.dial:
            return True
        if self._dials is None or endpoint_id == self.own_id or anyio.current_time() < peer.retry_at:
            return False
        self._start_dial(endpoint_id, peer)
        return True

    @property
    def dialled_for_topics(self) -> tuple[EndpointId, ...]:
        """Everybody whom we dialled or are dialling although the host has not asked for it."""
        return tuple(
            endpoint_id
            for endpoint_id, peer in self._peers.items()
            if not peer.is_for_host and (peer.dial or any(not c.inbound for c in peer.connections))
        )

    def give_up(self, endpoint_id: EndpointId) -> None:
        """End a dial that nobody wants any more."""
        peer = self._peers.get(endpoint_id)
        if peer and peer.dial:
            peer.dial.is_given_up = True
            peer.dial.scope.cancel()

    def retry_at(self, endpoint_id: EndpointId) -> float:
        """Return the monotonic time before which ``want`` refuses; -inf when it would dial at once."""
        peer = self._peers.get(endpoint_id)
        return peer.retry_at if peer else -inf

    def last_error(self, endpoint_id: EndpointId) -> SidecarError | None:
        """Return why the last dial failed; None after a success."""
        peer = self._peers.get(endpoint_id)
        return peer.last_error if peer else None

    def recognise(self, endpoint_id: EndpointId, capabilities: Capability) -> None:
        """Note that a peer we deal with is a sidecar too; unverified when others passed that on."""
        peer = self._peers.get(endpoint_id)
        if peer:  # strangers make no records
            peer.capabilities = capabilities

    def learn(self, hint: PeerHint, origin: str) -> bool:
        """Take a hint about where a peer is; say whether it holds an address that was unknown.

        News lift the peer's back-off and join a dial that is under way.
        """
        if hint.endpoint_id == self.own_id:
            return False
        before = self._book.hosts(hint.endpoint_id)
        self._book.learn(hint.endpoint_id, hint.hosts, origin)
        fresh = [host for host in self._book.hosts(hint.endpoint_id) if host not in before]
        peer = self._peers.get(hint.endpoint_id)
        if fresh and peer:
            peer.retry_at = -inf
            if peer.dial and self._dials:
                self._dials.start_soon(self._widen_dial, hint.endpoint_id, fresh)
        return bool(fresh)

    def network_changed(self) -> None:
        """Our addresses changed: every back-off was about another network."""
        for peer in self._peers.values():
            peer.failures = 0
            peer.retry_at = -inf

    # --- what the host asks ----------------------------------------------------------------------------

    async def connect(self, hint: PeerHint, timeout_s: float) -> ConnectedPeer:
        """Dial the peer now, or return the live connection.

        Raises InvalidPeer for ourselves, Cancelled after ``disconnect``, and every error of
        ``QuicEndpoint.dial``. Dials are shared: when this caller gives up, others still get the result.
        """
        endpoint_id = hint.endpoint_id
        if endpoint_id == self.own_id:
            raise InvalidPeer("this is our own endpoint id", segment="endpoint_id", reason="own id")
        self.learn(hint, "ticket")
        peer = self._record(endpoint_id)
        peer.is_for_host = True
        if not peer.connections:
            if peer.dial is None:
                peer.search_at = -inf  # the host asks: now
            dial = peer.dial or self._start_dial(endpoint_id, peer)
            with anyio.move_on_after(timeout_s) as waiting:
                await dial.done.wait()
            if not peer.connections:
                if dial.is_given_up:
                    raise Cancelled("disconnected meanwhile")
                if waiting.cancelled_caught or peer.last_error is None:
                    tried = [str(host) for host in self._book.hosts(endpoint_id)]
                    raise DialTimeout("no address answered in time", tried=tried)
                raise peer.last_error
        connection = peer.connections[-1]
        return ConnectedPeer(endpoint_id, "direct", connection.address, _ms(connection.rtt_s))

    async def meet(self, address: SocketAddr) -> EndpointId:
        """Dial whoever is at ``address``; return who it proved to be. Errors as of ``QuicEndpoint.dial``."""
        if known := self.peer_at(address):
            return known
        assert self._endpoint is not None  # noqa: S101 - run() comes first
        assert self._slots is not None  # noqa: S101
        async with self._slots:
            connection = await self._endpoint.dial(
                None,
                [address],
                self._alpn,
                lambda connection: self._established(connection, "rendezvous"),
                timeout_s=MEET_TIMEOUT_S,
            )
        return connection.peer

    def peer_at(self, address: SocketAddr) -> EndpointId | None:
        """Return the connected peer whose connection goes to ``address``."""
        for endpoint_id, peer in self._peers.items():
            if any(connection.address == address for connection in peer.connections):
                return endpoint_id
        return None

    async def disconnect(self, endpoint_id: EndpointId, *, forget: bool) -> bool:
        """Close the peer's connections; say whether there were any. UnknownPeer when never heard of.

        A dial that is under way ends as well.
        """
        peer = self._peers.get(endpoint_id)
        if peer is None and endpoint_id not in self._book:
            raise UnknownPeer("this endpoint id was never heard of")
        self.give_up(endpoint_id)
        if peer:
            peer.is_for_host = False
        connections = list(peer.connections) if peer else []
        for connection in connections:
            connection.close(0, "disconnected by the application")
        if forget:
            self._book.forget(endpoint_id)
            if peer:
                peer.is_forgotten = True
                self._drop_forgotten(endpoint_id, peer)
        return bool(connections)

    def list(self) -> Sequence[PeerInfo]:
        """Return every peer that we dialled, that is connected, or that somebody told us of."""
        known = dict.fromkeys([*self._peers, *self._book.known()])
        return [self._info(endpoint_id) for endpoint_id in known]

    @property
    def connected(self) -> int:
        """Number of peers with a live connection."""
        return sum(bool(peer.connections) for peer in self._peers.values())

    # --- connections come and go -----------------------------------------------------------------------

    def accepted(self, connection: Connection) -> ConnectionUser | None:
        """Take an inbound connection that proved its identity; our own, found in the DHT, is refused."""
        if connection.peer == self.own_id:
            return None
        return self._established(connection, "inbound")

    def _established(self, connection: Connection, origin: str | None) -> ConnectionUser:
        endpoint_id = connection.peer
        if endpoint_id == self.own_id:
            connection.close(0, "our own address")
            return _Ourselves()
        peer = self._record(endpoint_id)
        if origin:
            self._book.learn(endpoint_id, [connection.address], origin)
        self._book.prove(endpoint_id, connection.address, self._wall_ms())
        if peer.dial and connection.inbound:
            peer.dial.done.set()
            if endpoint_id < self.own_id:  # node.links: the other one would lose
                peer.dial.scope.cancel()
        first = not peer.connections
        peer.connections.append(connection)
        peer.last_error = None
        peer.searches = 0
        peer.search_at = peer.retry_at = -inf
        peer.is_forgotten = False
        for spare in peer.connections[: -1 - MAX_SPARE_CONNECTIONS]:
            spare.close(0, "superseded")
        if first:
            peer.connected_ms = self._wall_ms()
            self._announce(endpoint_id, PeerState.CONNECTED, None, connection)
        return self._user_for(connection)

    def lost(self, connection: Connection, reason: ConnectionLost) -> None:
        """Note that a connection ended; called by its user, exactly once."""
        peer = self._peers.get(connection.peer)
        if peer is None or connection not in peer.connections:
            return
        peer.connections.remove(connection)
        if peer.connections:
            return
        if anyio.current_time() - connection.established_at >= HEALTHY_AFTER_S:
            peer.failures = 0
        peer.connected_ms = None
        self._announce(connection.peer, PeerState.DISCONNECTED, reason.kind, None)
        self._drop_forgotten(connection.peer, peer)

    # --- dialling --------------------------------------------------------------------------------------

    def _start_dial(self, endpoint_id: EndpointId, peer: _Peer) -> _Dial:
        assert self._dials is not None  # noqa: S101 - run() comes first
        peer.dial = dial = _Dial()
        self._dials.start_soon(self._dial, endpoint_id, peer, dial)
        return dial

    async def _dial(self, endpoint_id: EndpointId, peer: _Peer, dial: _Dial) -> None:
        failure: SidecarError | None = None
        try:
            with dial.scope:
                connection = await self._try_to_dial(endpoint_id, peer)
                if connection and dial.is_given_up:  # it came through in the very moment
                    connection.close(0, "dial cancelled")
        except SidecarError as exc:
            failure = exc
        finally:
            peer.dial = None
            dial.done.set()
        if peer.connections:  # they may have dialled us meanwhile
            peer.failures = 0
            return
        if failure is None:  # cancelled, or the connection is over already
            if dial.scope.cancelled_caught:
                self._announce(endpoint_id, PeerState.DISCONNECTED, LossKind.LOCAL, None)
            self._drop_forgotten(endpoint_id, peer)
            return
        peer.failures += 1
        peer.last_error = failure
        connect = self._config.connect
        peer.retry_at = anyio.current_time() + backoff(
            peer.failures,
            self._rng,
            least_s=connect.backoff_min_ms / 1000,
            most_s=connect.backoff_max_ms / 1000,
        )
        self._announce(endpoint_id, PeerState.DISCONNECTED, failure.kind, None)
        self._unreachable(endpoint_id, failure)
        self._drop_forgotten(endpoint_id, peer)

    async def _try_to_dial(self, endpoint_id: EndpointId, peer: _Peer) -> Connection | None:
        """Return the connection, or None when the peer came to us meanwhile."""
        assert self._slots is not None  # noqa: S101 - run() comes first
        async with self._slots:
            can_search = self._find is not None and anyio.current_time() >= peer.search_at
            if not self._book.hosts(endpoint_id) and not can_search:
                raise NoAddresses("nothing dialable is known for this peer", source_errors={})
            if self.connected >= self._config.max_peers:
                raise LimitReached(
                    "as many peers as allowed are connected",
                    limit="max_peers",
                    max=self._config.max_peers,
                    retry_at_ms=None,
                )
            self._announce(endpoint_id, PeerState.CONNECTING, None, None)
            search, failure = _Search(), None
            connection: Connection | None = None
            async with anyio.create_task_group() as tasks:
                if can_search:
                    tasks.start_soon(self._search, endpoint_id, peer, search)
                else:
                    search.end()
                try:
                    connection = await self._dial_what_is_known(endpoint_id, peer, search)
                except SidecarError as exc:
                    failure = exc
                tasks.cancel_scope.cancel()
            if failure:
                raise failure
            return connection

    async def _dial_what_is_known(
        self, endpoint_id: EndpointId, peer: _Peer, search: _Search
    ) -> Connection | None:
        """Dial the known addresses; when that fails, what the search still finds, until it is over."""
        assert self._endpoint is not None  # noqa: S101 - run() comes first
        tried: dict[HostPort, None] = {}
        failure: SidecarError | None = None
        while True:
            hosts = self._book.hosts(endpoint_id)
            fresh = [host for host in hosts if host not in tried]
            if fresh:
                tried |= dict.fromkeys(fresh)
                addresses = await _resolve(hosts)
                # What was learnt meanwhile found no dial to join.
                late = [host for host in self._book.hosts(endpoint_id) if host not in tried]
                tried |= dict.fromkeys(late)
                addresses = list(dict.fromkeys([*addresses, *await _resolve(late)]))
                try:
                    return await self._dial_addresses(endpoint_id, addresses)
                except DialTimeout as exc:
                    failure = exc
                    tried |= dict.fromkeys(self._book.hosts(endpoint_id))  # they have joined the dial
                except SidecarError as exc:
                    failure = exc
            elif search.is_over:
                raise failure or NoAddresses(
                    "no source knows where this peer is", source_errors=search.errors
                )
            else:
                search.wanted.set()
                await search.news.wait()
            if peer.connections:
                return None  # they found us

    async def _dial_addresses(self, endpoint_id: EndpointId, addresses: Sequence[SocketAddr]) -> Connection:
        assert self._endpoint is not None  # noqa: S101 - run() comes first
        if not addresses:
            raise NoAddresses("no host name of this peer resolves", source_errors={"dns": DnsFailure.kind})
        try:
            return await self._endpoint.dial(
                endpoint_id,
                addresses[:MAX_DIAL_ADDRESSES],
                self._alpn,
                lambda connection: self._established(connection, None),
                timeout_s=self._config.connect.timeout_ms / 1000,
            )
        except NoAddresses:
            raise NoAddresses(
                "no address of this peer is of a family that we have a socket of", source_errors={}
            ) from None

    async def _search(self, endpoint_id: EndpointId, peer: _Peer, search: _Search) -> None:
        """Learn where the peer is from every source; a dial of known addresses gets a head start."""
        assert self._find is not None  # noqa: S101 - asked for by _try_to_dial
        with anyio.move_on_after(STALE_AFTER_S):
            await search.wanted.wait()
        if peer.connections:
            return
        peer.searches += 1
        peer.search_at = anyio.current_time() + backoff(
            peer.searches, self._rng, least_s=SEARCH_PAUSE_MIN_S, most_s=SEARCH_PAUSE_MAX_S
        )
        relays: set[str] = set()

        def found(discovered: Discovered) -> None:
            hosts = tuple(HostPort(*address) for address in discovered.addresses)
            self.learn(PeerHint(endpoint_id, hosts, discovered.relay_urls), discovered.provenance)
            if not hosts:
                relays.add(discovered.provenance)
            search.tell()

        search.errors = await self._find(endpoint_id, found, SEARCH_TIMEOUT_S)
        search.errors |= dict.fromkeys(sorted(relays), RelayUnavailable.kind)
        search.end()

    async def _widen_dial(self, endpoint_id: EndpointId, hosts: Sequence[HostPort]) -> None:
        assert self._endpoint is not None  # noqa: S101 - run() comes first
        self._endpoint.add_addresses(endpoint_id, await _resolve(hosts))

    # --- bookkeeping -----------------------------------------------------------------------------------

    def _record(self, endpoint_id: EndpointId) -> _Peer:
        peer = self._peers.get(endpoint_id)
        if peer is None:
            if len(self._peers) >= MAX_RECORDS:
                self._drop_idle_record()
            peer = self._peers[endpoint_id] = _Peer()
        return peer

    def _drop_forgotten(self, endpoint_id: EndpointId, peer: _Peer) -> None:
        if peer.is_forgotten and not peer.connections and not peer.dial:
            self._peers.pop(endpoint_id, None)

    def _drop_idle_record(self) -> None:
        for endpoint_id, peer in self._peers.items():
            if not peer.connections and not peer.dial:
                del self._peers[endpoint_id]
                return

    def _announce(
        self, endpoint_id: EndpointId, state: PeerState, reason: str | None, connection: Connection | None
    ) -> None:
        path = "direct" if connection else None
        rtt = _ms(connection.rtt_s) if connection else None
        self._emit(PeerChanged(endpoint_id, state, path, rtt, reason))

    def _info(self, endpoint_id: EndpointId) -> PeerInfo:
        peer = self._peers.get(endpoint_id) or _Peer()
        connection = peer.connections[-1] if peer.connections else None
        if connection:
            state = PeerState.CONNECTED
        else:
            state = PeerState.CONNECTING if peer.dial else PeerState.DISCONNECTED
        now = anyio.current_time()
        waits = peer.retry_at > now and not connection
        return PeerInfo(
            endpoint_id=endpoint_id,
            state=state,
            origins=self._book.origins(endpoint_id),
            path="direct" if connection else None,
            address=connection.address if connection else None,
            rtt_ms=_ms(connection.rtt_s) if connection else None,
            topics=self._topics_of(endpoint_id),
            connected_ms=peer.connected_ms if connection else None,
            retry_at_ms=self._instants.at_ms(peer.retry_at, now) if waits else None,
            last_error=peer.last_error.kind if peer.last_error else None,
            is_sidecar=peer.capabilities is not None,
        )


async def _resolve(hosts: Iterable[HostPort]) -> list[SocketAddr]:
    """Turn places into addresses, in order; names that do not resolve are left out."""
    found: dict[SocketAddr, None] = {}
    for host in hosts:
        found |= dict.fromkeys(await resolve_host(host))
    return list(found)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


class _Ourselves:
    """The user of a connection that leads back to us; it is closed already."""

    def stream_data(self, connection: Connection, stream_id: int, data: bytes, end: bool) -> None: ...

    def stream_reset(self, connection: Connection, stream_id: int, code: int) -> None: ...

    def stream_stopped(self, connection: Connection, stream_id: int, code: int) -> None: ...

    def progressed(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, reason: ConnectionLost) -> None: ...


def _nobody(_: Connection) -> ConnectionUser:
    raise TransportError("no service uses connections yet")
