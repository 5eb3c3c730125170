"""Messages of ``/iroh-gossip/1`` and their frames on a unidirectional stream.

A *body* is the postcard form of one message; a *frame* is its length as u32 big-endian, then the body. The
first frame of a stream holds the 32-byte topic id, every other one a message of that topic. Sources:
iroh-gossip v0.101.0 src/proto/{topic,hyparview,plumtree}.rs, src/net/util.rs; gossip-wire.md 1 and 2.

Messages are tuples for speed, so ``==`` does not see the class: ``IHave(()) == ShuffleReply(())``. Match on
their types.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, TypeAlias, assert_never

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.ids import ID_BYTES, EndpointId, MessageId, TopicId
from kukuri_sidecar.wire.postcard import (
    encode_option_bytes,
    encode_varint,
    read_bool,
    read_exact,
    read_option_bytes,
    read_seq,
    read_tag,
    read_u16,
    read_varint,
)

ALPN = "/iroh-gossip/1"
DEFAULT_MAX_MESSAGE_BYTES = 4_096  # iroh-gossip src/proto.rs:69
MIN_MAX_MESSAGE_BYTES = 512  # iroh-gossip src/proto.rs:72
MAX_ROUND = 0xFFFF  # u16; saturate here, upstream adds unchecked

LENGTH_BYTES = 4
_GOSSIP_FIXED_BYTES = 2 + ID_BYTES + 2  # discriminants, id, scope with a round < 128
_MIN_PEER_BYTES = ID_BYTES + 1
_MAX_IHAVE_BYTES = ID_BYTES + 3  # a round takes up to 3 bytes
_new_id = bytes.__new__  # an id without its length check, where the read after it proves the length
_CONTENT_LENGTH_AT = 2 + ID_BYTES  # in a Gossip body


class Priority(IntEnum):
    """How much a peer wants to be our neighbor (HyParView p. 5)."""

    HIGH = 0
    LOW = 1


class PeerInfo(NamedTuple):
    """A peer and its peer data (see ``peer_data``), None when unknown."""

    endpoint_id: EndpointId
    data: bytes | None


class Join(NamedTuple):
    """Let me into the topic; ``data`` is the sender's peer data."""

    data: bytes | None


class ForwardJoin(NamedTuple):
    """``peer`` wants in; passed on until ``ttl`` is 0."""

    peer: PeerInfo
    ttl: int


class Shuffle(NamedTuple):
    """A sample of ``origin``'s views on a random walk of ``ttl`` hops."""

    origin: EndpointId
    nodes: tuple[PeerInfo, ...]
    ttl: int


class ShuffleReply(NamedTuple):
    """A sample of the sender's views, straight to the origin of a Shuffle."""

    nodes: tuple[PeerInfo, ...]


class Neighbor(NamedTuple):
    """Be my neighbor; or the answer yes."""

    priority: Priority
    data: bytes | None


class Disconnect(NamedTuple):
    """No longer your neighbor; ``alive``: the sender stays in the topic. ``respond`` is false and ignored."""

    alive: bool
    respond: bool = False


class Gossip(NamedTuple):
    """A payload; ``id`` is what the sender claims. ``round`` counts hops, None means scope *neighbors*."""

    id: MessageId
    content: bytes
    round: int | None


class Prune(NamedTuple):
    """I had that already: send me announcements only."""


class Graft(NamedTuple):
    """Send me payloads, and the one called ``id`` now if it is not None."""

    id: MessageId | None
    round: int


class IHave(NamedTuple):
    """Announcement of payloads as (id, round) pairs."""

    items: tuple[tuple[MessageId, int], ...]


GossipMessage: TypeAlias = (
    Join | ForwardJoin | Shuffle | ShuffleReply | Neighbor | Disconnect | Gossip | Prune | Graft | IHave
)


def encode(message: GossipMessage) -> bytes:
    """Return the body of ``message``. Rounds and times to live must be 0-65535; nothing is checked here."""
    if isinstance(message, Gossip):
        content = message.content
        round_ = message.round
        scope = b"\x01" if round_ is None else b"\x00" + encode_varint(round_)
        return b"".join((b"\x01\x00", message.id, encode_varint(len(content)), content, scope))
    if isinstance(message, IHave):
        parts = [b"\x01\x03", encode_varint(len(message.items))]
        for id_, round_ in message.items:
            parts += (id_, encode_varint(round_))
        return b"".join(parts)
    if isinstance(message, Graft):
        id_or_none = b"\x01\x02\x00" if message.id is None else b"\x01\x02\x01" + message.id
        return id_or_none + encode_varint(message.round)
    if isinstance(message, Prune):
        return b"\x01\x01"
    return _encode_membership(message)


def decode(body: bytes) -> GossipMessage:
    """Parse a body; bytes behind the message are ignored, as postcard does. Raises DecodeError("gossip").

    Ids are not checked to be curve points: see ``keys.is_valid_endpoint_id`` before passing one on.
    """
    return _decode(body)[0]


