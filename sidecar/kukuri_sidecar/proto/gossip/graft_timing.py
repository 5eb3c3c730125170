"""How long to wait for a payload that a neighbor announced, learned from how long payloads took (U16)."""

from __future__ import annotations

from kukuri_sidecar.proto.gossip.config import BroadcastConfig

SAMPLES = 64  # the last ones; a few rounds of a busy topic
MIN_SAMPLES = 8  # below this a 95th percentile is noise
REFRESH_EVERY = 8  # sorting 64 floats costs 3 µs


class GraftTiming:
    """Two timeouts: ``timeout_s`` from the first IHave to the first Graft, ``retry_s`` to the next Graft."""

    __slots__ = ("_config", "_next", "_samples", "retry_s", "timeout_s")

    def __init__(self, config: BroadcastConfig) -> None:
        self._config = config
        self._samples: list[float] = []
        self._next = 0
        self.timeout_s = config.graft_timeout_s
        self.retry_s = config.graft_retry_s

    def add(self, delay_s: float) -> None:
        """Take the time from a first IHave to the payload that came without a Graft, or in spite of one."""
        if not self._config.adaptive_graft:
            return
        if len(self._samples) < SAMPLES:
            self._samples.append(delay_s)
        else:
            self._samples[self._next % SAMPLES] = delay_s
        self._next += 1
        if self._next >= MIN_SAMPLES and self._next % REFRESH_EVERY == 0:
            self._refresh()

    def _refresh(self) -> None:
        config = self._config
        ordered = sorted(self._samples)
        typical = ordered[min(len(ordered) - 1, int(len(ordered) * config.graft_quantile))]
        wanted = typical * config.graft_margin
        self.timeout_s = min(config.max_graft_timeout_s, max(config.min_graft_timeout_s, wanted))
        self.retry_s = max(config.min_graft_retry_s, self.timeout_s / 2)
