"""Token buckets: how much of something may happen per second, with a burst. Pure arithmetic on ``now``."""

from __future__ import annotations

from math import inf, nextafter


class TokenBucket:
    """Holds up to ``burst`` tokens and gains ``rate_per_s`` (> 0); starts full."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at = -inf  # when there were ``_tokens``: the last time some were taken

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Take ``tokens`` if they are there; say whether they were."""
        if now < self._ready_at(tokens):
            return False
        self._fill(now)
        self._tokens = max(0.0, self._tokens - tokens)  # the sum above may round below ``tokens``
        return True

    def charge(self, now: float, tokens: float) -> float:
        """Take ``tokens`` in any case, on credit if need be; return the seconds until the debt is paid."""
        self._fill(now)
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._rate)

    def wait_s(self, now: float, tokens: float = 1.0) -> float:
        """Return the seconds until ``take(now + wait_s)`` succeeds; ``inf`` for more than the burst."""
        ready = self._ready_at(tokens)
        wait = max(0.0, ready - now)
        while now + wait < ready:  # the difference was rounded down
            wait = nextafter(wait, inf)
        return wait

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now

    def _ready_at(self, tokens: float) -> float:
        """Return the moment from which ``tokens`` are there: one moment until some are taken."""
        if tokens <= self._tokens:
            return -inf
        return inf if tokens > self._burst else self._at + (tokens - self._tokens) / self._rate
