"""Messages of ``/iroh-gossip/1``. Only the values so far; the codec comes with branch ``wire``.

Messages are tuples for speed, so ``==`` does not see the class. Match on types.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeAlias

from kukuri_sidecar.wire.ids import EndpointId, MessageId


class Priority(IntEnum):
    """How much a peer wants to be our neighbor (HyParView p. 5)."""

    HIGH = 0
    LOW = 1


class PeerInfo(NamedTuple):
    """A peer and its peer data, None when unknown."""

    endpoint_id: EndpointId
    data: bytes | None


class Join(NamedTuple):
    """Let me into the topic; ``data`` is the sender's peer data."""

    data: bytes | None


class ForwardJoin(NamedTuple):
    """``peer`` wants in; passed on until ``ttl`` is 0."""

    peer: PeerInfo
    ttl: int


class Shuffle(NamedTuple):
    """A sample of ``origin``'s views on a random walk of ``ttl`` hops."""

    origin: EndpointId
    nodes: tuple[PeerInfo, ...]
    ttl: int


class ShuffleReply(NamedTuple):
    """A sample of the sender's views, straight to the origin of a Shuffle."""

    nodes: tuple[PeerInfo, ...]


class Neighbor(NamedTuple):
    """Be my neighbor; or the answer yes."""

    priority: Priority
    data: bytes | None


class Disconnect(NamedTuple):
    """No longer your neighbor; ``alive`` says that the sender stays in the topic."""

    alive: bool
    respond: bool = False


class Gossip(NamedTuple):
    """A payload; ``id`` is what the sender claims. ``round`` counts hops, None means scope *neighbors*."""

    id: MessageId
    content: bytes
    round: int | None


class Prune(NamedTuple):
    """I had that already: send me announcements only."""


class Graft(NamedTuple):
    """Send me payloads, and the one called ``id`` now if it is not None."""

    id: MessageId | None
    round: int


class IHave(NamedTuple):
    """Announcement of payloads as (id, round) pairs."""

    items: tuple[tuple[MessageId, int], ...]


GossipMessage: TypeAlias = (
    Join | ForwardJoin | Shuffle | ShuffleReply | Neighbor | Disconnect | Gossip | Prune | Graft | IHave
)
