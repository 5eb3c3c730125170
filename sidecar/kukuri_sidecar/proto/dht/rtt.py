"""How long to wait for an answer: what the network has shown so far (RFC 6298, all samples taken).

mainline and bittorrent-dht wait 2 s and pay for every dead node in full; this is where we gain most
(mainline-dht.md sections 0.6 and 5).
"""

from __future__ import annotations

FIRST_TIMEOUT_S = 0.4
MIN_TIMEOUT_S = 0.15
MAX_TIMEOUT_S = 1.0
VARIATIONS = 3.0  # RFC 6298 has 4; a late answer still counts here, so that a short wait is cheap: tests/sim


class RttEstimator:
    """Smoothed round-trip time of all nodes together. A single node is asked too rarely to have its own."""

    __slots__ = ("_rtt_s", "_variation_s")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: the network is another one."""
        self._rtt_s: float | None = None
        self._variation_s = 0.0

    def observe(self, sample_s: float) -> None:
        """Take the round-trip time of one answer."""
        if self._rtt_s is None:
            self._rtt_s, self._variation_s = sample_s, sample_s / 2
            return
        self._variation_s += (abs(sample_s - self._rtt_s) - self._variation_s) / 4
        self._rtt_s += (sample_s - self._rtt_s) / 8

    @property
    def timeout_s(self) -> float:
        """After this long without an answer, ask somebody else as well."""
        if self._rtt_s is None:
            return FIRST_TIMEOUT_S
        return min(MAX_TIMEOUT_S, max(MIN_TIMEOUT_S, self._rtt_s + VARIATIONS * self._variation_s))
