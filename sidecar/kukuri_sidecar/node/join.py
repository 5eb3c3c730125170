"""When to try whom until a topic has a neighbour.

Decides only; the topics service dials and tells the gossip core.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from kukuri_sidecar.node.events import TopicState
from kukuri_sidecar.proto.backoff import backoff
from kukuri_sidecar.proto.core import OrderedSet, Rng, sample
from kukuri_sidecar.wire.ids import EndpointId

MAX_CANDIDATES = 128  # per topic: 64 bootstrap peers of the host and as many met on the way
CANDIDATES_PER_ATTEMPT = 4  # kukuri's warm-up rule (requirements.md L5)
ATTEMPT_TIMEOUT_S = 5.0  # a Rust node that is not in the topic leaves a Join without any answer
RETRY_MIN_S = 1.0
RETRY_MAX_S = 64.0


class JoinSupervisor:
    """One topic's way to its first neighbour, again and again. Times are monotonic seconds.

    ``state`` is what was observed: ``joined`` while a neighbour is up, ``joining`` during the first attempt,
    otherwise ``isolated``. ``deadline`` is when ``on_deadline`` wants to run.
    """

    def __init__(self, own_id: EndpointId, rng: Rng) -> None:
        self._own_id = own_id
        self._rng = rng
        self._candidates: OrderedSet[EndpointId] = OrderedSet()
        self._failures = 0
        self._trying = False
        self._asked: OrderedSet[EndpointId] = OrderedSet()  # of the attempt under way, not yet failed
        self.neighbors: OrderedSet[EndpointId] = OrderedSet()
        self.attempts = 0
        self.state = TopicState.JOINING
        self.deadline = -inf  # the first attempt is due at once

    @property
    def candidates(self) -> tuple[EndpointId, ...]:
        """Everybody worth a try, the longest known first."""
        return tuple(self._candidates)

    @property
    def next_attempt(self) -> float | None:
        """Monotonic time of the next attempt; None while joined or while one is under way."""
        return None if self.neighbors or self._trying else self.deadline

    def add(self, candidates: Iterable[EndpointId], now: float) -> list[EndpointId]:
        """Take new candidates and return those that were unknown; an isolated topic tries them at once."""
        fresh = []
        for candidate in candidates:
            if candidate == self._own_id or candidate in self._candidates:
                continue
            if len(self._candidates) >= MAX_CANDIDATES:
                self._forget_one()
            self._candidates.add(candidate)
            fresh.append(candidate)
        if fresh and not self.neighbors:
            self.deadline = now
            self._trying = False
        return fresh

    def retry(self, now: float) -> None:
        """There is news about a known candidate: an isolated topic tries at once."""
        if not self.neighbors and not self._trying:
            self.deadline = now

    def neighbor_up(self, peer: EndpointId) -> None:
        """Note a neighbour; it is remembered as a candidate for worse times."""
        self.neighbors.add(peer)
        self._candidates.discard(peer)  # move to the end: the most recently met are kept longest
        while len(self._candidates) >= MAX_CANDIDATES:
            self._forget_one()
        self._candidates.add(peer)
        self._failures = 0
        self._trying = False
        self.state = TopicState.JOINED
        self.deadline = inf

    def neighbor_down(self, peer: EndpointId, now: float) -> None:
        """Note a lost neighbour; without any left the search begins at once."""
        self.neighbors.discard(peer)
        if not self.neighbors and self.state is TopicState.JOINED:
            self.state = TopicState.ISOLATED
            self.deadline = now

    def unreachable(self, peer: EndpointId, now: float) -> None:
        """Note that a dial failed: when nobody else is left to answer, the attempt is over."""
        if self._trying and peer in self._asked:
            self._asked.discard(peer)
            if not self._asked:
                self.deadline = now

    def on_deadline(self, now: float) -> list[EndpointId]:
        """Return whom to send a Join now; empty when an attempt just failed or nobody is known."""
        if self.neighbors or now < self.deadline:
            return []
        if self._trying:
            self._fail(now)
            return []
        chosen = sample(self._rng, self.candidates, CANDIDATES_PER_ATTEMPT)
        self.attempts += 1
        self._asked = OrderedSet(chosen)
        if not chosen:
            self._fail(now)
            return []
        self._trying = True
        self.deadline = now + ATTEMPT_TIMEOUT_S
        return chosen

    def _fail(self, now: float) -> None:
        self._trying = False
        self._failures += 1
        self.state = TopicState.ISOLATED
        self.deadline = now + backoff(self._failures, self._rng, least_s=RETRY_MIN_S, most_s=RETRY_MAX_S)

    def _forget_one(self) -> None:
        for candidate in self._candidates:
            if candidate not in self.neighbors:
                self._candidates.discard(candidate)
                return
        self._candidates.discard(next(iter(self._candidates)))
