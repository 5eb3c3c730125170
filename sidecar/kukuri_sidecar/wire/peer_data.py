"""Peer data: what gossip peers tell each other about where they can be reached.

Opaque bytes inside the messages, in fact the postcard form of iroh-gossip's ``AddrInfo``
(src/net.rs:903-934). Bytes behind it are ignored by upstream and carried on verbatim: a place for
extensions (gossip-wire.md section 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kukuri_sidecar.errors import DecodeError, LocalProtocolError
from kukuri_sidecar.wire.addr import SocketAddr, is_relay_url
from kukuri_sidecar.wire.postcard import (
    encode_option_bytes,
    encode_socket_addr,
    encode_varint,
    read_option,
    read_socket_addr,
    read_str,
    read_varint,
)

# A Shuffle of 8 peers then stays below 4,096 bytes (gossip-wire.md U13).
MAX_OWN_ADDRESSES = 8
MAX_OWN_BYTES = 256
MAX_EXTENSION_BYTES = 32
MAX_KEPT_ADDRESSES = 32  # of a peer's; ours: a host with many interfaces has 20


class PeerData(NamedTuple):
    """Where a peer says it is. Nothing of it is proven."""

    relay_url: str | None = None
    addresses: tuple[SocketAddr, ...] = ()
    extension: bytes = b""


def encode_peer_data(relay_url: str | None, addrs: Iterable[SocketAddr], extension: bytes = b"") -> bytes:
    """Return our peer data: at most 8 addresses and 256 bytes.

    When that is not enough, the first addresses in the order given win, and a relay URL goes before them. The
    extension (at most 32 bytes, LocalProtocolError otherwise) always has its place.
    """
    if len(extension) > MAX_EXTENSION_BYTES:
        raise LocalProtocolError(f"extension of {len(extension)} bytes")
    room = MAX_OWN_BYTES - len(extension) - 1  # the count of addresses
    relay = encode_option_bytes(None if relay_url is None else relay_url.encode("ascii"))
    if len(relay) > room:
        relay = encode_option_bytes(None)
    room -= len(relay)
    chosen: dict[SocketAddr, bytes] = {}
    for addr in addrs:
        encoded = encode_socket_addr(addr)
        if addr not in chosen and len(encoded) <= room:
            chosen[addr] = encoded
            room -= len(encoded)
        if len(chosen) == MAX_OWN_ADDRESSES:
            break
    in_order = [chosen[addr] for addr in sorted(chosen, key=lambda addr: addr.wire_order)]
    return relay + encode_varint(len(in_order)) + b"".join(in_order) + extension


def decode_peer_data(data: bytes) -> PeerData:
    """Parse a peer's data; no bytes at all mean that it said nothing. Raises DecodeError("peer_data").

    Of more than 32 addresses the first 32 are kept; a relay URL that nobody could use becomes None.
    """
    if not data:
        return PeerData()
    try:
        return _decode(data)
    except DecodeError as error:
        raise error.named("peer_data") from None


def _decode(data: bytes) -> PeerData:
    relay_url, offset = read_option(data, 0, read_str)
    if relay_url is not None and not is_relay_url(relay_url):
        relay_url = None
    count, offset = read_varint(data, offset)
    addresses: dict[SocketAddr, None] = {}
    for _ in range(count):  # every entry takes bytes, so a false count ends in an error soon
        addr, offset = read_socket_addr(data, offset)
        if len(addresses) < MAX_KEPT_ADDRESSES:
            addresses[addr] = None
    return PeerData(relay_url, tuple(addresses), data[offset:])
