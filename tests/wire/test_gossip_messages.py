from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wire_strategies as ws
from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.gossip_messages import (
    ALPN,
    DEFAULT_MAX_MESSAGE_BYTES,
    LENGTH_BYTES,
    MAX_ROUND,
    Disconnect,
    ForwardJoin,
    FrameReader,
    Gossip,
    GossipMessage,
    Graft,
    IHave,
    Join,
    Neighbor,
    PeerInfo,
    Priority,
    Prune,
    Shuffle,
    ShuffleReply,
    decode,
    decode_with_trailer,
    encode,
    frame,
    max_content_bytes,
    max_ihave_items,
    relay_body,
    stream_header,
)
from kukuri_sidecar.wire.hashes import message_id
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId
from kukuri_sidecar.wire.postcard import encode_varint
from vector_files import vectors

TOPIC = TopicId(bytes(range(32)))
ID = MessageId(bytes(range(32)))
LIMIT = DEFAULT_MAX_MESSAGE_BYTES


def from_json(m: dict[str, Any]) -> GossipMessage:
    def data(value: str | None) -> bytes | None:
        return None if value is None else bytes.fromhex(value)

    def peer(value: dict[str, Any]) -> PeerInfo:
        return PeerInfo(EndpointId.from_hex(value["id"]), data(value["data"]))

    match m["kind"]:
        case "join":
            return Join(data(m["data"]))
        case "forward_join":
            return ForwardJoin(peer(m["peer"]), m["ttl"])
        case "shuffle":
            return Shuffle(EndpointId.from_hex(m["origin"]), tuple(map(peer, m["nodes"])), m["ttl"])
        case "shuffle_reply":
            return ShuffleReply(tuple(map(peer, m["nodes"])))
        case "neighbor":
            return Neighbor(Priority[m["priority"].upper()], data(m["data"]))
        case "disconnect":
            return Disconnect(m["alive"], m["respond"])
        case "gossip":
            assert (m["scope"] == "neighbors") is (m["round"] is None)
            return Gossip(MessageId.from_hex(m["id"]), bytes.fromhex(m["content"]), m["round"])
        case "prune":
            return Prune()
        case "graft":
            return Graft(None if m["id"] is None else MessageId.from_hex(m["id"]), m["round"])
        case "ihave":
            return IHave(tuple((MessageId.from_hex(item["id"]), item["round"]) for item in m["items"]))
        case kind:
            raise AssertionError(kind)


def assert_same(found: object, expected: object) -> None:
    """Compare with types: messages are tuples, and an EndpointId equals the MessageId of the same bytes."""
    assert type(found) is type(expected)
    assert found == expected
    if isinstance(found, tuple):
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b)


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "message"))
def test_messages(inputs: Any, expected: Any) -> None:
    message, body = from_json(inputs), bytes.fromhex(expected["body"])
    assert encode(message) == body
    assert_same(decode(body), message)
    assert_same(decode_with_trailer(body + b"\xff\xee"), (message, b"\xff\xee"))


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "message"))
def test_every_truncation_is_refused(inputs: Any, expected: Any) -> None:
    body = bytes.fromhex(expected["body"])
    for end in range(len(body)) if len(body) < 500 else (0, 1, 33, 34, 35, 36, len(body) - 2, len(body) - 1):
        with pytest.raises(DecodeError) as caught:
            decode(body[:end])
        assert caught.value.codec == "gossip"
        assert caught.value.offset <= end


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "trailing"))
def test_bytes_behind_a_message_are_ignored(inputs: Any, expected: Any) -> None:
    body = bytes.fromhex(inputs["body"])
    message, trailer = decode_with_trailer(body)
    assert_same(message, from_json(expected))
    assert_same(decode(body), from_json(expected))
    assert trailer
    assert encode(message) + trailer == body


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "malformed"))
def test_malformed(inputs: Any, expected: Any) -> None:
    assert expected["error"]
    with pytest.raises(DecodeError) as caught:
        decode(bytes.fromhex(inputs["body"]))
    assert caught.value.codec == "gossip"


