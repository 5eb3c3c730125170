"""BLAKE3 and SHA-512 as names: of gossip messages and of topics."""

from __future__ import annotations

import hashlib
from typing import Literal, assert_never

from blake3 import blake3  # 1 ms to import (measured): no reason to be lazy

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.ids import ID_BYTES, MessageId, TopicId

TopicDerivation = Literal["blake3", "kukuri_hint", "sha512"]

MAX_TOPIC_NAME_BYTES = 256  # api.md 4.6


def message_id(content: bytes) -> MessageId:
    """Return the id of a gossip message: BLAKE3-256 of its content and nothing else.

    Source: iroh-gossip v0.101.0 src/proto/plumtree.rs:35.
    """
    return MessageId(blake3(content).digest())


def tracker_message_hash(content: bytes) -> bytes:
    """Return how distributed-topic-tracker names a gossip message: SHA-512(content)[:32].

    Source: distributed-topic-tracker 0.3.5 src/gossip/receiver.rs.
    """
    return hashlib.sha512(content).digest()[:ID_BYTES]


def derive_topic_id(name: str, derive: TopicDerivation) -> TopicId:
    """Turn a topic's name into its id. DecodeError("topic") unless the name is 1-256 bytes of UTF-8.

    ``blake3``: BLAKE3(name). ``kukuri_hint``: BLAKE3("hint/" + name). ``sha512``: the first 32 bytes of
    SHA-512(name), as distributed-topic-tracker does. Source: api.md 4.6.
    """
    try:
        raw = name.encode()
    except UnicodeEncodeError as error:
        raise DecodeError("topic", error.start, "a lone surrogate has no UTF-8 form") from None
    if not 1 <= len(raw) <= MAX_TOPIC_NAME_BYTES:
        raise DecodeError(
            "topic", len(raw), f"1-{MAX_TOPIC_NAME_BYTES} bytes of UTF-8 expected, {len(raw)} given"
        )
    match derive:
        case "blake3":
            return TopicId(blake3(raw).digest())
        case "kukuri_hint":
            return TopicId(blake3(b"hint/" + raw).digest())
        case "sha512":
            return TopicId(hashlib.sha512(raw).digest()[:ID_BYTES])
        case _:
            assert_never(derive)
