"""What goes into a DHT core and what comes out: the two unions are its API.

Every look-up has an id that its owner chose; effects of it carry that id, and exactly one ``LookupFinished``
ends it. Cancel one early with ``Cancel``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType, TypeAlias

from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.bencode import Encoded
from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.ids import DhtNodeId, EndpointId, Target
from kukuri_sidecar.wire.mutable_item import MutableItem

LookupId = NewType("LookupId", int)
"""Chosen by whoever starts a look-up; not negative, unique among those that run."""


class Policy(Enum):
    """When a look-up that reads has found enough."""

    FIRST = "first"
    """At the first genuine item, or the first answer with peers."""
    COMPLETE = "complete"
    """When the closest nodes have answered: the newest item of all, all peers."""


class Ending(Enum):
    """Why a look-up is over."""

    COMPLETE = "complete"
    FIRST = "first"
    NO_NODES = "no_nodes"
    """Nobody answered: offline, or no bootstrap node is reachable."""
    CANCELLED = "cancelled"
    BUSY = "busy"
    """It never started: too many run already."""


class WriteOutcome(Enum):
    """What became of a put or an announce."""

    STORED = "stored"
    CONFLICT = "conflict"
    """Another item is there than ``cas`` said, or another value with the same seq: read again, then write."""
    NOT_MOST_RECENT = "not_most_recent"
    """A newer item is there."""
    FAILED = "failed"


# --- inputs --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Datagram:
    """A KRPC datagram arrived."""

    sender: SocketAddr
    data: bytes


@dataclass(frozen=True, slots=True)
class GetMutable:
    """Find the item of a key: ``ItemFound`` for each genuine one that is newer than all before it."""

    lookup: LookupId
    public_key: EndpointId
    salt: bytes = b""
    policy: Policy = Policy.COMPLETE
    newer_than: int | None = None
    """The seq that is known already: only greater ones are reported and sent to us."""


@dataclass(frozen=True, slots=True)
class GetImmutable:
    """Find a value by its hash; ends with the first ``ValueFound``, for there is only one."""

    lookup: LookupId
    target: Target


@dataclass(frozen=True, slots=True)
class PutMutable:
    """Store a signed item at the closest nodes.

    With ``cas``, nodes that keep an item take the new one only if theirs has this seq. A newer item that
    turns up on the way is an ``ItemFound``.
    """

    lookup: LookupId
    item: MutableItem
    cas: int | None = None


@dataclass(frozen=True, slots=True)
class PutImmutable:
    """Store a value at the nodes closest to its hash."""

    lookup: LookupId
    value: Encoded


@dataclass(frozen=True, slots=True)
class GetPeers:
    """Find who announced an infohash: ``PeersFound`` for each answer with peers that are new."""

    lookup: LookupId
    info_hash: Target
    policy: Policy = Policy.COMPLETE


@dataclass(frozen=True, slots=True)
class AnnouncePeer:
    """Tell the closest nodes that we take part in an infohash; peers that turn up are ``PeersFound``.

    With ``implied_port`` they take the port that our datagrams come from, which is what a peer can dial when
    the socket is shared with QUIC; ``port`` (our local one) is for nodes that do not know the flag.
    """

    lookup: LookupId
    info_hash: Target
    port: int
    implied_port: bool = True


@dataclass(frozen=True, slots=True)
class FindNode:
    """Meet the nodes closest to a target; ``LookupFinished.report.closest`` lists them."""

    lookup: LookupId
    target: Target


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a look-up. Answers on their way still teach the routing table. Unknown ids are ignored."""

    lookup: LookupId


@dataclass(frozen=True, slots=True)
class AddNodes:
    """Addresses worth a question: resolved bootstrap hosts, or what the other family's core heard of."""

    addrs: tuple[SocketAddr, ...]
    are_bootstrap: bool = False
    """They replace the bootstrap list: asked again whenever nobody else is left."""