@pytest.mark.parametrize("size", [2**16, 2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize("before", [b"\x01\x00" + ID, b"\x00\x00\x01", b"\x00\x03", b"\x01\x03"])
def test_a_declared_size_is_not_believed(before: bytes, size: int) -> None:
    with pytest.raises(DecodeError, match="gossip"):
        decode(before + encode_varint(size) + bytes(40))


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "stream"))
def test_streams(inputs: Any, expected: Any) -> None:
    topic, bodies = TopicId.from_hex(inputs["topic"]), [bytes.fromhex(body) for body in inputs["bodies"]]
    stream = bytes.fromhex(expected["stream"])
    if inputs["alpn"] != ALPN:  # /iroh-gossip/0 has no header; the topic stands in every frame
        assert b"".join(frame(topic + body, LIMIT) for body in bodies) == stream
        return
    assert stream_header(topic) + b"".join(frame(body, LIMIT) for body in bodies) == stream
    reader = FrameReader(LIMIT)
    assert reader.feed(stream) == bodies
    assert reader.topic_id == topic
    assert type(reader.topic_id) is TopicId


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "limit"))
def test_limits(inputs: Any, expected: Any) -> None:
    limit = inputs["max_message_size"]
    if "ids_per_frame" in expected:
        count = expected["ids_per_frame"]
        assert max_ihave_items(limit) == count
        assert len(encode(IHave(((ID, MAX_ROUND),) * count))) < limit
        assert len(encode(IHave(((ID, MAX_ROUND),) * (count + 1)))) >= limit
    elif "largest_delivered" in expected:  # /iroh-gossip/0: 32 bytes of every frame are the topic
        assert max_content_bytes(limit - 32) == expected["largest_delivered"] == expected["not_delivered"] - 1
    else:
        body = encode(Gossip(ID, bytes(inputs["content_length"]), inputs["round"]))
        assert len(body) == inputs["body_length"]
        assert (inputs["content_length"] <= max_content_bytes(limit)) is expected["sendable"]
        if expected["sendable"]:
            assert frame(body, limit)[LENGTH_BYTES:] == body
        else:
            with pytest.raises(DecodeError, match="frame"):
                frame(body, limit)


@given(st.integers(64, 70_000))
def test_max_content_is_exact(limit: int) -> None:
    """Also where the length of the content takes one more byte."""
    size = max_content_bytes(limit)
    assert len(encode(Gossip(ID, bytes(size), 127))) < limit
    assert len(encode(Gossip(ID, bytes(size + 1), 0))) >= limit


@given(ws.messages, st.binary(max_size=5))
def test_round_trip(message: GossipMessage, trailer: bytes) -> None:
    body = encode(message)
    assert_same(decode(body), message)
    assert_same(decode_with_trailer(body + trailer), (message, trailer))


@given(ws.gossips.filter(lambda message: message.round is not None), ws.u16, st.binary(max_size=5))
def test_a_relayed_body_is_the_message_with_another_round(
    message: Gossip, round: int, trailer: bytes
) -> None:
    assert relay_body(encode(message) + trailer, round) == encode(message._replace(round=round))


def test_the_id_of_a_captured_message_is_its_hash() -> None:
    for param in vectors("gossip", "message"):
        message = from_json(param.values[0])
        if isinstance(message, Gossip) and str(param.id).startswith("captured"):
            assert message.id == message_id(message.content)


# --- frames --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, LIMIT - 2, LIMIT - 1])
def test_a_sender_stays_below_the_limit(size: int) -> None:
    assert frame(bytes(size), LIMIT) == size.to_bytes(4, "big") + bytes(size)


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_a_sender_refuses_the_limit(size: int) -> None:
    with pytest.raises(DecodeError, match="frame"):
        frame(bytes(size), LIMIT)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_a_receiver_takes_the_limit(size: int) -> None:
    reader = FrameReader(LIMIT)
    assert reader.feed(stream_header(TOPIC) + size.to_bytes(4, "big") + bytes(size)) == [bytes(size)]


