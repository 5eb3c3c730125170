"""Topics as the host sees them: joined, published to, delivered from, always on the way to a neighbour."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

import anyio

from kukuri_sidecar.errors import (
    LimitReached,
    MessageTooLarge,
    ModeMismatch,
    NoNeighbors,
    RateLimited,
    SidecarError,
    UnknownTopic,
)
from kukuri_sidecar.net.clock import Instants, WallMs
from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.node.config import Config, Scheme
from kukuri_sidecar.node.envelopes import (
    AUTHOR_PER_S,
    MAX_WAIT_S,
    OWN_BURST,
    Envelopes,
    Mode,
    Opened,
    overhead_bytes,
)
from kukuri_sidecar.node.events import (
    Emit,
    NeighborDown,
    NeighborUp,
    TopicChanged,
    TopicInvalid,
    TopicMessage,
    TopicState,
)
from kukuri_sidecar.node.join import JoinSupervisor
from kukuri_sidecar.node.memory import MAX_MEMBERS_PER_TOPIC, RememberedTopic
from kukuri_sidecar.node.peers import Peers
from kukuri_sidecar.node.publishing import Queue, QueuedMessage, Receipt, Receipts
from kukuri_sidecar.node.rendezvous.service import Rendezvous, Search
from kukuri_sidecar.node.swarm import Swarm
from kukuri_sidecar.proto.buckets import TokenBucket
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.gossip.config import GossipConfig
from kukuri_sidecar.proto.gossip.events import (
    Broadcast,
    Delivered,
    JoinTopic,
    NetworkChanged,
    PeersDiscovered,
    QuitTopic,
    SetOwnData,
)
from kukuri_sidecar.proto.gossip.state import GossipCore
from kukuri_sidecar.wire.addr import PeerHint
from kukuri_sidecar.wire.gossip_messages import max_content_bytes
from kukuri_sidecar.wire.hashes import message_id, tracker_message_hash
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId

LATEST_MESSAGES = 5  # what a tracker record has room for
FEW_NEIGHBORS = 3  # with fewer a member that rendezvous found is asked to be a neighbour
BEHIND_RETRY_MS = 100  # our guess: a few round trips
INVALID_EVENT_EVERY = 100  # topic.invalid: the first and every 100th (api.md section 5)


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What ``topic.join`` asks for; None means the configured default."""

    topic_id: TopicId
    name: str | None
    bootstrap: tuple[PeerHint, ...]
    mode: Mode | None
    max_message_bytes: int | None
    remember: bool | None = None
    rendezvous: tuple[Scheme, ...] = ()  # search for members by the topic's name, ...
    secret: bytes | None = field(default=None, repr=False)  # ... among those who know this


@dataclass(frozen=True, slots=True)
class Joined:
    """Answer of a join; the way to the first neighbour is told by events."""

    topic_id: TopicId
    state: TopicState
    mode: Mode
    max_payload_bytes: int
    created: bool


