from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wire_strategies as ws
from kukuri_sidecar.errors import DecodeError, LocalProtocolError
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.peer_data import (
    MAX_EXTENSION_BYTES,
    MAX_KEPT_ADDRESSES,
    MAX_OWN_ADDRESSES,
    MAX_OWN_BYTES,
    PeerData,
    decode_peer_data,
    encode_peer_data,
)
from kukuri_sidecar.wire.postcard import encode_socket_addr, encode_varint
from vector_files import vectors


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "addr_info"))
def test_addr_info(inputs: Any, expected: Any) -> None:
    addrs = tuple(SocketAddr.parse(text) for text in inputs["addrs"])
    extension = bytes.fromhex(inputs["trailing"])
    encoded = bytes.fromhex(expected["bytes"])
    assert encode_peer_data(inputs["relay"], reversed(addrs), extension) == encoded
    assert decode_peer_data(encoded) == PeerData(inputs["relay"], addrs, extension)


@given(
    st.none() | ws.relay_urls,
    st.lists(ws.socket_addrs, max_size=MAX_OWN_ADDRESSES),
    st.binary(max_size=MAX_EXTENSION_BYTES),
)
def test_round_trip(relay_url: str | None, addrs: list[SocketAddr], extension: bytes) -> None:
    in_order = tuple(sorted(set(addrs), key=lambda addr: addr.wire_order))
    encoded = encode_peer_data(relay_url, addrs, extension)
    assert len(encoded) <= MAX_OWN_BYTES
    assert decode_peer_data(encoded) == PeerData(relay_url, in_order, extension)


def test_no_bytes_say_nothing() -> None:
    assert decode_peer_data(b"") == PeerData()


@pytest.mark.parametrize("count", [MAX_OWN_ADDRESSES - 1, MAX_OWN_ADDRESSES, MAX_OWN_ADDRESSES + 1])
def test_the_first_addresses_are_kept(count: int) -> None:
    addrs = [SocketAddr(f"10.0.0.{200 - i}", 1) for i in range(count)]
    kept = decode_peer_data(encode_peer_data(None, [addrs[0], *addrs])).addresses
    assert set(kept) == set(addrs[:MAX_OWN_ADDRESSES])


@pytest.mark.parametrize("above", [-1, 0, 1])
def test_addresses_yield_to_a_long_relay_url(above: int) -> None:
    addr = SocketAddr("2001:db8::1", 1)
    fixed = len(encode_peer_data("https://r/", [addr]))
    url = "https://r/" + "p" * (
        MAX_OWN_BYTES - fixed - 1 + above
    )  # from 128 on its length takes a second byte
    encoded = encode_peer_data(url, [addr])
    assert len(encoded) <= MAX_OWN_BYTES
    assert decode_peer_data(encoded) == PeerData(url, () if above > 0 else (addr,))


def test_a_relay_url_that_does_not_fit_is_left_out() -> None:
    addr = SocketAddr("10.0.0.1", 1)
    assert decode_peer_data(encode_peer_data("https://r/" + "p" * 300, [addr])) == PeerData(None, (addr,))


@pytest.mark.parametrize("size", [MAX_EXTENSION_BYTES - 1, MAX_EXTENSION_BYTES])
def test_extensions_up_to_the_limit(size: int) -> None:
    addrs = [SocketAddr("2001:db8::1", 60_000 + i) for i in range(8)]
    encoded = encode_peer_data("https://relay.example.org/" + "p" * 40, addrs, bytes(size))
    assert len(encoded) <= MAX_OWN_BYTES
    assert decode_peer_data(encoded).extension == bytes(size)


def test_a_longer_extension_is_our_bug() -> None:
    with pytest.raises(LocalProtocolError):
        encode_peer_data(None, [], bytes(MAX_EXTENSION_BYTES + 1))


@pytest.mark.parametrize("count", [MAX_KEPT_ADDRESSES - 1, MAX_KEPT_ADDRESSES, MAX_KEPT_ADDRESSES + 1, 500])
def test_of_a_peers_addresses_the_first_are_kept(count: int) -> None:
    addrs = [SocketAddr("10.0.0.1", port) for port in range(1, count + 1)]
    data = b"\0" + encode_varint(count) + b"".join(map(encode_socket_addr, addrs)) + b"ext"
    assert decode_peer_data(data) == PeerData(None, tuple(addrs[:MAX_KEPT_ADDRESSES]), b"ext")


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"\x02\x00", 0),  # option tag
        (b"\x00", 1),  # no count
        (b"\x00\x01\x02", 2),  # address family
        (b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", 12),  # 2^64 - 1 addresses
        (b"\x01\x02\xff\xff\x00", 2),  # not UTF-8
        (b"\x01\x7fhttps", 7),  # cut short
    ],
)
def test_malformed(data: bytes, offset: int) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_peer_data(data)
    assert (caught.value.codec, caught.value.offset) == ("peer_data", offset)


def test_a_relay_url_nobody_can_use_is_dropped_alone() -> None:
    assert decode_peer_data(b"\x01\x06data:x\x01\x00\x7f\x00\x00\x01\x05") == PeerData(
        None, (SocketAddr("127.0.0.1", 5),)
    )
