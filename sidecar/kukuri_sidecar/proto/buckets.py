"""Token buckets: how much of something may happen per second, with a burst. Pure arithmetic on ``now``."""

from __future__ import annotations


class TokenBucket:
    """Holds up to ``burst`` tokens and gains ``rate_per_s``; starts full."""

    __slots__ = ("_burst", "_filled_at", "_rate", "_tokens")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._filled_at: float | None = None

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Take ``tokens`` if they are there; say whether they were."""
        self._fill(now)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def wait_s(self, now: float, tokens: float = 1.0) -> float:
        """Return how many seconds from ``now`` until ``take`` would succeed."""
        self._fill(now)
        return max(0.0, (tokens - self._tokens) / self._rate)

    def _fill(self, now: float) -> None:
        if self._filled_at is not None and now > self._filled_at:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
