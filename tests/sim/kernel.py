"""Virtual time and simulated links. Knows nothing of what runs on them.

Everything follows from one seed: equal times fire in the order in which they were scheduled.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any


class Kernel:
    """A clock that jumps from one scheduled action to the next."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._serial = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def schedule(self, when: float, action: Callable[..., None], *args: Any) -> None:
        """Run ``action(*args)`` at ``when``, or at once if that is past."""
        self._serial += 1
        heapq.heappush(self._heap, (max(self.now, when), self._serial, action, args))

    def run_until(self, end: float, go_on: Callable[[], bool] | None = None) -> None:
        """Run what is due by ``end``; stop early, at that time, once ``go_on`` is false."""
        heap = self._heap
        while heap and heap[0][0] <= end:
            if go_on is not None and not go_on():
                return
            self.now, _, action, args = heapq.heappop(heap)
            self.steps += 1
            action(*args)
        if go_on is None or go_on():
            self.now = end

    def next_at(self) -> float:
        """Return when the next action is due."""
        return self._heap[0][0] if self._heap else inf


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """How links behave. Latency is drawn once per pair, as upstream's simulator does."""

    latency_s: tuple[float, float] = (0.010, 0.050)
    jitter_s: float = 0.0  # on top, per message; order per direction is kept, as a stream does
    loss: float = 0.0  # of whole messages: what a stream loses when it is reset


class Links:
    """Who reaches whom, and when. Ends are numbered from 0."""

    def __init__(self, config: LinkConfig, rng: Random) -> None:
        self.config = config
        self._rng = rng
        self._latencies: dict[tuple[int, int], float] = {}
        self._last: dict[tuple[int, int], float] = {}  # direction -> last arrival
        self._side: dict[int, int] = {}  # end -> part of the network it is in, while there are parts

    def latency(self, a: int, b: int) -> float:
        """Return the one-way latency between two ends."""
        pair = (a, b) if a < b else (b, a)
        latency = self._latencies.get(pair)
        if latency is None:
            latency = self._latencies[pair] = self._rng.uniform(*self.config.latency_s)
        return latency

    def arrival(self, a: int, b: int, now: float) -> float | None:
        """Return when what ``a`` sends now reaches ``b``; None when it does not."""
        if self._side and self._side.get(a) != self._side.get(b):
            return None
        config = self.config
        if config.loss and self._rng.random() < config.loss:
            return None
        when = now + self.latency(a, b)
        if config.jitter_s:
            when = max(when + self._rng.random() * config.jitter_s, self._last.get((a, b), 0.0))
            self._last[a, b] = when
        return when

    def partition(self, *parts: list[int]) -> None:
        """Cut the network into ``parts``; ends in no part are together in another one."""
        self._side = {end: i for i, part in enumerate(parts, start=1) for end in part}

    def heal(self) -> None:
        """Undo the partition."""
        self._side = {}

    def connected(self, a: int, b: int) -> bool:
        """Say whether ``a`` and ``b`` are in one part."""
        return not self._side or self._side.get(a) == self._side.get(b)
