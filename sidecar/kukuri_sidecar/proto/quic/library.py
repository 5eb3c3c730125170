"""What we rely on inside aioquic, in one place: the review list for every new release.

``changed_sources`` compares the functions we override (or whose effects we lean on) with the release that was
reviewed. Tests run it; the import does not: it costs 12 ms, and a frozen program carries no sources.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic.quic import connection, recovery, stream

# Overridden in bounded.py and rpk.py; the comment names what the override changes.
_OVERRIDDEN: dict[str, str] = {
    "QuicConnection._initialize": "6a41681e541c05d7",  # rpk: raw keys instead of X.509
    "QuicConnection._alpn_handler": "11a969d2855d2446",  # rpk: refuse a peer without extensions 19 and 20
    "QuicConnection._handle_ack_frame": "a9cf2707aa0f99a5",  # bounded: notices that acknowledgements arrived
    "QuicConnection._handle_crypto_frame": "e77f8695d9acaf8e",  # bounded: 64 KiB per epoch
    "QuicConnection._handle_stream_frame": "8c79348a854e307d",  # bounded: 256 ranges
    "QuicConnection._replenish_connection_ids": "73b127efb89c53a3",  # bounded: reset tokens outlive us
    "QuicConnection._write_connection_limits": "02c42c5455ae1a31",  # bounded: credit follows consumption
    "QuicConnection._write_stream_limits": "398d4a898f7c580f",  # bounded: the same per stream
    "Context._set_peer_certificate": "beec9ba2af2e1e68",  # rpk
    "Context._client_handle_certificate": "01c4c79fe49cc12c",  # rpk
    "Context._server_handle_certificate": "8300245453e1b8ee",  # rpk
}

# Not overridden, but their inside is part of a bound or of a decision of ours.
_RELIED_ON: dict[str, str] = {
    "QuicConnection.close": "f24ea1b2912e68d7",
    "QuicConnection.datagrams_to_send": "f4eb22c8add260fe",
    "QuicConnection.get_timer": "07184a05f894e968",
    "QuicConnection.handle_timer": "8ebd76a179bf5e25",
    "QuicConnection._close_begin": "d8cdcfd4513906bf",
    "QuicConnection._close_end": "7e32d95840a68634",
    "QuicConnection._get_or_create_stream": "aee09c84cd0da114",
    "QuicConnection._handle_handshake_done_frame": "80c83b88c87d116c",
    "QuicConnection._serialize_transport_parameters": "be651f3ddfcd3f39",
    "QuicPacketRecovery.on_packet_sent": "a83baa6e05702f89",
    "QuicStreamReceiver.handle_frame": "c54bce9f11e6f2de",
    "QuicStreamReceiver.handle_reset": "3a2b7a53512a95cc",
    "QuicStreamSender.on_data_delivery": "675e1c2812ea3744",
    "QuicStreamSender.reset": "76d86e366e8e0ef7",
    "QuicStreamSender.write": "77d188425093015b",
    "Context._check_certificate_verify_signature": "68c355898f7e639f",
    "Context._client_handle_finished": "4b7a3ac83d777857",
    "Context.handle_message": "6a388255ca3f2fca",
}

REVIEWED = _OVERRIDDEN | _RELIED_ON

_CLASSES: tuple[type, ...] = (
    connection.QuicConnection,
    recovery.QuicPacketRecovery,
    stream.QuicStreamReceiver,
    stream.QuicStreamSender,
    tls.Context,
)


def source_digest(name: str) -> str:
    """Return 16 hex digits of the SHA-256 of ``Class.function``'s source; OSError in a frozen program."""
    import inspect  # 10 ms, and only tests come here

    class_name, function_name = name.split(".")
    owner = next(c for c in _CLASSES if c.__name__ == class_name)
    function: Callable[..., Any] = getattr(owner, function_name)  # Any: aioquic's own signature, not ours
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


def changed_sources() -> list[str]:
    """Return the reviewed functions whose source is not the reviewed one; empty is good."""
    return [name for name, digest in REVIEWED.items() if source_digest(name) != digest]


def silence_library_log() -> None:
    """Switch off aioquic's logger: it writes several lines per packet, some with text that a peer chose.

    Cores are observed through effects (architecture.md section 12), so nothing is lost.
    """
    logging.getLogger("quic").disabled = True
