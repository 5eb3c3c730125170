"""pkarr: a DNS message signed by the key that it describes.

    32  Ed25519 public key
    64  signature, of the BEP 44 item (no salt) whose seq is the timestamp and whose value is the DNS message
     8  timestamp, big-endian microseconds since 1970
     n  DNS message, at most 1,000 bytes

A relay's HTTP body is the same without the key. So a packet *is* a mutable item of the DHT.
Sources: pkarr design/base.md, design/relays.md (says "less than 1000" but also "413 above 1072", so 1,000 is
allowed); iroh 1.0.3 iroh-dns/src/pkarr.rs.
"""

from __future__ import annotations

from typing import NamedTuple

from kukuri_sidecar.errors import DecodeError, LocalProtocolError
from kukuri_sidecar.wire import bencode
from kukuri_sidecar.wire.bencode import Encoded
from kukuri_sidecar.wire.ids import ID_BYTES, EndpointId
from kukuri_sidecar.wire.keys import SIGNATURE_BYTES, SecretKey
from kukuri_sidecar.wire.mutable_item import MAX_SEQ, MAX_VALUE_BYTES, MutableItem, sign_item

MAX_DNS_BYTES = 996  # its bencoded form has the 1,000 bytes that the DHT takes
MAX_READ_DNS_BYTES = 1_000  # what relays take

_TIMESTAMP_BYTES = 8
_HEADER_BYTES = SIGNATURE_BYTES + _TIMESTAMP_BYTES


class SignedPacket(NamedTuple):
    """A packet whose signature was checked; its DNS part was not looked at yet."""

    public_key: EndpointId
    signature: bytes
    timestamp_us: int
    dns: bytes

    def to_bytes(self) -> bytes:
        """Return the canonical form: key, signature, timestamp, DNS message."""
        return self.public_key + self.to_relay_payload()

    def to_relay_payload(self) -> bytes:
        """Return the body of a relay's PUT or GET."""
        return self.signature + self.timestamp_us.to_bytes(_TIMESTAMP_BYTES, "big") + self.dns

    def to_item(self) -> MutableItem:
        """Return the packet as the DHT stores it. LocalProtocolError above ``MAX_DNS_BYTES``."""
        value = _value(self.dns)
        if len(value) > MAX_VALUE_BYTES:
            raise LocalProtocolError(f"the DHT takes no DNS message of {len(self.dns)} bytes")
        return MutableItem(self.public_key, self.timestamp_us, value, self.signature)

    def is_newer_than(self, other: SignedPacket) -> bool:
        """Say which packet of one key counts: the later one, then the larger DNS bytes, as iroh decides."""
        return (self.timestamp_us, self.dns) > (other.timestamp_us, other.dns)


def sign_packet(secret: SecretKey, dns: bytes, timestamp_us: int) -> SignedPacket:
    """Return the signed packet; no two packets of a key may share a timestamp.

    LocalProtocolError above ``MAX_DNS_BYTES``, or for a timestamp that is no BEP 44 seq.
    """
    item = sign_item(secret, _value(dns), timestamp_us)
    return SignedPacket(secret.endpoint_id, item.signature, timestamp_us, dns)


def decode_signed_packet(data: bytes) -> SignedPacket:
    """Parse the canonical form and check its signature. Raises DecodeError("pkarr")."""
    if len(data) < ID_BYTES:
        raise DecodeError("pkarr", len(data), "ends inside the key")
    return _decode(EndpointId(data[:ID_BYTES]), data[ID_BYTES:], ID_BYTES)


def decode_relay_payload(public_key: EndpointId, payload: bytes) -> SignedPacket:
    """Parse a relay's body for ``public_key`` and check its signature. Raises DecodeError("pkarr")."""
    return _decode(public_key, payload, 0)


def packet_from_item(item: MutableItem) -> SignedPacket:
    """Return the packet that a genuine item (``item.is_genuine()`` was asked) holds.

    Raises DecodeError("pkarr") when the item is no packet: salted, or its value is no byte string.
    """
    if item.salt:
        raise DecodeError("pkarr", 0, "a pkarr item has no salt")
    try:
        dns = bencode.decode(item.value)
    except DecodeError as error:
        raise error.named("pkarr") from None
    if not isinstance(dns, bytes):
        raise DecodeError("pkarr", 0, "the item's value is no byte string")
    return SignedPacket(item.public_key, item.signature, item.seq, dns)


def _decode(public_key: EndpointId, payload: bytes, offset: int) -> SignedPacket:
    if len(payload) < _HEADER_BYTES:
        raise DecodeError("pkarr", offset + len(payload), "ends inside signature or timestamp")
    if len(payload) > _HEADER_BYTES + MAX_READ_DNS_BYTES:
        raise DecodeError("pkarr", offset + _HEADER_BYTES, f"more than {MAX_READ_DNS_BYTES} bytes of DNS")
    signature, dns = payload[:SIGNATURE_BYTES], payload[_HEADER_BYTES:]
    timestamp_us = int.from_bytes(payload[SIGNATURE_BYTES:_HEADER_BYTES], "big")
    if (
        timestamp_us > MAX_SEQ
        or not MutableItem(public_key, timestamp_us, _value(dns), signature).is_genuine()
    ):
        raise DecodeError("pkarr", offset, "not signed by this key")
    return SignedPacket(public_key, signature, timestamp_us, dns)


def _value(dns: bytes) -> Encoded:
    return Encoded(bencode.encode(dns))
