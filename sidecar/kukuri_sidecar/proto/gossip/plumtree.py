"""PlumTree broadcast for one topic (Leitão et al., SRDS 2007), as iroh-gossip v0.101.0 speaks it.

Payloads go to eager neighbors, announcements (IHave) to lazy ones; a payload that stays away is asked for
(Graft), one that comes twice makes its link lazy (Prune). Knows which peers are neighbors, not why.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf

from kukuri_sidecar.proto.gossip.cache import PayloadCache, SeenIds, Shelf
from kukuri_sidecar.proto.gossip.config import BroadcastConfig
from kukuri_sidecar.proto.gossip.events import Delivered, GossipEffect, Send
from kukuri_sidecar.proto.gossip.graft_timing import GraftTiming
from kukuri_sidecar.proto.gossip.limits import Buckets, TopicCounters, Total
from kukuri_sidecar.wire.gossip_messages import Gossip, Graft, IHave, Prune
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId

Peers = tuple[EndpointId, ...]

MAX_ROUND = 0xFFFF  # u16 on the wire; we saturate, upstream adds unchecked
IHAVE_ITEM_BYTES = 35  # 32 id, up to 3 round
MAX_REMEMBERED_REPAIRS = 256  # ids whose late second copy tells that a Graft was hasty
MAX_TARGET_SETS = 64  # senders for which we keep the receivers ready; only neighbors come often

_PRUNE = Prune()


class _Missing:
    """A payload that was announced and has not come."""

    __slots__ = ("asked", "due", "heard_at", "sources")

    def __init__(self, heard_at: float) -> None:
        self.heard_at = heard_at
        self.sources: dict[EndpointId, int] = {}  # who promised it, with the round; oldest first
        self.asked: EndpointId | None = None  # a Graft is out to this peer
        self.due = inf  # the live timer; other timers of this id are void


class PlumTree:
    """The broadcast tree of one topic. Methods append to ``out``; ``due`` is the next deadline.

    ``eager`` and ``lazy`` together are exactly the neighbors (U6: strangers are served, never enrolled).
    """

    __slots__ = (
        "_accept",
        "_answers",
        "_answers_rate",
        "_config",
        "_counters",
        "_digest",
        "_dispatch_at",
        "_ids_per_frame",
        "_ids_rate",
        "_in_flight",
        "_max_body",
        "_missing",
        "_missing_total",
        "_payloads",
        "_promised",
        "_queue",
        "_repairs",
        "_serial",
        "_shelf",
        "_steering",
        "_steers_until",
        "_targets",
        "_timers",
        "_topic_id",
        "due",
        "eager",
        "lazy",
        "seen",
        "timing",
    )

    def __init__(
        self,
        topic_id: TopicId,
        config: BroadcastConfig,
        *,
        payloads: PayloadCache,
        missing_total: Total,
        digest: Callable[[bytes], bytes],
        accept: Callable[[EndpointId, bytes, float], bool],
        counters: TopicCounters,
        max_message_bytes: int,
    ) -> None:
        self._topic_id = topic_id
        self._config = config
        self._payloads = payloads
        self._missing_total = missing_total
        self._digest = digest
        self._accept = accept
        self._counters = counters
        self._max_body = max_message_bytes - 1
        self._ids_per_frame = (max_message_bytes - 36) // IHAVE_ITEM_BYTES  # upstream plumtree.rs:447
        self.eager: dict[EndpointId, None] = {}
        self.lazy: dict[EndpointId, None] = {}
        self.seen = SeenIds()
        self.timing = GraftTiming(config)
        self._shelf: Shelf = {}
        self._targets: dict[EndpointId | None, tuple[Peers, Peers]] = {}  # sender -> receivers
        self._queue: list[tuple[Peers, MessageId, int]] = []  # announcements that wait for company
        self._dispatch_at = inf
        self._missing: dict[MessageId, _Missing] = {}  # oldest first
        self._promised: dict[EndpointId, dict[MessageId, None]] = {}
        self._in_flight: dict[EndpointId, int] = {}  # Grafts without payload so far
        self._timers: list[tuple[float, int, MessageId]] = []  # heap; an entry is void unless its id says so
        self._serial = 0
        self._steering: bytes = b""  # the message whose copies may change the tree ...
        self._steers_until = -inf  # ... as long as this
        self._repairs: dict[MessageId, float] = {}  # came by Graft -> when we first heard of it
        self._ids_rate = Buckets(
            per_s=config.ids_per_peer_s, burst=config.ids_per_peer_s, limit=config.max_strangers
        )
        self._answers_rate = Buckets(
            per_s=config.graft_answers_s, burst=config.graft_answers_s, limit=config.max_strangers
        )
        self._answers: dict[tuple[EndpointId, MessageId], int] = {}
        self.due = inf

    # --- neighbors ---------------------------------------------------------------------------------------

    def neighbor_up(self, peer: EndpointId) -> None:
        """Add a neighbor; payloads flow until one of us prunes."""
        self.eager[peer] = None
        self._targets.clear()

    def neighbor_down(self, peer: EndpointId) -> None:
        """Remove a neighbor and its promises (p. 9)."""
        self.eager.pop(peer, None)
        self.lazy.pop(peer, None)
        self._targets.clear()
        self.forget_promises(peer)

    def forget_promises(self, peer: EndpointId) -> None:
        """Expect nothing from ``peer`` any more: it cannot be reached."""
        self._in_flight.pop(peer, None)
        for message_id in self._promised.pop(peer, ()):
            missing = self._missing[message_id]
            missing.sources.pop(peer, None)
            if missing.asked == peer:
                missing.asked = None
            if not missing.sources and missing.asked is None:
                self._drop_missing(message_id, missing)

    def close(self) -> None:
        """Give back what the topic holds of shared budgets."""
        self._shelf.clear()
        self._missing_total.used -= len(self._missing)
        self._missing.clear()

    # --- messages ----------------------------------------------------------------------------------------

    def broadcast(self, message_id: MessageId, content: bytes, now: float, out: list[GossipEffect]) -> None:
        """Publish to the swarm; an id that we have seen is only announced to the neighbors."""
        self._counters.published += 1
        message = Gossip(message_id, content, 0)
        self._payloads.put(self._shelf, message, now)
        if message_id in self.seen:
            # The payload again would make everybody who has it prune us (U14).
            self._announce((*self.eager, *self.lazy), message_id, 0, now)
            return
        self.seen[message_id] = now + self._config.seen_s
        eager, lazy = self._receivers(None)
        if eager:
            out.append(Send(eager, self._topic_id, message))
        self._announce(lazy, message_id, 0, now)
        missing = self._missing.get(message_id)
        if missing is not None:
            self._drop_missing(message_id, missing)

    def broadcast_to_neighbors(self, message_id: MessageId, content: bytes, out: list[GossipEffect]) -> None:
        """Publish to all neighbors, the lazy ones too (U9), and no further."""
        self._counters.published += 1
        everybody = (*self.eager, *self.lazy)
        if everybody:
            out.append(Send(everybody, self._topic_id, Gossip(message_id, content, None)))

    def gossip(self, sender: EndpointId, message: Gossip, now: float, out: list[GossipEffect]) -> None:
        """Take a payload: deliver, pass on and announce it, unless it is known or false."""
        message_id, content, hops = message
        counters = self._counters
        if message_id in self.seen:
            # Not hashed: whatever the content is, we have the real one.
            counters.duplicates += 1
            if hops is not None:
                self._on_duplicate(sender, message_id, now, out)
            return
        if self._digest(content) != message_id:
            counters.spoofed += 1
            return
        if not self._accept(sender, content, now):
            # Seen all the same: it is not asked for again, and nobody gets it from us.
            counters.rejected += 1
            self.seen[message_id] = now + self._config.seen_s
            if (unwanted := self._missing.get(message_id)) is not None:
                self._drop_missing(message_id, unwanted)
            return
        counters.delivered += 1
        counters.bytes_delivered += len(content)
        if hops is not None:
            self.seen[message_id] = now + self._config.seen_s
            if now >= self._steers_until or message_id < self._steering:
                self._steering = message_id
                self._steers_until = now + self._config.steer_s
            if sender in self.lazy and self._config.adopt_deliverer:
                self._to_eager(sender)
            onward = Gossip(message_id, content, hops + 1 if hops < MAX_ROUND else hops)
            if _gossip_size(onward) <= self._max_body:
                self._payloads.put(self._shelf, onward, now)
                receivers = self._targets.get(sender)
                eager, lazy = self._receivers(sender) if receivers is None else receivers
                if eager:
                    out.append(Send(eager, self._topic_id, onward))
                if lazy:
                    self._announce(lazy, message_id, onward.round or 0, now)
            missing = self._missing.get(message_id)
            if missing is not None:
                self._found(sender, onward, missing, now, out)
        out.append(Delivered(self._topic_id, message_id, content, sender, hops))

    def ihave(self, sender: EndpointId, message: IHave, now: float) -> None:
        """Take announcements; what does not come by itself is asked for later."""
        items = message.items
        seen = self.seen
        counters = self._counters
        counters.announced += len(items)
        news = [item for item in items[: self._ids_per_frame] if item[0] not in seen]
        counters.announced_ignored += max(0, len(items) - self._ids_per_frame)
        if not news:
            return
        allowed = self._ids_rate.take(sender, now, len(news))
        counters.announced_ignored += len(news) - allowed
        promised = self._promised.setdefault(sender, {})
        for message_id, hops in news[:allowed]:
            if not self._expect(sender, message_id, hops, promised, now):
                counters.announced_ignored += 1
        if not promised:
            del self._promised[sender]

    def graft(self, sender: EndpointId, message: Graft, now: float, out: list[GossipEffect]) -> None:
        """Make the link eager; send the payload that was asked for if we have it."""
        self._counters.grafts_received += 1
        self._to_eager(sender)
        payload = None if message.id is None else self._shelf.get(message.id)
        if payload is None:
            return
        key = (sender, payload.id)
        times = self._answers.pop(key, 0)
        self._answers[key] = times + 1
        if len(self._answers) > self._config.max_answer_records:
            del self._answers[next(iter(self._answers))]
        if times >= self._config.max_graft_answers or not self._answers_rate.take(sender, now):
            self._counters.grafts_refused += 1
            return
        out.append(Send((sender,), self._topic_id, payload))

    def prune(self, sender: EndpointId) -> None:
        """Make the link lazy: the neighbor gets our payloads from somebody else."""
        self._counters.prunes_received += 1
        self._to_lazy(sender)

    # --- time --------------------------------------------------------------------------------------------

    def on_deadline(self, now: float, out: list[GossipEffect]) -> None:
        """Do what is due by ``now``."""
        if now >= self._dispatch_at:
            self._dispatch(out)
        missing = self._missing
        while missing:
            message_id, oldest = next(iter(missing.items()))
            if now < oldest.heard_at + self._config.missing_s:
                break
            self._drop_missing(message_id, oldest)
        if not missing:
            self._timers.clear()
        timers = self._timers
        while timers and now >= timers[0][0]:
            at, _, message_id = heapq.heappop(timers)
            entry = missing.get(message_id)
            if entry is not None and entry.due == at:
                self._ask(message_id, entry, now, out)
        self.due = min(
            self._dispatch_at,
            timers[0][0] if timers else inf,
            next(iter(missing.values())).heard_at + self._config.missing_s if missing else inf,
        )

    # --- eager and lazy ----------------------------------------------------------------------------------

    def _to_eager(self, peer: EndpointId) -> None:
        if peer in self.lazy:
            del self.lazy[peer]
            self.eager[peer] = None
            self._targets.clear()

    def _to_lazy(self, peer: EndpointId) -> None:
        if peer in self.eager:
            del self.eager[peer]
            self.lazy[peer] = None
            self._targets.clear()

    def _receivers(self, sender: EndpointId | None) -> tuple[Peers, Peers]:
        """Return who gets the payload and who the announcement of a message from ``sender``."""
        receivers = self._targets.get(sender)
        if receivers is None:
            eager = tuple(peer for peer in self.eager if peer != sender)
            lazy = tuple(peer for peer in self.lazy if peer != sender)
            receivers = (eager, lazy)
            if len(self._targets) >= MAX_TARGET_SETS:
                self._targets.clear()
            self._targets[sender] = receivers
        return receivers

    def _steers(self, message_id: MessageId, now: float) -> bool:
        """Say whether copies of this message may change the tree.

        The paths of one message form a tree. Cuts that follow several messages at once do not: after a burst
        upstream's nodes have cut nearly all links, and one payload in five has to be asked for. So of all
        messages within ``steer_s`` the one with the smallest id leads; all nodes see about the same ones.
        """
        return message_id == self._steering or now >= self._steers_until

    def _on_duplicate(
        self, sender: EndpointId, message_id: MessageId, now: float, out: list[GossipEffect]
    ) -> None:
        heard_at = self._repairs.pop(message_id, None)
        if heard_at is not None:
            self.timing.add(now - heard_at)  # it would have come: this is how long we should have waited
        if sender in self.eager and not self._steers(message_id, now):
            return
        self._to_lazy(sender)
        self._counters.prunes_sent += 1
        out.append(Send((sender,), self._topic_id, _PRUNE))  # to strangers too, they may count us as eager

    # --- announcements out -------------------------------------------------------------------------------

    def _announce(self, to: Peers, message_id: MessageId, hops: int, now: float) -> None:
        if not to:
            return
        self._queue.append((to, message_id, hops))
        if self._dispatch_at == inf:
            self._dispatch_at = now + self._config.dispatch_s
            self.due = min(self.due, self._dispatch_at)

    def _dispatch(self, out: list[GossipEffect]) -> None:
        """Send the queued announcements: one effect for all peers that get the same ones."""
        queue, self._queue = self._queue, []
        self._dispatch_at = inf
        batches: dict[Peers, list[tuple[MessageId, int]]] = {}
        for to, message_id, hops in queue:
            batches.setdefault(to, []).append((message_id, hops))
        parts: dict[EndpointId, list[Peers]] = {}  # neighbor -> the batches it is in
        for to in batches:
            for peer in to:
                if peer in self.eager or peer in self.lazy:  # still a neighbor
                    parts.setdefault(peer, []).append(to)
        alike: dict[tuple[Peers, ...], list[EndpointId]] = {}
        for peer, keys in parts.items():
            alike.setdefault(tuple(keys), []).append(peer)
        for batch_keys, peers in alike.items():
            items = [item for key in batch_keys for item in batches[key]]
            for start in range(0, len(items), self._ids_per_frame):
                chunk = IHave(tuple(items[start : start + self._ids_per_frame]))
                out.append(Send(tuple(peers), self._topic_id, chunk))

    # --- missing payloads --------------------------------------------------------------------------------

    def _expect(
        self,
        sender: EndpointId,
        message_id: MessageId,
        hops: int,
        promised: dict[MessageId, None],
        now: float,
    ) -> bool:
        """Note a promise; False when a bound forbids it (U17)."""
        config = self._config
        missing = self._missing.get(message_id)
        if missing is None:
            if (
                len(promised) >= config.max_missing_per_peer
                or len(self._missing) >= config.max_missing_per_topic
                or self._missing_total.full()
            ):
                return False
            missing = self._missing[message_id] = _Missing(now)
            self._missing_total.used += 1
            self.due = min(self.due, now + config.missing_s)
        elif sender in missing.sources:
            return True
        elif (
            len(missing.sources) >= config.max_sources_per_id or len(promised) >= config.max_missing_per_peer
        ):
            return False
        missing.sources[sender] = hops
        promised[message_id] = None
        if missing.due == inf:
            # Without an eager neighbor nobody is going to send it by himself.
            is_hopeless = config.adaptive_graft and not self.eager
            self._arm(message_id, missing, now if is_hopeless else now + self.timing.timeout_s)
        return True

    def _arm(self, message_id: MessageId, missing: _Missing, at: float) -> None:
        tick = self._config.graft_tick_s
        at = (int(at / tick) + 1) * tick
        missing.due = at
        self._serial += 1
        heapq.heappush(self._timers, (at, self._serial, message_id))
        self.due = min(self.due, at)

    def _ask(self, message_id: MessageId, missing: _Missing, now: float, out: list[GossipEffect]) -> None:
        """The payload did not come in time: ask the first peer that promised it and has time for us."""
        missing.due = inf
        if missing.asked is not None:
            self._counters.broken_promises += 1
            self._release(missing.asked, message_id)
            self._settle(missing)
        free = [p for p in missing.sources if self._in_flight.get(p, 0) < self._config.max_grafts_per_peer]
        if free:
            peer = free[0]
            hops = missing.sources.pop(peer)
            missing.asked = peer
            self._in_flight[peer] = self._in_flight.get(peer, 0) + 1
            self._to_eager(peer)
            self._counters.grafts_sent += 1
            out.append(Send((peer,), self._topic_id, Graft(message_id, hops)))
        if missing.sources or missing.asked is not None:
            # "another timer [...] to ensure that the message will be requested to another neighbor" (p. 9)
            self._arm(message_id, missing, now + self.timing.retry_s)
        else:
            self._drop_missing(message_id, missing)  # another announcement would start again

    def _settle(self, missing: _Missing) -> None:
        """The Graft that is out is answered, or never will be."""
        peer, missing.asked = missing.asked, None
        if peer is not None and peer in self._in_flight:
            self._in_flight[peer] -= 1
            if self._in_flight[peer] <= 0:
                del self._in_flight[peer]

    def _found(
        self,
        sender: EndpointId,
        onward: Gossip,
        missing: _Missing,
        now: float,
        out: list[GossipEffect],
    ) -> None:
        """An announced payload came: learn from the time it took, and prefer a much shorter path."""
        message_id = onward.id
        if missing.asked == sender:
            self._counters.repaired += 1
            self._repairs[message_id] = missing.heard_at
            if len(self._repairs) > MAX_REMEMBERED_REPAIRS:
                del self._repairs[next(iter(self._repairs))]
        else:
            self.timing.add(now - missing.heard_at)
        self._drop_missing(message_id, missing)
        if not missing.sources:
            return
        best = min(missing.sources, key=missing.sources.__getitem__)
        best_hops = missing.sources[best]
        if (onward.round or 0) - best_hops < self._config.optimize_hops or best == sender:
            return
        if not self._steers(message_id, now):
            return
        if best not in self.lazy and best not in self.eager:
            return  # a stranger's short path is no part of our tree
        # Upstream sends no Graft to an eager peer; but one that announces counts us as lazy.
        self._to_eager(best)
        self._counters.grafts_sent += 1
        out.append(Send((best,), self._topic_id, Graft(None, best_hops)))
        self._to_lazy(sender)
        self._counters.prunes_sent += 1
        out.append(Send((sender,), self._topic_id, _PRUNE))

    def _drop_missing(self, message_id: MessageId, missing: _Missing) -> None:
        del self._missing[message_id]
        self._missing_total.used -= 1
        peers = list(missing.sources)
        if missing.asked is not None:
            peers.append(missing.asked)
        self._settle(missing)
        for peer in peers:
            self._release(peer, message_id)

    def _release(self, peer: EndpointId, message_id: MessageId) -> None:
        """``peer`` no longer owes us ``message_id``."""
        promised = self._promised.get(peer)
        if promised is not None:
            promised.pop(message_id, None)
            if not promised:
                del self._promised[peer]


def _gossip_size(message: Gossip) -> int:
    """Return an upper bound of the body's size that is exact where it matters, near the frame limit."""
    hops = message.round or 0
    length = len(message.content)
    return 36 + (2 if length < 1 << 14 else 3) + length + (0 if hops < 1 << 7 else 1 if hops < 1 << 14 else 2)
