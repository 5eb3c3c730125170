"""Who we are: the Ed25519 key from the host, from the profile, or fresh for this run only."""

from __future__ import annotations

import os
import stat
import sys
from typing import Literal

import msgspec

from kukuri_sidecar.errors import IdentityCorrupt
from kukuri_sidecar.node.profile import Profile
from kukuri_sidecar.wire.keys import SecretKey

IDENTITY_FILE = "identity.json"
IDENTITY_VERSION = 1
SEED_BYTES = 32

Origin = Literal["loaded", "created", "host", "ephemeral"]


class _IdentityFile(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    secret_key_hex: str


def from_profile(profile: Profile) -> tuple[SecretKey, Origin]:
    """Load the profile's key, or create it on the first start. Blocks on the disk: call it in a thread.

    Raises IdentityCorrupt, and never replaces a file that is there: a silent new key would be a new person.
    """
    data = profile.read(IDENTITY_FILE)
    if data is None:
        secret = SecretKey(os.urandom(SEED_BYTES))
        file = _IdentityFile(version=IDENTITY_VERSION, secret_key_hex=secret.seed.hex())
        profile.write(IDENTITY_FILE, msgspec.json.encode(file) + b"\n")
        return secret, "created"
    if sys.platform != "win32":
        status = (profile.path / IDENTITY_FILE).stat()
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise IdentityCorrupt(f"{IDENTITY_FILE} must belong to us and be closed to others (mode 0600)")
    try:
        file = msgspec.json.decode(data, type=_IdentityFile)
        if file.version != IDENTITY_VERSION:
            raise ValueError("unknown version")
        return SecretKey(bytes.fromhex(file.secret_key_hex)), "loaded"
    except (ValueError, msgspec.MsgspecError):
        raise IdentityCorrupt(
            f"{IDENTITY_FILE} is damaged; restore it from a backup, or move it away to become a new endpoint"
        ) from None  # the cause's text might quote the secret


def choose(seed: bytes | None, profile: Profile | None) -> tuple[SecretKey, Origin]:
    """Take the host's key, else the profile's, else one for this run. Blocks on the disk with a profile.

    Nothing is written for the host's key: it has its own keychain.
    """
    if seed is not None:
        return SecretKey(seed), "host"
    if profile is None:
        return SecretKey(os.urandom(SEED_BYTES)), "ephemeral"
    return from_profile(profile)
