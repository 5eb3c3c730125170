"""The 32-byte names of things. Each is ``bytes`` with a type: cheap as a dict key, never mixed up."""

from __future__ import annotations

from typing import ClassVar, Self

from kukuri_sidecar.errors import DecodeError

ID_BYTES = 32
SHORT_HEX_DIGITS = 10  # as iroh-base prints ids in logs


class _Id(bytes):
    """A 32-byte value; subclasses give it a meaning."""

    __slots__ = ()
    _codec: ClassVar[str] = "id"

    def __new__(cls, raw: bytes) -> Self:
        """Take exactly 32 bytes; DecodeError otherwise."""
        if len(raw) != ID_BYTES:
            raise DecodeError(cls._codec, len(raw), f"{ID_BYTES} bytes expected, {len(raw)} given")
        return super().__new__(cls, raw)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Parse 64 lower-case hex digits, the only form in our JSON; DecodeError otherwise."""
        if len(text) != 2 * ID_BYTES or not set(text) <= set("0123456789abcdef"):
            raise DecodeError(cls._codec, 0, f"{2 * ID_BYTES} lower-case hex digits expected")
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
