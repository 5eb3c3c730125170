"""A QuicConnection whose memory is bounded by what the application consumed. A security boundary.

aioquic 1.7.2 doubles its windows with the highest offset *seen* and zero-fills the holes: eleven 1-byte
frames cost 1 GiB (issue #589). Its TLS layer collects a message of up to 16 MiB before anybody is
authenticated. What holds here instead:

    connection credit  = bytes consumed + connection window
    stream credit      = bytes consumed of that stream + stream window
    reassembly buffers <= connection window together, because flow control counts holes like data
    ranges             <= 256 per stream (insertion is linear, so holes would cost quadratic CPU)
    CRYPTO             <= 64 KiB and 64 ranges per epoch, ever

Credit leaves in steps of half a window: one small frame per 128 KiB of a stream.
"""

from __future__ import annotations

import hmac
from math import inf
from typing import TYPE_CHECKING, Any

from aioquic.quic.connection import (
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import Epoch

from kukuri_sidecar.errors import LimitReached, LocalProtocolError
from kukuri_sidecar.proto.quic.limits import QuicLimits
from kukuri_sidecar.proto.quic.rpk import RawKeyContext
from kukuri_sidecar.wire.ids import EndpointId

if TYPE_CHECKING:
    from aioquic._buffer import Buffer
    from aioquic.quic.events import ConnectionTerminated
    from aioquic.quic.packet_builder import QuicPacketBuilder
    from aioquic.quic.recovery import QuicPacketSpace
    from aioquic.quic.stream import QuicStream

MAX_RANGES = 256  # 256 KiB are 218 full packets; every second one lost makes 109 ranges
MAX_CRYPTO_BYTES = 64 << 10  # a hello is 300 bytes, a post-quantum one 2 KiB, iroh's two tickets 500
MAX_CRYPTO_RANGES = 64
TOKEN_BYTES = 16  # RFC 9000 section 10.3
MAX_SIZES = 64  # ours: ended streams whose length `acked` still knows


class _Reading:
    """Credit of one stream that the peer sends on."""

    __slots__ = ("consumed", "is_dropped", "unread")

    def __init__(self) -> None:
        self.consumed = 0
        self.unread = 0  # delivered, not yet consumed
        self.is_dropped = False  # we sent STOP_SENDING: what still comes counts as consumed


class BoundedConnection(QuicConnection):
    """One connection between raw keys. Its owner drains events and reports them: ``delivered``, ``ended``."""

    tls: RawKeyContext  # from `_initialize` on

    def __init__(
        self, *, limits: QuicLimits, expected_peer: EndpointId | None, reset_key: bytes, **arguments: Any
    ) -> None:
        # Any: QuicConnection's own keyword arguments, unchanged.
        super().__init__(**arguments)
        self.acks_arrived = False
        self._limits = limits
        self._expected_peer = expected_peer
        self._reset_key = reset_key
        self._consumed = 0
        self._readings: dict[int, _Reading] = {}
        self._ended: dict[int, int] = {}  # finished streams: bytes that the user still holds
        self._sizes: dict[int, int] = {}
        self._freed: set[int] = set()  # streams whose sending side was reset, by us or by STOP_SENDING
        self._ack_delay = limits.ack_delay_s
        for limit, value in (
            (self._local_max_streams_uni, limits.streams_uni),
            (self._local_max_streams_bidi, limits.streams_bidi),
        ):
            limit.value = limit.sent = value  # transport parameters: set before the handshake
        if not self._is_client:
            first = self._host_cids[0]
            first.stateless_reset_token = self._reset_token(first.cid)

    # --- Identity ----------------------------------------------------------------------------------------

    @property
    def proven_peer(self) -> EndpointId | None:
        """The peer's id, once its key signed this handshake."""
        return self.tls.proven_peer if self.has_tls else None

    @property
    def found_peer(self) -> EndpointId | None:
        """The id that the peer presented, proven or not."""
        return self.tls.found_peer if self.has_tls else None

    @property
    def has_tls(self) -> bool:
        """Say whether the handshake has begun (a server starts it with the first datagram)."""
        return hasattr(self, "tls")

    @property
    def is_confirmed(self) -> bool:
        """Client: HANDSHAKE_DONE came, so the server accepted our key. Server: the client proved its key."""
        return bool(self._handshake_confirmed)

    @property
    def is_answered(self) -> bool:
        """Say whether any packet of the peer was processed."""
        return self._remote_initial_source_connection_id is not None

    @property
    def is_handshake_complete(self) -> bool:
        """Say whether TLS is done on our side."""
        return bool(self._handshake_complete)

    @property
    def alpn(self) -> str:
        """The negotiated protocol; empty before the hello."""
        return (self.tls.alpn_negotiated or "") if self.has_tls else ""

    def peer_reset_tokens(self) -> list[bytes]:
        """Return the stateless reset tokens of the peer's connection ids (RFC 9000 section 10.3.1)."""
        ids = [self._peer_cid, *self._peer_cid_available]
        return [cid.stateless_reset_token for cid in ids if cid.stateless_reset_token]

    # --- How it ended --------------------------------------------------------------------------------------

    @property
    def close_event(self) -> ConnectionTerminated | None:
        """Why the connection ends, at once: aioquic's own event comes only after draining, 0.6 s later."""
        return self._close_event

    @property
    def is_close_pending(self) -> bool:
        """Say whether the close frame still waits for ``datagrams_to_send``."""
        return bool(self._close_pending)

    @property
    def is_closed_by_peer(self) -> bool:
        """Say whether the peer's close frame ended it."""
        return self._state is QuicConnectionState.DRAINING

    @property
    def is_timed_out(self) -> bool:
        """Say whether it ended without a close frame: silence, or no usable path."""
        return self._state is QuicConnectionState.TERMINATED

    @property
    def may_say_more(self) -> bool:
        """Say whether what was sent keeps the anti-amplification limit; aioquic's close ignores it."""
        path = self._network_paths[0]
        return path.is_validated or path.bytes_sent <= 3 * path.bytes_received

    # --- Numbers for the owner -----------------------------------------------------------------------------

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time in seconds, None before the first sample."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else None

    @property
    def packets_sent(self) -> int:
        """Packet numbers used so far."""
        return self._packet_number

    @property
    def last_received(self) -> float:
        """When the newest 1-RTT packet of the peer came; -inf before the first."""
        at = self._spaces[Epoch.ONE_RTT].largest_received_time
        return -inf if at is None else at

    @property
    def pure_acks(self) -> int:
        """Packets on record that the peer need not acknowledge; they go when a later one is."""
        space = self._spaces[Epoch.ONE_RTT]
        return len(space.sent_packets) - space.ack_eliciting_in_flight

    @property
    def is_waiting_for_ack(self) -> bool:
        """Say whether a packet is under way that the peer must acknowledge."""
        return bool(self._spaces[Epoch.ONE_RTT].ack_eliciting_in_flight)

    @property
    def has_events(self) -> bool:
        """Say whether ``next_event`` has something."""
        return bool(self._events)

    # --- Receiving -----------------------------------------------------------------------------------------

    def delivered(self, stream_id: int, size: int, *, is_end: bool) -> bool:
        """Account for data taken out of the event queue; False when we stopped the stream: drop it."""
        reading = self._readings.get(stream_id)
        if reading is None:
            if is_end:
                self._keep_unread(stream_id, size)
                return True
            reading = self._readings[stream_id] = _Reading()
        if reading.is_dropped:
            reading.consumed += size
            self._credit(size)
        else:
            reading.unread += size
        if is_end:
            del self._readings[stream_id]
            self._keep_unread(stream_id, reading.unread)
        return not reading.is_dropped

    def ended(self, stream_id: int) -> bool:
        """Account for a stream that the peer reset; False when we had stopped it and nobody wants to know.

        All its credit returns, for bytes that never came too; the user must not consume it any more.
        """
        reading = self._readings.pop(stream_id, None) or _Reading()
        stream = self._streams.get(stream_id)
        total = reading.consumed + reading.unread
        if stream is not None:
            total = max(total, stream.receiver.highest_offset)  # the final size (stream.py handle_reset)
            stream.receiver._buffer.clear()
        self._credit(total - reading.consumed)
        return not reading.is_dropped

    def consume(self, stream_id: int, count: int) -> None:
        """Give back the credit of ``count`` bytes of the stream; more than is unread is ignored."""
        reading = self._readings.get(stream_id)
        if reading is None:  # ended: only the connection's credit is left to give
            left = self._ended.pop(stream_id, 0) - count
            if left > 0:
                self._ended[stream_id] = left
            self._credit(count + min(left, 0))
            return
        count = min(count, reading.unread)
        reading.unread -= count
        reading.consumed += count
        self._credit(count)
        stream = self._streams.get(stream_id)
        window = self._limits.stream_window_bytes
        if stream is not None and reading.consumed + window >= stream.max_stream_data_local + window // 2:
            stream.max_stream_data_local = reading.consumed + window

    def stop_receiving(self, stream_id: int, code: int) -> None:
        """Ask the peer to stop (STOP_SENDING); what is unread or still comes is dropped and credited."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.receiver.is_finished or not self._stream_can_receive(stream_id):
            return
        reading = self._readings.setdefault(stream_id, _Reading())
        if reading.is_dropped:
            return
        self._credit(reading.unread)
        reading.consumed += reading.unread
        reading.unread = 0
        reading.is_dropped = True
        self.stop_stream(stream_id, code)

    def _credit(self, count: int) -> None:
        self._consumed += count
        window = self._limits.connection_window_bytes
        target = self._consumed + window
        if target >= self._local_max_data.value + window // 2:
            self._local_max_data.value = target

    def _keep_unread(self, stream_id: int, count: int) -> None:
        if not count:
            return
        self._ended[stream_id] = count
        if len(self._ended) > self._limits.max_unread_streams:
            self.close(QuicErrorCode.INTERNAL_ERROR, frame_type=0, reason_phrase="too many unread streams")

    # --- Sending -------------------------------------------------------------------------------------------

    def open_uni(self) -> int:
        """Open a stream to the peer and return its id; LimitReached when the peer allows no more."""
        stream_id = self.get_next_available_stream_id(is_unidirectional=True)
        if stream_id // 4 >= self._remote_max_streams_uni:
            raise LimitReached(
                "the peer allows no more streams", limit="quic.streams", max=self._remote_max_streams_uni
            )
        self.send_stream_data(stream_id, b"")
        return stream_id

    def send(self, stream_id: int, data: bytes, *, is_end: bool) -> bool:
        """Queue data; False when the sending side is over (reset, stopped or acknowledged to its end).

        LimitReached above the backlog bound; LocalProtocolError after an end or on a stream that is not ours.
        """
        if self._stream_can_send(stream_id) and self._stream_is_discarded(stream_id):
            return False
        stream = self._streams.get(stream_id)
        if stream is None or not self._stream_can_send(stream_id):
            raise LocalProtocolError(f"stream {stream_id} is not open for sending")
        sender = stream.sender
        if sender._reset_error_code is not None:
            return False
        if sender._buffer_fin is not None:
            raise LocalProtocolError(f"stream {stream_id} was already ended")
        bound = self._limits.max_stream_backlog_bytes
        if sender._buffer_stop - sender._buffer_start + len(data) > bound:
            raise LimitReached("the stream's backlog is full", limit="quic.stream_backlog", max=bound)
        sender.write(data, is_end)
        if is_end:
            self._remember_size(stream_id, sender._buffer_stop)
        return True

    def backlog(self, stream_id: int | None) -> int:
        """Return the bytes accepted and not yet acknowledged, of one stream or of all."""
        if stream_id is None:
            return sum(_backlog(stream) for stream in self._streams.values())
        stream = self._streams.get(stream_id)
        return 0 if stream is None else _backlog(stream)

    def acked(self, stream_id: int) -> int:
        """Return the bytes acknowledged from the stream's start without a gap.

        Of ended and forgotten streams the last 64 are still known; others answer 0.
        """
        stream = self._streams.get(stream_id)
        return self._sizes.get(stream_id, 0) if stream is None else stream.sender._buffer_start

    def abandon(self, stream_id: int, code: int) -> None:
        """End our sending side abruptly (RESET_STREAM) and free its buffer; harmless when it is over."""
        stream = self._streams.get(stream_id)
        if stream is None or not self._stream_can_send(stream_id):
            return
        stream.sender.reset(code)
        if stream.sender._reset_error_code is not None:
            self._free_sender(stream_id)

    def stopped(self, stream_id: int) -> bool:
        """Account for STOP_SENDING, after which aioquic reset the sender; True the first time."""
        return self._free_sender(stream_id)

    def _free_sender(self, stream_id: int) -> bool:
        stream = self._streams.get(stream_id)
        if stream is None or stream_id in self._freed:
            return False
        self._freed.add(stream_id)
        if len(self._freed) > 2 * len(self._streams):  # forget those that aioquic has discarded
            self._freed &= self._streams.keys()
        self._remember_size(stream_id, stream.sender._buffer_start)
        stream.sender._buffer.clear()  # a reset sender needs its offsets only
        return True

    def _remember_size(self, stream_id: int, size: int) -> None:
        self._sizes[stream_id] = size
        if len(self._sizes) > MAX_SIZES:
            del self._sizes[next(iter(self._sizes))]

    # --- Overrides of aioquic 1.7.2, each with the line of the original ------------------------------------

    # connection.py:1798. Also sets the reset token that goes into the transport parameters.
    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        RawKeyContext.upgrade(self.tls, self._expected_peer)

    # connection.py:1319: the first moment when the peer's extensions are known, before any signature is made.
    def _alpn_handler(self, alpn_protocol: str) -> None:
        self.tls.require_raw_keys()
        super()._alpn_handler(alpn_protocol)

    # connection.py:1900: believes acknowledgements of what was never sent, and then resends everything.
    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self.acks_arrived = True
        start = buf.tell()
        if (
            buf.pull_uint_var() >= self._packet_number
        ):  # RFC 9000 section 13.1; one numbering for all spaces here
            raise _broken(frame_type, "acknowledged what was never sent", QuicErrorCode.PROTOCOL_VIOLATION)
        buf.seek(start)
        super()._handle_ack_frame(context, frame_type, buf)

    # connection.py:1982: lets 512 KiB wait for a hole, and TLS messages grow to 16 MiB, for anybody.
    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        offset, length = buf.pull_uint_var(), buf.pull_uint_var()
        buf.seek(start)
        if offset + length > MAX_CRYPTO_BYTES:
            raise _broken(frame_type, "too much handshake data", QuicErrorCode.CRYPTO_BUFFER_EXCEEDED)
        super()._handle_crypto_frame(context, frame_type, buf)
        if len(self._crypto_streams[context.epoch].receiver._ranges) > MAX_CRYPTO_RANGES:
            raise _broken(frame_type, "too many gaps in the handshake", QuicErrorCode.CRYPTO_BUFFER_EXCEEDED)

    # connection.py:2611
    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_stream_frame(context, frame_type, buf)
        stream = self._streams.get(stream_id)
        if stream is not None and len(stream.receiver._ranges) > MAX_RANGES:
            raise _broken(frame_type, "too many gaps", QuicErrorCode.INTERNAL_ERROR)

    # connection.py:3114: random tokens there; ours can be computed again by a process that lost its state.
    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for cid in self._host_cids:
            if not cid.was_sent:
                cid.stateless_reset_token = self._reset_token(cid.cid)

    # connection.py:3923: doubles MAX_DATA when half of it was *seen*; here only `consume` raises it.
    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        limit = self._local_max_data
        used, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used

    # connection.py:4229: the same per stream. Called for every stream of every packet, so it returns early.
    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        receiver = stream.receiver
        highest, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = highest

    def _reset_token(self, cid: bytes) -> bytes:
        return reset_token(self._reset_key, cid)


def reset_token(key: bytes, cid: bytes) -> bytes:
    """Return the stateless reset token of one of our connection ids (RFC 9000 section 10.3.2)."""
    return hmac.digest(key, cid, "sha256")[:TOKEN_BYTES]


def _backlog(stream: QuicStream) -> int:
    sender = stream.sender
    return 0 if sender._reset_error_code is not None else sender._buffer_stop - sender._buffer_start


def _broken(frame_type: int, reason: str, code: QuicErrorCode) -> QuicConnectionError:
    return QuicConnectionError(error_code=code, frame_type=frame_type, reason_phrase=reason)
