"""Records of distributed-topic-tracker: the crate's own vectors, and what strangers may put in a slot."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wire_strategies as ws
from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire import bencode
from kukuri_sidecar.wire.hashes import derive_topic_id
from kukuri_sidecar.wire.ids import EndpointId, TopicId
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.mutable_item import MAX_SEQ, MAX_VALUE_BYTES, sign_item
from kukuri_sidecar.wire.tracker_record import (
    Slot,
    TrackerRecord,
    open_record,
    parse_record,
    record_in,
    record_item,
    seal_record,
    sign_record,
    slot_at,
)
from vector_files import vectors

Vector = dict[str, Any]  # what JSON holds

SECRET = SecretKey(bytes(32))
SLOT = slot_at(TopicId(bytes(32)), b"secret", 29_000_000)
RANDOMNESS = bytes(range(96))
RECORD = sign_record(SLOT, SECRET, [SECRET.endpoint_id], [b"h" * 32])
SEALED = seal_record(SLOT, RECORD, RANDOMNESS)


def slot_of(inputs: Vector) -> Slot:
    topic_id = derive_topic_id(inputs["topic"], "sha512")
    return slot_at(topic_id, bytes.fromhex(inputs["secret_hex"]) or None, inputs["minute"])


def hexes(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


@pytest.mark.parametrize(("inputs", "expected"), vectors("tracker", "records"))
def test_keys_of_a_minute_are_the_crates(inputs: Vector, expected: Vector) -> None:
    slot = slot_of(inputs)
    assert slot.topic_id.hex() == expected["topic_id"]
    assert slot.owner.seed.hex() == expected["owner_seed_hex"]
    assert slot.owner.endpoint_id.hex() == expected["owner"]
    assert slot.salt.hex() == expected["salt_hex"]
    assert slot.seed.hex() == expected["encryption_seed_hex"]


@pytest.mark.parametrize(("inputs", "expected"), vectors("tracker", "records"))
def test_a_record_is_signed_as_the_crate_signs_it(inputs: Vector, expected: Vector) -> None:
    """Ed25519 is deterministic: equal to the last bit."""
    publisher = SecretKey(bytes.fromhex(inputs["publisher_seed_hex"]))
    peers = [EndpointId(peer) for peer in hexes(inputs["active_peers"])]
    record = sign_record(slot_of(inputs), publisher, peers, hexes(inputs["message_hashes"]))
    assert record.hex() == expected["record_hex"]


@pytest.mark.parametrize(("inputs", "expected"), vectors("tracker", "records"))
def test_a_sealed_record_of_the_crate_opens(inputs: Vector, expected: Vector) -> None:
    slot = slot_of(inputs)
    record = open_record(slot, bytes.fromhex(expected["sealed_hex"]))
    assert record.hex() == expected["record_hex"]
    assert parse_record(slot, record) == TrackerRecord(
        EndpointId.from_hex(expected["publisher"]),
        tuple(EndpointId(peer) for peer in hexes(inputs["active_peers"])),
        tuple(hexes(inputs["message_hashes"])),
    )


@given(st.lists(ws.endpoint_ids, max_size=7), st.lists(st.binary(min_size=32, max_size=32), max_size=7))
def test_a_record_comes_back_from_its_item(peers: list[EndpointId], hashes: list[bytes]) -> None:
    """Five peers and five hashes at most; an item always fits in the DHT."""
    hashes = [text for text in hashes if any(text)]
    sealed = seal_record(SLOT, sign_record(SLOT, SECRET, peers, hashes), RANDOMNESS)
    item = record_item(SLOT, sealed)
    assert item.is_genuine()
    assert (item.seq, item.salt) == (MAX_SEQ, SLOT.salt)
    assert len(item.value) == 608
    record = record_in(SLOT, item)
    assert record.publisher == SECRET.endpoint_id
    assert set(record.active_peers) <= set(peers[:5])
    assert record.message_hashes == tuple(hashes[:5])


@pytest.mark.parametrize(
    "other",
    [
        slot_at(SLOT.topic_id, b"another", SLOT.minute),
        slot_at(SLOT.topic_id, None, SLOT.minute),
        slot_at(SLOT.topic_id, b"secret", SLOT.minute + 1),
        slot_at(TopicId(b"\x01" * 32), b"secret", SLOT.minute),
    ],
)
def test_a_record_is_of_one_topic_secret_and_minute(other: Slot) -> None:
    with pytest.raises(DecodeError, match="tracker_record"):
        open_record(other, SEALED)


def test_a_record_moved_to_another_minute_is_refused() -> None:
    """Whoever can open it can seal it again; the signature says which minute it is of."""
    other = slot_at(SLOT.topic_id, b"secret", SLOT.minute + 1)
    with pytest.raises(DecodeError, match="another topic or minute"):
        parse_record(other, open_record(other, seal_record(other, RECORD, RANDOMNESS)))


@pytest.mark.parametrize("at", [40, 72, 400, len(RECORD) - 1])
def test_a_changed_record_is_refused(at: int) -> None:
    damaged = bytearray(RECORD)
    damaged[at] ^= 1
    with pytest.raises(DecodeError, match="signature"):
        parse_record(SLOT, bytes(damaged))


@pytest.mark.parametrize("size", [0, 71, 135])
def test_a_short_record_is_refused(size: int) -> None:
    with pytest.raises(DecodeError, match="too short"):
        parse_record(SLOT, RECORD[:size])


@pytest.mark.parametrize("content", [b"", b"of an application", bytes(319)])
def test_content_of_applications_counts_as_empty(content: bytes) -> None:
    """The crate joins such a publisher too (bootstrap.rs)."""
    signed = RECORD[:72] + content
    record = parse_record(SLOT, signed + SECRET.sign(signed))
    assert record == TrackerRecord(SECRET.endpoint_id)


def test_ids_that_prove_nothing_are_left_out() -> None:
    bad = EndpointId(b"\x02" + bytes(31))
    record = parse_record(SLOT, sign_record(SLOT, SECRET, [bad, SECRET.endpoint_id], []))
    assert record.active_peers == (SECRET.endpoint_id,)


@pytest.mark.parametrize("length", [0, 1, 511, 513, 0xFFFFFFFF])
def test_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(DecodeError, match="length"):
        open_record(SLOT, length.to_bytes(4, "little") + SEALED[4:])


@pytest.mark.parametrize("size", [0, 3, 91, MAX_VALUE_BYTES + 1])
def test_a_value_of_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(DecodeError):
        open_record(SLOT, bytes(size))


@pytest.mark.parametrize("value", [b"i1e", b"le", b"0:", b"3:abc", b"broken"])
def test_an_item_that_is_no_record_is_refused(value: bytes) -> None:
    item = sign_item(SLOT.owner, bencode.Encoded(value), 1, SLOT.salt)
    with pytest.raises(DecodeError, match="tracker_record"):
        record_in(SLOT, item)


@given(st.binary(max_size=1_100))
def test_any_bytes_are_refused_and_nothing_else_happens(data: bytes) -> None:
    for decode in (open_record, parse_record):
        with pytest.raises(DecodeError):
            decode(SLOT, data)


def test_the_key_of_a_slot_is_not_shown() -> None:
    assert SLOT.seed.hex() not in repr(SLOT)
    assert repr(SLOT.seed) not in repr(SLOT)
