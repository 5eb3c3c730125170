"""What goes into and comes out of the gossip core: frozen values, the whole vocabulary.

``Received``, ``Send`` and ``Delivered`` are tuples because they are made once per message (0.23 µs against
0.41 µs for a frozen dataclass, measured). Tuples compare equal whatever their class: match on types.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from kukuri_sidecar.wire.gossip_messages import GossipMessage
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId


class DownReason(StrEnum):
    """Why a peer stopped being our neighbor; the words of the API's ``topic.neighbor_down``."""

    EVICTED = "evicted"  # we needed its slot, or the application blocked it
    LEFT = "left"  # it left the topic
    EVICTED_US = "evicted_us"  # it needed our slot
    CONNECTION_LOST = "connection_lost"
    LOCAL = "local"  # we left the topic


# --- in --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JoinTopic:
    """Enter a topic, or ask more peers in a joined one. Nothing is retried: join again to try again.

    ``max_message_bytes`` must be the same in the whole swarm; it counts when the topic is entered only.
    """

    topic_id: TopicId
    bootstrap: tuple[EndpointId, ...] = ()
    max_message_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class QuitTopic:
    """Tell the neighbors and forget the topic; no effect when it is not joined."""

    topic_id: TopicId


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Publish in a joined topic. ``message_id`` is the BLAKE3-256 of ``content``.

    The caller checks ``GossipConfig.max_content_bytes`` before. With ``neighbors_only`` the message takes one
    hop and is not repeated. Publishing an id again within the seen time only announces it to the neighbors.
    """

    topic_id: TopicId
    content: bytes
    message_id: MessageId
    neighbors_only: bool = False


class Received(NamedTuple):
    """A decoded message. ``peer`` is the authenticated sender; ids inside are valid Ed25519 points."""

    peer: EndpointId
    topic_id: TopicId
    message: GossipMessage


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """The last connection to ``peer`` is gone, or the dial that a Send asked for failed."""

    peer: EndpointId


@dataclass(frozen=True, slots=True)
class SetOwnData:
    """Our encoded addresses, at most ``MembershipConfig.max_own_data_bytes``; sent with the next request."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SetPinned:
    """These peers, and no others, are never evicted to make room."""

    peers: tuple[EndpointId, ...]


@dataclass(frozen=True, slots=True)
class SetBlocked:
    """These peers, and no others, are refused: dropped as neighbors, never chosen, never heard."""

    peers: tuple[EndpointId, ...]


@dataclass(frozen=True, slots=True)
class PeersDiscovered:
    """Members of the topic that discovery knows: candidates for the partition probe, not joined at once."""

    topic_id: TopicId
    peers: tuple[EndpointId, ...]


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """Our addresses changed or we woke up: look for lost parts of every topic soon."""


LocalInput: TypeAlias = (
    JoinTopic
    | QuitTopic
    | Broadcast
    | PeerDisconnected
    | SetOwnData
    | SetPinned
    | SetBlocked
    | PeersDiscovered
    | NetworkChanged
)
GossipInput: TypeAlias = Received | LocalInput


# --- out -------------------------------------------------------------------------------------------------


class Send(NamedTuple):
    """Send one message to each of ``to``, dialling where needed. Order per peer and topic counts."""

    to: tuple[EndpointId, ...]
    topic_id: TopicId
    message: GossipMessage


@dataclass(frozen=True, slots=True)
class DropPeer:
    """``topic_id`` no longer needs ``peer``: finish our stream of this topic, keep the connection."""

    peer: EndpointId
    topic_id: TopicId


@dataclass(frozen=True, slots=True)
class ClosePeer:
    """No topic needs ``peer`` any more: close the connection once everything sent is acknowledged."""

    peer: EndpointId


@dataclass(frozen=True, slots=True)
class NeighborUp:
    """``peer`` is our neighbor now."""

    topic_id: TopicId
    peer: EndpointId


@dataclass(frozen=True, slots=True)
class NeighborDown:
    """``peer`` is no longer our neighbor."""

    topic_id: TopicId
    peer: EndpointId
    reason: DownReason


class Delivered(NamedTuple):
    """A message for the application, once. ``round``: the hops it took, None for scope *neighbors*."""

    topic_id: TopicId
    message_id: MessageId
    content: bytes
    delivered_from: EndpointId
    round: int | None


@dataclass(frozen=True, slots=True)
class PeerDataLearned:
    """A member passed on ``data`` (encoded addresses) of ``peer``: unverified, new or changed, not empty."""

    peer: EndpointId
    data: bytes


GossipEffect: TypeAlias = (
    Send | DropPeer | ClosePeer | NeighborUp | NeighborDown | Delivered | PeerDataLearned
)