def decode_with_trailer(body: bytes) -> tuple[GossipMessage, bytes]:
    """Parse a body; return also what follows the message, ignored by upstream. Raises DecodeError("gossip").

    An empty IHave with a trailer is a no-op for upstream, so it can carry messages of our own
    (gossip-wire.md 1).
    """
    message, end = _decode(body)
    return message, body[end:]


def relay_body(body: bytes, round: int) -> bytes:
    """Return a received Gossip body of scope *swarm* with another round (0-65535) and without its trailer.

    Cheaper than building and encoding the message again. Only for a body that ``decode`` took for such a
    message.
    """
    size, start = read_varint(body, _CONTENT_LENGTH_AT)
    return body[: start + size + 1] + encode_varint(round)


def max_content_bytes(max_message_bytes: int) -> int:
    """Return the largest content that fits a frame at rounds 0-127: 4057 for 4096.

    A message that no longer fits when a round above 127 takes a second byte is refused by ``frame``.
    """
    room = max_message_bytes - 1 - _GOSSIP_FIXED_BYTES
    size = room
    while size + len(encode_varint(size)) > room:
        size -= 1
    return size


def max_ihave_items(max_message_bytes: int) -> int:
    """Return how many announcements fit a frame: 116 for 4096 (iroh-gossip src/proto/state.rs:49-56)."""
    return (max_message_bytes - ID_BYTES - 1 - 3) // _MAX_IHAVE_BYTES


def frame(body: bytes, max_bytes: int) -> bytes:
    """Return ``body`` behind its length. Raises DecodeError("frame") when ``len(body) >= max_bytes``.

    One byte tighter than what a receiver takes: a body of exactly ``max_bytes`` can arrive but not be
    relayed. Upstream's send half dies of trying (gossip-wire.md U1).
    """
    if len(body) >= max_bytes:
        raise DecodeError("frame", max_bytes, f"a body of {len(body)} bytes is beyond the limit of senders")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def stream_header(topic_id: TopicId) -> bytes:
    """Return the first frame of a stream. Write it together with the first message: upstream waits for it."""
    return b"\x00\x00\x00\x20" + topic_id


class FrameReader:
    """Cuts one incoming stream into bodies, however the transport splits it.

    Holds at most one incomplete frame (4 + ``max_bytes``), never what a length merely declares. Each byte is
    copied a fixed number of times.
    """

    __slots__ = ("_limit_of", "_max_bytes", "_needed", "_partial", "failure", "topic_id")

    def __init__(self, max_bytes: int, limit_of: Callable[[TopicId], int] | None = None) -> None:
        """``max_bytes`` bounds every frame; ``limit_of`` may name another bound once the topic is known."""
        self._max_bytes = max_bytes
        self._limit_of = limit_of
        self._partial = bytearray()
        self._needed = LENGTH_BYTES  # of the partial frame, before it is worth looking at
        self.failure: DecodeError | None = None
        """Why the stream is of no use any more; ``feed`` raises it from now on."""
        self.topic_id: TopicId | None = None
        """The topic of the stream; None until its first frame is complete."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream; return the bodies they complete, for ``decode``.

        Raises DecodeError("frame") at a length above the limit or a first frame without a topic id, and at
        every call after that; answer with STOP_SENDING. When ``data`` holds complete bodies before the bad
        frame, they are returned and the next call raises.
        """
        if self.failure is not None:
            raise self.failure
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._needed:
                return []
            data = bytes(partial)
            partial.clear()
        bodies: list[bytes] = []
        position, end = 0, len(data)
        needed = LENGTH_BYTES
        while end - position >= LENGTH_BYTES:
            size = int.from_bytes(data[position : position + LENGTH_BYTES], "big")
            if size > self._max_bytes:
                return self._fail(
                    bodies, DecodeError("frame", position, f"{size} bytes are beyond the limit")
                )
            needed = LENGTH_BYTES + size
            if end - position < needed:
                break
            body = data[position + LENGTH_BYTES : position + needed]
            if self.topic_id is not None:
                bodies.append(body)
            elif size < ID_BYTES:
                return self._fail(bodies, DecodeError("frame", position, "no topic id in the first frame"))
            else:
                self.topic_id = TopicId(body[:ID_BYTES])
                if self._limit_of is not None:
                    self._max_bytes = self._limit_of(self.topic_id)
            position += needed
            needed = LENGTH_BYTES
        if position < end:
            partial += data[position:]
            self._needed = needed
        return bodies

    def _fail(self, bodies: list[bytes], failure: DecodeError) -> list[bytes]:
        self.failure = failure
        if not bodies:
            raise failure
        return bodies


def _decode(body: bytes) -> tuple[GossipMessage, int]:
    """Return the message and where it ends."""
    try:
        layer, kind = body[0], body[1]
        if layer == 1 and kind == 0:
            return _read_gossip(body)
        read = _READERS.get((layer, kind))
        if read is None:
            raise DecodeError("gossip", 0, f"unknown message {layer}/{kind}")
        return read(body)
    except DecodeError as error:
        raise error.named("gossip") from None
    except IndexError:
        raise DecodeError("gossip", len(body), "ends inside a message") from None


