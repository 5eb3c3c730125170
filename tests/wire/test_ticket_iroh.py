"""Tickets and ids against the iroh wheel itself: same texts, same verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wire_strategies as ws
from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.addr import EndpointAddr, SocketAddr
from kukuri_sidecar.wire.base_n import encode_base32
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.ticket import decode_ticket, encode_ticket, parse_endpoint_id

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = pytest.mark.peers

ID = SecretKey(bytes(range(32))).endpoint_id
real_addrs = st.builds(
    EndpointAddr,
    st.binary(min_size=32, max_size=32).map(lambda seed: SecretKey(seed).endpoint_id),
    st.lists(ws.socket_addrs, max_size=6).map(tuple),
    st.just(()) | st.just(("https://relay.example./",)),
)


@pytest.fixture(scope="module")
def iroh() -> ModuleType:
    import iroh

    return iroh


@settings(max_examples=100)
@given(real_addrs)
def test_the_wheel_reads_and_writes_our_tickets(iroh: Any, addr: EndpointAddr) -> None:
    text = encode_ticket(addr)
    parsed = iroh.EndpointTicket.from_string(text)
    assert str(parsed) == text
    theirs = parsed.endpoint_addr()
    ours = decode_ticket(text)
    assert str(theirs.id()) == ours.endpoint_id.hex()
    assert theirs.relay_url() == (ours.relay_urls[0] if ours.relay_urls else None)
    assert [packed(text) for text in theirs.direct_addresses()] == [(a.packed, a.port) for a in ours.direct]


@settings(max_examples=200)
@given(ws.damaged(real_addrs.map(encode_ticket).map(str.encode)))
def test_the_wheel_takes_no_ticket_that_we_refuse(iroh: Any, damaged: bytes) -> None:
    """The reverse does not hold: we do not check that an id is a curve point."""
    text = damaged.decode("latin-1")
    if accepts(iroh.EndpointTicket.from_string, text):
        decode_ticket(text)


@settings(max_examples=200)
@given(ws.damaged((ws.endpoint_ids.map(bytes.hex) | ws.endpoint_ids.map(encode_base32)).map(str.encode)))
def test_the_wheel_takes_no_id_that_we_refuse(iroh: Any, damaged: bytes) -> None:
    text = damaged.decode("latin-1")
    if accepts(iroh.EndpointId.from_string, text):
        assert str(iroh.EndpointId.from_string(text)) == parse_endpoint_id(text).hex()


@pytest.mark.parametrize(
    ("entries", "count"),
    [
        (b"\x01\x00\x7f\x00\x00\x01\x05rest", 1),
        (b"\x01\x00\x7f\x00\x00\x01\x85\x80\x00", 1),
        (b"\x01\x00\x7f\x00\x00\x01\xff\xff\x07", 1),
        (b"\x01\x00\x7f\x00\x00\x02\x05\x01\x00\x7f\x00\x00\x01\x05", 2),
        (b"\x02\x05\x03abc", 1),
        (b"\x03\x00", 1),
        (b"\x01\x02", 1),
        (b"\x00\x02\xff\xff", 1),
        (b"", 1),
    ],
)
def test_same_verdict_on_odd_lists(iroh: Any, entries: bytes, count: int) -> None:
    text = "endpoint" + encode_base32(b"\0" + ID + bytes((count,)) + entries)
    assert accepts(iroh.EndpointTicket.from_string, text) is accepts(decode_ticket, text)


def test_a_relay_that_is_no_url_costs_us_the_entry_and_iroh_the_ticket(iroh: Any) -> None:
    text = "endpoint" + encode_base32(b"\0" + ID + b"\x01\x00\x05nourl")
    assert not accepts(iroh.EndpointTicket.from_string, text)
    assert decode_ticket(text) == EndpointAddr(ID)


def packed(text: str) -> tuple[bytes, int]:
    host, _, port = text.rpartition(":")
    return SocketAddr.parse(f"{host}:1").packed, int(port)


def accepts(parse: Any, text: str) -> bool:
    try:
        parse(text)
    except Exception as error:
        if isinstance(error, DecodeError) or type(error).__name__ == "IrohError":
            return False
        raise
    return True
