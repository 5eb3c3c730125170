from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire import keys
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.keys import SecretKey, is_valid_endpoint_id, verify
from vector_files import vectors

SEED = bytes(range(32))


@pytest.mark.parametrize(("inputs", "expected"), vectors("iroh", "key"))
def test_public_keys_of_the_iroh_wheel(inputs: Any, expected: Any) -> None:
    secret = SecretKey(bytes.fromhex(inputs["seed"]))
    assert secret.seed.hex() == inputs["seed"]
    assert secret.endpoint_id == EndpointId.from_hex(expected["public"])
    assert secret.endpoint_id.short() == expected["short"]
    assert is_valid_endpoint_id(secret.endpoint_id)


@pytest.mark.parametrize(("inputs", "expected"), vectors("iroh", "signature"))
def test_signatures_of_the_iroh_wheel(inputs: Any, expected: Any) -> None:
    secret = SecretKey(bytes.fromhex(inputs["seed"]))
    message, signature = bytes.fromhex(inputs["message"]), bytes.fromhex(expected["signature"])
    assert secret.sign(message) == signature
    assert verify(secret.endpoint_id, message, signature)
    assert not verify(secret.endpoint_id, message + b"!", signature)


@pytest.mark.parametrize(("inputs", "expected"), vectors("iroh", "endpoint_id_bytes"))
def test_we_refuse_points_that_can_never_sign(inputs: Any, expected: Any) -> None:
    """Upstream decodes low-order and non-canonical points and fails them in the handshake; we do it here."""
    assert not is_valid_endpoint_id(EndpointId(bytes.fromhex(inputs["bytes"])))


def test_every_changed_bit_breaks_a_signature() -> None:
    secret = SecretKey(SEED)
    signature = secret.sign(b"hello")
    for bit in range(8 * len(signature)):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert not verify(secret.endpoint_id, b"hello", bytes(changed)), bit


def test_the_border_between_signature_and_message_is_fixed() -> None:
    secret = SecretKey(SEED)
    signed = secret.sign(b"hello") + b"hello"
    assert [at for at in range(len(signed) + 1) if verify(secret.endpoint_id, signed[at:], signed[:at])] == [
        64
    ]


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=50), st.binary(max_size=70))
def test_verify_and_the_point_check_never_raise(key: bytes, message: bytes, signature: bytes) -> None:
    assert is_valid_endpoint_id(EndpointId(key)) in (True, False)
    assert not verify(EndpointId(key), message, signature)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_has_32_bytes(size: int) -> None:
    with pytest.raises(DecodeError, match="secret_key"):
        SecretKey(bytes(size))


def test_the_secret_is_not_shown() -> None:
    secret = SecretKey(SEED)
    shown = f"{secret} {secret!r}"
    assert SEED.hex() not in shown
    assert repr(SEED) not in shown
    assert not hasattr(secret, "__dict__")


def test_keys_do_not_compare_by_content() -> None:
    assert SecretKey(SEED) != SecretKey(SEED)
    assert SecretKey(SEED).endpoint_id == SecretKey(SEED).endpoint_id


def test_the_point_cache_is_bounded() -> None:
    assert keys._is_valid_point.cache_info().maxsize == keys.MAX_CHECKED_IDS
