from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wire_strategies as ws
from kukuri_sidecar.errors import DecodeError, LocalProtocolError
from kukuri_sidecar.wire.addr import EndpointAddr, HostPort, PeerHint, SocketAddr
from kukuri_sidecar.wire.base_n import encode_base32
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.ticket import (
    MAX_TICKET_CHARS,
    decode_ticket,
    encode_ticket,
    parse_endpoint_id,
    parse_peer,
)
from vector_files import vectors

ID_HEX = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
ID_BASE32 = "aoqqpp7tzyil4hlq3umoos6atft6jvrqtosq2xy53sdgiesvgg4a"
ID = EndpointId.from_hex(ID_HEX)
V4 = SocketAddr("127.0.0.1", 1234)
V4_ENTRY = b"\x01\x00\x7f\x00\x00\x01\xd2\x09"


def ticket(entries: bytes, count: int, *, variant: bytes = b"\0", id_: bytes = ID) -> str:
    return "endpoint" + encode_base32(variant + id_ + bytes((count,)) + entries)


def addr_of(text: str) -> SocketAddr:
    host, _, port = text.rpartition(":")
    parsed = SocketAddr.parse(f"{host}:1")  # the vectors hold port 0, which a user may not type
    return SocketAddr(parsed.host, int(port))


@pytest.mark.parametrize(("inputs", "expected"), vectors("iroh", "endpoint_id_text"))
def test_endpoint_ids_of_the_iroh_wheel(inputs: Any, expected: Any) -> None:
    if expected["accepted"]:
        assert parse_endpoint_id(inputs["text"]).hex() == expected["public"]
        assert parse_peer(inputs["text"]) == PeerHint(EndpointId.from_hex(expected["public"]))
    else:
        with pytest.raises(DecodeError) as caught:
            parse_endpoint_id(inputs["text"])
        assert caught.value.codec == "endpoint_id"


@pytest.mark.parametrize(
    "text", [ID_BASE32[:-1], ID_BASE32 + "a", ID_BASE32[:-1] + "b", "endpoint" + "a" * 44]
)
def test_base32_of_an_id_has_52_characters(text: str) -> None:
    """Also when it begins like a ticket."""
    if len(text) == 52 and text.startswith("endpoint"):
        assert parse_peer(text).endpoint_id == parse_endpoint_id(text)
    else:
        with pytest.raises(DecodeError, match="endpoint_id"):
            parse_endpoint_id(text)


@pytest.mark.parametrize(("inputs", "expected"), vectors("iroh", "ticket"))
def test_tickets_of_the_iroh_wheel(inputs: Any, expected: Any) -> None:
    id_ = EndpointId.from_hex(inputs["id"])
    relay_urls = (inputs["relay"],) if inputs["relay"] else ()
    text = expected.get("ticket", "endpoint" + encode_base32(bytes.fromhex(expected["raw"])))
    assert encode_ticket(EndpointAddr(id_, tuple(map(addr_of, inputs["addrs"])), relay_urls)) == text

    parsed = expected.get("parsed", inputs)
    assert decode_ticket(text) == EndpointAddr(id_, tuple(map(addr_of, parsed["addrs"])), relay_urls)

    hosts = tuple(HostPort(*addr) for addr in map(addr_of, parsed["addrs"]) if addr.port)
    assert parse_peer(text) == PeerHint(id_, hosts, relay_urls)


