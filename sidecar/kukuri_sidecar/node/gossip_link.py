"""One connection used for gossip: a one-way stream per topic and direction, frames in, frames out, bounded.

Knows streams and frames; what a frame means is the topics service's business (gossip-wire.md section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from kukuri_sidecar.errors import DecodeError, LimitReached
from kukuri_sidecar.net.quic import Connection, ConnectionLost
from kukuri_sidecar.node.intake import Intake
from kukuri_sidecar.node.publishing import Receipt
from kukuri_sidecar.wire.gossip_messages import MIN_MAX_MESSAGE_BYTES, FrameReader, stream_header
from kukuri_sidecar.wire.ids import EndpointId, TopicId

MAX_BACKLOG_BYTES = 512 * 1024  # per connection, not yet acknowledged; above it payloads are dropped (M3) ...
MAX_STREAM_BACKLOG_BYTES = 3 << 20  # ... that and two of the largest messages; net.quic takes no more
BAD_FRAME_CODE = 1
CLOSE_GOODBYE = "close from disconnect"  # the reason text a Rust node uses; code 0


class LinkOwner(Protocol):
    """What a link tells the topics service."""

    def frames(self, link: GossipLink, topic_id: TopicId, bodies: list[bytes]) -> None:
        """Take message bodies of one topic, in order."""

    def hold_credit(self, link: GossipLink, wait_s: float) -> None:
        """Call ``link.return_credit`` after ``wait_s``: the peer is too fast."""

    def link_quiet(self, link: GossipLink, *, is_polite: bool) -> None:
        """The peer ended its last stream; without a goodbye its send half may be dead (defect U1)."""

    def link_progressed(self, link: GossipLink) -> None:
        """Acknowledgements arrived."""

    def link_closed(self, link: GossipLink, reason: ConnectionLost) -> None:
        """The connection is gone; exactly once."""


@dataclass
class _Outgoing:
    stream_id: int
    written: int = 0


@dataclass
class _Batch:
    frames: list[bytes] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    is_last: bool = False


class GossipLink:
    """The ConnectionUser of gossip connections. Everything runs on the loop and never blocks."""

    def __init__(
        self,
        connection: Connection,
        owner: LinkOwner,
        max_message_bytes: Callable[[TopicId], int],
        intake: Intake,
    ) -> None:
        self.connection = connection
        self.peer: EndpointId = connection.peer
        self.is_finishing = False  # our streams are ended; the connection closes when that is acknowledged
        self.slow_since: float | None = None
        self.dropped = 0
        self.has_said_hello = False  # our capabilities were told on this connection
        self._owner = owner
        self._max_message_bytes = max_message_bytes
        self._intake = intake
        self._readers: dict[int, FrameReader] = {}
        self._goodbyes: set[int] = (
            set()
        )  # streams on which the peer said Disconnect; only membership is asked
        self._outgoing: dict[TopicId, _Outgoing] = {}
        self._batches: dict[TopicId, _Batch] = {}
        self._unacked: list[
            tuple[int, int, Receipt]
        ] = []  # (stream, offset that must be acknowledged, for whom)
        self._max_backlog_bytes = MAX_BACKLOG_BYTES  # and one message of the topic with the largest ones
        self._room_bytes = MAX_BACKLOG_BYTES  # what may still be queued before the next flush
        self._reading: int | None = None

    # --- out -------------------------------------------------------------------------------------------

    def queue(
        self, topic_id: TopicId, frame: bytes, *, is_payload: bool, is_last: bool, receipts: Sequence[Receipt]
    ) -> None:
        """Take one frame for the next ``flush``. Payloads are dropped while the peer does not read."""
        if not self._batches:
            self._room_bytes = self._max_backlog_bytes - self.connection.backlog()
        if is_payload and (self.slow_since is not None or self._room_bytes < 0):
            self.dropped += 1
            return
        self.is_finishing = False
        self._room_bytes -= len(frame)
        batch = self._batches.setdefault(topic_id, _Batch())
        batch.frames.append(frame)
        batch.is_last = is_last
        batch.receipts += receipts

    def flush(self, now: float) -> None:
        """Write what was queued: one write per topic, the header together with the first frame (rule 1)."""
        batches, self._batches = self._batches, {}
        for topic_id, batch in batches.items():
            self._write(topic_id, batch)
        if batches:
            self._judge_speed(now)

    def finish(self) -> None:
        """End all our streams; the owner closes the connection once that is acknowledged."""
        for outgoing in self._outgoing.values():
            self.connection.send(outgoing.stream_id, b"", end=True)
        self._outgoing.clear()
        self.is_finishing = True

    def finish_topic(self, topic_id: TopicId) -> None:
        """End our stream of one topic; a later message of it opens a new one."""
        outgoing = self._outgoing.pop(topic_id, None)
        if outgoing:
            self.connection.send(outgoing.stream_id, b"", end=True)

    def _write(self, topic_id: TopicId, batch: _Batch) -> None:
        data = b"".join(batch.frames)
        outgoing = self._outgoing.get(topic_id)
        try:
            if outgoing is None:
                outgoing = _Outgoing(self.connection.open_uni())
                data = stream_header(topic_id) + data
            self.connection.send(outgoing.stream_id, data, end=batch.is_last)
        except LimitReached:  # of streams, or of what a peer leaves unread
            self.dropped += len(batch.frames)
            return
        outgoing.written += len(data)
        self._outgoing[topic_id] = outgoing
        most = MAX_BACKLOG_BYTES + self._max_message_bytes(topic_id)
        self._max_backlog_bytes = max(self._max_backlog_bytes, most)
        for receipt in batch.receipts:
            if receipt.note_sent(self.peer):
                self._unacked.append((outgoing.stream_id, outgoing.written, receipt))
        if batch.is_last:
            del self._outgoing[topic_id]

    def _judge_speed(self, now: float) -> None:
        if self.connection.backlog() <= self._max_backlog_bytes:
            self.slow_since = None
        elif self.slow_since is None:
            self.slow_since = now

    # --- in --------------------------------------------------------------------------------------------

    def stream_data(self, connection: Connection, stream_id: int, data: bytes, end: bool) -> None:
        """Cut ``data`` into frames, hand them over; the credit returns at once unless they are too many."""
        reader = self._readers.get(stream_id)
        if reader is None:
            reader = self._readers[stream_id] = FrameReader(MIN_MAX_MESSAGE_BYTES, self._max_message_bytes)
        try:
            bodies = reader.feed(data)
        except DecodeError:
            bodies = []
        wait_s = self._intake.take(anyio.current_time(), stream_id, len(bodies), len(data))
        if wait_s:
            self._owner.hold_credit(self, wait_s)
        else:
            connection.consume(stream_id, len(data))
        if bodies and reader.topic_id is not None:
            self._reading = stream_id
            self._owner.frames(self, reader.topic_id, bodies)
            self._reading = None
        if reader.failure:
            # Stopping only the stream would cost a Rust peer its whole send half (U7): start over instead.
            connection.close(BAD_FRAME_CODE, f"bad frame: {reader.failure.reason}")
        if end:
            self._ended(stream_id)

    def return_credit(self) -> None:
        """Let the peer go on."""
        for stream_id, size in self._intake.release().items():
            self.connection.consume(stream_id, size)

    def note_goodbye(self) -> None:
        """The frame being handed over is a Disconnect: the end of its stream is polite."""
        if self._reading is not None:
            self._goodbyes.add(self._reading)

    def stream_reset(self, connection: Connection, stream_id: int, code: int) -> None:
        """Forget a stream that the peer abandoned."""
        self._ended(stream_id)

    def stream_stopped(self, connection: Connection, stream_id: int, code: int) -> None:
        """Open a fresh stream for the topic with its next message: the peer reads this one no more (U7)."""
        for topic_id, outgoing in self._outgoing.items():
            if outgoing.stream_id == stream_id:
                del self._outgoing[topic_id]
                return

    def progressed(self, connection: Connection) -> None:
        """Settle receipts whose bytes are acknowledged."""
        if self._unacked:
            waiting = []
            for entry in self._unacked:
                stream_id, offset, receipt = entry
                if connection.acked(stream_id) >= offset:
                    receipt.note_ack()
                else:
                    waiting.append(entry)
            self._unacked = waiting
        if self.slow_since is not None and connection.backlog() <= self._max_backlog_bytes:
            self.slow_since = None
        self._owner.link_progressed(self)

    def closed(self, connection: Connection, reason: ConnectionLost) -> None:
        """Tell the owner."""
        self._owner.link_closed(self, reason)

    @property
    def has_incoming(self) -> bool:
        """Say whether the peer has any stream open towards us."""
        return bool(self._readers)

    def _ended(self, stream_id: int) -> None:
        reader = self._readers.pop(stream_id, None)
        is_polite = stream_id in self._goodbyes
        self._goodbyes.discard(stream_id)
        if reader is not None and reader.topic_id is not None and not self._readers:
            self._owner.link_quiet(self, is_polite=is_polite)
