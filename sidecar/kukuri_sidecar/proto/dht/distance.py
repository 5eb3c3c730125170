"""XOR distance (Maymounkov and Mazières 2002): ids as integers, their order seen from a target."""

from __future__ import annotations

from kukuri_sidecar.wire.ids import DHT_ID_BYTES, DhtNodeId

ID_BITS = 8 * DHT_ID_BYTES


def key_of(node_id: bytes) -> int:
    """Return a node id or target as the integer whose XOR with another is their distance."""
    return int.from_bytes(node_id, "big")


def node_id_of(key: int) -> DhtNodeId:
    """Return the id of an integer below 2^160."""
    return DhtNodeId(key.to_bytes(DHT_ID_BYTES, "big"))


def shared_bits(a: int, b: int) -> int:
    """Return how many leading bits two ids share: 0-160."""
    return ID_BITS - (a ^ b).bit_length()
