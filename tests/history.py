"""Judges what a swarm did by the logs of all its members, as Jepsen does (trust.md G20).

    history = History()
    history.note(Acked(12.5, "a", b"hello"))
    ...
    assert history.losses() == []

Knows nothing of how members work: a log is a list of facts, each with its time on one clock.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

KEPT_S = 30.0  # a payload stays in the caches so long: until then a loss can still be repaired


@dataclass(frozen=True, slots=True)
class Published:
    """The member's host asked for it and got an answer that was no error."""

    at: float
    member: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Acked:
    """The member's host was told that the message is acknowledged."""

    at: float
    member: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Delivered:
    """The member's host got the message."""

    at: float
    member: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Up:
    """The member counts ``peer`` among its neighbours."""

    at: float
    member: str
    peer: str


@dataclass(frozen=True, slots=True)
class Down:
    """The member counts ``peer`` among its neighbours no more."""

    at: float
    member: str
    peer: str


@dataclass(frozen=True, slots=True)
class Killed:
    """The member ended without a word."""

    at: float
    member: str


Fact = Published | Acked | Delivered | Up | Down | Killed


@dataclass(frozen=True, slots=True)
class Loss:
    """An acknowledged message of ``author`` that the survivor ``member`` never got."""

    message: bytes
    author: str
    member: str


@dataclass
class History:
    """All facts of one topic; contents name messages and are never published twice."""

    facts: list[Fact] = field(default_factory=list)

    def note(self, *facts: Fact) -> None:
        """Add facts in any order."""
        self.facts += facts

    @property
    def members(self) -> set[str]:
        return {fact.member for fact in self.facts}

    @property
    def survivors(self) -> set[str]:
        """Members that were not killed."""
        return self.members - {fact.member for fact in self.facts if isinstance(fact, Killed)}

    def published(self) -> dict[bytes, Published]:
        return {fact.message: fact for fact in self.facts if isinstance(fact, Published)}

    def delivered_to(self) -> dict[bytes, set[str]]:
        """Message -> who got it."""
        found: dict[bytes, set[str]] = defaultdict(set)
        for fact in self.facts:
            if isinstance(fact, Delivered):
                found[fact.message].add(fact.member)
        return found

    def links_over(self, start: float, end: float) -> Iterator[set[frozenset[str]]]:
        """Yield the links between survivors at ``start`` and after every change up to ``end``.

        A link is there while one of both counts the other among its neighbours. One to a dead member that
        nobody has noticed is none.
        """
        survivors = self.survivors
        counted: set[tuple[str, str]] = set()
        has_begun = False
        for fact in sorted((f for f in self.facts if isinstance(f, Up | Down)), key=lambda fact: fact.at):
            if fact.at > end:
                break
            if fact.at > start and not has_begun:
                has_begun = True
                yield {frozenset(pair) for pair in counted}
            if fact.member in survivors and fact.peer in survivors:
                (counted.add if isinstance(fact, Up) else counted.discard)((fact.member, fact.peer))
                if has_begun:
                    yield {frozenset(pair) for pair in counted}
        if not has_begun:
            yield {frozenset(pair) for pair in counted}

    def stayed_connected(self, member: str, holders: set[str], start: float, end: float) -> bool:
        """Say whether at every moment a path of survivors led from one of ``holders`` to the member."""
        return all(member in _reached(holders, links) for links in self.links_over(start, end))

    def losses(self) -> list[Loss]:
        """Return every acknowledged message that a survivor misses which stayed connected; must be empty.

        Connected: to survivors that have it, from the publish until the caches have forgotten it.
        """
        return self._missing(connected=True)

    def stranded(self) -> list[Loss]:
        """Return the acknowledged messages that survivors miss which were cut off for a while."""
        return self._missing(connected=False)

    def _missing(self, *, connected: bool) -> list[Loss]:
        published, delivered, survivors = self.published(), self.delivered_to(), self.survivors
        found = []
        for fact in self.facts:
            if isinstance(fact, Acked):
                start = published[fact.message].at
                holders = survivors & (delivered[fact.message] | {fact.member})
                found += [
                    Loss(fact.message, fact.member, member)
                    for member in sorted(survivors - holders)
                    if self.stayed_connected(member, holders, start, start + KEPT_S) is connected
                ]
        return found

    def repeats(self) -> dict[tuple[str, bytes], int]:
        """Return what a member got more than once, or got although it had published it; must be empty."""
        counts = Counter((f.member, f.message) for f in self.facts if isinstance(f, Delivered))
        own = {(f.member, f.message) for f in self.facts if isinstance(f, Published)}
        return {key: count for key, count in counts.items() if count > 1 or key in own}

    def inventions(self) -> set[bytes]:
        """Return what was delivered and never published; must be empty."""
        return set(self.delivered_to()) - set(self.published())

    def incomplete(self) -> list[Published]:
        """Return what survivors published and not every other survivor got, oldest first."""
        delivered, survivors = self.delivered_to(), self.survivors
        missing = [
            fact
            for fact in self.published().values()
            if fact.member in survivors and survivors - delivered[fact.message] - {fact.member}
        ]
        return sorted(missing, key=lambda fact: fact.at)

    def recovered_after(self, since: float) -> float:
        """Return how long after ``since`` a survivor published for the last time what not everybody got."""
        return max((fact.at - since for fact in self.incomplete()), default=0.0)


def _reached(holders: set[str], links: set[frozenset[str]]) -> set[str]:
    """Return whom a message of ``holders`` can reach over ``links``."""
    reached, rest = set(holders), set(links)
    while grown := {link for link in rest if link & reached}:
        reached = reached.union(*grown)
        rest -= grown
    return reached
