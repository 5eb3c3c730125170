"""The gossip core of a node: all topics behind one ``handle``, ``deadline`` and ``on_deadline``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import assert_never

from kukuri_sidecar.errors import LocalProtocolError
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.gossip.cache import PayloadCache
from kukuri_sidecar.proto.gossip.config import GossipConfig
from kukuri_sidecar.proto.gossip.events import (
    Broadcast,
    ClosePeer,
    DropPeer,
    GossipEffect,
    GossipInput,
    JoinTopic,
    LocalInput,
    NetworkChanged,
    PeerDisconnected,
    PeersDiscovered,
    QuitTopic,
    Received,
    SetBlocked,
    SetOwnData,
    SetPinned,
)
from kukuri_sidecar.proto.gossip.limits import PeerPolicy, TopicCounters, Total
from kukuri_sidecar.proto.gossip.topic import Accept, Topic
from kukuri_sidecar.wire.ids import EndpointId, TopicId


@dataclass(frozen=True, slots=True)
class TopicView:
    """What one topic looks like now. ``eager`` and ``lazy`` together are the neighbors."""

    neighbors: tuple[EndpointId, ...]
    chosen: tuple[EndpointId, ...]
    eager: tuple[EndpointId, ...]
    lazy: tuple[EndpointId, ...]
    passive: tuple[EndpointId, ...]
    pending: tuple[EndpointId, ...]
    graft_timeout_s: float
    counters: TopicCounters


class GossipCore:
    """All topics of one node; implements ``proto.core.Core``.

    Remote input never raises. Using the core against its rules raises LocalProtocolError.
    """

    __slots__ = (
        "_accept",
        "_config",
        "_digest",
        "_evict_at",
        "_me",
        "_missing_total",
        "_next",
        "_own_data",
        "_payloads",
        "_policy",
        "_rng",
        "_topics",
        "ignored",
    )

    def __init__(
        self,
        me: EndpointId,
        rng: Rng,
        digest: Callable[[bytes], bytes],
        config: GossipConfig | None = None,
        accept: Accept | None = None,
    ) -> None:
        """``digest`` is BLAKE3-256: what makes a content's message id. Without ``accept`` all is accepted."""
        self._me = me
        self._rng = rng
        self._digest = digest
        self._accept = accept or _accept_all
        self._config = config = GossipConfig() if config is None else config
        self._topics: dict[TopicId, Topic] = {}
        self._own_data: bytes | None = None
        self._policy = PeerPolicy({}, {})
        self._payloads = PayloadCache(
            keep_s=config.broadcast.cache_s, max_bytes=config.broadcast.max_cache_bytes
        )
        self._missing_total = Total(config.broadcast.max_missing)
        self._evict_at = inf
        self._next = inf  # no topic is due before this
        self.ignored = 0  # messages of topics that we are not in, or from blocked peers

    # --- the core ----------------------------------------------------------------------------------------

    def handle(self, event: GossipInput, now: float) -> list[GossipEffect]:
        """Take one event; return what must be done, in order."""
        out: list[GossipEffect] = []
        if isinstance(event, Received):
            peer, topic_id, message = event
            topic = self._topics.get(topic_id)
            if topic is None or peer in self._policy.blocked or peer == self._me:
                self.ignored += 1
                return out
            if topic.received(peer, message, now, out):
                self._close_unneeded(out)
            self._wake(topic, now)
        else:
            self._handle_other(event, now, out)
        return out

    def deadline(self) -> float:
        """Return the next time ``on_deadline`` wants to run; may be early, never late."""
        return self._next

    def on_deadline(self, now: float) -> list[GossipEffect]:
        """Let time pass up to ``now``; return what must be done, in order."""
        out: list[GossipEffect] = []
        if now >= self._evict_at:
            self._evict(now)
        for topic in self._topics.values():
            if now >= topic.due:
                topic.on_deadline(now, out)
        self._close_unneeded(out)
        self._next = min((topic.due for topic in self._topics.values()), default=inf)
        self._next = min(self._next, self._evict_at)
        return out

    # --- looking in --------------------------------------------------------------------------------------

    def topics(self) -> tuple[TopicId, ...]:
        """Return the joined topics, oldest first."""
        return tuple(self._topics)

    def neighbors(self, topic_id: TopicId) -> tuple[EndpointId, ...]:
        """Return the neighbors in a topic; none when it is not joined."""
        topic = self._topics.get(topic_id)
        return () if topic is None else tuple(topic.membership.active)

    def view(self, topic_id: TopicId) -> TopicView | None:
        """Return a snapshot of a topic; None when it is not joined."""
        topic = self._topics.get(topic_id)
        if topic is None:
            return None
        membership, tree = topic.membership, topic.tree
        return TopicView(
            neighbors=tuple(membership.active),
            chosen=tuple(membership.chosen),
            eager=tuple(tree.eager),
            lazy=tuple(tree.lazy),
            passive=tuple(membership.passive),
            pending=membership.pending(),
            graft_timeout_s=tree.timing.timeout_s,
            counters=replace(topic.counters),
        )

    def needs(self, peer: EndpointId) -> bool:
        """Say whether any topic wants the connection to ``peer`` kept."""
        return any(topic.membership.needs(peer) for topic in self._topics.values())

    def cached_bytes(self) -> int:
        """Return the size of all cached payloads."""
        return self._payloads.used_bytes

    # --- inside ------------------------------------------------------------------------------------------

    def _handle_other(self, event: LocalInput, now: float, out: list[GossipEffect]) -> None:
        match event:
            case JoinTopic():
                topic = self._topics.get(event.topic_id)
                if topic is None:
                    limit = event.max_message_bytes or self._config.max_message_bytes
                    topic = self._topics[event.topic_id] = self._new_topic(event.topic_id, limit, now)
                topic.membership.join(event.bootstrap, now, out)
            case QuitTopic():
                topic = self._topics.pop(event.topic_id, None)
                if topic is not None:
                    topic.quit(out)
            case Broadcast():
                self._broadcast(event, now, out)
            case PeerDisconnected():
                for topic in self._topics.values():
                    topic.connection_closed(event.peer, now, out)
            case SetOwnData():
                if len(event.data) > self._config.membership.max_own_data_bytes:
                    raise LocalProtocolError(f"own peer data of {len(event.data)} bytes")
                self._own_data = event.data
                for topic in self._topics.values():
                    topic.membership.own_data = event.data
            case SetPinned():
                if len(event.peers) > self._config.max_pinned:
                    raise LocalProtocolError(f"{len(event.peers)} pinned peers")
                self._policy.pinned = dict.fromkeys(event.peers)
            case SetBlocked():
                if len(event.peers) > self._config.max_blocked:
                    raise LocalProtocolError(f"{len(event.peers)} blocked peers")
                self._policy.blocked = dict.fromkeys(event.peers)
                for topic in self._topics.values():
                    topic.apply_policy(event.peers, now, out)
            case PeersDiscovered():
                topic = self._topics.get(event.topic_id)
                if topic is not None:
                    topic.probe.discovered(event.peers)
            case NetworkChanged():
                for topic in self._topics.values():
                    topic.probe.network_changed(now)
            case _:
                assert_never(event)
        self._close_unneeded(out)
        for topic in self._topics.values():
            self._wake(topic, now)

    def _new_topic(self, topic_id: TopicId, max_message_bytes: int, now: float) -> Topic:
        return Topic(
            self._me,
            topic_id,
            self._config,
            self._rng,
            own_data=self._own_data,
            policy=self._policy,
            payloads=self._payloads,
            missing_total=self._missing_total,
            digest=self._digest,
            accept=self._accept,
            max_message_bytes=max_message_bytes,
            now=now,
        )

    def _broadcast(self, event: Broadcast, now: float, out: list[GossipEffect]) -> None:
        topic = self._topics.get(event.topic_id)
        if topic is None:
            raise LocalProtocolError(f"broadcast in {event.topic_id}, which is not joined")
        if len(event.content) > topic.max_content_bytes:
            raise LocalProtocolError(f"content of {len(event.content)} bytes")
        if event.neighbors_only:
            topic.tree.broadcast_to_neighbors(event.message_id, event.content, out)
        else:
            topic.tree.broadcast(event.message_id, event.content, now, out)
            if now >= topic.probe.note_at:
                topic.probe.note_message(event.message_id, now)

    def _close_unneeded(self, out: list[GossipEffect]) -> None:
        """Close connections that the last topic has just dropped (U5: upstream asks only one topic)."""
        dropped = dict.fromkeys(effect.peer for effect in out if isinstance(effect, DropPeer))
        out.extend(ClosePeer(peer) for peer in dropped if not self.needs(peer))

    def _wake(self, topic: Topic, now: float) -> None:
        due = topic.due
        if due < self._next:
            self._next = due
        if self._evict_at == inf:
            self._evict_at = now + self._config.broadcast.evict_interval_s
            self._next = min(self._next, self._evict_at)

    def _evict(self, now: float) -> None:
        """Forget old payloads and ids; keep the number of ids within its bound."""
        self._payloads.expire(now)
        dues = [self._payloads.due()]
        for topic in self._topics.values():
            topic.tree.seen.expire(now)
        excess = (
            sum(len(topic.tree.seen) for topic in self._topics.values()) - self._config.broadcast.max_seen
        )
        while excess > 0:  # the topic that takes the most pays
            largest = max((topic.tree.seen for topic in self._topics.values()), key=len)
            largest.forget_oldest(excess)
            excess = sum(len(t.tree.seen) for t in self._topics.values()) - self._config.broadcast.max_seen
        dues += [topic.tree.seen.due() for topic in self._topics.values()]
        known = [due for due in dues if due is not None]
        soonest = now + self._config.broadcast.evict_interval_s
        self._evict_at = max(soonest, min(known)) if known else inf


def _accept_all(topic_id: TopicId, sender: EndpointId, content: bytes, now: float) -> bool:
    return True
