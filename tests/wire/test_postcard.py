from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wire_strategies as ws
from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.postcard import (
    encode_bytes,
    encode_option_bytes,
    encode_socket_addr,
    encode_varint,
    read_bool,
    read_bytes,
    read_exact,
    read_option_bytes,
    read_seq,
    read_socket_addr,
    read_str,
    read_tag,
    read_u16,
    read_varint,
)
from vector_files import vectors


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "varint"))
def test_varints(inputs: Any, expected: Any) -> None:
    data = bytes.fromhex(inputs["hex"])
    if "error" in expected:
        with pytest.raises(DecodeError):
            read_varint(data, 0, inputs["bits"])
    else:
        assert read_varint(data, 0, inputs["bits"]) == (expected["value"], len(data))


@pytest.mark.parametrize("bits", [16, 64])
@pytest.mark.parametrize("above", [-1, 0, 1])
def test_the_largest_integer(bits: int, above: int) -> None:
    value = (1 << bits) - 1 + above
    data = encode_varint(value)
    if above > 0:
        with pytest.raises(DecodeError, match=f"exceeds {bits} bits"):
            read_varint(data, 0, bits)
    else:
        assert read_varint(data, 0, bits) == (value, len(data))


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_a_varint_is_read_where_it_stands(value: int, before: bytes, after: bytes) -> None:
    data = before + encode_varint(value)
    assert read_varint(data + after, len(before)) == (value, len(data))


@given(st.binary(max_size=300), st.binary(max_size=3))
def test_bytes_come_back(data: bytes, after: bytes) -> None:
    encoded = encode_bytes(data)
    assert read_bytes(encoded + after, 0) == (data, len(encoded))
    optional = encode_option_bytes(data)
    assert read_option_bytes(optional + after, 0) == (data, len(optional))
    assert read_option_bytes(encode_option_bytes(None) + after, 0) == (None, 1)


@given(st.text(max_size=30))
def test_strings_come_back(text: str) -> None:
    encoded = encode_bytes(text.encode())
    assert read_str(encoded, 0) == (text, len(encoded))


def test_a_string_is_utf_8() -> None:
    with pytest.raises(DecodeError) as caught:
        read_str(b"\x03ab\xff", 0)
    assert caught.value.offset == 3


@pytest.mark.parametrize(("given", "taken"), [(31, False), (32, True), (33, True)])
def test_exact_bytes(given: int, taken: bool) -> None:
    if taken:
        assert read_exact(bytes(given), 0, 32) == (bytes(32), 32)
    else:
        with pytest.raises(DecodeError):
            read_exact(bytes(given), 0, 32)


def test_discriminants_and_bools() -> None:
    assert read_tag(b"\x02", 0, 3) == (2, 1)
    assert read_bool(b"\x00\x01", 1) == (True, 2)
    for data in (b"\x03", b"\xff", b""):
        with pytest.raises(DecodeError):
            read_tag(data, 0, 3)
    with pytest.raises(DecodeError):
        read_bool(b"\x02", 0)


@given(st.lists(ws.u16, max_size=20))
def test_sequences_come_back(values: list[int]) -> None:
    data = encode_varint(len(values)) + b"".join(map(encode_varint, values))
    assert read_seq(data, 0, read_u16, 1) == (tuple(values), len(data))


@pytest.mark.parametrize(("count", "taken"), [(3, True), (4, True), (5, False)])
def test_a_count_that_cannot_fit_is_refused_unread(count: int, taken: bool) -> None:
    def item(buffer: bytes, offset: int) -> tuple[bytes, int]:
        assert taken, "no item may be read"
        return read_exact(buffer, offset, 2)

    data = encode_varint(count) + bytes(8)
    if taken:
        assert read_seq(data, 0, item, 2) == ((b"\0\0",) * count, 1 + 2 * count)
    else:
        with pytest.raises(DecodeError, match="do not fit"):
            read_seq(data, 0, item, 2)


@given(ws.socket_addrs, st.binary(max_size=3))
def test_socket_addresses_come_back(addr: SocketAddr, after: bytes) -> None:
    encoded = encode_socket_addr(addr)
    assert read_socket_addr(encoded + after, 0) == (addr, len(encoded))
    for end in range(len(encoded)):
        with pytest.raises(DecodeError):
            read_socket_addr(encoded[:end], 0)
