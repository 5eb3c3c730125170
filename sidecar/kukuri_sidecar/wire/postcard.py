"""Combinators for postcard 1.x, the serde format of iroh tickets and of gossip.

A reader takes ``(buffer, offset)`` and returns ``(value, next offset)``. It raises DecodeError("postcard"),
which the codec around it renames, and nothing else. Integers wider than 8 bits are LEB128 varints; a longer
form than needed is accepted, as Rust does. Source: postcard wire format; gossip-wire.md section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.addr import SocketAddr

T = TypeVar("T")
Reader = Callable[[bytes, int], tuple[T, int]]

U16_BITS = 16
U64_BITS = 64

_ONE_BYTE = [bytes((value,)) for value in range(0x80)]
_IPV4_BYTES = 4
_IPV6_BYTES = 16


def encode_varint(value: int) -> bytes:
    """Return the shortest varint of ``value`` >= 0."""
    if value < 0x80:
        return _ONE_BYTE[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(buffer: bytes, offset: int, bits: int = U64_BITS) -> tuple[int, int]:
    """Read an unsigned integer of ``bits`` width: u16 takes at most 3 bytes, u64 10; overflow is refused."""
    value = shift = 0
    end = offset + (bits + 6) // 7
    for byte in buffer[offset:end]:
        value |= (byte & 0x7F) << shift
        offset += 1
        if byte < 0x80:
            if value >> bits:
                raise DecodeError("postcard", offset, f"varint exceeds {bits} bits")
            return value, offset
        shift += 7
    raise DecodeError("postcard", offset, "varint is too long" if offset == end else "ends inside a varint")


def read_u16(buffer: bytes, offset: int) -> tuple[int, int]:
    """Read a u16: a port, a round, a time to live."""
    return read_varint(buffer, offset, U16_BITS)


def read_exact(buffer: bytes, offset: int, size: int) -> tuple[bytes, int]:
    """Read ``size`` bytes without a length prefix."""
    end = offset + size
    if end > len(buffer):
        raise DecodeError("postcard", len(buffer), f"{size} bytes expected from byte {offset}")
    return buffer[offset:end], end


def read_tag(buffer: bytes, offset: int, count: int) -> tuple[int, int]:
    """Read a discriminant below ``count`` <= 128: an enum variant, an option, a bool."""
    if offset >= len(buffer):
        raise DecodeError("postcard", len(buffer), "ends before a discriminant")
    tag = buffer[offset]
    if tag >= count:
        raise DecodeError("postcard", offset, f"discriminant {tag} where {count} are known")
    return tag, offset + 1


def read_bool(buffer: bytes, offset: int) -> tuple[bool, int]:
    """Read ``00`` or ``01``."""
    tag, offset = read_tag(buffer, offset, 2)
    return tag == 1, offset


def encode_bytes(data: bytes) -> bytes:
    """Return ``data`` behind its length; also the form of a UTF-8 string."""
    return encode_varint(len(data)) + data


def read_bytes(buffer: bytes, offset: int) -> tuple[bytes, int]:
    """Read length-prefixed bytes."""
    size, offset = read_varint(buffer, offset)
    return read_exact(buffer, offset, size)


def read_str(buffer: bytes, offset: int) -> tuple[str, int]:
    """Read a length-prefixed UTF-8 string."""
    utf8, end = read_bytes(buffer, offset)
    try:
        return utf8.decode(), end
    except UnicodeDecodeError as error:
        raise DecodeError("postcard", end - len(utf8) + error.start, "not UTF-8") from None


def encode_option_bytes(data: bytes | None) -> bytes:
    """Return ``00`` for None, ``01`` and length-prefixed bytes otherwise."""
    return b"\x00" if data is None else b"\x01" + encode_varint(len(data)) + data


def read_option(buffer: bytes, offset: int, item: Reader[T]) -> tuple[T | None, int]:
    """Read ``00`` (None) or ``01`` and an item."""
    tag, offset = read_tag(buffer, offset, 2)
    return item(buffer, offset) if tag else (None, offset)


def read_option_bytes(buffer: bytes, offset: int) -> tuple[bytes | None, int]:
    """Read an option of length-prefixed bytes."""
    return read_option(buffer, offset, read_bytes)


def read_seq(buffer: bytes, offset: int, item: Reader[T], min_item_bytes: int) -> tuple[tuple[T, ...], int]:
    """Read a counted sequence. A count that cannot fit at ``min_item_bytes`` >= 1 each is refused unread."""
    count, offset = read_varint(buffer, offset)
    if count * min_item_bytes > len(buffer) - offset:
        raise DecodeError("postcard", offset, f"{count} items do not fit in {len(buffer) - offset} bytes")
    items = []
    for _ in range(count):
        value, offset = item(buffer, offset)
        items.append(value)
    return tuple(items), offset


def encode_socket_addr(addr: SocketAddr) -> bytes:
    """Return serde's form of ``std::net::SocketAddr``: ``00`` ip4[4] or ``01`` ip6[16], then the port."""
    packed = addr.packed
    return (b"\x00" if len(packed) == _IPV4_BYTES else b"\x01") + packed + encode_varint(addr.port)


def read_socket_addr(buffer: bytes, offset: int) -> tuple[SocketAddr, int]:
    """Read serde's form of ``std::net::SocketAddr``; any port, 0 included."""
    tag, offset = read_tag(buffer, offset, 2)
    packed, offset = read_exact(buffer, offset, _IPV6_BYTES if tag else _IPV4_BYTES)
    port, offset = read_u16(buffer, offset)
    return SocketAddr.from_packed(packed, port), offset
