"""Who we are: the Ed25519 key from the host, from the profile, or fresh for this run only."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from typing import Literal, TypeVar

import msgspec

from kukuri_sidecar.errors import IdentityCorrupt
from kukuri_sidecar.node.profile import Profile
from kukuri_sidecar.wire.keys import SecretKey

IDENTITY_FILE = "identity.json"
IDENTITY_VERSION = 1
SEED_BYTES = 32

Origin = Literal["loaded", "created", "host", "ephemeral"]

_FileT = TypeVar("_FileT", bound=msgspec.Struct)


class _IdentityFile(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    secret_key_hex: str

    def __repr__(self) -> str:
        return f"_IdentityFile(version={self.version})"  # tracebacks with locals never show the secret


class _AnyVersion(msgspec.Struct):
    version: int


def from_profile(profile: Profile) -> tuple[SecretKey, Origin]:
    """Load the profile's key, or create it on the first start. Blocks on the disk: call it in a thread.

    Raises IdentityCorrupt, and never replaces a file that is there: a silent new key would be a new person.
    """
    found = profile.read_with_status(IDENTITY_FILE)
    if found is None:
        secret = SecretKey(os.urandom(SEED_BYTES))
        file = _IdentityFile(version=IDENTITY_VERSION, secret_key_hex=secret.seed.hex())
        profile.write(IDENTITY_FILE, msgspec.json.encode(file) + b"\n")
        return secret, "created"
    data, status = found
    if sys.platform != "win32" and (status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077):
        raise IdentityCorrupt(f"{IDENTITY_FILE} must belong to us and be closed to others (mode 0600)")
    loaded = _decode(data, _IdentityFile)
    if loaded is not None and loaded.version == IDENTITY_VERSION:
        with suppress(ValueError):
            return SecretKey(bytes.fromhex(loaded.secret_key_hex)), "loaded"
    # No exception is under way here: its text, or a traceback's locals, might quote the secret.
    any_version = _decode(data, _AnyVersion)
    if any_version is not None and any_version.version != IDENTITY_VERSION:
        raise IdentityCorrupt(f"{IDENTITY_FILE} has version {any_version.version}; this release reads only 1")
    raise IdentityCorrupt(
        f"{IDENTITY_FILE} is damaged; restore it from a backup, or move it away to become a new endpoint"
    )


def _decode(data: bytes, type_: type[_FileT]) -> _FileT | None:
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def choose(seed: bytes | None, profile: Profile | None) -> tuple[SecretKey, Origin]:
    """Take the host's key, else the profile's, else one for this run. Blocks on the disk with a profile.

    Nothing is written for the host's key: it has its own keychain.
    """
    if seed is not None:
        return SecretKey(seed), "host"
    if profile is None:
        return SecretKey(os.urandom(SEED_BYTES)), "ephemeral"
    return from_profile(profile)
