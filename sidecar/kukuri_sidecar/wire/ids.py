"""The names of things, 32 or 20 bytes. Each is ``bytes`` with a type: cheap as a dict key, never mixed up."""

from __future__ import annotations

from typing import ClassVar, Self

from kukuri_sidecar.errors import DecodeError

ID_BYTES = 32
DHT_ID_BYTES = 20
SHORT_HEX_DIGITS = 10  # as iroh-base prints ids in logs


class _Id(bytes):
    """A value of fixed size; subclasses give it a meaning."""

    __slots__ = ()
    _codec: ClassVar[str] = "id"
    _size: ClassVar[int] = ID_BYTES

    def __new__(cls, raw: bytes) -> Self:
        """Take exactly as many bytes as the kind has; DecodeError otherwise."""
        if len(raw) != cls._size:
            raise DecodeError(cls._codec, len(raw), f"{cls._size} bytes expected, {len(raw)} given")
        return super().__new__(cls, raw)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Parse lower-case hex digits, the only form in our JSON; DecodeError otherwise."""
        if len(text) != 2 * cls._size or not set(text) <= set("0123456789abcdef"):
            raise DecodeError(cls._codec, 0, f"{2 * cls._size} lower-case hex digits expected")
        return cls(bytes.fromhex(text))

    def short(self) -> str:
        """Return the first ten hex digits, for logs."""
        return self.hex()[:SHORT_HEX_DIGITS]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.short()})"

    __str__ = __repr__


class EndpointId(_Id):
    """The Ed25519 public key that names an iroh endpoint."""

    __slots__ = ()
    _codec = "endpoint_id"


class TopicId(_Id):
    """The name of a gossip topic."""

    __slots__ = ()
    _codec = "topic_id"


class MessageId(_Id):
    """BLAKE3-256 of a gossip message's content (iroh-gossip v0.101.0 src/proto/plumtree.rs:35)."""

    __slots__ = ()
    _codec = "message_id"


class DhtNodeId(_Id):
    """The 160-bit name of a Mainline DHT node (BEP 5, BEP 42)."""

    __slots__ = ()
    _codec = "dht_node_id"
    _size = DHT_ID_BYTES


class Target(_Id):
    """Where a DHT look-up goes: an infohash (BEP 5) or the SHA-1 that names an item (BEP 44)."""

    __slots__ = ()
    _codec = "target"
    _size = DHT_ID_BYTES
