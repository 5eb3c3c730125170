"""When to try whom until a topic has a neighbour.

Decides only; the topics service dials and tells the gossip core.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from kukuri_sidecar.node.events import TopicState
from kukuri_sidecar.proto.backoff import backoff
from kukuri_sidecar.proto.buckets import TokenBucket
from kukuri_sidecar.proto.core import OrderedSet, Rng, sample
from kukuri_sidecar.wire.ids import EndpointId

MAX_CANDIDATES = 128  # per topic: 64 bootstrap peers of the host and as many met on the way
CANDIDATES_PER_ATTEMPT = 4  # kukuri's warm-up rule (requirements.md L5)
ATTEMPT_TIMEOUT_S = 5.0  # a Rust node that is not in the topic leaves a Join without any answer
RETRY_MIN_S = 1.0
RETRY_MAX_S = 64.0
HURRY_PER_S = 1.0  # our guess: how often news or losses, which strangers can cause, are answered at once ...
HURRY_BURST = 4.0  # ... and in a row


class JoinSupervisor:
    """One topic's way to its first neighbour, again and again. Times are monotonic seconds.

    ``state`` is what was observed: ``joined`` while a neighbour is up, ``joining`` during the first attempt,
    otherwise ``isolated``. ``deadline`` is when ``on_deadline`` wants to run.

    Attempts follow a schedule of their own: some candidates are asked, after 5 s or when all of them turned
    out unreachable the attempt has failed, then comes a pause that doubles. News are asked besides and never
    move the schedule: whoever invents candidates can neither hold up the others nor make us ask faster.
    """

    def __init__(self, own_id: EndpointId, rng: Rng) -> None:
        self._own_id = own_id
        self._rng = rng
        self._candidates: OrderedSet[EndpointId] = OrderedSet()
        self._named: OrderedSet[EndpointId] = OrderedSet()  # the candidates that the host named
        self._news: OrderedSet[EndpointId] = OrderedSet()  # candidates to ask at once
        self._asked: OrderedSet[EndpointId] = OrderedSet()  # of the attempt under way, not yet failed
        self._failures = 0
        self._is_trying = False
        self._until = -inf  # the end of the attempt under way, or of the pause; the first is due at once
        self._news_at = inf
        self._hurry = TokenBucket(HURRY_PER_S, HURRY_BURST)
        self.neighbors: OrderedSet[EndpointId] = OrderedSet()
        self.attempts = 0  # of the schedule, even when nobody was known, and for news
        self.state = TopicState.JOINING

    @property
    def candidates(self) -> tuple[EndpointId, ...]:
        """Everybody worth a try, the longest known first."""
        return tuple(self._candidates)

    @property
    def deadline(self) -> float:
        """When ``on_deadline`` wants to run; ``inf`` while joined."""
        return inf if self.neighbors else min(self._until, self._news_at)

    @property
    def next_attempt(self) -> float | None:
        """Monotonic time of the next attempt; None while joined or while one is under way."""
        return None if self.neighbors or self._is_trying else self.deadline

    def add(self, candidates: Iterable[EndpointId], now: float, *, by_host: bool = False) -> list[EndpointId]:
        """Take new candidates and return those that were unknown; an isolated topic tries them at once.

        Whom the host names is news every time, and forgotten last: strangers must not push out the way back.
        """
        had_none = not self._candidates
        fresh = []
        for candidate in candidates:
            if candidate == self._own_id:
                continue
            is_fresh = candidate not in self._candidates
            if is_fresh:
                self._make_room()
                self._candidates.add(candidate)
                fresh.append(candidate)
            if by_host:
                self._named.add(candidate)
            is_asked = self._is_trying and candidate in self._asked
            if (is_fresh or by_host) and not self.neighbors and not is_asked:
                self._news.add(candidate)
        if self._news:
            self._news_at = min(self._news_at, now + self._hurry.wait_s(now))
        if had_none and self._candidates and self.state is TopicState.ISOLATED:
            self._failures = 0  # there was nobody to fail
            self._until = now
        return [candidate for candidate in fresh if candidate in self._candidates]

    def neighbor_up(self, peer: EndpointId) -> None:
        """Note a neighbour; it is remembered as a candidate for worse times."""
        self.neighbors.add(peer)
        self._candidates.discard(peer)  # move to the end: the most recently met are kept longest
        self._make_room()
        self._candidates.add(peer)
        self._news.clear()
        self._news_at = inf
        self._failures = 0
        self._is_trying = False
        self.state = TopicState.JOINED

    def neighbor_down(self, peer: EndpointId, now: float) -> None:
        """Note a lost neighbour; without any left the search begins at once."""
        self.neighbors.discard(peer)
        if not self.neighbors and self.state is TopicState.JOINED:
            self.state = TopicState.ISOLATED
            self._until = now + self._hurry.wait_s(now)
            self._hurry.take(now)

    def network_changed(self, now: float) -> None:
        """What failed may work now: an isolated topic begins its schedule anew, at once."""
        if not self.neighbors:
            self._failures = 0
            self._is_trying = False
            self._until = now

    def unreachable(self, peer: EndpointId, now: float) -> None:
        """Note that a dial failed: when nobody else is left to answer, the attempt is over."""
        if self._is_trying and peer in self._asked:
            self._asked.discard(peer)
            if not self._asked:
                self._until = now

    def on_deadline(self, now: float) -> list[EndpointId]:
        """Return whom to send a Join now; empty when an attempt just failed or nobody is known."""
        if now < self.deadline:
            return []
        is_due = now >= self._until
        if is_due and self._is_trying:
            self._fail(now)
            is_due = False
        chosen = self._take_news(now) if now >= self._news_at else []
        if is_due:
            others = [candidate for candidate in self._candidates if candidate not in chosen]
            chosen += sample(self._rng, others, CANDIDATES_PER_ATTEMPT - len(chosen))
            self._asked.clear()
            self._is_trying = True
            self._until = now + ATTEMPT_TIMEOUT_S
        self._asked |= OrderedSet(chosen)
        self.attempts += is_due or bool(chosen)
        if is_due and not chosen:
            self._fail(now)
        return chosen

    def _take_news(self, now: float) -> list[EndpointId]:
        """Return whom to ask of the news, the host's first; the others wait for the schedule."""
        self._hurry.take(now)
        named = [candidate for candidate in self._news if candidate in self._named]
        others = [candidate for candidate in self._news if candidate not in self._named]
        chosen = sample(self._rng, named, CANDIDATES_PER_ATTEMPT)
        chosen += sample(self._rng, others, CANDIDATES_PER_ATTEMPT - len(chosen))
        self._news.clear()
        self._news_at = inf
        return chosen

    def _fail(self, now: float) -> None:
        self._is_trying = False
        self._failures += 1
        self.state = TopicState.ISOLATED
        self._until = now + backoff(self._failures, self._rng, least_s=RETRY_MIN_S, most_s=RETRY_MAX_S)

    def _make_room(self) -> None:
        """Forget the longest known stranger, else whom the host named, else a neighbour."""
        if len(self._candidates) < MAX_CANDIDATES:
            return
        for keep in (self.neighbors | self._named, self.neighbors, ()):
            found = next((candidate for candidate in self._candidates if candidate not in keep), None)
            if found is not None:
                for group in (self._candidates, self._named, self._news):
                    group.discard(found)
                return
