"""Signed envelope v1: who wrote a gossip payload, when and in which order. Carried as a message's content.

    off  size
      0     4  magic f5 53 47 31; f5 never starts UTF-8, so text and JSON cannot collide
      4     1  flags: bit 0 sealed payload, bit 1 fragment header, bit 2 author key is not the node key
      5    32  author
     37     6  the author's clock, Unix ms
     43     4  session, random per process start
     47     4  seq per (author, topic, session), from 1
     51     n  payload
     51+n  64  Ed25519 over "iroh-sidecar/gossip-envelope/1" 00, the topic id and everything before

Integers are big-endian. The topic is signed but not carried, so an envelope cannot be moved to another one.
Time and replay windows are the receiver's business. Source: gossip-wire.md section 6.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kukuri_sidecar.errors import DecodeError, LocalProtocolError
from kukuri_sidecar.wire.ids import EndpointId, TopicId
from kukuri_sidecar.wire.keys import SIGNATURE_BYTES, SecretKey, verify

OVERHEAD_BYTES = 115  # header and signature; the largest payload is 3,942 bytes in the default frame
FLAG_SEALED = 0x01
FLAG_FRAGMENT = 0x02
FLAG_FOREIGN_AUTHOR = 0x04

_MAGIC = b"\xf5SG1"
_CONTEXT = b"iroh-sidecar/gossip-envelope/1\x00"
_KNOWN_FLAGS = FLAG_SEALED | FLAG_FRAGMENT | FLAG_FOREIGN_AUTHOR
_HEADER = struct.Struct(">4sB32sHIII")  # the clock is 2 + 4 bytes


class Envelope(NamedTuple):
    """A parsed envelope. Nothing is proven before ``verify_envelope``."""

    flags: int
    author: EndpointId
    ts_ms: int
    session: int
    seq: int
    payload: bytes
    signed: bytes
    """Everything before the signature."""
    signature: bytes


def seal(
    secret: SecretKey,
    topic_id: TopicId,
    payload: bytes,
    *,
    ts_ms: int,
    session: int,
    seq: int,
    flags: int = 0,
) -> bytes:
    """Return the content to publish in ``topic_id``: ``payload`` and 115 bytes around it.

    ``ts_ms`` is Unix time below 2^48, ``session`` and ``seq`` are u32; LocalProtocolError otherwise.
    """
    if flags & ~_KNOWN_FLAGS or ts_ms >> 48 or session >> 32 or seq >> 32:
        raise LocalProtocolError(f"envelope fields out of range: {flags=} {ts_ms=} {session=} {seq=}")
    header = _HEADER.pack(_MAGIC, flags, secret.endpoint_id, ts_ms >> 32, ts_ms & 0xFFFFFFFF, session, seq)
    signed = header + payload
    return signed + secret.sign(_CONTEXT + topic_id + signed)


def parse_envelope(content: bytes) -> Envelope | None:
    """Take a message's content apart; None when it is no envelope but a plain message. Costs no cryptography.

    Raises DecodeError("envelope") when it claims to be one but has flags of another version: neither
    deliver nor forward that.
    """
    if len(content) < OVERHEAD_BYTES or not content.startswith(_MAGIC):
        return None
    _, flags, author, ts_high, ts_low, session, seq = _HEADER.unpack_from(content)
    if flags & ~_KNOWN_FLAGS:
        raise DecodeError("envelope", len(_MAGIC), f"unknown flags {flags:#04x}")
    signed = content[:-SIGNATURE_BYTES]
    return Envelope(
        flags=flags,
        author=EndpointId(author),
        ts_ms=ts_high << 32 | ts_low,
        session=session,
        seq=seq,
        payload=signed[_HEADER.size :],
        signed=signed,
        signature=content[-SIGNATURE_BYTES:],
    )


def verify_envelope(envelope: Envelope, topic_id: TopicId) -> bool:
    """Say whether the author signed this for ``topic_id``. Costs 55 us: ask after dedup and rate limits."""
    return verify(envelope.author, _CONTEXT + topic_id + envelope.signed, envelope.signature)
