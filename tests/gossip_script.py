"""Short words for scripts of gossip state machines: peers from integers, effects by receiver."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from blake3 import blake3

from kukuri_sidecar.proto.gossip.events import GossipEffect, Send
from kukuri_sidecar.wire.gossip_messages import GossipMessage
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId

E = TypeVar("E")

TOPIC = TopicId(bytes(32))
OTHER_TOPIC = TopicId(bytes(31) + b"\x01")


def peer_id(number: int) -> EndpointId:
    """Return the id of peer ``number``; no valid key, which the core never asks."""
    return EndpointId(number.to_bytes(32, "big"))


def peers(numbers: Iterable[int]) -> tuple[EndpointId, ...]:
    """Return several ids."""
    return tuple(peer_id(number) for number in numbers)


def digest(content: bytes) -> bytes:
    """Return what a content's id must be."""
    return blake3(content).digest()


def message_id(content: bytes) -> MessageId:
    """Return the id that names ``content`` on the wire."""
    return MessageId(digest(content))


def sent_to(effects: Iterable[GossipEffect], number: int) -> list[GossipMessage]:
    """Return the messages to one peer, in order."""
    return [e.message for e in effects if isinstance(e, Send) and peer_id(number) in e.to]


def of_type(effects: Iterable[GossipEffect], kind: type[E]) -> list[E]:
    """Return the effects of one type, in order. Tuples of one shape are equal, so types must be asked."""
    return [effect for effect in effects if isinstance(effect, kind)]
