"""One connection of the endpoint: its phases, its timers and its bookkeeping around aioquic.

    HANDSHAKING --> LIVE --> CLOSED
         '--------------------^        (inbound: refused or late; dial: every candidate failed)

An inbound connection is LIVE when the client proved its key. A dial is LIVE when HANDSHAKE_DONE arrives: only
then is it known that the server accepted *our* key (iroh-wire.md section 1.4, pitfall 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import cast

from aioquic.quic import events as library
from aioquic.quic.packet import QuicErrorCode

from kukuri_sidecar.errors import (
    DialTimeout,
    HandshakeFailed,
    IdentityMismatch,
    Offline,
    Refused,
    SidecarError,
)
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.quic.bounded import BoundedConnection
from kukuri_sidecar.proto.quic.counters import QuicCounters
from kukuri_sidecar.proto.quic.events import (
    ConnectionLost,
    Established,
    LossKind,
    Progressed,
    QuicEvent,
    StreamData,
    StreamReset,
    StreamStopped,
)
from kukuri_sidecar.proto.quic.limits import QuicLimits
from kukuri_sidecar.proto.quic.paths import VIRTUAL, Address, Datagram, DialPaths
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId

TIMER_NUDGE_S = 1e-6  # aioquic's loss timer does nothing at its exact deadline and would fire for ever
MIN_TIMER_S = 1e-3  # ours: nothing can spin, and the pacer's microseconds become bursts of up to 16 packets
KEEP_ALIVE_JITTER = 0.2  # D2
PING_AT_PURE_ACKS = 64  # ours: aioquic keeps a record of each until a packet after it is acknowledged
MAX_PURE_ACKS = 2_048  # ours: 10 s of acknowledging without ever being acknowledged, 1.2 MB
MAX_REASON_BYTES = 200  # ours: aioquic raises when the close frame does not fit into its packet


class Phase(Enum):
    """Life of a connection."""

    HANDSHAKING = auto()
    LIVE = auto()
    CLOSED = auto()


@dataclass(slots=True)
class Table:
    """What all connections of an endpoint share."""

    limits: QuicLimits
    rng: Rng
    counters: QuicCounters
    events: list[QuicEvent]
    by_cid: dict[bytes, ConnectionCore | Farewell]
    dirty: dict[ConnectionCore, None]  # have something to send, or a new deadline
    half_open: dict[ConnectionCore, Address] = field(default_factory=dict)  # inbound handshakes
    dials: dict[ConnectionCore, None] = field(default_factory=dict)
    live: int = 0


@dataclass(slots=True)
class Farewell:
    """What is left of a closed connection for a while: it repeats the close and swallows late packets."""

    cids: list[bytes]
    datagrams: list[Datagram]
    until: float
    seen: int = 0


class ConnectionCore:
    """Sans-IO. The endpoint calls the first block of methods, the owner of the connection the second."""

    __slots__ = (
        "_answered_at",
        "_deadline",
        "_failure",
        "_held",
        "_is_broken",
        "_is_given_up",
        "_is_late",
        "_is_reset",
        "_keep_alive_s",
        "_local_close",
        "_paths",
        "_pinged_at",
        "_quic",
        "_rekey_at",
        "_responder",
        "_table",
        "alpn",
        "cids",
        "due",
        "established_at",
        "inbound",
        "peer",
        "phase",
    )

    def __init__(
        self,
        table: Table,
        quic: BoundedConnection,
        *,
        deadline: float,
        peer: EndpointId | None = None,
        alpn: str = "",
        paths: DialPaths | None = None,
    ) -> None:
        self.inbound = paths is None
        self.peer = peer
        self.alpn = alpn
        self.phase = Phase.HANDSHAKING
        self.established_at = inf
        self.due = inf
        self.cids: dict[bytes, None] = {}
        self._table = table
        self._quic = quic
        self._deadline = deadline
        self._paths = paths
        self._responder: Address | None = None
        self._answered_at = inf
        self._failure: SidecarError | None = None
        self._held: list[QuicEvent] = []  # what came before LIVE; the stream windows bound it
        self._local_close: ConnectionLost | None = None
        self._is_broken = False
        self._is_given_up = False
        self._is_late = False
        self._is_reset = False
        self._keep_alive_s = inf
        self._pinged_at = -inf
        self._rekey_at = table.limits.key_update_packets

    # --- For the endpoint ----------------------------------------------------------------------------------

    def receive(self, data: bytes, address: Address, now: float) -> None:
        """Take one datagram; never raises."""
        paths = self._paths
        sender = address
        if paths is not None:
            if not paths.accepts(address):
                self._table.counters.foreign_address += 1
                return
            sender = VIRTUAL
        quic = self._quic
        try:
            quic.receive_datagram(data, sender, now)
        except Exception:  # whatever a datagram can break in the library costs one connection, not the node
            self._responder = self._responder or address
            self._break()
            return
        if self.phase is Phase.HANDSHAKING and paths is not None:
            if self._responder is None and quic.is_answered:
                self._responder, self._answered_at = address, now
            if paths.selected is None and quic.is_handshake_complete:
                paths.selected = address  # this datagram completed the authenticated handshake
            if self._responder is None and quic.close_event is not None:
                self._responder = address

    def collect(self, now: float) -> None:
        """Move what the library has to say into the endpoint's events."""
        quic = self._quic
        out = self._table.events if self.phase is Phase.LIVE else self._held
        while (event := quic.next_event()) is not None:
            if isinstance(event, library.StreamDataReceived):
                if quic.delivered(event.stream_id, len(event.data), is_end=event.end_stream):
                    out.append(StreamData(self, event.stream_id, event.data, event.end_stream))
            elif isinstance(event, library.ConnectionIdIssued):
                self.add_cid(event.connection_id)
            elif isinstance(event, library.ConnectionIdRetired):
                self.cids.pop(event.connection_id, None)
                self._table.by_cid.pop(event.connection_id, None)
            elif isinstance(event, library.StreamReset):
                if quic.ended(event.stream_id):
                    out.append(StreamReset(self, event.stream_id, event.error_code))
            elif isinstance(event, library.StopSendingReceived):
                if quic.stopped(event.stream_id):
                    out.append(StreamStopped(self, event.stream_id, event.error_code))
            elif isinstance(event, library.DatagramFrameReceived):
                self._table.counters.datagram_frames += 1
        if self.phase is Phase.HANDSHAKING and quic.is_confirmed and quic.close_event is None:
            self._establish(now)
        if quic.acks_arrived:
            quic.acks_arrived = False
            if self.phase is Phase.LIVE:
                self._table.events.append(Progressed(self))

    def on_timer(self, now: float) -> None:
        """Let time pass up to ``now`` (``now >= due``)."""
        quic = self._quic
        if self.phase is Phase.HANDSHAKING:
            if now >= self._deadline:
                self._is_late = True
                self._close_transport(QuicErrorCode.INTERNAL_ERROR, "handshake timed out")
            elif now >= self._stalls_at:
                self._close_transport(QuicErrorCode.INTERNAL_ERROR, "no progress")
        elif now >= self._dead_at:
            # Before the negotiated idle time: our heartbeats went unanswered, the path or the peer is gone.
            self._close(ConnectionLost(0, "silent", by_peer=False, kind=LossKind.IDLE))
        elif quic.pure_acks > MAX_PURE_ACKS:
            self._close_transport(QuicErrorCode.PROTOCOL_VIOLATION, "nothing is acknowledged")
        elif now >= self._ping_at or (quic.pure_acks > PING_AT_PURE_ACKS and not quic.is_waiting_for_ack):
            quic.send_ping(0)
            self._pinged_at = now
            self._keep_alive_s = self._jittered_keep_alive()
        try:
            deadline = quic.get_timer()
            if deadline is not None and now >= deadline:
                quic.handle_timer(max(now, deadline) + TIMER_NUDGE_S)
        except Exception:  # as in `receive`
            self._break()

    def transmit(self, now: float) -> list[Datagram]:
        """Return what is to be sent now, and set ``due``. Afterwards ask ``is_over``."""
        if self._is_broken:
            return []
        quic = self._quic
        if quic.packets_sent >= self._rekey_at:
            quic.request_key_update()
            self._rekey_at += self._table.limits.key_update_packets
        try:
            flight = quic.datagrams_to_send(now)
            timer = quic.get_timer()
            if timer is not None and timer <= now:  # it came due while we were busy
                quic.handle_timer(now + TIMER_NUDGE_S)
                flight += quic.datagrams_to_send(now)
                timer = quic.get_timer()
        except Exception:  # as in `receive`
            self._break()
            return []
        if quic.close_event is not None and not quic.may_say_more:
            flight = []  # an address that nobody proved gets no close beyond three times its bytes
        if timer is None:
            timer = inf
        elif timer < now + MIN_TIMER_S and quic.close_event is None:
            self._table.counters.timer_spins += timer <= now
            timer = now + MIN_TIMER_S
        if self.phase is Phase.HANDSHAKING:
            self.due = min(timer, self._deadline, self._stalls_at)
        else:
            self.due = min(timer, self._ping_at, self._dead_at)
        if quic.has_events:  # connection ids that this flight announces
            self.collect(now)
        return flight if self._paths is None else self._paths.route(flight)

    @property
    def is_over(self) -> bool:
        """Say whether the connection ended and its last datagrams were handed out."""
        return self._is_broken or (self._quic.close_event is not None and not self._quic.is_close_pending)

    def restart(self, quic: BoundedConnection) -> None:
        """Begin another attempt of a failed dial, without the candidate that spoilt the last one."""
        self._quic = quic
        self._responder, self._answered_at = None, inf
        self._held.clear()
        self._is_broken = False

    def give_up_responder(self) -> bool:
        """After a failed attempt: note why, drop the candidate that answered, say whether others are left."""
        error = self._attempt_error()
        if self._failure is None or isinstance(error, IdentityMismatch):
            self._failure = error
        if self._paths is None or self._is_given_up or self._is_late or self._local_close is not None:
            return False
        self._paths.selected = None
        return self._responder is not None and self._paths.drop(self._responder)

    def dial_error(self) -> SidecarError:
        """Return why the dial failed, for its caller."""
        return self._failure or HandshakeFailed("the handshake failed", reason="")

    def unreachable(self, address: Address) -> None:
        """The socket has no route to ``address``; when that is true of every candidate the dial ends."""
        if self.phase is Phase.HANDSHAKING and self._paths is not None and not self._paths.drop(address):
            self._is_given_up = True
            self._failure = self._failure or Offline("no route to any address of the peer")
            self._close_transport(QuicErrorCode.NO_ERROR, "")

    def add_candidates(self, candidates: Iterable[Address]) -> list[Datagram]:
        """Add addresses to a running dial; return what must be sent to them at once."""
        if self.phase is not Phase.HANDSHAKING or self._paths is None:
            return []
        return self._paths.add(candidates)

    def peer_reset(self) -> None:
        """The peer lost its state: end without another word (RFC 9000 section 10.3)."""
        self._is_reset = True
        self._is_broken = True
        self._touch()

    def peer_reset_tokens(self) -> list[bytes]:
        """Return the stateless reset tokens that end this connection."""
        return self._quic.peer_reset_tokens()

    def add_cid(self, cid: bytes) -> None:
        """Let datagrams with this destination find us."""
        self.cids[cid] = None
        self._table.by_cid[cid] = self

    def lost(self) -> ConnectionLost:
        """Say how it ended; meaningful once ``is_over``."""
        if self._local_close is not None:
            return self._local_close
        if self._is_reset:
            return ConnectionLost(0, "stateless reset", by_peer=True, kind=LossKind.RESET, is_transport=True)
        event = self._quic.close_event
        if event is None:
            code = int(QuicErrorCode.INTERNAL_ERROR)
            return ConnectionLost(
                code, "library error", by_peer=False, kind=LossKind.CLOSED, is_transport=True
            )
        by_peer = self._quic.is_closed_by_peer
        is_idle = self._quic.is_timed_out and not by_peer
        return ConnectionLost(
            int(event.error_code),
            event.reason_phrase,
            by_peer=by_peer,
            kind=LossKind.IDLE if is_idle else LossKind.CLOSED,
            is_transport=event.frame_type is not None,
        )

    # --- For the owner -------------------------------------------------------------------------------------

    @property
    def address(self) -> Address:
        """Where our datagrams go now; of a dial in progress the first candidate."""
        if self._paths is None:
            return cast("Address", self._quic.get_peer_address())
        return self._paths.selected or (self._paths.candidates or self._paths.tried)[0]

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time, None before the first sample."""
        return self._quic.rtt_s

    @property
    def is_closed(self) -> bool:
        """Say whether nothing can be sent any more."""
        return self.phase is Phase.CLOSED or self._is_broken or self._quic.close_event is not None

    def open_uni(self) -> int:
        """Open a stream to the peer; LimitReached when the peer allows no more."""
        return self._quic.open_uni()

    def send(self, stream_id: int, data: bytes, *, is_end: bool) -> None:
        """Queue data for the next ``transmit``. Dropped and counted when the stream or connection is over."""
        if self.is_closed or not self._quic.send(stream_id, data, is_end=is_end):
            self._table.counters.dropped_writes += 1
            return
        self._touch()

    def backlog(self, stream_id: int | None) -> int:
        """Return bytes accepted and not yet acknowledged, of one stream or of all."""
        return 0 if self.is_closed else self._quic.backlog(stream_id)

    def acked(self, stream_id: int) -> int:
        """Return bytes acknowledged from the stream's start without a gap."""
        return self._quic.acked(stream_id)

    def consume(self, stream_id: int, count: int) -> None:
        """Give back the credit of ``count`` bytes."""
        self._quic.consume(stream_id, count)
        self._touch()

    def stop_receiving(self, stream_id: int, code: int) -> None:
        """Ask the peer to stop sending on the stream; what still comes is dropped."""
        if not self.is_closed:
            self._quic.stop_receiving(stream_id, code)
            self._touch()

    def reset(self, stream_id: int, code: int) -> None:
        """Abandon our sending side of the stream."""
        if not self.is_closed:
            self._quic.abandon(stream_id, code)
            self._touch()

    def close(self, code: int, reason: str) -> None:
        """Close with an application code; the Closed event follows with the next ``transmit``."""
        self._close(ConnectionLost(code, reason, by_peer=False, kind=LossKind.LOCAL))

    def refuse(self, reason: str) -> None:
        """Turn an inbound connection down with CONNECTION_REFUSED."""
        code = int(QuicErrorCode.CONNECTION_REFUSED)
        self._close(ConnectionLost(code, reason, by_peer=False, kind=LossKind.LOCAL, is_transport=True))

    # --- Private -------------------------------------------------------------------------------------------

    def _close(self, lost: ConnectionLost) -> None:
        if self.is_closed:
            return
        self._local_close = lost
        self._quic.close(
            error_code=lost.code,
            frame_type=0 if lost.is_transport else None,
            reason_phrase=lost.reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore"),
        )
        self._touch()

    def _close_transport(self, code: QuicErrorCode, reason: str) -> None:
        self._quic.close(code, frame_type=0, reason_phrase=reason)
        self._touch()

    def _establish(self, now: float) -> None:
        table = self._table
        proven = self._quic.proven_peer
        if proven is None or (self.peer is not None and proven != self.peer):
            # Cannot happen while rpk.py holds; if it ever does not, nobody gets in.
            self._close(ConnectionLost(int(QuicErrorCode.INTERNAL_ERROR), "", False, LossKind.LOCAL, True))
            return
        if self.inbound and table.live >= table.limits.max_connections:
            table.counters.refused += 1
            self.refuse("too many connections")
            return
        self.peer = proven
        self.alpn = self._quic.alpn
        self.phase = Phase.LIVE
        self.established_at = self._pinged_at = now
        self._keep_alive_s = self._jittered_keep_alive()
        table.live += 1
        table.half_open.pop(self, None)
        table.dials.pop(self, None)
        table.events.append(Established(self))
        table.events += self._held
        self._held = []
        if self.inbound:
            table.counters.accepted += 1
        else:
            table.counters.dialled += 1

    def _attempt_error(self) -> SidecarError:
        if self._is_late:
            tried = [SocketAddr(*address) for address in self._paths.tried] if self._paths else []
            return DialTimeout("no address of the peer answered in time", tried=tried)
        found = self._quic.found_peer
        if found is not None and self.peer is not None and found != self.peer:
            return IdentityMismatch(
                "the address belongs to another endpoint", expected=self.peer, found=found
            )
        lost = self.lost()
        code = f"{lost.code:#x}"
        if lost.by_peer and (not lost.is_transport or lost.code == QuicErrorCode.CONNECTION_REFUSED):
            return Refused("the peer refused the connection", code=lost.code, reason=lost.reason)
        who = "peer" if lost.by_peer else "we"
        return HandshakeFailed(
            f"{who} ended the handshake: {code} {lost.reason}", reason=lost.reason, code=lost.code
        )

    @property
    def _stalls_at(self) -> float:
        """When a candidate that answered is given up for the others; never for the last one."""
        if self._paths is None or len(self._paths.candidates) < 2:
            return inf
        return self._answered_at + self._table.limits.dial_stall_s

    @property
    def _ping_at(self) -> float:
        return max(self._quic.last_received, self._pinged_at) + self._keep_alive_s

    @property
    def _dead_at(self) -> float:
        return max(self._quic.last_received, self.established_at) + self._table.limits.dead_after_s

    def _jittered_keep_alive(self) -> float:
        spread = KEEP_ALIVE_JITTER * (2 * self._table.rng.random() - 1)
        return self._table.limits.keep_alive_s * (1 + spread)

    def _touch(self) -> None:
        self._table.dirty[self] = None

    def _break(self) -> None:
        self._table.counters.library_errors += 1
        self._is_broken = True
        self._touch()
