"""The connection table of one endpoint: who a datagram belongs to, who may connect, who is dialled.

Sans-IO: ``receive``, ``on_deadline`` and the connections' own methods change state; ``take_events`` says what
happened, ``transmit`` what must be sent (one pass per connection, however many datagrams came), ``deadline``
when to call ``on_deadline``. Call ``transmit`` before asking for ``deadline``.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING

from kukuri_sidecar.errors import LimitReached
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.demux import CID_BYTES
from kukuri_sidecar.proto.quic import congestion, rpk
from kukuri_sidecar.proto.quic.admission import MIN_RESET_BYTES, Admission
from kukuri_sidecar.proto.quic.bounded import TOKEN_BYTES, BoundedConnection
from kukuri_sidecar.proto.quic.connection import ConnectionCore, Farewell, Phase, Table
from kukuri_sidecar.proto.quic.counters import QuicCounters
from kukuri_sidecar.proto.quic.events import Closed, DialFailed, LossKind, QuicEvent
from kukuri_sidecar.proto.quic.library import silence_library_log
from kukuri_sidecar.proto.quic.limits import QuicLimits
from kukuri_sidecar.proto.quic.paths import VIRTUAL, Address, Datagram, DialPaths
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.keys import SecretKey

if TYPE_CHECKING:
    from aioquic.quic.configuration import QuicConfiguration

RESET_KEY_LABEL = b"kukuri-sidecar/quic-stateless-reset/1"
MAX_FAREWELLS = 64  # ours: closed connections that still answer late packets; 1-2 KB each
FAREWELL_S = 1.0  # ours: about 3 PTO on a slow path (RFC 9000 section 10.2)
CID_TABLE_START = 1  # where a short header's connection id starts


class EndpointCore:
    """All QUIC connections of one identity."""

    def __init__(
        self,
        secret: SecretKey,
        *,
        alpns: Sequence[str],
        limits: QuicLimits,
        rng: Rng,
        counters: QuicCounters | None = None,
    ) -> None:
        """``alpns`` are what inbound connections may ask for; an empty list accepts nobody."""
        silence_library_log()
        congestion.register()
        self.counters = QuicCounters() if counters is None else counters
        self.connections: dict[ConnectionCore, None] = {}  # in every phase but CLOSED
        self._secret = secret
        self._alpns = list(alpns)
        self._limits = limits
        self._reset_key = hmac.digest(secret.seed, RESET_KEY_LABEL, "sha256")
        self._farewells: dict[int, Farewell] = {}
        self._farewell_serial = 0
        self._events: list[QuicEvent] = []
        self._table = Table(limits, rng, self.counters, self._events, {}, {})
        self._admission = Admission(limits, self._reset_key, rng, self.counters)
        self._server = rpk.configuration(secret, self._alpns, limits, is_client=False)
        self._clients: dict[str, QuicConfiguration] = {}  # by ALPN; the node dials a handful

    # --- In ------------------------------------------------------------------------------------------------

    def receive(self, batch: Iterable[Datagram], now: float) -> None:
        """Take datagrams with their source addresses; never raises."""
        touched: dict[ConnectionCore, None] = {}
        by_cid = self._table.by_cid
        counters = self.counters
        for data, address in batch:
            counters.datagrams_in += 1
            counters.bytes_in += len(data)
            if len(data) < MIN_RESET_BYTES:
                counters.malformed += 1
                continue
            if data[0] & 0x80:
                owner = by_cid.get(data[6 : 6 + data[5]])
            else:
                owner = by_cid.get(data[CID_TABLE_START : CID_TABLE_START + CID_BYTES])
            if isinstance(owner, Farewell):
                if now < owner.until:
                    self._late(owner)
                    continue
                self._forget_farewells(now)
                owner = None
            if owner is None:
                owner = self._stranger(data, address, now)
                if owner is None:
                    continue
            owner.receive(data, address, now)
            touched[owner] = None
        dirty = self._table.dirty
        for connection in touched:
            connection.collect(now)
            dirty[connection] = None

    def on_deadline(self, now: float) -> None:
        """Let time pass up to ``now``."""
        for connection in self.connections:
            if now >= connection.due:
                connection.on_timer(now)
                connection.collect(now)
                self._table.dirty[connection] = None
        self._forget_farewells(now)

    def dial(
        self, peer: EndpointId | None, alpn: str, candidates: Sequence[Address], now: float, deadline: float
    ) -> ConnectionCore:
        """Dial all ``candidates`` at once; ends with Established or, at ``deadline`` at last, DialFailed.

        Without a ``peer`` whoever answers is welcome, and proves its own id in the handshake.

        LimitReached when too many dials or connections are open.
        """
        limits = self._limits
        if len(self._table.dials) >= limits.max_dials:
            raise LimitReached("too many dials at once", limit="quic.dials", max=limits.max_dials)
        if self._table.live >= limits.max_connections:
            raise LimitReached("too many connections", limit="quic.connections", max=limits.max_connections)
        paths = DialPaths(candidates, limits.max_candidates)
        quic = self._client(peer, alpn, now)
        connection = ConnectionCore(self._table, quic, deadline=deadline, peer=peer, alpn=alpn, paths=paths)
        connection.add_cid(quic.host_cid)
        self.connections[connection] = None
        self._table.dials[connection] = None
        self._table.dirty[connection] = None
        return connection

    def add_candidates(self, connection: ConnectionCore, candidates: Sequence[Address]) -> None:
        """Add addresses to a running dial; they get the first flight with the next ``transmit``."""
        self._admission.replies += connection.add_candidates(candidates)

    def unreachable(self, address: Address) -> None:
        """Tell that the operating system has no route to ``address``: dials stop using it."""
        for connection in list(self._table.dials):
            connection.unreachable(address)

    # --- Out -----------------------------------------------------------------------------------------------

    @property
    def needs_transmit(self) -> bool:
        """Say whether ``transmit`` or ``take_events`` would return anything new."""
        return bool(self._table.dirty or self._events or self._admission.replies)

    @property
    def our_cids(self) -> dict[bytes, ConnectionCore | Farewell]:
        """The live table of our connection ids, for ``demux.classify``."""
        return self._table.by_cid

    @property
    def live(self) -> Iterator[ConnectionCore]:
        """The established connections."""
        return (c for c in self.connections if c.phase is Phase.LIVE)

    @property
    def half_open(self) -> int:
        """Inbound handshakes under way."""
        return len(self._table.half_open)

    def take_events(self) -> list[QuicEvent]:
        """Return what happened since the last call, in order."""
        events = self._events[:]
        self._events.clear()
        return events

    def transmit(self, now: float) -> list[Datagram]:
        """Return all datagrams that are to be sent now, with their destinations."""
        out = self._admission.replies[:]
        self._admission.replies.clear()
        table = self._table
        while table.dirty:
            dirty = list(table.dirty)
            table.dirty.clear()
            for connection in dirty:
                if connection.phase is Phase.CLOSED:
                    continue
                flight = connection.transmit(now)
                out += flight
                if connection.is_over:
                    self._finish(connection, flight, now)
        counters = self.counters
        counters.datagrams_out += len(out)
        counters.bytes_out += sum(len(data) for data, _ in out)
        return out

    def deadline(self) -> float:
        """Return when ``on_deadline`` wants to run. A scan: 3 us for 50 connections."""
        return min((connection.due for connection in self.connections), default=inf)

    # --- Private -------------------------------------------------------------------------------------------

    def _stranger(self, data: bytes, address: Address, now: float) -> ConnectionCore | None:
        """Handle a datagram with an unknown connection id; return the connection that it opens, if any."""
        admission = self._admission
        if not admission.stranger(now):
            self.counters.strangers_dropped += 1
            return None
        if not data[0] & 0x80:
            if admission.may_check_reset(now):
                token = data[-TOKEN_BYTES:]
                for connection in self.connections:
                    if connection.address == address and any(
                        hmac.compare_digest(token, own) for own in connection.peer_reset_tokens()
                    ):
                        self.counters.resets_received += 1
                        connection.peer_reset()
                        return None
            admission.answer_stray(data, address, now)
            return None
        admitted = admission.initial(
            data,
            address,
            now,
            half_open=len(self._table.half_open),
            half_open_here=sum(1 for other in self._table.half_open.values() if other[0] == address[0]),
            has_room=self._table.live < self._limits.max_connections and bool(self._alpns),
        )
        if admitted is None:
            return None
        quic = BoundedConnection(
            configuration=self._server,
            limits=self._limits,
            expected_peer=None,
            reset_key=self._reset_key,
            original_destination_connection_id=admitted.original_cid,
            retry_source_connection_id=admitted.destination_cid if admitted.is_retried else None,
        )
        connection = ConnectionCore(self._table, quic, deadline=now + self._limits.handshake_deadline_s)
        connection.add_cid(quic.host_cid)
        connection.add_cid(admitted.destination_cid)  # the client's choice; repeated Initials carry it
        self.connections[connection] = None
        self._table.half_open[connection] = address
        return connection

    def _client(self, peer: EndpointId | None, alpn: str, now: float) -> BoundedConnection:
        configuration = self._clients.get(alpn)
        if configuration is None:
            configuration = self._clients[alpn] = rpk.configuration(
                self._secret, [alpn], self._limits, is_client=True
            )
        quic = BoundedConnection(
            configuration=configuration, limits=self._limits, expected_peer=peer, reset_key=self._reset_key
        )
        quic.connect(VIRTUAL, now)
        return quic

    def _finish(self, connection: ConnectionCore, flight: list[Datagram], now: float) -> None:
        self._say_farewell(connection, flight, now)
        if connection in self._table.dials:
            if connection.give_up_responder():
                quic = self._client(connection.peer, connection.alpn, now)
                connection.restart(quic)
                connection.add_cid(quic.host_cid)
                self._table.dirty[connection] = None
                return
            self.counters.dials_failed += 1
            self._events.append(DialFailed(connection, connection.dial_error()))
        elif connection.phase is Phase.LIVE:
            lost = connection.lost()
            self._table.live -= 1
            self.counters.closed += 1
            self.counters.idle_timeouts += lost.kind is LossKind.IDLE
            self._events.append(Closed(connection, lost))
        else:
            self.counters.handshakes_failed += 1
        connection.phase = Phase.CLOSED
        self.connections.pop(connection, None)
        self._table.dials.pop(connection, None)
        self._table.half_open.pop(connection, None)

    def _say_farewell(self, connection: ConnectionCore, flight: list[Datagram], now: float) -> None:
        farewell = Farewell(list(connection.cids), flight, now + FAREWELL_S)
        connection.cids.clear()
        for cid in farewell.cids:
            self._table.by_cid[cid] = farewell
        self._farewell_serial += 1
        self._farewells[self._farewell_serial] = farewell
        if len(self._farewells) > MAX_FAREWELLS:
            self._drop_farewell(next(iter(self._farewells)))

    def _late(self, farewell: Farewell) -> None:
        """Repeat our close for a peer that still talks, ever more rarely (RFC 9000 section 10.2.1)."""
        farewell.seen += 1
        if farewell.seen & (farewell.seen - 1) == 0:
            self._admission.replies += farewell.datagrams

    def _forget_farewells(self, now: float) -> None:
        while self._farewells:
            serial = next(iter(self._farewells))
            if now < self._farewells[serial].until:
                return
            self._drop_farewell(serial)

    def _drop_farewell(self, serial: int) -> None:
        farewell = self._farewells.pop(serial)
        for cid in farewell.cids:
            if self._table.by_cid.get(cid) is farewell:
                del self._table.by_cid[cid]
