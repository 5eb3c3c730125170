"""What the node tells its owner: one frozen value per event of api.md section 5, without JSON.

Every event is emitted by a test and every emitted event is declared here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId


class Online(StrEnum):
    """How far our packets are known to get."""

    OFFLINE = "offline"
    LOCAL_ONLY = "local_only"
    ONLINE = "online"


class TopicState(StrEnum):
    """Life of a joined topic."""

    JOINING = "joining"  # the first attempt is under way
    JOINED = "joined"  # at least one neighbour
    ISOLATED = "isolated"  # no neighbour; attempts go on
    LEFT = "left"


class PeerState(StrEnum):
    """``connected`` means an authenticated live QUIC connection, nothing else."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Who and where we are; the data of ``node.info`` and ``node.changed``.

    ``addresses`` pairs each address with its source: ``interface`` or ``advertised`` for now.
    """

    endpoint_id: EndpointId
    online: Online
    bound: tuple[SocketAddr, ...]
    addresses: tuple[tuple[SocketAddr, str], ...]
    relay_url: str | None
    nat: str
    alpns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """Addresses or the online verdict changed (debounced 500 ms)."""

    info: NodeInfo


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """A peer's connection state or path changed. ``reason`` is an error kind or a close reason."""

    endpoint_id: EndpointId
    state: PeerState
    path: str | None
    rtt_ms: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class CandidateFound:
    """Rendezvous found an address where a member of the topic should be, or the id of one: never both."""

    topic_id: TopicId
    address: SocketAddr | None = None  # who is there, the handshake tells
    endpoint_id: EndpointId | None = None  # where it is, the address book or nobody knows


@dataclass(frozen=True, slots=True)
class EndpointFound:
    """A source told where an endpoint is; ``request_id`` is the host's request that asked for it."""

    endpoint_id: EndpointId
    source: str
    addresses: tuple[SocketAddr, ...]
    relay_urls: tuple[str, ...]
    request_id: str | int | None


@dataclass(frozen=True, slots=True)
class RecordPublished:
    """Our record was published in a sink, or not. ``error`` is an error kind, ``next_at_ms`` Unix time."""

    sink: str
    ok: bool
    error: str | None
    next_at_ms: int | None


@dataclass(frozen=True, slots=True)
class TopicChanged:
    """A topic changed its state. ``next_attempt_at_ms`` is Unix time."""

    topic_id: TopicId
    state: TopicState
    neighbors: int
    next_attempt_at_ms: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class NeighborUp:
    """A peer became our gossip neighbour in the topic."""

    topic_id: TopicId
    endpoint_id: EndpointId


@dataclass(frozen=True, slots=True)
class NeighborDown:
    """A peer is no longer our neighbour. ``reason``: evicted, left, evicted_us, connection_lost, local."""

    topic_id: TopicId
    endpoint_id: EndpointId
    reason: str


@dataclass(frozen=True, slots=True)
class TopicMessage:
    """A message, once. ``round`` is the hop count it arrived with, None for scope ``neighbors``.

    ``author`` is who provably wrote it, None when nobody signed it; ``delivered_from`` is only the last hop.
    """

    topic_id: TopicId
    message_id: MessageId
    payload: bytes
    delivered_from: EndpointId
    round: int | None
    author: EndpointId | None = None
    author_seq: int | None = None


@dataclass(frozen=True, slots=True)
class TopicInvalid:
    """Messages of the topic were refused: ``count`` so far, this one for ``reason``."""

    topic_id: TopicId
    count: int
    reason: str
    delivered_from: EndpointId


@dataclass(frozen=True, slots=True)
class TopicPublished:
    """Fate of a message published with ``confirm`` or from the queue: acked, expired or failed."""

    topic_id: TopicId
    message_id: MessageId
    state: str
    acked_by: int


NodeEvent = (
    CandidateFound
    | EndpointFound
    | RecordPublished
    | NodeChanged
    | PeerChanged
    | TopicChanged
    | NeighborUp
    | NeighborDown
    | TopicMessage
    | TopicInvalid
    | TopicPublished
)

Emit = Callable[[NodeEvent], None]
"""Takes an event at once, on the loop's thread, and never blocks."""
