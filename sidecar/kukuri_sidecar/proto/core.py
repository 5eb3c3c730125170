"""The one shape of every protocol core, and the small parts that keep cores deterministic."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Iterator, MutableSet, Sequence
from math import inf
from typing import Generic, Protocol, TypeVar

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
T = TypeVar("T", bound=Hashable)


class Core(Protocol[In, Out]):
    """A sans-IO state machine: events and time go in, effects come out.

    ``now`` is monotonic seconds; only differences mean anything. After ``on_deadline(now)``,
    ``deadline() > now`` holds.
    """

    def handle(self, event: In, now: float) -> Sequence[Out]:
        """Take one event; return what must be done, in order."""
        ...

    def deadline(self) -> float:
        """Return the next time ``on_deadline`` wants to run; ``inf`` when idle."""
        ...

    def on_deadline(self, now: float) -> Sequence[Out]:
        """Let time pass up to ``now``; return what must be done, in order."""
        ...


class Rng(Protocol):
    """What a core may ask of chance. SystemRandom in production, Random(seed) in tests."""

    def random(self) -> float:
        """Return a float in [0, 1)."""
        ...

    def randrange(self, stop: int, /) -> int:
        """Return an int in [0, stop)."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """Return an int of ``k`` random bits."""
        ...


class OrderedSet(MutableSet[T]):
    """A set that iterates in insertion order: ``set[bytes]`` differs from process to process."""

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items: dict[T, None] = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: T) -> None:
        """Add ``value`` at the end, or leave it where it is."""
        self._items[value] = None

    def discard(self, value: T) -> None:
        """Remove ``value`` if present."""
        self._items.pop(value, None)

    def __repr__(self) -> str:
        return f"OrderedSet({list(self._items)!r})"


def pick(rng: Rng, items: Sequence[T]) -> T | None:
    """Return one random item, or None of an empty sequence."""
    return items[rng.randrange(len(items))] if items else None


def sample(rng: Rng, items: Sequence[T], count: int) -> list[T]:
    """Return up to ``count`` distinct random items (a partial Fisher-Yates shuffle)."""
    pool = list(items)
    count = max(0, min(count, len(pool)))
    for i in range(count):
        j = i + rng.randrange(len(pool) - i)
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:count]


STALE_TIMERS = 64  # replaced and cancelled settings that a heap may hold besides as many as live ones


class Timers(Generic[T]):
    """Keyed deadlines with a stable order: equal times fire in the order they were set.

    Takes no more room than twice the armed keys, however often they are set anew.
    """

    __slots__ = ("_due", "_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._due: dict[T, int] = {}  # key -> serial of its live entry
        self._serial = 0

    def set(self, key: T, at: float) -> None:
        """Arm ``key`` for ``at``, replacing an earlier setting."""
        self._serial += 1
        self._due[key] = self._serial
        heapq.heappush(self._heap, (at, self._serial, key))
        if len(self._heap) > 2 * len(self._due) + STALE_TIMERS:
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)

    def cancel(self, key: T) -> None:
        """Disarm ``key`` if it is armed."""
        self._due.pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self._due

    def __len__(self) -> int:
        return len(self._due)

    def deadline(self) -> float:
        """Return the earliest armed time, ``inf`` without any."""
        heap = self._heap
        while heap and self._due.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else inf

    def pop_due(self, now: float) -> T | None:
        """Disarm and return the first key whose time has come (``now >= at``), or None."""
        if not self._due or self.deadline() > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        return key
