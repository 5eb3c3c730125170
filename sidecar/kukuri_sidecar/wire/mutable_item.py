"""Items that the DHT stores (BEP 44): what is signed, what the target is.

A value travels and is kept as the canonical bencoding of whatever it is (``Encoded``), because that is what
signatures and hashes cover. Key, sequence number and salt make an item mutable; an immutable one is its
value.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from kukuri_sidecar.errors import LocalProtocolError
from kukuri_sidecar.wire.bencode import Encoded
from kukuri_sidecar.wire.ids import EndpointId, Target
from kukuri_sidecar.wire.keys import SecretKey, verify

MAX_VALUE_BYTES = 1_000  # bencoded (BEP 44)
MAX_SALT_BYTES = 64
MAX_SEQ = (1 << 63) - 1


class MutableItem(NamedTuple):
    """A signed value. Nothing is proven before ``is_genuine``."""

    public_key: EndpointId
    """The Ed25519 key that owns the item; of an endpoint for pkarr, of a topic for rendezvous records."""
    seq: int
    value: Encoded
    signature: bytes
    salt: bytes = b""

    @property
    def target(self) -> Target:
        """Where the DHT keeps it."""
        return mutable_target(self.public_key, self.salt)

    def is_genuine(self) -> bool:
        """Say whether the key's owner signed exactly this. Costs 55 us."""
        return verify(self.public_key, signable(self.seq, self.value, self.salt), self.signature)

    def is_newer_than(self, other: MutableItem) -> bool:
        """Say which of two genuine items of one target counts: the higher seq, then the larger value bytes.

        The tie is broken as iroh does for packets of one microsecond (iroh-dns src/pkarr.rs
        ``more_recent_than``), so that all readers settle on the same one.
        """
        return (self.seq, self.value) > (other.seq, other.value)


def mutable_target(public_key: EndpointId, salt: bytes = b"") -> Target:
    """Return SHA-1(key, salt), the place of a mutable item."""
    return Target(hashlib.sha1(public_key + salt, usedforsecurity=False).digest())


def immutable_target(value: Encoded) -> Target:
    """Return SHA-1(value), the place of an immutable item."""
    return Target(hashlib.sha1(value, usedforsecurity=False).digest())


def signable(seq: int, value: Encoded, salt: bytes = b"") -> bytes:
    """Return the bytes that a mutable item's signature covers; an empty salt leaves no trace in them."""
    head = b"4:salt%d:%b" % (len(salt), salt) if salt else b""
    return b"%b3:seqi%de1:v%b" % (head, seq, value)


def sign_item(secret: SecretKey, value: Encoded, seq: int, salt: bytes = b"") -> MutableItem:
    """Return the signed item. LocalProtocolError for more than 1,000 value or 64 salt bytes, or a bad seq.

    Readers keep the item with the highest ``seq``: it must grow with every change of ``value``.
    """
    if len(value) > MAX_VALUE_BYTES or len(salt) > MAX_SALT_BYTES or not 0 <= seq <= MAX_SEQ:
        raise LocalProtocolError(f"no BEP 44 item: {len(value)=} {len(salt)=} {seq=}")
    return MutableItem(secret.endpoint_id, seq, value, secret.sign(signable(seq, value, salt)), salt)
