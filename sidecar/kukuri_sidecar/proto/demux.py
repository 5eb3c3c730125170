"""Tells the two protocols of our UDP sockets apart."""

from __future__ import annotations

from collections.abc import Container
from enum import Enum, auto

CID_BYTES = 8  # length of our own QUIC connection ids


class Kind(Enum):
    """Whose datagram it is."""

    QUIC = auto()
    KRPC = auto()
    UNKNOWN = auto()


def classify(datagram: bytes, our_cids: Container[bytes]) -> Kind:
    """Say whose datagram this is. Costs a slice and a lookup; never raises.

    Order matters: 'd' (0x64) is also a legal first byte of a QUIC short header, so a known connection id
    wins. Long headers have bit 0x80 (RFC 9000 section 17.2); KRPC is a bencoded dict whose first key starts
    with its length digit (BEP 5).
    """
    if len(datagram) < 2:
        return Kind.UNKNOWN
    first = datagram[0]
    if first & 0x80 or datagram[1 : 1 + CID_BYTES] in our_cids:
        return Kind.QUIC
    if first == 0x64 and 0x30 <= datagram[1] <= 0x39:
        return Kind.KRPC
    return Kind.QUIC if first & 0x40 else Kind.UNKNOWN  # perhaps a stateless reset