@given(ws.endpoint_addrs)
def test_round_trip(addr: EndpointAddr) -> None:
    in_order = EndpointAddr(
        addr.endpoint_id,
        tuple(sorted(set(addr.direct), key=lambda direct: direct.wire_order)),
        tuple(sorted(set(addr.relay_urls))),
    )
    text = encode_ticket(addr)
    assert decode_ticket(text) == decode_ticket("endpoint" + text[8:].upper()) == in_order


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ticket(V4_ENTRY + b"rest", 1), EndpointAddr(ID, (V4,))),
        (ticket(V4_ENTRY * 2, 2), EndpointAddr(ID, (V4,))),
        (ticket(V4_ENTRY + b"\x00\x06data:x", 2), EndpointAddr(ID, (V4,))),
        (ticket(V4_ENTRY + b"\x00\x09https://a", 2), EndpointAddr(ID, (V4,), ("https://a",))),
        (ticket(V4_ENTRY + b"\x02\x05\x03abc", 2), EndpointAddr(ID, (V4,))),  # custom, iroh > 1.0.3
        (
            ticket(V4_ENTRY + b"\x02\x05\x00\x01" + bytes(30), 2),
            EndpointAddr(ID, (V4,)),
        ),  # custom, iroh <= 1.0.3
        (ticket(b"\x02\x05\x03abc" + V4_ENTRY, 2), EndpointAddr(ID)),
    ],
    ids=[
        "trailing",
        "duplicate",
        "unusable_relay",
        "second_relay",
        "custom_new",
        "custom_old",
        "custom_first",
    ],
)
def test_tolerated(text: str, expected: EndpointAddr) -> None:
    assert decode_ticket(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "endpoint",
        ID_HEX,
        ticket(b"", 0).upper(),
        " " + ticket(b"", 0),
        ticket(b"", 0)[:-1] + "b",
        ticket(b"", 0) + "=",
        ticket(b"", 0, variant=b"\x01"),
        ticket(b"", 0, id_=ID[:31]),
        ticket(V4_ENTRY, 2),
        ticket(V4_ENTRY[:-1], 1),
        ticket(b"\x03\x00", 1),
        ticket(b"\x01\x02", 1),
        ticket(b"\x00\x02\xff\xff", 1),
        "node" + encode_base32(b"\0" + ID),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_ticket(text)
    assert caught.value.codec == "ticket"


@pytest.mark.parametrize(("chars", "taken"), [(-1, True), (0, True), (1, False)])
def test_length_of_a_ticket(chars: int, taken: bool) -> None:
    text = (ticket(V4_ENTRY, 1) + "a" * MAX_TICKET_CHARS)[: MAX_TICKET_CHARS + chars]
    if taken:
        assert decode_ticket(text) == EndpointAddr(ID, (V4,))
    else:
        with pytest.raises(DecodeError, match="ticket: more than"):
            decode_ticket(text)


def test_we_make_no_ticket_that_we_would_not_read() -> None:
    addrs = tuple(SocketAddr("2001:db8::1", port) for port in range(1, 200))
    with pytest.raises(LocalProtocolError):
        encode_ticket(EndpointAddr(ID, addrs))
    with pytest.raises(LocalProtocolError):
        encode_ticket(EndpointAddr(ID, (), ("data:x",)))


@pytest.mark.parametrize("id_text", [ID_HEX, ID_BASE32, ID_BASE32.upper()])
@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("192.0.2.7:11204", "192.0.2.7"),
        ("[2001:DB8::7]:11204", "2001:db8::7"),
        ("peer.example.org:11204", "peer.example.org"),
    ],
)
def test_an_id_at_an_address(id_text: str, address: str, host: str) -> None:
    assert parse_peer(f"{id_text}@{address}") == PeerHint(ID, (HostPort(host, 11204),))


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("", "endpoint_id"),
        ("not-a-peer", "endpoint_id"),
        (ID_HEX.upper(), "endpoint_id"),
        (f"@{V4}", "endpoint_id"),
        (f"{ID_HEX[1:]}@{V4}", "endpoint_id"),
        (f"{ID_HEX} @{V4}", "endpoint_id"),
        (f"{ID_HEX}@", "address"),
        (f"{ID_HEX}@peer.example", "address"),
        (f"{ID_HEX}@peer.example:0", "address"),
        (f"{ID_HEX}@{V4}@{V4}", "address"),
        (f"{ID_HEX}@2001:db8::1:80", "address"),
        ("endpoint", "ticket"),
        (ticket(b"", 0)[:-2], "ticket"),
        (ticket(b"", 0) + f"@{V4}", "ticket"),
    ],
)
def test_the_error_names_the_segment(text: str, segment: str) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_peer(text)
    assert caught.value.codec == segment


@given(
    st.text(max_size=100) | st.from_regex(rf"(endpoint)?({ID_HEX})?@?[a-z0-9.:\[\]]{{0,80}}", fullmatch=True)
)
def test_any_text_is_a_peer_or_a_decode_error(text: str) -> None:
    try:
        parse_peer(text)
    except DecodeError as error:
        segment = error.codec
    else:
        return
    assert segment in ("endpoint_id", "address", "ticket")
