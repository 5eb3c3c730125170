"""Drives the gossip core: frames of all links in, frames to links out, connections asked for and let go.

Knows nothing of hosts, payload formats or join policy; its owner hears of neighbours and deliveries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

import anyio

from kukuri_sidecar.errors import DecodeError, SidecarError
from kukuri_sidecar.net.quic import Connection, ConnectionLost
from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.node.config import Config
from kukuri_sidecar.node.gossip_link import CLOSE_GOODBYE, GossipLink
from kukuri_sidecar.node.intake import Intake
from kukuri_sidecar.node.links import Links
from kukuri_sidecar.node.peers import Peers
from kukuri_sidecar.node.publishing import Receipt
from kukuri_sidecar.proto.gossip.events import (
    ClosePeer,
    Delivered,
    DropPeer,
    GossipEffect,
    GossipInput,
    NeighborDown,
    NeighborUp,
    PeerDataLearned,
    PeerDisconnected,
    Received,
    Send,
)
from kukuri_sidecar.proto.gossip.state import GossipCore
from kukuri_sidecar.wire.addr import HostPort, PeerHint
from kukuri_sidecar.wire.capabilities import OURS, control_body, decode_capabilities
from kukuri_sidecar.wire.gossip_messages import (
    Disconnect,
    ForwardJoin,
    Gossip,
    GossipMessage,
    IHave,
    PeerInfo,
    Shuffle,
    ShuffleReply,
    decode,
    decode_with_trailer,
    encode,
    frame,
)
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId
from kukuri_sidecar.wire.keys import is_valid_endpoint_id
from kukuri_sidecar.wire.peer_data import decode_peer_data

FINISH_TIMEOUT_S = 5.0  # as upstream waits for the acknowledgement of its last streams
MUTE_TIMEOUT_S = 2.0  # rule 3 of gossip-wire.md section 1
SLOW_TIMEOUT_S = 30.0  # a peer that reads nothing for so long is closed (trust.md M3)
MAX_NODES_PER_MESSAGE = 16  # upstream sends 8 in a Shuffle
MAX_WAITING_FRAMES = 64  # per peer that is being dialled (upstream: 64 per connection)
MAX_WAITING_BYTES = 512 * 1024  # the same, in bytes


class SwarmOwner(Protocol):
    """What the swarm tells the topics service; called on the loop."""

    def neighbor_up(self, topic_id: TopicId, peer: EndpointId) -> None:
        """A peer became our neighbour."""

    def neighbor_down(self, topic_id: TopicId, peer: EndpointId, reason: str) -> None:
        """A peer is our neighbour no more."""

    def delivered(self, message: Delivered) -> None:
        """A message arrived, once."""

    def linked(self, peer: EndpointId) -> None:
        """A connection to the peer is ready."""

    def unreachable(self, peer: EndpointId, error: SidecarError) -> None:
        """A dial failed."""

    def max_message_bytes(self, topic_id: TopicId) -> int | None:
        """Return the frame limit of a joined topic, None of any other."""

    def receipts(self, topic_id: TopicId, message_id: MessageId) -> Sequence[Receipt]:
        """Return what counts the acknowledgements of a message."""


@dataclass
class Counters:
    """Plain facts for ``metrics.get``; they only grow."""

    frames_in: int = 0
    frames_out: int = 0
    undecodable: int = 0  # frames that were no message
    invalid_ids: int = 0  # entries of membership messages that are no Ed25519 points
    slowed: int = 0  # times that a peer's credit was held back because it was too fast
    oversize: int = 0  # relays that no longer fitted a frame
    undelivered: int = 0  # frames dropped because their peer could not be dialled or did not read


@dataclass(frozen=True, slots=True)
class _Frame:
    topic_id: TopicId
    data: bytes
    is_payload: bool
    is_last: bool
    receipts: tuple[Receipt, ...] = ()


class Swarm:
    """The gossip core with its links. Not re-entrant: effects that cause events queue them."""

    def __init__(
        self, core: GossipCore, peers: Peers, agenda: Agenda, owner: SwarmOwner, config: Config
    ) -> None:
        self.counters = Counters()
        self._core = core
        self._peers = peers
        self._agenda = agenda
        self._owner = owner
        self._default_max_bytes = config.gossip.max_message_bytes
        self._limits = config.limits
        self._announces = config.gossip.announce_capabilities
        self._links = Links(peers.own_id)
        self._dirty: dict[GossipLink, None] = {}
        self._waiting: dict[EndpointId, list[_Frame]] = {}
        self._inbox: deque[GossipInput] = deque()
        self._is_pumping = False
        self._armed = inf
        self._progress = anyio.Event()  # acknowledgements arrived or a link went

    # --- the owner's side ------------------------------------------------------------------------------

    def handle(self, event: GossipInput) -> None:
        """Feed one event; if a pump is under way it will come to it."""
        self._inbox.append(event)
        self._pump()

    @property
    def linked_peers(self) -> tuple[EndpointId, ...]:
        """Peers with a usable connection."""
        return self._links.peers

    def passive_view(self, topic_id: TopicId) -> tuple[EndpointId, ...]:
        """Return members of the topic that others told us of and that are no neighbours."""
        view = self._core.view(topic_id)
        return view.passive if view else ()

    def needs(self, peer: EndpointId) -> bool:
        """Say whether some topic wants a connection to the peer kept."""
        return self._core.needs(peer)

    def let_go(self, peer: EndpointId) -> None:
        """Close the connection once everything is acknowledged, or give its dial up."""
        self._peers.give_up(peer)
        self._let_go(peer, anyio.current_time())

    def is_behind(self, peer: EndpointId) -> bool:
        """Say whether the peer does not read as fast as we write, so that payloads for it are dropped."""
        link = self._links.get(peer)
        return link is not None and link.slow_since is not None

    @property
    def backlog_bytes(self) -> int:
        """Bytes handed to connections and not yet acknowledged."""
        return sum(link.connection.backlog() for link in self._links.written)

    async def wait_acknowledged(self) -> None:
        """Return once every link has acknowledged everything or is gone. Has no limit: use a scope."""
        while self.backlog_bytes:
            self._progress = anyio.Event()
            await self._progress.wait()

    # --- connections -----------------------------------------------------------------------------------

    def user_for(self, connection: Connection) -> GossipLink:
        """Use a new connection."""
        intake = Intake(self._limits.messages_per_s_per_peer, self._limits.bytes_per_s_per_peer)
        link = GossipLink(connection, self, self._max_message_bytes, intake)
        spare = self._links.add(link)
        if spare:
            spare.flush(anyio.current_time())
            spare.finish()
            self._judge_quiet(spare)
        for item in self._waiting.pop(connection.peer, ()):
            self._queue(link, item)  # frames wait only for a peer without any link
        self._flush()
        self._owner.linked(connection.peer)
        return link

    def unreachable(self, peer: EndpointId, error: SidecarError) -> None:
        """A dial failed: what waited for it is dropped and the core looks elsewhere (defect U2)."""
        self.counters.undelivered += len(self._waiting.pop(peer, ()))
        self.handle(PeerDisconnected(peer))
        self._owner.unreachable(peer, error)

    def frames(self, link: GossipLink, topic_id: TopicId, bodies: list[bytes]) -> None:
        """Decode and feed what a link read."""
        if self._owner.max_message_bytes(topic_id) is None:
            return  # as upstream does: silence, the stream stays usable for a later join
        self.counters.frames_in += len(bodies)
        for body in bodies:
            try:
                message = self._without_invalid_ids(decode(body))
            except DecodeError:
                self.counters.undecodable += 1
                continue
            if message is None:
                continue
            if isinstance(message, Disconnect):
                link.note_goodbye()
            elif isinstance(message, IHave) and not message.items:
                self._recognise(link.peer, decode_with_trailer(body)[1])
                continue
            self._inbox.append(Received(link.peer, topic_id, message))
        self._pump()

    def hold_credit(self, link: GossipLink, wait_s: float) -> None:
        """Slow a peer down that sends more than its rate."""
        self.counters.slowed += 1
        self._agenda.set(("credit", link), anyio.current_time() + wait_s, lambda _: link.return_credit())

    def link_quiet(self, link: GossipLink, *, is_polite: bool) -> None:
        """Give a peer that ended its streams two seconds to open another one."""
        if not is_polite or self._links.is_spare(link):
            self._judge_quiet(link)

    def _judge_quiet(self, link: GossipLink) -> None:
        """Close a spare that nobody uses any more, and the only link of a peer whose send half is dead."""

        def judge(_: float) -> None:
            if link.has_incoming:
                return
            if self._links.is_spare(link):
                link.connection.close(0, "superseded")
            elif not self._links.spares(link.peer):  # else it sends on another one
                link.connection.close(0, "send half lost")

        self._agenda.set(("quiet", link), anyio.current_time() + MUTE_TIMEOUT_S, judge)

    def link_progressed(self, link: GossipLink) -> None:
        """Close a finished link once everything is acknowledged."""
        self._progress.set()
        if link.is_finishing and not self._links.is_spare(link) and not link.connection.backlog():
            link.connection.close(0, CLOSE_GOODBYE)

    def link_closed(self, link: GossipLink, reason: ConnectionLost) -> None:
        """Forget the link; when it was written the core hears of it, for what was on its way is lost."""
        self._progress.set()
        self._peers.lost(link.connection, reason)
        self.counters.undelivered += link.dropped
        self._dirty.pop(link, None)
        for kind in ("quiet", "finish", "slow", "credit"):
            self._agenda.cancel((kind, link))
        if self._links.remove(link):
            self.handle(PeerDisconnected(link.peer))

    # --- the pump --------------------------------------------------------------------------------------

    def _pump(self, _: float = 0.0) -> None:
        """Feed the inbox and the clock into the core, perform what comes out, write once per link."""
        if self._is_pumping:
            return
        self._is_pumping = True
        now = anyio.current_time()
        core, inbox = self._core, self._inbox
        try:
            while True:
                while inbox:
                    for effect in core.handle(inbox.popleft(), now):
                        self._perform(effect, now)
                if now < core.deadline():
                    break
                for effect in core.on_deadline(now):
                    self._perform(effect, now)
        finally:
            self._is_pumping = False
        self._flush()
        self._arm(core.deadline())

    def _arm(self, deadline: float) -> None:
        """Book the core's next deadline; a booked earlier one may stay: it finds nothing to do."""
        if deadline < self._armed:
            self._armed = deadline
            self._agenda.set("gossip core", deadline, self._on_core_deadline)

    def _on_core_deadline(self, _: float) -> None:
        self._armed = inf
        self._pump()

    def _perform(self, effect: GossipEffect, now: float) -> None:
        match effect:
            case Send():
                self._send(effect)
            case Delivered():
                self._owner.delivered(effect)
            case NeighborUp(topic_id, peer):
                self._say_hello(topic_id, peer)
                self._owner.neighbor_up(topic_id, peer)
            case NeighborDown(topic_id, peer, reason):
                self._owner.neighbor_down(topic_id, peer, str(reason))
            case DropPeer(peer, topic_id):
                if link := self._links.get(peer):
                    link.flush(now)
                    link.finish_topic(topic_id)
            case ClosePeer(peer):
                self._let_go(peer, now)
            case PeerDataLearned(peer, data):
                self._learn(peer, data)

    def _send(self, effect: Send) -> None:
        message: GossipMessage = effect.message
        limit = self._owner.max_message_bytes(effect.topic_id) or self._default_max_bytes
        try:
            data = frame(encode(message), limit)  # once for all receivers
        except DecodeError:
            self.counters.oversize += 1
            return
        is_payload, is_last = isinstance(message, Gossip), isinstance(message, Disconnect)
        receipts: tuple[Receipt, ...] = ()
        if isinstance(message, Gossip):
            receipts = tuple(self._owner.receipts(effect.topic_id, message.id))
        item = _Frame(effect.topic_id, data, is_payload, is_last, receipts)
        self.counters.frames_out += len(effect.to)
        for peer in effect.to:
            if link := self._links.get(peer):
                self._queue(link, item)
            else:
                self._wait_for(peer, item)

    def _queue(self, link: GossipLink, item: _Frame) -> None:
        link.queue(
            item.topic_id, item.data, is_payload=item.is_payload, is_last=item.is_last, receipts=item.receipts
        )
        self._dirty[link] = None

    def _wait_for(self, peer: EndpointId, item: _Frame) -> None:
        """Keep a frame until the peer is dialled; a peer that cannot be dialled now is gone for the core."""
        if item.is_last or not self._peers.want(peer):  # nobody is dialled to say goodbye
            self._inbox.append(PeerDisconnected(peer))
            self.counters.undelivered += 1
            return
        waiting = self._waiting.setdefault(peer, [])
        if len(waiting) < MAX_WAITING_FRAMES and sum(len(w.data) for w in waiting) < MAX_WAITING_BYTES:
            waiting.append(item)
        else:
            self.counters.undelivered += 1

    def _flush(self) -> None:
        if not self._dirty or self._is_pumping:
            return
        dirty, self._dirty = self._dirty, {}
        now = anyio.current_time()
        for link in dirty:
            link.flush(now)
            if link.slow_since is not None:
                self._watch_slow(link, link.slow_since)

    def _watch_slow(self, link: GossipLink, since: float) -> None:
        def close(now: float) -> None:
            if link.slow_since is None:
                return
            if now >= link.slow_since + SLOW_TIMEOUT_S:
                link.connection.close(0, "too slow")
            else:
                self._watch_slow(link, link.slow_since)

        self._agenda.set(("slow", link), since + SLOW_TIMEOUT_S, close)

    def _let_go(self, peer: EndpointId, now: float) -> None:
        self.counters.undelivered += len(self._waiting.pop(peer, ()))
        link = self._links.get(peer)
        if link is None:
            return
        for spare in self._links.spares(peer):
            spare.connection.close(0, CLOSE_GOODBYE)
        link.flush(now)
        self._dirty.pop(link, None)
        link.finish()
        if not link.connection.backlog():
            link.connection.close(0, CLOSE_GOODBYE)
            return

        def close(_: float) -> None:
            if link.is_finishing:
                link.connection.close(0, CLOSE_GOODBYE)

        self._agenda.set(("finish", link), now + FINISH_TIMEOUT_S, close)

    def _learn(self, peer: EndpointId, data: bytes) -> None:
        try:
            learned = decode_peer_data(data)
        except DecodeError:
            self.counters.undecodable += 1
            return
        hosts = tuple(HostPort(*address) for address in learned.addresses)
        relays = (learned.relay_url,) if learned.relay_url else ()
        self._recognise(peer, learned.extension)
        self._peers.learn(PeerHint(peer, hosts, relays), "gossip")

    def _say_hello(self, topic_id: TopicId, peer: EndpointId) -> None:
        """Tell a new neighbour what we are, in a message that says nothing to a plain node."""
        link = self._links.get(peer)
        if self._announces and link and not link.has_said_hello:
            link.has_said_hello = True
            hello = frame(control_body(OURS), self._max_message_bytes(topic_id))
            self._queue(link, _Frame(topic_id, hello, is_payload=False, is_last=False))

    def _recognise(self, peer: EndpointId, trailer: bytes) -> None:
        capabilities = decode_capabilities(trailer)
        if capabilities is not None:
            self._peers.recognise(peer, capabilities)

    def _without_invalid_ids(self, message: GossipMessage) -> GossipMessage | None:
        """Drop entries that no Rust node could decode: passing one on would silence its link (U7)."""
        match message:
            case ForwardJoin(peer, _):
                return message if self._valid((peer,)) else None
            case Shuffle(origin, nodes, ttl):
                if not is_valid_endpoint_id(origin):
                    self.counters.invalid_ids += 1
                    return None
                return Shuffle(origin, self._valid(nodes), ttl)
            case ShuffleReply(nodes):
                return ShuffleReply(self._valid(nodes))
        return message

    def _valid(self, nodes: tuple[PeerInfo, ...]) -> tuple[PeerInfo, ...]:
        looked_at = nodes[:MAX_NODES_PER_MESSAGE]  # a check costs 45 us
        valid = tuple(node for node in looked_at if is_valid_endpoint_id(node.endpoint_id))
        self.counters.invalid_ids += len(looked_at) - len(valid)
        return valid

    def _max_message_bytes(self, topic_id: TopicId) -> int:
        return self._owner.max_message_bytes(topic_id) or self._default_max_bytes
