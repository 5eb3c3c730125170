"""Text forms of bytes: RFC 4648 base32 without padding, and z-base-32.

Both write 5 bits per character, most significant first; unused low bits of the last character are zero and a
decoder refuses anything else, so each value has one text (per letter case).
"""

from __future__ import annotations

import base64

from kukuri_sidecar.errors import DecodeError

BASE32 = "abcdefghijklmnopqrstuvwxyz234567"  # RFC 4648 section 6, in the case iroh prints
ZBASE32 = "ybndrfg8ejkmcpqxot1uwisza345h769"  # z-base-32, as in pkarr's names

_TO_ZBASE32 = str.maketrans(BASE32, ZBASE32)
_TO_BASE32 = str.maketrans(ZBASE32, BASE32)
_IMPOSSIBLE_TAILS = frozenset({1, 3, 6})  # characters beyond whole groups of 8 that no byte count produces


def encode_base32(data: bytes) -> str:
    """Return ``data`` as lower-case base32 without padding; 32 bytes give 52 characters."""
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def decode_base32(text: str) -> bytes:
    """Parse unpadded base32 of any case, as iroh does; DecodeError("base32", index of the bad character)."""
    return _decode(text.lower() if text.isascii() else text, BASE32, "base32")


def encode_zbase32(data: bytes) -> str:
    """Return ``data`` as z-base-32; 32 bytes give 52 characters."""
    return encode_base32(data).translate(_TO_ZBASE32)


def decode_zbase32(text: str) -> bytes:
    """Parse lower-case z-base-32; DecodeError("zbase32", index of the bad character)."""
    return _decode(text, ZBASE32, "zbase32")


def _decode(text: str, alphabet: str, codec: str) -> bytes:
    if not set(text) <= set(alphabet):
        bad = next(i for i, c in enumerate(text) if c not in alphabet)
        raise DecodeError(codec, bad, "not a character of the alphabet")
    if len(text) % 8 in _IMPOSSIBLE_TAILS:
        raise DecodeError(codec, len(text), "no whole number of bytes has this length")
    standard = text if alphabet is BASE32 else text.translate(_TO_BASE32)
    data = base64.b32decode(standard.upper() + "=" * (-len(text) % 8))
    if encode_base32(data) != standard:  # RFC 4648 section 3.5: base64.b32decode lets these pass
        raise DecodeError(codec, len(text) - 1, "unused bits of the last character are set")
    return data
