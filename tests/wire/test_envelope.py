from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.errors import DecodeError, LocalProtocolError
from kukuri_sidecar.wire.envelope import OVERHEAD_BYTES, Envelope, parse_envelope, seal, verify_envelope
from kukuri_sidecar.wire.gossip_messages import DEFAULT_MAX_MESSAGE_BYTES, max_content_bytes
from kukuri_sidecar.wire.ids import TopicId
from kukuri_sidecar.wire.keys import SecretKey
from vector_files import vectors

SECRET = SecretKey(bytes(range(32)))
TOPIC = TopicId(bytes(32))
SEALED = seal(SECRET, TOPIC, b"hi", ts_ms=0x0192A3B4C5D6, session=0x01020304, seq=1)


def is_genuine(content: bytes, topic_id: TopicId = TOPIC) -> bool:
    try:
        envelope = parse_envelope(content)
    except DecodeError:
        return False
    return envelope is not None and verify_envelope(envelope, topic_id)


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "envelope"))
def test_envelopes(inputs: Any, expected: Any) -> None:
    secret, topic = SecretKey(bytes.fromhex(inputs["seed"])), TopicId.from_hex(inputs["topic"])
    fields = {name: inputs[name] for name in ("session", "seq", "flags")}
    payload = bytes.fromhex(inputs["payload"])
    content = seal(secret, topic, payload, ts_ms=inputs["ts"], **fields)
    assert content.hex() == expected["content"]
    envelope = parse_envelope(content)
    assert envelope is not None
    assert envelope.author.hex() == expected["author"]
    assert (envelope.ts_ms, envelope.session, envelope.seq) == (
        inputs["ts"],
        inputs["session"],
        inputs["seq"],
    )
    assert (envelope.flags, envelope.payload) == (inputs["flags"], payload)
    assert verify_envelope(envelope, topic)


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "envelope_reject"))
def test_rejected(inputs: Any, expected: Any) -> None:
    assert expected["error"]
    assert not is_genuine(bytes.fromhex(inputs["content"]), TopicId.from_hex(inputs["topic"]))


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "envelope_none"))
def test_plain_messages(inputs: Any, expected: Any) -> None:
    assert not expected["envelope"]
    assert parse_envelope(bytes.fromhex(inputs["content"])) is None


def test_overhead() -> None:
    assert len(SEALED) == OVERHEAD_BYTES + 2
    assert max_content_bytes(DEFAULT_MAX_MESSAGE_BYTES) - OVERHEAD_BYTES == 3_942  # gossip-wire.md section 6


@pytest.mark.parametrize("bit", range(8))
def test_every_changed_bit_is_refused(bit: int) -> None:
    for at in range(len(SEALED)):
        changed = bytearray(SEALED)
        changed[at] ^= 1 << bit
        assert not is_genuine(bytes(changed)), at
    assert is_genuine(SEALED)


def test_another_topic_is_refused() -> None:
    assert not is_genuine(SEALED, TopicId(bytes(31) + b"\x01"))


@pytest.mark.parametrize("flags", [0x08, 0x10, 0x20, 0x40, 0x80, 0xFF])
def test_flags_of_another_version_are_refused(flags: int) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_envelope(SEALED[:4] + bytes((flags,)) + SEALED[5:])
    assert (caught.value.codec, caught.value.offset) == ("envelope", 4)


@pytest.mark.parametrize(("size", "is_envelope"), [(-1, False), (0, True), (1, True)])
def test_the_smallest_envelope(size: int, is_envelope: bool) -> None:
    content = SEALED[:4] + bytes(OVERHEAD_BYTES - 4 + size)
    assert (parse_envelope(content) is not None) is is_envelope


@given(
    payload=st.binary(max_size=100),
    ts_ms=st.integers(0, 2**48 - 1),
    session=st.integers(0, 2**32 - 1),
    seq=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 7),
)
def test_round_trip(payload: bytes, ts_ms: int, session: int, seq: int, flags: int) -> None:
    content = seal(SECRET, TOPIC, payload, ts_ms=ts_ms, session=session, seq=seq, flags=flags)
    expected = Envelope(
        flags, SECRET.endpoint_id, ts_ms, session, seq, payload, signed=content[:-64], signature=content[-64:]
    )
    assert parse_envelope(content) == expected
    assert verify_envelope(expected, TOPIC)


@pytest.mark.parametrize(
    "wrong", [{"ts_ms": 2**48}, {"ts_ms": -1}, {"session": 2**32}, {"seq": 2**32}, {"seq": -1}, {"flags": 8}]
)
def test_fields_out_of_range_are_our_bug(wrong: dict[str, int]) -> None:
    with pytest.raises(LocalProtocolError):
        seal(SECRET, TOPIC, b"", **{"ts_ms": 0, "session": 0, "seq": 1, **wrong})