@dataclass(frozen=True, slots=True)
class PublicAddressSeen:
    """Another protocol knows our public address for certain; the vote is settled."""

    addr: SocketAddr


@dataclass(frozen=True, slots=True)
class NetworkChanged:
    """Interfaces or addresses changed: what was learnt about the old network is void."""


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """Take another configuration at once; what is stored or under way stays, as far as new bounds allow."""

    config: DhtConfig


Command: TypeAlias = (
    GetMutable | GetImmutable | PutMutable | PutImmutable | GetPeers | AnnouncePeer | FindNode
)
"""Starts a look-up."""

Control: TypeAlias = Cancel | AddNodes | PublicAddressSeen | NetworkChanged | Reconfigure

DhtInput: TypeAlias = Datagram | Command | Control


# --- effects -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send this; a datagram that cannot be sent is a lost one."""

    to: SocketAddr
    data: bytes


@dataclass(frozen=True, slots=True)
class ItemFound:
    """A genuine item, newer than any that this look-up has reported."""

    lookup: LookupId
    item: MutableItem
    sender: SocketAddr


@dataclass(frozen=True, slots=True)
class ValueFound:
    """The value whose hash was asked for."""

    lookup: LookupId
    value: Encoded
    sender: SocketAddr


@dataclass(frozen=True, slots=True)
class PeersFound:
    """Peers that this look-up has not reported yet. Anyone may have announced any address."""

    lookup: LookupId
    peers: tuple[SocketAddr, ...]
    sender: SocketAddr


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What the nodes that were to store said."""

    stored: int
    conflicts: int
    """CAS mismatches and other values with the same seq (301, 302)."""
    not_most_recent: int
    refused: int
    """Other errors."""
    unanswered: int

    @property
    def outcome(self) -> WriteOutcome:
        """The majority's verdict; nodes that say nothing have no vote."""
        if self.stored > self.conflicts + self.not_most_recent:
            return WriteOutcome.STORED
        if self.conflicts or self.not_most_recent:
            newer = self.not_most_recent > self.conflicts
            return WriteOutcome.NOT_MOST_RECENT if newer else WriteOutcome.CONFLICT
        return WriteOutcome.FAILED


@dataclass(frozen=True, slots=True)
class LookupReport:
    """How a look-up went."""

    target: Target
    ending: Ending
    questions: int
    answers: int
    took_s: float
    first_s: float | None
    """When the first item or peer was there."""
    first_depth: int | None
    """How many answers led to it."""
    closest: tuple[NodeInfo, ...]
    """Nodes that answered, closest first; after a write those that stored."""
    write: WriteReport | None = None


@dataclass(frozen=True, slots=True)
class LookupFinished:
    """The look-up is over; its id is free again."""

    lookup: LookupId
    report: LookupReport


@dataclass(frozen=True, slots=True)
class PublicAddressVoted:
    """Three networks and a majority agree on how they see us; ``port`` is None where they differ on it."""

    host: str
    port: int | None


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """Whether we serve others now."""

    is_serving: bool


@dataclass(frozen=True, slots=True)
class NodeIdChanged:
    """Our id follows our public address (BEP 42)."""

    node_id: DhtNodeId


@dataclass(frozen=True, slots=True)
class BootstrapWanted:
    """Nobody is left to ask: resolve the bootstrap hosts and give them in with ``AddNodes``."""


@dataclass(frozen=True, slots=True)
class OtherFamilyHeard:
    """Nodes of the other address family, for that family's core: ``AddNodes``."""

    addrs: tuple[SocketAddr, ...]


Notice: TypeAlias = (
    ItemFound
    | ValueFound
    | PeersFound
    | LookupFinished
    | PublicAddressVoted
    | ModeChanged
    | NodeIdChanged
    | BootstrapWanted
    | OtherFamilyHeard
)
"""Everything that is not a datagram."""

DhtEffect: TypeAlias = SendDatagram | Notice
