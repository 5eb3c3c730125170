"""HPKE as ed25519-dalek-hpke does it; whole records of the crate are in test_tracker_record.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire import hpke
from kukuri_sidecar.wire.keys import SecretKey
from vector_files import vectors

SEED, EPHEMERAL = bytes(range(32)), bytes(range(32, 64))
SEALED = hpke.seal(SEED, b"hello", EPHEMERAL)

keys = st.binary(min_size=32, max_size=32)


@given(keys, keys, st.binary(max_size=500))
def test_what_was_sealed_opens(seed: bytes, ephemeral: bytes, plaintext: bytes) -> None:
    sealed = hpke.seal(seed, plaintext, ephemeral)
    assert len(sealed) == len(plaintext) + hpke.OVERHEAD_BYTES
    assert hpke.open_sealed(seed, sealed) == plaintext


@pytest.mark.parametrize(("inputs", "expected"), vectors("tracker", "records"))
def test_the_crates_own_ciphertext_opens(inputs: dict[str, str], expected: dict[str, str]) -> None:
    """The second part of a record of the crate is one HPKE message: the seed of a one-time key."""
    sealed = bytes.fromhex(expected["sealed_hex"])[-88:]
    assert len(hpke.open_sealed(bytes.fromhex(expected["encryption_seed_hex"]), sealed)) == 32


@pytest.mark.parametrize("at", range(len(SEALED)))
def test_any_flipped_bit_is_refused(at: int) -> None:
    damaged = bytearray(SEALED)
    damaged[at] ^= 1
    with pytest.raises(DecodeError, match="hpke"):
        hpke.open_sealed(SEED, bytes(damaged))


def test_another_key_is_refused() -> None:
    with pytest.raises(DecodeError, match="not encrypted for this key"):
        hpke.open_sealed(EPHEMERAL, SEALED)


@pytest.mark.parametrize("size", [0, 7, 8, 39, hpke.OVERHEAD_BYTES - 1])
def test_too_short_is_refused(size: int) -> None:
    with pytest.raises(DecodeError):
        hpke.open_sealed(SEED, SEALED[:size])


def test_an_ephemeral_key_of_low_order_is_refused() -> None:
    """RFC 9180 section 7.1.4: the shared secret would be zero, known to everybody."""
    with pytest.raises(DecodeError, match="low order"):
        hpke.open_sealed(SEED, SEALED[:8] + bytes(32) + SEALED[40:])


def test_a_key_is_the_ed25519_seeds_own() -> None:
    """The X25519 key comes from the Ed25519 seed, not from the seed's bytes."""
    assert hpke.seal(SEED, b"", EPHEMERAL) != hpke.seal(SecretKey(SEED).endpoint_id, b"", EPHEMERAL)
