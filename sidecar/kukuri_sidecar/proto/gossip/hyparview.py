"""HyParView membership for one topic (Leitão et al., DSN 2007), as iroh-gossip v0.101.0 speaks it.

Knows peers only by id; knows nothing of connections or broadcast. "p. n" in comments is the paper's page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from kukuri_sidecar.proto.core import Rng, pick, sample
from kukuri_sidecar.proto.gossip.config import MembershipConfig
from kukuri_sidecar.proto.gossip.events import (
    DownReason,
    DropPeer,
    GossipEffect,
    NeighborDown,
    NeighborUp,
    PeerDataLearned,
    Send,
)
from kukuri_sidecar.proto.gossip.limits import Buckets, PeerPolicy, TopicCounters
from kukuri_sidecar.proto.gossip.networks import network_of
from kukuri_sidecar.wire.gossip_messages import (
    Disconnect,
    ForwardJoin,
    Join,
    Neighbor,
    PeerInfo,
    Priority,
    Shuffle,
    ShuffleReply,
)
from kukuri_sidecar.wire.ids import EndpointId, TopicId

SwarmMessage: TypeAlias = Join | ForwardJoin | Shuffle | ShuffleReply | Neighbor | Disconnect

STALL_S = 0.2  # architecture §7: later than this is our own stall, and no peer's fault
REFILL_BACKOFF = 1.5  # ten peers asked in the first ten seconds; one in five has a slot after a join storm


@dataclass(slots=True)
class _Request:
    """A Neighbor message that waits for its answer."""

    deadline: float
    is_choice: bool  # our own idea (a refill), not a walk's
    is_stretched: bool = False  # got more time once, after a stall of ours


@dataclass(slots=True)
class _Hold:
    """A connection that we keep although the peer is in no view."""

    deadline: float
    is_choice: bool  # we asked it, and its late answer is welcome; otherwise a last message is under way


class HyParView:
    """Our views of one topic. Methods append to ``out`` what must be done; ``due`` is the next deadline."""

    __slots__ = (
        "_answered",
        "_config",
        "_counters",
        "_high_requests",
        "_holds",
        "_joins",
        "_leaving",
        "_max_body",
        "_me",
        "_peer_data",
        "_pending",
        "_policy",
        "_refill_at",
        "_refill_delay_s",
        "_refused",
        "_reserve",
        "_rng",
        "_shuffle_at",
        "_topic_id",
        "active",
        "chosen",
        "due",
        "own_data",
        "passive",
    )

    def __init__(
        self,
        me: EndpointId,
        topic_id: TopicId,
        config: MembershipConfig,
        rng: Rng,
        *,
        own_data: bytes | None,
        policy: PeerPolicy,
        counters: TopicCounters,
        max_message_bytes: int,
        now: float,
    ) -> None:
        self._me = me
        self._topic_id = topic_id
        self._config = config
        self._rng = rng
        self._policy = policy
        self._counters = counters
        self._max_body = max_message_bytes - 1  # upstream's sender refuses a body of the maximum itself
        self.own_data = own_data
        self.active: dict[EndpointId, None] = {}
        self.chosen: dict[EndpointId, None] = {}  # neighbors that we asked ourselves, oldest first
        self.passive: dict[EndpointId, EndpointId | None] = {}  # member -> who told us, None: first hand
        self._reserve: dict[
            EndpointId, EndpointId | None
        ] = {}  # fell out of a full passive view, oldest first
        self._leaving: dict[EndpointId, None] = {}  # passive peers whose connection is about to close
        self._refused: dict[EndpointId, None] = {}  # passive peers without a slot, as of the last shuffle
        self._pending: dict[EndpointId, _Request] = {}
        self._answered: dict[EndpointId, float] = {}  # when we last said yes, the latest last
        self._holds: dict[EndpointId, _Hold] = {}
        self._peer_data: dict[EndpointId, bytes] = {}  # of peers in a view, pending or held
        self._joins = Buckets(
            per_s=config.joins_per_peer_s, burst=config.joins_burst, limit=config.max_peer_buckets
        )
        self._high_requests = Buckets(
            per_s=config.high_requests_per_peer_s,
            burst=config.high_requests_burst,
            limit=config.max_peer_buckets,
        )
        self._shuffle_at = now + config.shuffle_interval_s
        self._refill_at = inf
        self._refill_delay_s = config.first_refill_s
        self.due = self._shuffle_at

    # --- what the application and the transport tell us --------------------------------------------------

    def join(self, peers: Iterable[EndpointId], now: float, out: list[GossipEffect]) -> None:
        """Ask ``peers`` to let us in. Neighbors, blocked peers and we ourselves are skipped."""
        wanted = tuple(dict.fromkeys(p for p in peers if self.is_eligible(p) and p not in self.active))
        for peer in wanted:
            self.hold(peer, now, out, is_choice=True)
        if wanted:
            out.append(Send(wanted, self._topic_id, Join(self.own_data)))

    def connection_closed(self, peer: EndpointId, now: float, out: list[GossipEffect]) -> None:
        """Take note that no connection to ``peer`` is left, or that it could not be reached."""
        self._holds.pop(peer, None)
        if peer in self.active:
            self._remove_active(peer, DownReason.CONNECTION_LOST, now, out)
            self._refill(now, out)
        elif peer in self._leaving:
            del self._leaving[peer]  # we knew; a request that is out goes over a new connection
        elif self._pending.pop(peer, None) is not None:
            self._remove_passive(peer)  # "considered failed and removed from p's passive view" (p. 7)
            self._refill(now, out)
        self._forget_data(peer)

    def quit(self, out: list[GossipEffect]) -> None:
        """Say good-bye to everybody who counts us a neighbor or may do so soon."""
        for peer in list(self.active):
            self._drop_active(peer, DownReason.LOCAL, out)
            self._send_disconnect(peer, out, alive=False)
        waiting = tuple(dict.fromkeys((*self._pending, *self._holds)))
        if waiting:
            out.append(Send(waiting, self._topic_id, Disconnect(alive=False)))
        self._pending.clear()
        self._holds.clear()
        out.extend(DropPeer(peer, self._topic_id) for peer in waiting)

    def apply_policy(self, now: float, out: list[GossipEffect]) -> None:
        """Part with peers that are blocked now."""
        for peer in self._policy.blocked:
            self._pending.pop(peer, None)
            self._holds.pop(peer, None)
            self._remove_passive(peer)
            if peer in self.active:
                self._drop_active(peer, DownReason.EVICTED, out)
                self._send_disconnect(peer, out, alive=True)
                self._refill(now, out)
            self._forget_data(peer)

    def needs(self, peer: EndpointId) -> bool:
        """Say whether this topic wants a connection to ``peer`` kept."""
        return peer in self.active or peer in self._pending or peer in self._holds

    def is_eligible(self, peer: EndpointId) -> bool:
        """Say whether ``peer`` may be in our views at all."""
        return peer != self._me and peer not in self._policy.blocked

    def hold(self, peer: EndpointId, now: float, out: list[GossipEffect], *, is_choice: bool) -> None:
        """Keep a connection to ``peer`` for a while although it is in no view."""
        self._holds.pop(peer, None)
        deadline = now + self._config.join_grace_s
        self._holds[peer] = _Hold(deadline, is_choice)
        self.due = min(self.due, deadline)
        if len(self._holds) > self._config.max_joining:
            oldest = next(iter(self._holds))
            del self._holds[oldest]
            if not self.needs(oldest):
                out.append(DropPeer(oldest, self._topic_id))

    def data_of(self, peer: EndpointId) -> bytes | None:
        """Return the peer data that ``peer`` or a member told us, for peers in a view."""
        return self._peer_data.get(peer)

    def pending(self) -> tuple[EndpointId, ...]:
        """Return the peers whose answer to our Neighbor message is out."""
        return tuple(self._pending)

    # --- messages ----------------------------------------------------------------------------------------

    def received(
        self, sender: EndpointId, message: SwarmMessage, now: float, out: list[GossipEffect]
    ) -> None:
        """Take a membership message; ``sender`` is neither blocked nor we ourselves."""
        accepted = True
        match message:
            case Join():
                accepted = self._on_join(sender, message.data, now, out)
            case ForwardJoin():
                self._on_forward_join(sender, message, now, out)
            case Shuffle():
                self._on_shuffle(sender, message, now, out)
            case ShuffleReply():
                self._on_shuffle_reply(sender, message, now, out)
            case Neighbor():
                accepted = self._on_neighbor(sender, message, now, out)
            case Disconnect():
                self._on_disconnect(sender, message, now, out)
                return
        if not accepted:
            self._send_disconnect(sender, out, alive=True)
        elif not self.needs(sender):
            out.append(DropPeer(sender, self._topic_id))

    def _on_join(self, sender: EndpointId, data: bytes | None, now: float, out: list[GossipEffect]) -> bool:
        if not self._joins.take(sender, now):
            self._counters.joins_refused += 1
            return True  # not worth an answer
        # "starts by adding the new node to its active view, even if it has to drop a random node" (p. 6)
        if not self._add_active(sender, Priority.HIGH, now, out):
            self._counters.joins_refused += 1
            return False
        self._counters.joins += 1
        self._learn(sender, data, out)
        self._answer(sender, Priority.HIGH, now, out)
        others = tuple(peer for peer in self.active if peer != sender)
        if others:
            data = self._peer_data.get(sender)  # without one that is too large
            message = ForwardJoin(PeerInfo(sender, data), self._config.active_walk_hops)
            out.append(Send(others, self._topic_id, message))
        return True

    def _on_forward_join(
        self, sender: EndpointId, message: ForwardJoin, now: float, out: list[GossipEffect]
    ) -> None:
        peer, data = message.peer
        if not self.is_eligible(peer):
            return
        hops = min(message.ttl, self._config.active_walk_hops)  # a walk without end must not pass us
        if peer in self.active:
            self._learn(peer, data, out)
            self._request(peer, Priority.HIGH, now, out, data=data)  # it lost its state: tell it about us
        elif hops == 0 or len(self.active) <= 1:
            # Upstream's deviation from the paper: no neighbor before its answer, so that only reachable
            # peers enter the view.
            if not self._request(peer, Priority.HIGH, now, out, data=data):
                self._add_passive(peer, data, sender, out)
        else:
            if hops == self._config.passive_walk_hops:
                self._add_passive(peer, data, sender, out)
            onward = pick(self._rng, [p for p in self.active if p != sender])
            if peer not in self._pending and onward is not None:
                forward = ForwardJoin(PeerInfo(peer, self._checked(data)), hops - 1)
                out.append(Send((onward,), self._topic_id, forward))

    def _on_neighbor(
        self, sender: EndpointId, message: Neighbor, now: float, out: list[GossipEffect]
    ) -> bool:
        request = self._pending.pop(sender, None)
        hold = self._holds.pop(sender, None)
        # After our yes comes theirs. It asks for nothing: no answer, and no slot if we evicted it meanwhile.
        is_echo = request is None and now < self._answered.get(sender, -inf) + self._config.answer_interval_s
        if sender in self.active:
            self._learn(sender, message.data, out)
            if request is None and not is_echo:
                self._answer(sender, message.priority, now, out)
            return True
        priority = message.priority
        if request is None and (is_echo or not self._high_requests.take(sender, now)):
            priority = Priority.LOW
        # "will always accept a high priority request [...] a low priority one only if it has a free slot"
        if not self._add_active(sender, priority, now, out):
            return False
        if (request is not None and request.is_choice) or (hold is not None and hold.is_choice):
            self.chosen[sender] = None
        self._learn(sender, message.data, out)
        if request is None:
            self._answer(sender, priority, now, out)
        return True

    def _on_disconnect(
        self, sender: EndpointId, message: Disconnect, now: float, out: list[GossipEffect]
    ) -> None:
        request = self._pending.pop(sender, None)
        self._holds.pop(sender, None)
        if sender in self.active:
            reason = DownReason.EVICTED_US if message.alive else DownReason.LEFT
            self._remove_active(sender, reason, now, out)
            out.append(DropPeer(sender, self._topic_id))
            self._refill(now, out, skip=sender)
        else:
            out.append(DropPeer(sender, self._topic_id))
            if not message.alive:
                self._remove_passive(sender)
            elif sender in self.passive:
                self._leaving[sender] = None
                if request is not None:
                    self._refused[sender] = None
            self._schedule_refill(now)
        self._forget_data(sender)

    def _on_shuffle(self, sender: EndpointId, message: Shuffle, now: float, out: list[GossipEffect]) -> None:
        if not self.is_eligible(message.origin):
            return  # among others, our own walk that came home
        hops = min(message.ttl, self._config.shuffle_walk_hops)
        if hops > 0 and len(self.active) > 1:
            onward = pick(self._rng, [p for p in self.active if p not in (sender, message.origin)])
            if onward is not None:
                forward = Shuffle(message.origin, message.nodes, hops - 1)
                out.append(Send((onward,), self._topic_id, forward))
                return
            # Upstream drops the walk here; we end it.
        nodes = message.nodes[: self._config.max_nodes_per_message]
        for peer, data in nodes:
            self._add_passive(peer, data, sender, out)
        if message.origin not in self.active:
            self.hold(message.origin, now, out, is_choice=False)
        self._send_shuffle_reply(message.origin, len(nodes), out)

    def _on_shuffle_reply(
        self, sender: EndpointId, message: ShuffleReply, now: float, out: list[GossipEffect]
    ) -> None:
        for peer, data in message.nodes[: self._config.max_nodes_per_message]:
            self._add_passive(peer, data, sender, out)
        self._refill(now, out)

    # --- time --------------------------------------------------------------------------------------------

    def on_deadline(self, now: float, out: list[GossipEffect]) -> None:
        """Do what is due by ``now``."""
        self._expire_requests(now, out)
        for peer in [peer for peer, hold in self._holds.items() if now >= hold.deadline]:
            del self._holds[peer]
            if not self.needs(peer):
                out.append(DropPeer(peer, self._topic_id))
            self._forget_data(peer)
        if now >= self._refill_at:
            self._refill_at = inf
            longer = REFILL_BACKOFF * self._refill_delay_s
            self._refill_delay_s = min(longer, self._config.refill_interval_s)
            self._refill(now, out)
        if now >= self._shuffle_at:
            self._shuffle_at = now + self._config.shuffle_interval_s
            self._shuffle(out)
            self._refused.clear()
            self._schedule_refill(now)
        self.due = min(
            self._shuffle_at,
            self._refill_at,
            min((request.deadline for request in self._pending.values()), default=inf),
            min((hold.deadline for hold in self._holds.values()), default=inf),
        )

    def _expire_requests(self, now: float, out: list[GossipEffect]) -> None:
        expired = [peer for peer, request in self._pending.items() if now >= request.deadline]
        has_failed = False
        for peer in expired:
            request = self._pending[peer]
            if now >= request.deadline + STALL_S and not request.is_stretched:
                request.is_stretched = True
                request.deadline = now + self._config.request_timeout_s
                continue
            has_failed = True
            del self._pending[peer]
            self._remove_passive(peer)
            if peer not in self.active:  # a slow dial may still succeed
                self.hold(peer, now, out, is_choice=request.is_choice)
        if has_failed:
            self._refill(now, out)

    def _shuffle(self, out: list[GossipEffect]) -> None:
        target = pick(self._rng, list(self.active))
        if target is None:
            return
        peers = sample(self._rng, [p for p in self.active if p != target], self._config.shuffle_active)
        peers += sample(self._rng, list(self.passive), self._config.shuffle_passive)
        me = PeerInfo(self._me, self.own_data)
        nodes = self._fit(peers, 2 + 32 + 1 + 1 + _size(me))  # tags, origin, count, ttl
        message = Shuffle(self._me, (*nodes, me), self._config.shuffle_walk_hops)
        out.append(Send((target,), self._topic_id, message))

    # --- views -------------------------------------------------------------------------------------------

    def _add_active(self, peer: EndpointId, priority: Priority, now: float, out: list[GossipEffect]) -> bool:
        """Make ``peer`` a neighbor if it is none; False when there is no slot for it."""
        if peer in self.active:
            return True
        if len(self.active) >= self._config.active_view:
            victim = None if priority is Priority.LOW else self._pick_victim()
            if victim is None:
                return False
            self._remove_active(victim, DownReason.EVICTED, now, out)
        self._remove_passive(peer)
        self._reserve.pop(peer, None)
        self.active[peer] = None
        out.append(NeighborUp(self._topic_id, peer))
        return True

    def _pick_victim(self) -> EndpointId | None:
        """Return a random neighbor without protection (trust E1); one slot is always open.

        Protected are pinned peers and two others, rather those that we asked ourselves, then the oldest.
        """
        pinned = [p for p in self.active if p in self._policy.pinned]
        others = [p for p in (*self.chosen, *self.active) if p not in self._policy.pinned]
        protected = pinned + list(dict.fromkeys(others))[: self._config.protected]
        protected = protected[: self._config.active_view - 1]
        return pick(self._rng, [p for p in self.active if p not in protected])

    def _remove_active(
        self, peer: EndpointId, reason: DownReason, now: float, out: list[GossipEffect]
    ) -> None:
        self._drop_active(peer, reason, out)
        if reason is DownReason.EVICTED:
            self._send_disconnect(peer, out, alive=True)
        if reason in (DownReason.EVICTED, DownReason.EVICTED_US):
            self._add_passive(peer, None, None, out)
            self._leaving[peer] = None
        self._refill_delay_s = self._config.first_refill_s
        self._schedule_refill(now)

    def _drop_active(self, peer: EndpointId, reason: DownReason, out: list[GossipEffect]) -> None:
        del self.active[peer]
        self.chosen.pop(peer, None)
        self._pending.pop(peer, None)  # what it says to an earlier question no longer counts
        out.append(NeighborDown(self._topic_id, peer, reason))

    def _add_passive(
        self,
        peer: EndpointId,
        data: bytes | None,
        source: EndpointId | None,
        out: list[GossipEffect],
    ) -> None:
        if not self.is_eligible(peer):
            return
        if peer not in self.active and peer not in self.passive:
            if source is not None:
                told = [p for p, teller in self.passive.items() if teller == source]
                if len(told) >= self._config.max_passive_per_source:
                    self._evict_passive(told)
            self._make_room_in_network(network_of(data) if data else None)
            if len(self.passive) >= self._config.passive_view:
                self._evict_passive(list(self.passive))
            self.passive[peer] = source
            self._reserve.pop(peer, None)
        self._learn(peer, data, out)

    def _make_room_in_network(self, network: str | None) -> None:
        """Let nobody fill the view with addresses of one network (trust E1); local ones are exempt."""
        if network is None:
            return
        near = [p for p in self.passive if (data := self._peer_data.get(p)) and network_of(data) == network]
        if len(near) >= self._config.max_passive_per_network:
            self._evict_passive(near)

    def _evict_passive(self, among: list[EndpointId]) -> None:
        victim = pick(self._rng, among)
        if victim is not None:
            source = self.passive[victim]
            self._remove_passive(victim)
            self._forget_data(victim)
            self._reserve[victim] = source
            if len(self._reserve) > self._config.max_reserve:
                del self._reserve[next(iter(self._reserve))]

    def _take_reserve(self) -> None:
        """Fall back on peers that we had no room for: all others are dead."""
        for peer in sample(self._rng, list(self._reserve), self._config.passive_view):
            source = self._reserve.pop(peer)
            if self.is_eligible(peer) and peer not in self.active:
                self.passive[peer] = source

    def _remove_passive(self, peer: EndpointId) -> None:
        self.passive.pop(peer, None)
        self._leaving.pop(peer, None)
        self._refused.pop(peer, None)

    def _refill(self, now: float, out: list[GossipEffect], skip: EndpointId | None = None) -> None:
        """Ask passive peers for the free slots (p. 7)."""
        waiting = sum(
            1 for peer in self._pending if peer not in self.active or self._config.answers_stay_pending
        )
        free = self._config.active_view - len(self.active) - waiting
        if free <= 0:
            return
        if self._config.max_reserve and all(peer in self._pending for peer in self.passive):
            self._take_reserve()
        candidates = [
            p for p in self.passive if p not in self._pending and p not in self._refused and p != skip
        ]
        chosen = sample(self._rng, candidates, free if self._config.parallel_requests else 1)
        for i, peer in enumerate(chosen):
            priority = Priority.LOW if self.active or i else Priority.HIGH
            self._request(peer, priority, now, out, is_choice=True)

    def _schedule_refill(self, now: float) -> None:
        if self._refill_at == inf and len(self.active) < self._config.active_view:
            self._refill_at = now + self._refill_delay_s
            self.due = min(self.due, self._refill_at)

    # --- messages out ------------------------------------------------------------------------------------

    def _request(
        self,
        peer: EndpointId,
        priority: Priority,
        now: float,
        out: list[GossipEffect],
        *,
        data: bytes | None = None,
        is_choice: bool = False,
    ) -> bool:
        """Ask ``peer`` to be our neighbor unless we did; False when too many requests are out."""
        if peer in self._pending:
            return True
        if len(self._pending) >= self._config.max_pending:
            return False
        deadline = now + self._config.request_timeout_s
        if self._config.answers_stay_pending and not is_choice:
            deadline = inf  # upstream gives only refills a timer
        self._pending[peer] = _Request(deadline, is_choice)
        self.due = min(self.due, deadline)
        self._learn(peer, data, out)
        out.append(Send((peer,), self._topic_id, Neighbor(priority, self.own_data)))
        return True

    def _answer(self, peer: EndpointId, priority: Priority, now: float, out: list[GossipEffect]) -> None:
        """Tell a new neighbor that it is one. Nothing waits for a reaction, so nothing is pending (U4)."""
        if self._config.answers_stay_pending:
            if peer in self._pending:
                return
            self._pending[peer] = _Request(inf, is_choice=False)
        self._answered.pop(peer, None)
        self._answered[peer] = now
        if len(self._answered) > self._config.max_peer_buckets:
            del self._answered[next(iter(self._answered))]
        out.append(Send((peer,), self._topic_id, Neighbor(priority, self.own_data)))

    def _send_disconnect(self, peer: EndpointId, out: list[GossipEffect], *, alive: bool) -> None:
        # A peer that loses us must not run out of contacts (upstream, hyparview.rs:363).
        self._send_shuffle_reply(peer, self._config.shuffle_active + self._config.shuffle_passive, out)
        out.append(Send((peer,), self._topic_id, Disconnect(alive)))
        out.append(DropPeer(peer, self._topic_id))

    def _send_shuffle_reply(self, to: EndpointId, count: int, out: list[GossipEffect]) -> None:
        peers = sample(self._rng, [p for p in self.passive if p != to], count)
        peers += sample(self._rng, [p for p in self.active if p != to], count - len(peers))
        nodes = self._fit(peers, 2 + 1)  # tags, count
        out.append(Send((to,), self._topic_id, ShuffleReply(nodes)))

    def _fit(self, peers: list[EndpointId], used: int) -> tuple[PeerInfo, ...]:
        """Return as many of ``peers`` with their data as fit into a frame with ``used`` bytes taken (U13)."""
        nodes = []
        for peer in peers:
            node = PeerInfo(peer, self._peer_data.get(peer))
            used += _size(node)
            if used > self._max_body:
                break
            nodes.append(node)
        return tuple(nodes)

    # --- peer data ---------------------------------------------------------------------------------------

    def _checked(self, data: bytes | None) -> bytes | None:
        return None if data is None or len(data) > self._config.max_peer_data_bytes else data

    def _learn(self, peer: EndpointId, data: bytes | None, out: list[GossipEffect]) -> None:
        """Keep ``data`` of a peer that is in a view; tell the driver when it is news."""
        data = self._checked(data)
        if data is None or self._peer_data.get(peer) == data:
            return
        if peer in self.passive or self.needs(peer):
            self._peer_data[peer] = data
            if data:
                out.append(PeerDataLearned(peer, data))

    def _forget_data(self, peer: EndpointId) -> None:
        if peer not in self.passive and not self.needs(peer):
            self._peer_data.pop(peer, None)


def _size(node: PeerInfo) -> int:
    """Return the encoded size of ``node``: id, option tag, and length and bytes of its data."""
    if node.data is None:
        return 33
    return 33 + (1 if len(node.data) < 1 << 7 else 2) + len(node.data)