@pytest.mark.parametrize("size", [LIMIT + 1, 2**32 - 1])
def test_a_receiver_refuses_more_at_the_length_already(size: int) -> None:
    reader = FrameReader(LIMIT)
    assert reader.feed(stream_header(TOPIC)) == []
    for _ in range(2):
        with pytest.raises(DecodeError, match="frame"):
            reader.feed(size.to_bytes(4, "big"))


@pytest.mark.parametrize(("size", "taken"), [(0, False), (31, False), (32, True), (33, True)])
def test_the_first_frame_holds_a_topic_id(size: int, taken: bool) -> None:
    """Bytes behind the id are ignored, as postcard does."""
    reader = FrameReader(LIMIT)
    first = size.to_bytes(4, "big") + (TOPIC + b"!")[:size]
    if taken:
        assert reader.feed(first) == []
        assert reader.topic_id == TOPIC
    else:
        with pytest.raises(DecodeError, match="no topic id"):
            reader.feed(first)
        assert reader.topic_id is None


def read(stream: bytes, cuts: list[int]) -> tuple[list[bytes], TopicId | None, bool]:
    """Feed ``stream`` cut at ``cuts``; return the bodies, the topic, and whether it failed in the end."""
    reader, bodies, start = FrameReader(LIMIT), [], 0
    for cut in [
        *sorted(cuts),
        len(stream),
        len(stream),
    ]:  # the empty chunk shows a failure behind good frames
        try:
            bodies += reader.feed(stream[start:cut])
        except DecodeError:
            return bodies, reader.topic_id, True
        start = cut
    return bodies, reader.topic_id, False


@given(
    st.lists(st.binary(max_size=40), max_size=6),
    st.sampled_from(
        [b"", b"\x00\x00\x00\x09half", b"\x00\x00\x10\x01", b"\x00\x00\x00\x02ok\xff\xff\xff\xff"]
    ),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_every_split_of_a_stream_gives_the_same_frames(
    bodies: list[bytes], tail: bytes, cuts: list[int]
) -> None:
    stream = stream_header(TOPIC) + b"".join(frame(body, LIMIT) for body in bodies) + tail
    whole = read(stream, [])
    assert whole[0][: len(bodies)] == bodies
    assert whole[2] is (tail[-2:] in (b"\x10\x01", b"\xff\xff"))
    assert read(stream, [min(cut, len(stream)) for cut in cuts]) == whole
    assert read(stream, list(range(len(stream)))) == whole


@given(
    ws.damaged(
        st.lists(st.binary(max_size=40), min_size=1).map(lambda b: b"".join(frame(x, LIMIT) for x in b))
    )
)
def test_every_split_of_a_damaged_stream_too(stream: bytes) -> None:
    assert read(stream, list(range(len(stream)))) == read(stream, [])


def test_nothing_is_allocated_from_a_declared_length() -> None:
    reader = FrameReader(2**32 - 1)
    tracemalloc.start()
    try:
        reader.feed(stream_header(TOPIC) + b"\xff\xff\xff\xf0" + bytes(10))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000


def test_a_frame_in_single_bytes_takes_linear_time() -> None:
    """Copying the partial frame at every byte would move 137 GB and take seconds."""
    body = bytes(512 * 1024)
    reader = FrameReader(len(body))
    reader.feed(stream_header(TOPIC) + len(body).to_bytes(4, "big"))
    start = time.process_time()
    bodies = [found for at in range(len(body)) for found in reader.feed(body[at : at + 1])]
    assert bodies == [body]
    assert time.process_time() - start < 2.0
