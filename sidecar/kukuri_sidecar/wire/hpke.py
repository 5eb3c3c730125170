"""HPKE (RFC 9180) as the Rust crate ed25519-dalek-hpke does it: one suite, one message per key, base mode.

    key length u64 LE = 32 | ephemeral X25519 public key[32] | ciphertext and tag[n + 16]

Suite: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305. The receiver's X25519 key is his Ed25519
key's: the secret scalar is SHA-512(seed)[:32], clamped. Info and associated data are the crate's own.

The only importer of ``cryptography`` in this layer: its X25519 refuses all-zero secrets, as RFC 9180 section
7.1.4 demands, and PyNaCl has no ChaCha20Poly1305 that ``keys`` could lend. HKDF is written out; it is four
lines. Source: RFC 9180 sections 4.1, 5.1 and 7; ed25519-dalek-hpke 0.0.5 src/lib.rs.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from kukuri_sidecar.errors import DecodeError

KEY_BYTES = 32
OVERHEAD_BYTES = 56  # length, ephemeral key, tag

_KEM_SUITE = b"KEM\x00\x20"  # DHKEM(X25519, HKDF-SHA256)
_HPKE_SUITE = b"HPKE\x00\x20\x00\x01\x00\x03"  # ..., HKDF-SHA256, ChaCha20Poly1305
_VERSION = b"HPKE-v1"
_BASE_MODE = b"\x00"
_NONCE_BYTES = 12
_LENGTH = KEY_BYTES.to_bytes(8, "little")
_HEADER_BYTES = len(_LENGTH) + KEY_BYTES
_INFO = b"arbitrary_info_bytes"  # sic: the crate's constants
_ASSOCIATED_DATA = b"arbitrary_seal_bytes"


def seal(receiver_seed: bytes, plaintext: bytes, ephemeral: bytes) -> bytes:
    """Encrypt for the Ed25519 key of ``receiver_seed`` (both sides know it where this is used).

    ``ephemeral`` is 32 fresh random bytes, never used before: the same ones reveal the plaintext.
    """
    receiver = _x25519(receiver_seed).public_key()
    sender = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = sender.public_key().public_bytes_raw()
    key, nonce = _schedule(sender.exchange(receiver), enc, receiver.public_bytes_raw())
    return _LENGTH + enc + ChaCha20Poly1305(key).encrypt(nonce, plaintext, _ASSOCIATED_DATA)


def open_sealed(seed: bytes, data: bytes) -> bytes:
    """Decrypt with the 32-byte Ed25519 ``seed``; DecodeError("hpke") for anything not sealed for it."""
    if len(data) < OVERHEAD_BYTES:
        raise DecodeError("hpke", len(data), f"{OVERHEAD_BYTES} bytes expected")
    if not data.startswith(_LENGTH):
        raise DecodeError("hpke", 0, f"the ephemeral key has {KEY_BYTES} bytes")
    enc, ciphertext = data[len(_LENGTH) : _HEADER_BYTES], data[_HEADER_BYTES:]
    secret = _x25519(seed)
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(enc))
    except ValueError:
        raise DecodeError("hpke", len(_LENGTH), "ephemeral key of low order") from None
    key, nonce = _schedule(shared, enc, secret.public_key().public_bytes_raw())
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, _ASSOCIATED_DATA)
    except InvalidTag:
        raise DecodeError("hpke", _HEADER_BYTES, "not encrypted for this key") from None


def _x25519(seed: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(hashlib.sha512(seed).digest()[:KEY_BYTES])


def _schedule(exchanged: bytes, enc: bytes, receiver: bytes) -> tuple[bytes, bytes]:
    """Return the AEAD's key and the nonce of message 0 (RFC 9180 sections 4.1 and 5.1, base mode)."""
    eae_prk = _extract(_KEM_SUITE, b"", b"eae_prk", exchanged)
    shared = _expand(_KEM_SUITE, eae_prk, b"shared_secret", enc + receiver, KEY_BYTES)
    psk_id_hash = _extract(_HPKE_SUITE, b"", b"psk_id_hash", b"")
    info_hash = _extract(_HPKE_SUITE, b"", b"info_hash", _INFO)
    context = _BASE_MODE + psk_id_hash + info_hash
    secret = _extract(_HPKE_SUITE, shared, b"secret", b"")
    return (
        _expand(_HPKE_SUITE, secret, b"key", context, KEY_BYTES),
        _expand(_HPKE_SUITE, secret, b"base_nonce", context, _NONCE_BYTES),
    )


def _extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), _VERSION + suite + label + key, "sha256")


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    """One block of HKDF-Expand is enough: nothing here is longer than a hash."""
    return hmac.digest(key, size.to_bytes(2, "big") + _VERSION + suite + label + info + b"\x01", "sha256")[
        :size
    ]
