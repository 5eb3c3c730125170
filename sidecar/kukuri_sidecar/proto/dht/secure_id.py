"""Node ids bound to addresses (BEP 42): the first 21 bits follow from the IP address and 3 random bits.

So an address can have 8 ids, and nobody can choose to sit next to a given target. Enforced softly: compliant
nodes are preferred, others are served.
"""

from __future__ import annotations

import ipaddress

from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.dht.distance import ID_BITS, node_id_of
from kukuri_sidecar.proto.dht.subnets import is_local
from kukuri_sidecar.wire.ids import DhtNodeId

BOUND_BITS = 21

_MASK_V4 = bytes.fromhex("030f3fff")
_MASK_V6 = bytes.fromhex("0103070f1f3f7fff")
_CASTAGNOLI = 0x82F63B78  # reflected


def _table() -> tuple[int, ...]:
    entries = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (_CASTAGNOLI if entry & 1 else 0)
        entries.append(entry)
    return tuple(entries)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of ``data``, as in RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def is_secure(node_id: DhtNodeId, host: str) -> bool:
    """Say whether ``node_id`` may be used at ``host``; at local addresses any may."""
    prefix = int.from_bytes(node_id[:3], "big") >> 24 - BOUND_BITS
    return is_local(host) or prefix == _bound_prefix(host, node_id[-1])


def make_node_id(host: str | None, rng: Rng) -> DhtNodeId:
    """Return a random id; for a known public ``host`` one that complies."""
    key = rng.getrandbits(ID_BITS)
    if host is not None and not is_local(host):
        free = ID_BITS - BOUND_BITS
        key = _bound_prefix(host, key & 0xFF) << free | key & (1 << free) - 1
    return node_id_of(key)


def _bound_prefix(host: str, last_byte: int) -> int:
    packed = ipaddress.ip_address(host).packed
    mask = _MASK_V4 if len(packed) == len(_MASK_V4) else _MASK_V6
    masked = bytearray(octet & m for octet, m in zip(packed, mask, strict=False))
    masked[0] |= (last_byte & 7) << 5
    return crc32c(bytes(masked)) >> 32 - BOUND_BITS
