"""Write tokens (BEP 5 "Announce Peer"): who holds one can receive at its address, so it may have us store.

Bound to address and target, valid for 5 to 10 minutes, nothing is kept: secrets follow from the time.
"""

from __future__ import annotations

import hashlib
import hmac

from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.wire.ids import Target

TOKEN_BYTES = 8
ROTATE_S = 300.0  # BEP 5: secrets change every five minutes, tokens up to ten minutes old are accepted


class Tokens:
    """Makes tokens and knows them again."""

    __slots__ = ("_secret",)

    def __init__(self, rng: Rng) -> None:
        self._secret = rng.getrandbits(256).to_bytes(32, "big")

    def make(self, host: str, target: Target, now: float) -> bytes:
        """Return the token that ``host`` needs to write at ``target`` in the next five minutes."""
        return self._token(host, target, int(now // ROTATE_S))

    def is_valid(self, token: bytes, host: str, target: Target, now: float) -> bool:
        """Say whether ``host`` got this token for this target in this period or the last."""
        period = int(now // ROTATE_S)
        return any(
            hmac.compare_digest(token, self._token(host, target, made)) for made in (period, period - 1)
        )

    def _token(self, host: str, target: Target, period: int) -> bytes:
        message = b"%d %b %b" % (period, target, host.encode())
        return hashlib.blake2s(message, key=self._secret, digest_size=TOKEN_BYTES).digest()
