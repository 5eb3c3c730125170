"""What members of a topic leave in the DHT, compatible with the Rust crate distributed-topic-tracker 0.3.

A slot is one Unix minute of one topic: a BEP 44 item whose signing key everybody in the topic derives, with
the highest seq there is. No record replaces another by rule; which one a DHT node keeps is its choice.

    item value   length u32 LE | sealed record | sealed one-time seed[88]   (both as ``hpke`` says)
    record       topic[32] | minute u64 LE | publisher[32] | content | Ed25519 of all before[64]
    content      5 active peers[32 each] | 5 hashes of messages[32 each]; unused places are zero

Source: distributed-topic-tracker 0.3.5 src/crypto/{keys,record}.rs, src/gossip/mod.rs.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire import bencode, hpke
from kukuri_sidecar.wire.ids import ID_BYTES, EndpointId, TopicId
from kukuri_sidecar.wire.keys import SIGNATURE_BYTES, SecretKey, is_valid_endpoint_id, verify
from kukuri_sidecar.wire.mutable_item import MAX_SEQ, MAX_VALUE_BYTES, MutableItem, sign_item

SLOT_S = 60
SEQ = MAX_SEQ  # of every record (record.rs ``next_seq_num``)
MAX_RECORD_PEERS = 5  # lib.rs: "part of the on-wire format"
MAX_MESSAGE_HASHES = 5
CONTENT_BYTES = ID_BYTES * (MAX_RECORD_PEERS + MAX_MESSAGE_HASHES)

SEAL_RANDOM_BYTES = 3 * hpke.KEY_BYTES

_HEAD = struct.Struct("<32sQ32s")  # topic, minute, publisher
_LENGTH = struct.Struct("<I")
_KEY_BYTES = hpke.KEY_BYTES + hpke.OVERHEAD_BYTES
_NOBODY = bytes(ID_BYTES)


@dataclass(frozen=True, slots=True)
class Slot:
    """The keys of one minute."""

    topic_id: TopicId
    minute: int
    owner: SecretKey
    """Signs the DHT item; shared by all who know the topic."""
    salt: bytes
    seed: bytes = field(repr=False)
    """Of the Ed25519 key that records are encrypted for; whoever knows the topic's secret has it."""


class TrackerRecord(NamedTuple):
    """A record whose publisher provably wrote it; the peers are what it says."""

    publisher: EndpointId
    active_peers: tuple[EndpointId, ...] = ()
    message_hashes: tuple[bytes, ...] = ()


def slot_at(topic_id: TopicId, secret: bytes | None, minute: int) -> Slot:
    """Derive a minute's keys (Unix seconds // 60); no secret is the empty one. Little and big endian, sic."""
    little = minute.to_bytes(8, "little")
    proof = _sha512(secret or b"")
    return Slot(
        topic_id,
        minute,
        SecretKey(_sha512(topic_id + little)),
        _sha512(b"salt" + topic_id + little),
        _sha512(topic_id + minute.to_bytes(8, "big") + proof),
    )


def sign_record(
    slot: Slot, publisher: SecretKey, peers: Sequence[EndpointId], hashes: Sequence[bytes]
) -> bytes:
    """Return the signed record; of ``peers`` and ``hashes`` the first five each."""
    signed = _HEAD.pack(slot.topic_id, slot.minute, publisher.endpoint_id) + b"".join(
        b"".join(ids[:count]).ljust(ID_BYTES * count, b"\x00")
        for ids, count in ((peers, MAX_RECORD_PEERS), (hashes, MAX_MESSAGE_HASHES))
    )
    return signed + publisher.sign(signed)


def parse_record(slot: Slot, data: bytes) -> TrackerRecord:
    """Check a decrypted record; DecodeError("tracker_record") unless it is of this slot and well signed.

    Content that is no peers and hashes (the crate lets applications put their own) counts as empty; ids
    that cannot prove themselves are left out.
    """
    if len(data) < _HEAD.size + SIGNATURE_BYTES:
        raise _bad(len(data), "too short")
    topic_id, minute, publisher = _HEAD.unpack_from(data)
    if (topic_id, minute) != (slot.topic_id, slot.minute):
        raise _bad(0, "of another topic or minute")
    signed, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    if not verify(EndpointId(publisher), signed, signature):
        raise _bad(len(signed), "bad signature")
    content = signed[_HEAD.size :]
    if len(content) < CONTENT_BYTES:
        return TrackerRecord(EndpointId(publisher))
    places = [content[start : start + ID_BYTES] for start in range(0, CONTENT_BYTES, ID_BYTES)]
    peers = [EndpointId(place) for place in places[:MAX_RECORD_PEERS] if place != _NOBODY]
    hashes = [place for place in places[MAX_RECORD_PEERS:] if place != _NOBODY]
    return TrackerRecord(
        EndpointId(publisher), tuple(peer for peer in peers if is_valid_endpoint_id(peer)), tuple(hashes)
    )


def seal_record(slot: Slot, record: bytes, randomness: bytes) -> bytes:
    """Encrypt a signed record for the slot; ``randomness`` is SEAL_RANDOM_BYTES of fresh secret bytes."""
    size = hpke.KEY_BYTES
    one_time, first, second = (randomness[i : i + size] for i in range(0, SEAL_RANDOM_BYTES, size))
    sealed = hpke.seal(one_time, record, first)
    return _LENGTH.pack(len(sealed)) + sealed + hpke.seal(slot.seed, one_time, second)


def open_record(slot: Slot, sealed: bytes) -> bytes:
    """Decrypt what ``seal_record`` made; DecodeError("tracker_record") when it was not made for this slot."""
    if len(sealed) > MAX_VALUE_BYTES:
        raise _bad(MAX_VALUE_BYTES, "longer than a DHT item")
    if len(sealed) < _LENGTH.size + _KEY_BYTES:
        raise _bad(len(sealed), "too short")
    (size,) = _LENGTH.unpack_from(sealed)
    if size != len(sealed) - _LENGTH.size - _KEY_BYTES:
        raise _bad(0, f"length {size} in {len(sealed)} bytes")
    try:
        one_time = hpke.open_sealed(slot.seed, sealed[-_KEY_BYTES:])
        return hpke.open_sealed(one_time, sealed[_LENGTH.size : -_KEY_BYTES])
    except DecodeError as error:
        raise error.named("tracker_record") from None


def record_item(slot: Slot, sealed: bytes) -> MutableItem:
    """Return the DHT item that carries a sealed record."""
    return sign_item(slot.owner, bencode.Encoded(bencode.encode(sealed)), SEQ, slot.salt)


def record_in(slot: Slot, item: MutableItem) -> TrackerRecord:
    """Read an item of the slot, encrypted and signed by whoever; DecodeError for all that is no record."""
    try:
        sealed = bencode.decode(item.value)
    except DecodeError as error:
        raise error.named("tracker_record") from None
    if not isinstance(sealed, bytes):
        raise _bad(0, "not a byte string")
    return parse_record(slot, open_record(slot, sealed))


def _sha512(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()[:ID_BYTES]


def _bad(offset: int, reason: str) -> DecodeError:
    return DecodeError("tracker_record", offset, reason)