@dataclass(frozen=True, slots=True)
class Published:
    """``accepted``: handed to ``neighbors`` > 0 neighbours. ``queued``: waits for the first one."""

    message_id: MessageId
    state: Literal["accepted", "queued"]
    neighbors: int


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One row of ``topic.list``; instants are Unix milliseconds."""

    topic_id: TopicId
    name: str | None
    state: TopicState
    mode: Mode
    path: str | None
    neighbors: tuple[EndpointId, ...]
    known_peers: int
    missing_bootstrap: tuple[EndpointId, ...]
    remember: bool
    max_payload_bytes: int
    join_attempts: int
    next_attempt_at_ms: int | None
    last_received_ms: int | None
    messages_in: int
    messages_out: int
    invalid: int
    last_error: str | None


@dataclass
class _Topic:
    topic_id: TopicId
    name: str | None
    mode: Mode
    max_message_bytes: int
    join: JoinSupervisor
    queue: Queue
    remember: bool = False  # joined again after a restart
    bootstrap: dict[EndpointId, None] = field(default_factory=dict)
    shown: tuple[TopicState, int] | None = None  # what the last event said
    last_error: str | None = None
    last_received_ms: int | None = None
    messages_in: int = 0
    messages_out: int = 0
    invalid: int = 0
    latest: deque[bytes] | None = None  # hashes of what was delivered last, for scheme tracker

    @property
    def max_payload_bytes(self) -> int:
        return max_content_bytes(self.max_message_bytes) - overhead_bytes(self.mode)


class Topics:
    """The topics of one node. Everything is called on the loop and answers at once."""

    def __init__(
        self,
        *,
        own_id: EndpointId,
        core_config: GossipConfig,
        config: Config,
        peers: Peers,
        agenda: Agenda,
        emit: Emit,
        rng: Rng,
        wall_ms: WallMs,
        bootstrap: tuple[PeerHint, ...],
        envelopes: Envelopes,
        rendezvous: Rendezvous | None = None,
    ) -> None:
        self._rendezvous = rendezvous
        self._bootstrap = bootstrap
        self._own_id = own_id
        self._config = config
        self._peers = peers
        self._agenda = agenda
        self._emit = emit
        self._rng = rng
        self._wall_ms = wall_ms
        self._instants = Instants(wall_ms)
        self._envelopes = envelopes
        self._opened: Opened | None = None  # the message that the core is about to deliver
        core = GossipCore(own_id, rng, message_id, core_config, self._accept)
        self.swarm = Swarm(core, peers, agenda, self, config)
        self._topics: dict[TopicId, _Topic] = {}
        self._receipts = Receipts(agenda, emit)
        self._publish_rate = TokenBucket(config.limits.publish_per_s, 2.0 * config.limits.publish_per_s)
        self._sign_rate = TokenBucket(AUTHOR_PER_S, OWN_BURST)  # over all signed topics, as receivers count

    # --- the host's requests ---------------------------------------------------------------------------

    async def join(self, request: JoinRequest) -> Joined:
        """Join a topic, or extend a joined one; never waits for the network.

        Raises ModeMismatch when a joined topic should change, LimitReached beyond ``limits.topics``.
        """
        now = anyio.current_time()
        topic = self._topics.get(request.topic_id)
        created = topic is None
        if topic is None:
            topic = self._create(request)
        elif (request.mode or topic.mode) is not topic.mode:
            raise ModeMismatch(f"the topic is joined in mode {topic.mode}")
        elif (request.max_message_bytes or topic.max_message_bytes) != topic.max_message_bytes:
            raise ModeMismatch(f"the topic is joined with {topic.max_message_bytes} bytes per message")
        topic.name = topic.name or request.name
        topic.remember = topic.remember if request.remember is None else request.remember
        hints = request.bootstrap + (self._bootstrap if created else ())
        for hint in hints:
            self._peers.learn(hint, "bootstrap")
        wanted = [hint.endpoint_id for hint in hints if hint.endpoint_id != self._own_id]
        topic.bootstrap |= dict.fromkeys(wanted)
        fresh = topic.join.add(wanted, now, by_host=True)
        if created:
            topic.join.add(self.swarm.linked_peers, now)  # whom we talk to may be in this topic as well
            self.swarm.handle(JoinTopic(topic.topic_id, (), topic.max_message_bytes))
        elif fresh and topic.join.neighbors:
            self.swarm.handle(JoinTopic(topic.topic_id, tuple(fresh)))
        self._supervise(topic, now)
        if request.rendezvous and self._rendezvous:
            if "tracker" in request.rendezvous and topic.latest is None:
                topic.latest = deque(maxlen=LATEST_MESSAGES)
            self._rendezvous.start(
                Search(
                    topic_id=topic.topic_id,
                    schemes=request.rendezvous,
                    secret=request.secret,
                    topics=self,
                    neighbors=lambda: tuple(topic.join.neighbors),
                    message_hashes=lambda: tuple(topic.latest or ()),
                )
            )
        return Joined(topic.topic_id, topic.join.state, topic.mode, topic.max_payload_bytes, created)

    async def leave(self, topic_id: TopicId) -> TopicState:
        """Say goodbye to the neighbours and forget the topic; UnknownTopic when it is not joined."""
        self._leave(self._require(topic_id))
        return TopicState.LEFT

    def leave_all(self) -> int:
        """Say goodbye everywhere; return the number of topics left."""
        topics = list(self._topics.values())
        for topic in topics:
            self._leave(topic)
        return len(topics)

    def publish(
        self,
        topic_id: TopicId,
        payload: bytes,
        *,
        neighbors_only: bool,
        queue: bool,
        queue_ttl_s: float,
        confirm: bool,
    ) -> Published:
        """Hand ``payload`` to the topic's neighbours; promises only what the result says.

        Raises UnknownTopic, MessageTooLarge (exact limit), NoNeighbors (when not ``queue``), RateLimited
        (above the configured rate, or while all neighbours are behind), LimitReached when too many wait.
        """
        topic = self._require(topic_id)
        now = anyio.current_time()
        is_signed = topic.mode is Mode.SIGNED
        self._check_size(topic, payload)
        if not topic.join.neighbors and not queue:
            raise NoNeighbors(
                "no neighbour in this topic",
                state=str(topic.join.state),
                next_attempt_at_ms=self._instant_ms(topic.join.next_attempt, now),
            )
        takers = [peer for peer in topic.join.neighbors if not self.swarm.is_behind(peer)]
        if not topic.join.neighbors:
            topic.queue.require_room()
        elif not takers:
            raise RateLimited("every neighbour is behind", retry_after_ms=BEHIND_RETRY_MS)
        elif confirm:
            self._receipts.require_room()
        self._check_rate(is_signed, now)
        # From here on nothing is refused: a number that is taken is sent, receivers see no gap.
        content = self._envelopes.seal(topic_id, payload) if is_signed else payload
        name = message_id(content)
        if topic.join.neighbors:
            self._send_queue(topic, now)  # what waited goes first
            if confirm:
                self._receipts.open(topic_id, name)
            self._broadcast(topic, name, content, neighbors_only=neighbors_only)
            return Published(name, "accepted", len(takers))
        wait_s = min(queue_ttl_s, MAX_WAIT_S) if is_signed else queue_ttl_s
        topic.queue.add(QueuedMessage(name, content, neighbors_only, now + wait_s))
        return Published(name, "queued", 0)

    def list(self, topic_ids: Sequence[TopicId] | None) -> list[TopicInfo]:
        """Describe the joined topics, or those of ``topic_ids`` that are joined."""
        chosen = list(self._topics) if topic_ids is None else [t for t in topic_ids if t in self._topics]
        now = anyio.current_time()
        return [self._info(self._topics[topic_id], now) for topic_id in chosen]

    def topics_of(self, endpoint_id: EndpointId) -> tuple[TopicId, ...]:
        """Return the topics in which the peer is our neighbour."""
        return tuple(t.topic_id for t in self._topics.values() if endpoint_id in t.join.neighbors)

    def set_own_data(self, data: bytes) -> None:
        """Tell the swarm where we are, from the next Join, Neighbor or Shuffle on."""
        self.swarm.handle(SetOwnData(data))

    def network_changed(self) -> None:
        """Our addresses changed or we woke up: look for neighbours and for lost parts of every topic now."""
        now = anyio.current_time()
        self.swarm.handle(NetworkChanged())
        for topic in self._topics.values():
            topic.join.network_changed(now)
            self._supervise(topic, now)

    @property
    def queued_messages(self) -> tuple[int, ...]:
        """Messages per topic that wait for a first neighbour."""
        return tuple(len(topic.queue) for topic in self._topics.values())

    def remembered(self) -> Sequence[RememberedTopic]:
        """Return what a restart needs to join the topics again that asked for it."""
        return [
            RememberedTopic(
                topic_id=topic.topic_id.hex(),
                name=topic.name,
                mode=topic.mode,
                max_message_bytes=topic.max_message_bytes,
                members=[member.hex() for member in topic.join.candidates[-MAX_MEMBERS_PER_TOPIC:]],
            )
            for topic in self._topics.values()
            if topic.remember
        ]

    async def restore(self, remembered: RememberedTopic) -> None:
        """Join a topic of the last run; its members are candidates from the start."""
        await self.join(
            JoinRequest(
                topic_id=remembered.id,
                name=remembered.name,
                bootstrap=tuple(PeerHint(member) for member in remembered.member_ids),
                mode=remembered.mode,
                max_message_bytes=remembered.max_message_bytes,
                remember=True,
            )
        )

    # --- the swarm's news ------------------------------------------------------------------------------

    def max_message_bytes(self, topic_id: TopicId) -> int | None:
        """Return the frame limit of a joined topic, None of any other."""
        topic = self._topics.get(topic_id)
        return topic.max_message_bytes if topic else None

    def receipts(self, topic_id: TopicId, message_id: MessageId) -> Sequence[Receipt]:
        """Return what counts the acknowledgements of a message that is about to be sent."""
        return self._receipts.of(topic_id, message_id)

    def neighbor_up(self, topic_id: TopicId, peer: EndpointId) -> None:
        """Show the neighbour and send what waited for it."""
        topic = self._topics.get(topic_id)
        if topic is None:
            return
        now = anyio.current_time()
        topic.join.neighbor_up(peer)
        topic.last_error = None
        self._emit(NeighborUp(topic_id, peer))
        self._show(topic, now, None)
        self._agenda.cancel(("attempt", topic_id))
        if topic.queue:
            # After this pass: the core is in the middle of telling us about its neighbours.
            self._agenda.set(("send queue", topic_id), now, lambda now: self._send_queue(topic, now))

    def neighbor_down(self, topic_id: TopicId, peer: EndpointId, reason: str) -> None:
        """Show the loss; without any neighbour left the search begins at once."""
        self._emit(NeighborDown(topic_id, peer, reason))
        topic = self._topics.get(topic_id)
        if topic is None:
            return
        now = anyio.current_time()
        topic.join.neighbor_down(peer, now)
        if not topic.join.neighbors:
            topic.join.add(self.swarm.passive_view(topic_id), now)
        self._show(topic, now, reason)
        self._book_attempt(topic)

    def delivered(self, message: Delivered) -> None:
        """Pass a message on to the host."""
        topic = self._topics.get(message.topic_id)
        if topic is None:
            return
        opened, self._opened = self._opened or Opened(message.content), None
        topic.messages_in += 1
        if topic.latest is not None:
            topic.latest.append(tracker_message_hash(message.content))
        topic.last_received_ms = self._wall_ms()
        self._emit(
            TopicMessage(
                topic_id=message.topic_id,
                message_id=message.message_id,
                payload=opened.payload,
                delivered_from=message.delivered_from,
                round=message.round,
                author=opened.author,
                author_seq=opened.author_seq,
            )
        )

    def _accept(self, topic_id: TopicId, sender: EndpointId, content: bytes, now: float) -> bool:
        """Judge a message for the core, before it is delivered or passed on."""
        topic = self._topics.get(topic_id)
        if topic is None:
            return False
        opened = self._envelopes.open(topic_id, topic.mode, content, now)
        if isinstance(opened, Opened):
            self._opened = opened
            return True
        topic.invalid += 1
        if topic.invalid == 1 or topic.invalid % INVALID_EVENT_EVERY == 0:
            self._emit(TopicInvalid(topic_id, topic.invalid, str(opened), sender))
        return False

    def linked(self, peer: EndpointId) -> None:
        """Try a peer that connected to us, or that another topic dialled, where somebody is missing."""
        now = anyio.current_time()
        for topic in self._topics.values():
            if not topic.join.neighbors and topic.join.add([peer], now):
                self._book_attempt(topic)

    def unreachable(self, peer: EndpointId, error: SidecarError) -> None:
        """Note why a topic's peer could not be dialled."""
        now = anyio.current_time()
        for topic in self._topics.values():
            if peer in topic.join.candidates:
                topic.last_error = error.kind
                topic.join.unreachable(peer, now)
                self._book_attempt(topic)

    def met(self, topic_id: TopicId, peer: EndpointId) -> None:
        """Rendezvous says that the peer is a member; the topic protocol will tell."""
        topic = self._topics.get(topic_id)
        if topic is None or peer == self._own_id:
            return
        now = anyio.current_time()
        topic.join.add([peer], now)
        if topic.join.neighbors:
            self.swarm.handle(PeersDiscovered(topic_id, (peer,)))
            if len(topic.join.neighbors) < FEW_NEIGHBORS:
                self.swarm.handle(JoinTopic(topic_id, (peer,)))
        self._supervise(topic, now)

    def knows(self, topic_id: TopicId, peer: EndpointId) -> bool:
        """Say whether the peer is our neighbour in the topic."""
        topic = self._topics.get(topic_id)
        return topic is not None and peer in topic.join.neighbors

    # --- joining ---------------------------------------------------------------------------------------

    def _create(self, request: JoinRequest) -> _Topic:
        maximum = self._config.limits.topics
        if len(self._topics) >= maximum:
            raise LimitReached(
                "as many topics as allowed are joined", limit="topics", max=maximum, retry_at_ms=None
            )
        topic = _Topic(
            topic_id=request.topic_id,
            name=request.name,
            mode=request.mode or Mode(self._config.gossip.mode),
            max_message_bytes=request.max_message_bytes or self._config.gossip.max_message_bytes,
            join=JoinSupervisor(self._own_id, self._rng),
            queue=Queue(request.topic_id, self._agenda, self._emit),
        )
        self._topics[request.topic_id] = topic
        return topic

    def _leave(self, topic: _Topic) -> None:
        del self._topics[topic.topic_id]
        if self._rendezvous:
            self._rendezvous.stop(topic.topic_id)
        self.swarm.handle(QuitTopic(topic.topic_id))
        self._agenda.cancel(("attempt", topic.topic_id))
        self._agenda.cancel(("send queue", topic.topic_id))
        topic.queue.fail_all()
        self._emit(TopicChanged(topic.topic_id, TopicState.LEFT, 0, None, None))
        candidates = {peer for other in self._topics.values() for peer in other.join.candidates}
        for peer in self._peers.dialled_for_topics:
            if peer not in candidates and not self.swarm.needs(peer):
                self.swarm.let_go(peer)

    def _supervise(self, topic: _Topic, now: float) -> None:
        """Let the join supervisor act if its time has come, and book its next deadline."""
        supervisor = topic.join
        while now >= supervisor.deadline:
            chosen = supervisor.on_deadline(now)
            if chosen:
                self.swarm.handle(JoinTopic(topic.topic_id, tuple(chosen)))
        self._show(topic, now, topic.last_error)
        self._book_attempt(topic)

    def _book_attempt(self, topic: _Topic) -> None:
        key = ("attempt", topic.topic_id)
        self._agenda.set(key, topic.join.deadline, lambda now: self._supervise(topic, now))

    def _show(self, topic: _Topic, now: float, reason: str | None) -> None:
        """Emit ``topic.state`` when the state changed, or the number of neighbours did while joined."""
        current = (topic.join.state, len(topic.join.neighbors))
        if current != topic.shown:
            topic.shown = current
            next_ms = self._instant_ms(topic.join.next_attempt, now)
            self._emit(TopicChanged(topic.topic_id, current[0], current[1], next_ms, reason))

    # --- publishing ------------------------------------------------------------------------------------

    def _check_size(self, topic: _Topic, payload: bytes) -> None:
        limit = topic.max_payload_bytes
        if len(payload) > limit:
            raise MessageTooLarge(
                f"payload of {len(payload)} bytes, at most {limit} allowed", limit=limit, size=len(payload)
            )

    def _check_rate(self, is_signed: bool, now: float) -> None:
        rates = (self._publish_rate, self._sign_rate) if is_signed else (self._publish_rate,)
        wait_s = max(rate.wait_s(now) for rate in rates)
        if wait_s:
            wait_ms = round(wait_s * 1000) + 1
            raise RateLimited("too many messages per second", retry_after_ms=wait_ms)
        for rate in rates:
            rate.take(now)

    def _broadcast(self, topic: _Topic, name: MessageId, content: bytes, *, neighbors_only: bool) -> None:
        topic.messages_out += 1
        self.swarm.handle(Broadcast(topic.topic_id, content, name, neighbors_only))

    def _send_queue(self, topic: _Topic, now: float) -> None:
        for message in topic.queue.take_all(now):
            self._receipts.open(topic.topic_id, message.message_id, promised=True)
            self._broadcast(topic, message.message_id, message.content, neighbors_only=message.neighbors_only)

    # --- small helpers ---------------------------------------------------------------------------------

    def _require(self, topic_id: TopicId) -> _Topic:
        topic = self._topics.get(topic_id)
        if topic is None:
            raise UnknownTopic("this topic is not joined")
        return topic

    def _instant_ms(self, at: float | None, now: float) -> int | None:
        return self._instants.at_ms(at, now) if at is not None and isfinite(at) else None

    def _info(self, topic: _Topic, now: float) -> TopicInfo:
        supervisor = topic.join
        connected = set(self.swarm.linked_peers)  # only asked for membership
        return TopicInfo(
            topic_id=topic.topic_id,
            name=topic.name,
            state=supervisor.state,
            mode=topic.mode,
            path="direct" if supervisor.neighbors else None,
            neighbors=tuple(supervisor.neighbors),
            known_peers=len(supervisor.candidates),
            missing_bootstrap=tuple(peer for peer in topic.bootstrap if peer not in connected),
            remember=topic.remember,
            max_payload_bytes=topic.max_payload_bytes,
            join_attempts=supervisor.attempts,
            next_attempt_at_ms=self._instant_ms(supervisor.next_attempt, now),
            last_received_ms=topic.last_received_ms,
            messages_in=topic.messages_in,
            messages_out=topic.messages_out,
            invalid=topic.invalid,
            last_error=topic.last_error,
        )