def _read_gossip(body: bytes) -> tuple[Gossip, int]:
    size, start = body[_CONTENT_LENGTH_AT], _CONTENT_LENGTH_AT + 1
    if size >= 0x80:
        size, start = read_varint(body, _CONTENT_LENGTH_AT)
    end = start + size
    scope = body[end]  # IndexError when anything before is cut short
    if scope == 1:
        round_, next_ = None, end + 1
    elif scope == 0:
        round_, next_ = body[end + 1], end + 2
        if round_ >= 0x80:
            round_, next_ = read_u16(body, end + 1)
    else:
        raise DecodeError("gossip", end, f"unknown scope {scope}")
    return Gossip(_new_id(MessageId, body[2:_CONTENT_LENGTH_AT]), body[start:end], round_), next_


def _read_ihave(body: bytes) -> tuple[IHave, int]:
    count, offset = read_varint(body, 2)
    items = []
    for _ in range(count):  # every item takes bytes, so a false count ends in an error soon
        end = offset + ID_BYTES
        id_ = _new_id(MessageId, body[offset:end])
        round_ = body[end]  # IndexError when the id is cut short
        offset = end + 1
        if round_ >= 0x80:
            round_, offset = read_u16(body, end)
        items.append((id_, round_))
    return IHave(tuple(items)), offset


def _read_graft(body: bytes) -> tuple[Graft, int]:
    has_id, offset = read_tag(body, 2, 2)
    id_ = None
    if has_id:
        raw, offset = read_exact(body, offset, ID_BYTES)
        id_ = MessageId(raw)
    round_, offset = read_u16(body, offset)
    return Graft(id_, round_), offset


def _read_prune(body: bytes) -> tuple[Prune, int]:
    return Prune(), 2


def _read_join(body: bytes) -> tuple[Join, int]:
    data, offset = read_option_bytes(body, 2)
    return Join(data), offset


def _read_forward_join(body: bytes) -> tuple[ForwardJoin, int]:
    peer, offset = _read_peer(body, 2)
    ttl, offset = read_u16(body, offset)
    return ForwardJoin(peer, ttl), offset


def _read_shuffle(body: bytes) -> tuple[Shuffle, int]:
    origin, offset = read_exact(body, 2, ID_BYTES)
    nodes, offset = read_seq(body, offset, _read_peer, _MIN_PEER_BYTES)
    ttl, offset = read_u16(body, offset)
    return Shuffle(EndpointId(origin), nodes, ttl), offset


def _read_shuffle_reply(body: bytes) -> tuple[ShuffleReply, int]:
    nodes, offset = read_seq(body, 2, _read_peer, _MIN_PEER_BYTES)
    return ShuffleReply(nodes), offset


def _read_neighbor(body: bytes) -> tuple[Neighbor, int]:
    priority, offset = read_tag(body, 2, len(Priority))
    data, offset = read_option_bytes(body, offset)
    return Neighbor(Priority(priority), data), offset


def _read_disconnect(body: bytes) -> tuple[Disconnect, int]:
    alive, offset = read_bool(body, 2)
    respond, offset = read_bool(body, offset)
    return Disconnect(alive, respond), offset


def _read_peer(body: bytes, offset: int) -> tuple[PeerInfo, int]:
    end = offset + ID_BYTES
    data, next_ = read_option_bytes(body, end)  # fails when the id is cut short
    return PeerInfo(_new_id(EndpointId, body[offset:end]), data), next_


_READERS: dict[tuple[int, int], Callable[[bytes], tuple[GossipMessage, int]]] = {
    (0, 0): _read_join,
    (0, 1): _read_forward_join,
    (0, 2): _read_shuffle,
    (0, 3): _read_shuffle_reply,
    (0, 4): _read_neighbor,
    (0, 5): _read_disconnect,
    (1, 0): _read_gossip,
    (1, 1): _read_prune,
    (1, 2): _read_graft,
    (1, 3): _read_ihave,
}


def _encode_membership(message: Join | ForwardJoin | Shuffle | ShuffleReply | Neighbor | Disconnect) -> bytes:
    match message:
        case Join():
            return b"\x00\x00" + encode_option_bytes(message.data)
        case ForwardJoin():
            return b"\x00\x01" + _encode_peer(message.peer) + encode_varint(message.ttl)
        case Shuffle():
            return b"\x00\x02" + message.origin + _encode_peers(message.nodes) + encode_varint(message.ttl)
        case ShuffleReply():
            return b"\x00\x03" + _encode_peers(message.nodes)
        case Neighbor():
            return b"\x00\x04" + encode_varint(message.priority) + encode_option_bytes(message.data)
        case Disconnect():
            return b"\x00\x05" + bytes((message.alive, message.respond))
        case _:
            assert_never(message)


def _encode_peers(peers: tuple[PeerInfo, ...]) -> bytes:
    return encode_varint(len(peers)) + b"".join(map(_encode_peer, peers))


def _encode_peer(peer: PeerInfo) -> bytes:
    return peer.endpoint_id + encode_option_bytes(peer.data)
