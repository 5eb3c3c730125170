from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.base_n import decode_base32, decode_zbase32, encode_base32, encode_zbase32
from vector_files import load, vectors


@pytest.mark.parametrize(("inputs", "expected"), vectors("iroh", "key"))
def test_keys_of_the_iroh_wheel(inputs: Any, expected: Any) -> None:
    raw = bytes.fromhex(expected["public"])
    assert encode_base32(raw) == expected["base32"]
    assert decode_base32(expected["base32"]) == decode_base32(expected["base32"].upper()) == raw
    assert encode_zbase32(raw) == expected["zbase32"]
    assert decode_zbase32(expected["zbase32"]) == raw


@pytest.mark.parametrize(
    "vector", load("mainline")["z_base_32"]["vectors"], ids=lambda v: v["z32"] or "empty"
)
def test_z_base_32_of_npm_z32(vector: dict[str, str]) -> None:
    assert encode_zbase32(bytes.fromhex(vector["in"])) == vector["z32"]
    assert decode_zbase32(vector["z32"]).hex() == vector["in"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"f", "my"),
        (b"fo", "mzxq"),
        (b"foo", "mzxw6"),
        (b"foob", "mzxw6yq"),
        (b"foobar", "mzxw6ytboi"),
    ],
)
def test_rfc_4648_section_10(data: bytes, text: str) -> None:
    assert encode_base32(data) == text
    assert decode_base32(text) == data


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("a", 1),
        ("aaa", 3),
        ("aaaaaa", 6),  # no byte count gives 1, 3 or 6 characters
        ("mz", 1),  # a low bit of the last character is set
        ("my======", 2),
        ("m1", 1),
        ("mſ", 1),  # its upper case is the ASCII letter S
        ("mı", 1),  # its upper case is the ASCII letter I
        ("m\n", 1),
    ],
)
def test_other_base32_is_refused(text: str, offset: int) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_base32(text)
    assert (caught.value.codec, caught.value.offset) == ("base32", offset)


def test_z_base_32_is_lower_case() -> None:
    with pytest.raises(DecodeError):
        decode_zbase32("Yy")


@given(st.binary(max_size=100))
def test_round_trip(data: bytes) -> None:
    assert decode_base32(encode_base32(data)) == decode_base32(encode_base32(data).upper()) == data
    assert decode_zbase32(encode_zbase32(data)) == data


@given(st.text("abmyz27AMZ", max_size=20))
def test_each_value_has_one_text(text: str) -> None:
    try:
        data = decode_base32(text)
    except DecodeError:
        return
    assert encode_base32(data) == text.lower()
