"""How sidecars recognise each other where a plain Rust node sees nothing: bytes behind messages it ignores.

    e1 53 43   magic
    01         version
    n          flags, little-endian, as many bytes as there are

They stand behind the addresses in peer data, carried by everybody, and behind an empty IHave between
neighbours. Both are no-ops for iroh-gossip, verified live (gossip-wire.md section 1).
"""

from __future__ import annotations

from enum import IntFlag

from kukuri_sidecar.wire.gossip_messages import IHave, encode

MAX_BYTES = 32  # what every node has to carry for us
_MAGIC = b"\xe1SC"
_VERSION = 1


class Capability(IntFlag):
    """What a sidecar understands beyond iroh-gossip."""

    ENVELOPES = 1  # verifies signed envelopes v1
    CONTROL = 2  # reads what stands behind an empty IHave


OURS = Capability.ENVELOPES | Capability.CONTROL


def encode_capabilities(capabilities: Capability) -> bytes:
    """Return the bytes to stand behind peer data or an empty IHave."""
    flags = int(capabilities)
    return _MAGIC + bytes([_VERSION]) + flags.to_bytes(max(1, (flags.bit_length() + 7) // 8), "little")


def decode_capabilities(trailer: bytes) -> Capability | None:
    """Read them; None when the bytes are not ours. Flags and versions of the future are tolerated."""
    if len(trailer) <= len(_MAGIC) + 1 or len(trailer) > MAX_BYTES or not trailer.startswith(_MAGIC):
        return None
    return Capability(int.from_bytes(trailer[len(_MAGIC) + 1 :], "little") & int(OURS))


def control_body(capabilities: Capability) -> bytes:
    """Return a message body that says hello to a sidecar and nothing to anybody else."""
    return encode(IHave(())) + encode_capabilities(capabilities)
