"""Token buckets: how many per second, and how many at once. Time is an argument."""

from __future__ import annotations

from math import inf


class TokenBucket:
    """Grants ``rate_per_s`` on average and ``burst`` at once; starts full."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at = -inf

    def take(self, now: float) -> bool:
        """Take one token; False, and nothing taken, when less than one is there."""
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
