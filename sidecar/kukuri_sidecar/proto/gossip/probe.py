"""Finding lost parts of a topic: upstream's partitions never heal by themselves (U12, gossip-wire section 7).

A swarm that was split keeps two complete memberships that do not know each other. So we announce a message
that everybody must have by now to one member outside our view. Who has it stays silent; who asks for it is in
another part, and gets the payload and our Join. Upstream's nodes answer announcements of strangers, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from kukuri_sidecar.proto.buckets import TokenBucket
from kukuri_sidecar.proto.core import Rng, pick
from kukuri_sidecar.proto.gossip.config import ProbeConfig
from kukuri_sidecar.proto.gossip.events import GossipEffect, PeerDataLearned, Send
from kukuri_sidecar.proto.gossip.hyparview import HyParView
from kukuri_sidecar.proto.gossip.limits import TopicCounters
from kukuri_sidecar.wire.gossip_messages import IHave
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId

PROBE_ROUND = 1  # the hop count of the announcement; short enough to be believed, of no other use
KNOWN_EVERY = 4  # one probe in so many goes to a passive peer: a part may have shrunk to those
MAX_PROBED = 16  # answers come within a second, probes every 20
SPREAD = 0.5  # intervals vary by a quarter either way: nodes that started together must not probe together


@dataclass(slots=True)
class _Member:
    """Somebody who was in this topic, and how to reach it."""

    heard_at: float
    data: bytes | None


class Probe:
    """Whom we remember of one topic, and when to look for them."""

    __slots__ = (
        "_config",
        "_counters",
        "_discovered",
        "_has_network_changed",
        "_joins",
        "_members",
        "_messages",
        "_probed",
        "_quiet_at",
        "_rng",
        "_topic_id",
        "due",
        "note_at",
    )

    def __init__(
        self, topic_id: TopicId, config: ProbeConfig, rng: Rng, counters: TopicCounters, now: float
    ) -> None:
        self._topic_id = topic_id
        self._config = config
        self._rng = rng
        self._counters = counters
        self._members: dict[EndpointId, _Member] = {}  # former and present neighbors, longest unheard first
        self._discovered: dict[EndpointId, None] = {}  # from outside the swarm, oldest first
        self._messages: deque[tuple[float, MessageId]] = deque()  # one per second, oldest first
        self._probed: dict[EndpointId, MessageId] = {}  # who may answer, the latest last
        self._joins = TokenBucket(1 / config.join_interval_s, 1)
        self._quiet_at = now
        self._has_network_changed = False
        self.note_at = 0.0 if config.enabled else inf  # when the next message is worth remembering
        self.due = now + self._wait(config.interval_s) if config.enabled else inf

    # --- what happens in the topic -----------------------------------------------------------------------

    def note_message(self, message_id: MessageId, now: float) -> None:
        """Remember one message per second; call when ``now >= note_at``."""
        self.note_at = now + 1.0
        self._messages.append((now, message_id))
        while self._messages[0][0] < now - self._config.max_age_s:
            self._messages.popleft()

    def remember(self, peer: EndpointId, data: bytes | None, now: float) -> None:
        """``peer`` proved to be a member: it is our neighbor now, or was until now."""
        old = self._members.pop(peer, None)
        self._members[peer] = _Member(now, data or (old.data if old else None))
        if len(self._members) > self._config.max_remembered:
            del self._members[next(iter(self._members))]

    def learn_data(self, peer: EndpointId, data: bytes) -> None:
        """Members tell where ``peer`` is; noted for those whom we remember."""
        if (member := self._members.get(peer)) is not None:
            member.data = data

    def forget(self, peer: EndpointId) -> None:
        """``peer`` left the topic, or is not welcome."""
        self._members.pop(peer, None)
        self._discovered.pop(peer, None)

    def discovered(self, peers: Iterable[EndpointId]) -> None:
        """Take members that were found outside the swarm."""
        for peer in peers:
            self._discovered.pop(peer, None)
            self._discovered[peer] = None
            if len(self._discovered) > self._config.max_discovered:
                del self._discovered[next(iter(self._discovered))]

    def lonely(self, now: float) -> None:
        """The last neighbor is gone: look for somebody soon."""
        if self._config.enabled:
            self.due = min(self.due, now + 1.0)

    def network_changed(self, now: float) -> None:
        """Look soon, whatever the topic looks like."""
        if self._config.enabled:
            self._has_network_changed = True
            self.due = min(self.due, now + 1.0)

    def grafted(
        self, sender: EndpointId, message_id: MessageId | None, membership: HyParView, now: float
    ) -> bool:
        """Say whether this Graft shows that ``sender`` is in another part of the swarm: join it then."""
        if message_id is None or self._probed.get(sender) != message_id:
            return False
        del self._probed[sender]
        self._counters.probes_answered += 1
        return sender not in membership.active and self._joins.take(now)

    # --- time --------------------------------------------------------------------------------------------

    def on_deadline(self, now: float, membership: HyParView, out: list[GossipEffect]) -> None:
        """Probe or join one peer, if there is reason to."""
        config = self._config
        is_lonely = not membership.active
        self.due = now + self._wait(config.join_interval_s if is_lonely else config.interval_s)
        has_network_changed, self._has_network_changed = self._has_network_changed, False
        target = self._pick(membership)
        if target is None:
            return
        message_id = self._message(now)
        if message_id is not None and not is_lonely:
            self._announce(target, message_id, now, membership, out)
            return
        is_quiet = len(membership.active) < config.quiet_neighbors and now >= self._quiet_at
        if (is_lonely or has_network_changed or is_quiet) and self._joins.take(now):
            self._quiet_at = now + config.quiet_interval_s
            self._tell_address(target, out)
            membership.join((target,), now, out)

    def _announce(
        self,
        target: EndpointId,
        message_id: MessageId,
        now: float,
        membership: HyParView,
        out: list[GossipEffect],
    ) -> None:
        self._counters.probes += 1
        self._probed.pop(target, None)
        self._probed[target] = message_id
        if len(self._probed) > MAX_PROBED:
            del self._probed[next(iter(self._probed))]
        membership.hold(target, now, out, is_choice=False)
        self._tell_address(target, out)
        out.append(Send((target,), self._topic_id, IHave(((message_id, PROBE_ROUND),))))

    def _tell_address(self, target: EndpointId, out: list[GossipEffect]) -> None:
        """The driver may have forgotten long since what we remember."""
        member = self._members.get(target)
        if member is not None and member.data:
            out.append(PeerDataLearned(target, member.data))

    def _message(self, now: float) -> MessageId | None:
        """Return the latest message that everybody in our part must have by now."""
        config = self._config
        for at, message_id in reversed(self._messages):
            if now >= at + config.min_age_s:
                return message_id if now < at + config.max_age_s else None
        return None

    def _pick(self, membership: HyParView) -> EndpointId | None:
        """Return a known peer outside the view, rather one that our part of the swarm does not know of."""

        def is_candidate(peer: EndpointId) -> bool:
            return not membership.needs(peer) and membership.is_eligible(peer)

        strangers = [p for p in (*self._members, *self._discovered) if p not in membership.passive]
        lost = [p for p in dict.fromkeys(strangers) if is_candidate(p)]
        known = [p for p in membership.passive if is_candidate(p)]
        if not lost or (known and self._rng.randrange(KNOWN_EVERY) == 0):
            return pick(self._rng, known)
        return pick(self._rng, lost)

    def _wait(self, interval_s: float) -> float:
        return interval_s * (1 - SPREAD / 2 + SPREAD * self._rng.random())
