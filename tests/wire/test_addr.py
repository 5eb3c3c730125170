from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wire_strategies as ws
from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.addr import (
    MAX_HOST_NAME_CHARS,
    MAX_RELAY_URL_CHARS,
    HostPort,
    SocketAddr,
    is_relay_url,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:65535", "::1", 65535),
        ("[2001:DB8:0:0::1]:443", "2001:db8::1", 443),
    ],
)
def test_addresses_become_canonical(text: str, host: str, port: int) -> None:
    assert SocketAddr.parse(text) == (host, port)
    assert HostPort.parse(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["peer.example:5", "peer.example.:5", "localhost:5", "4chan.org:5", "a_b.lan:5"]
)
def test_host_names_are_taken_as_they_are(text: str) -> None:
    assert str(HostPort.parse(text)) == text
    with pytest.raises(DecodeError):
        SocketAddr.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":5",
        "1.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:0",
        "1.2.3.4:65536",
        "1.2.3.4:+5",
        "1.2.3.4:٥",
        "1.2.3.4: 5",
        "01.2.3.4:5",
        "256.0.0.1:5",
        "1.2.3:5",
        "0x7f.1:5",
        "0x7f000001:5",
        "2130706433:5",
        "host.1:5",
        "::1:5",
        "[::1:5",
        "[::1]5:5",
        "[1.2.3.4]:5",
        "[name]:5",
        "[]:5",
        "[fe80::1%eth0]:5",
        "-a.example:5",
        "a-.example:5",
        "a..example:5",
        ".example:5",
        "a b.example:5",
        "höst.example:5",
        "host/path:5",
        "host\n:5",
    ],
)
def test_what_names_no_address(text: str) -> None:
    for parse in (SocketAddr.parse, HostPort.parse):
        with pytest.raises(DecodeError) as caught:
            parse(text)
        assert caught.value.codec == "address"


@pytest.mark.parametrize(("chars", "taken"), [(62, True), (63, True), (64, False)])
def test_length_of_a_label(chars: int, taken: bool) -> None:
    assert _parses("a" * chars + ".example:5") is taken


@pytest.mark.parametrize(("chars", "taken"), [(-1, True), (0, True), (1, False)])
def test_length_of_a_host_name(chars: int, taken: bool) -> None:
    name = ("a." * MAX_HOST_NAME_CHARS)[: MAX_HOST_NAME_CHARS + chars - 1] + "b"
    assert _parses(name + ":5") is taken


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("https://use1-1.relay.n0.iroh.link./", True),
        ("http://127.0.0.1:3340/", True),
        ("https://[2001:db8::1]/", True),
        ("https://", False),
        ("https:///path", False),
        ("ftp://relay.example/", False),
        ("HTTPS://relay.example/", False),
        ("data:x", False),
        ("", False),
        ("https://relay.example/a b", False),
        ("https://relay.example/\n", False),
        ("https://é.example/", False),
        ("https://a/" + "p" * (MAX_RELAY_URL_CHARS - 11), True),
        ("https://a/" + "p" * (MAX_RELAY_URL_CHARS - 10), True),
        ("https://a/" + "p" * (MAX_RELAY_URL_CHARS - 9), False),
    ],
)
def test_relay_urls(url: str, usable: bool) -> None:
    assert is_relay_url(url) is usable


@given(ws.socket_addrs)
def test_packed_and_text_forms_come_back(addr: SocketAddr) -> None:
    assert SocketAddr.from_packed(addr.packed, addr.port) == addr
    assert len(addr.packed) == (16 if addr.is_ipv6 else 4)
    if addr.port:
        assert SocketAddr.parse(str(addr)) == HostPort.parse(str(addr)) == addr


def test_wire_order_is_that_of_rust() -> None:
    """Numbers, not texts: 9 before 10, and every IPv4 address before every IPv6 address."""
    order = ["9.0.0.1:80", "10.0.0.1:9", "10.0.0.1:80", "[::1]:1", "[::ffff:9.0.0.1]:1", "[2001:db8::]:1"]
    addrs = [SocketAddr.parse(text) for text in order]
    assert sorted(sorted(addrs), key=lambda addr: addr.wire_order) == addrs


@given(st.text(max_size=300) | st.from_regex(r"[a-z0-9.:\[\]%-]{0,300}", fullmatch=True))
def test_any_text_is_an_address_or_a_decode_error(text: str) -> None:
    try:
        parsed = HostPort.parse(text)
    except DecodeError:
        return
    assert HostPort.parse(str(parsed)) == parsed


def _parses(text: str) -> bool:
    try:
        HostPort.parse(text)
    except DecodeError:
        return False
    return True
