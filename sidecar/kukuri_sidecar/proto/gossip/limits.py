"""Rates and totals that keep remote peers within bounds. Counts only; the callers decide what to drop."""

from __future__ import annotations

from dataclasses import dataclass

from kukuri_sidecar.wire.ids import EndpointId


class Buckets:
    """A token bucket per peer, full at first; the peer unheard for longest is forgotten beyond ``limit``."""

    __slots__ = ("_burst", "_levels", "_limit", "_rate")

    def __init__(self, *, per_s: float, burst: float, limit: int) -> None:
        self._rate = per_s
        self._burst = burst
        self._limit = limit
        self._levels: dict[EndpointId, tuple[float, float]] = {}  # peer -> (level, as of)

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, peer: EndpointId, now: float, want: int = 1) -> int:
        """Take up to ``want`` whole tokens; return how many there were."""
        level, then = self._levels.pop(peer, (self._burst, now))
        level = min(self._burst, level + (now - then) * self._rate)
        granted = min(want, int(level + _ROUNDING))
        self._levels[peer] = (max(0.0, level - granted), now)
        if len(self._levels) > self._limit:
            del self._levels[next(iter(self._levels))]
        return granted


_ROUNDING = 1e-9  # ten times 0.1 s at 1/s is a token


@dataclass(slots=True)
class Total:
    """A count over all topics with a bound."""

    limit: int
    used: int = 0

    def full(self) -> bool:
        """Say whether nothing more may be added."""
        return self.used >= self.limit


@dataclass(slots=True)
class PeerPolicy:
    """What the application thinks of peers; one for all topics. Dicts, because they keep their order."""

    pinned: dict[EndpointId, None]
    blocked: dict[EndpointId, None]


@dataclass(slots=True)
class TopicCounters:
    """What happened in one topic since we joined it."""

    joins: int = 0  # Joins accepted
    joins_refused: int = 0  # over the rate, or no slot that may be taken
    published: int = 0
    delivered: int = 0
    duplicates: int = 0
    rejected: int = 0  # not accepted by the owner: neither delivered nor passed on
    spoofed: int = 0  # content does not match the id
    bytes_delivered: int = 0
    grafts_sent: int = 0
    grafts_received: int = 0
    grafts_refused: int = 0  # over the rate or asked too often
    prunes_sent: int = 0
    prunes_received: int = 0
    announced: int = 0  # ids heard of in IHave
    announced_ignored: int = 0  # over a bound
    broken_promises: int = 0  # Grafts that no payload answered in time
    repaired: int = 0  # payloads that came from the peer we sent a Graft
    probes: int = 0
    probes_answered: int = 0
