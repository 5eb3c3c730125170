"""How long to wait for a payload that a neighbor announced, learned from how long payloads took (U16)."""

from __future__ import annotations

from kukuri_sidecar.proto.gossip.config import BroadcastConfig

SAMPLES = 64  # the last ones; a few rounds of a busy topic
PRIOR = 32  # what the configured timeout counts for, in samples
REFRESH_EVERY = 8  # sorting 64 floats costs 3 µs


class GraftTiming:
    """Two timeouts: ``timeout_s`` from the first IHave to the first Graft, ``retry_s`` to the next Graft.

    The timeout is a multiple of the median delay, not its 95th percentile: behind a broken link every node
    waits for somebody else's Graft, and those delays would drive the percentile, and with it themselves, to
    the limit.
    """

    __slots__ = ("_config", "_count", "_samples", "retry_s", "timeout_s")

    def __init__(self, config: BroadcastConfig) -> None:
        self._config = config
        self._samples: list[float] = []
        self._count = 0
        self.timeout_s = config.graft_timeout_s
        self.retry_s = config.graft_retry_s

    def add(self, delay_s: float) -> None:
        """Take the time from a first IHave to the payload that came without a Graft, or in spite of one."""
        if not self._config.adaptive_graft:
            return
        if len(self._samples) < SAMPLES:
            self._samples.append(delay_s)
        else:
            self._samples[self._count % SAMPLES] = delay_s
        self._count += 1
        if self._count % REFRESH_EVERY == 0:
            self._refresh()

    def _refresh(self) -> None:
        config = self._config
        observed = sorted(self._samples)[len(self._samples) // 2] * config.graft_spread
        wanted = (self._count * observed + PRIOR * config.graft_timeout_s) / (self._count + PRIOR)
        self.timeout_s = min(config.max_graft_timeout_s, max(config.min_graft_timeout_s, wanted))
        self.retry_s = max(config.min_graft_retry_s, self.timeout_s / 2)
