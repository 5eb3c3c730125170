"""Ed25519 keys (RFC 8032). The only importer of PyNaCl.

Costs per call (2-core VM): sign 20 us, verify 55 us, point check 44 us, each on top of hashing the message.
"""

from __future__ import annotations

from functools import lru_cache

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.ids import EndpointId

SEED_BYTES = 32
SIGNATURE_BYTES = 64
MAX_CHECKED_IDS = 4_096  # ours: a full passive view in each of 64 topics is half of it; 0.7 MB when full


class SecretKey:
    """The private half of an endpoint's identity, made from its 32-byte seed; DecodeError for other lengths.

    Neither ``repr`` nor ``str`` shows the secret, and two keys compare by object identity, never by content:
    compare ``endpoint_id`` instead.
    """

    __slots__ = ("_endpoint_id", "_expanded")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise DecodeError("secret_key", len(seed), f"{SEED_BYTES} bytes expected, {len(seed)} given")
        public, self._expanded = crypto_sign_seed_keypair(bytes(seed))
        self._endpoint_id = EndpointId(public)

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for the identity file and the TLS layer only."""
        return self._expanded[:SEED_BYTES]

    @property
    def endpoint_id(self) -> EndpointId:
        """The public key."""
        return self._endpoint_id

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of ``message``."""
        return crypto_sign(message, self._expanded)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"SecretKey(of {self._endpoint_id.short()})"


def verify(endpoint_id: EndpointId, message: bytes, signature: bytes) -> bool:
    """Say whether ``signature`` is ``endpoint_id``'s signature of ``message``; never raises.

    Low-order and non-canonical keys fail, as in iroh (``verify_strict``, iroh-base src/key.rs).
    """
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, endpoint_id)
    except BadSignatureError:
        return False
    return True


def is_valid_endpoint_id(endpoint_id: EndpointId) -> bool:
    """Say whether the id is a public key that can ever prove itself. Cached; a miss costs 44 us.

    libsodium is stricter than Rust's decoder: it also refuses low-order and non-canonical points, which iroh
    passes on but never accepts in a handshake. So drop the *entry* that holds a bad id, not the frame, and
    never pass one on: a Rust peer kills the stream for a non-point (gossip-wire.md sections 1 and 2).
    """
    return _is_valid_point(endpoint_id)


@lru_cache(maxsize=MAX_CHECKED_IDS)
def _is_valid_point(point: bytes) -> bool:
    return crypto_core_ed25519_is_valid_point(point)
