"""QUIC or KRPC, by the first bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.proto.demux import CID_BYTES, Kind, classify


@pytest.mark.parametrize(
    ("datagram", "kind"),
    [
        (b"", Kind.UNKNOWN),
        (b"d", Kind.UNKNOWN),
        (b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaae1:q4:ping1:t2:aa1:y1:qe", Kind.KRPC),
        (b"d2:ip6:abcdef1:rd2:id20:aaaaaaaaaaaaaaaaaaaaee", Kind.KRPC),
        (b"\xc0\x00\x00\x00\x01\x08", Kind.QUIC),
        (b"\x40" + bytes(30), Kind.QUIC),
        (b"d\xff" + bytes(30), Kind.QUIC),  # 0x64 with a connection id that is no length digit
        (b"d1234567" + bytes(30), Kind.KRPC),
        (b"\x00\x00", Kind.UNKNOWN),
        (b"\x3f" + bytes(30), Kind.UNKNOWN),
    ],
)
def test_kinds(datagram: bytes, kind: Kind) -> None:
    assert classify(datagram, set()) is kind


def test_a_known_connection_id_wins() -> None:
    datagram = b"d1:ad2:id20:" + bytes(30)
    assert classify(datagram, {datagram[1 : 1 + CID_BYTES]}) is Kind.QUIC


@given(st.binary(max_size=64))
def test_never_raises(datagram: bytes) -> None:
    assert classify(datagram, {bytes(8)}) in Kind
