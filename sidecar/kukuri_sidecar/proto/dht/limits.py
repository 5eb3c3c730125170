"""How much we send to whom, and whom we answer.

libtorrent bans an IP address that sends it more than 50 datagrams in 10 s; anacrolix and others have limits
of their own. So what goes to one address is counted exactly, in sliding windows.
"""

from __future__ import annotations

from math import inf

from kukuri_sidecar.proto.buckets import TokenBucket
from kukuri_sidecar.proto.dht.config import DhtConfig

SHORT_S = 1.0
LONG_S = 10.0
MAX_HOSTS = 2_048  # that we sent to in the last 10 s; the global limits allow about 1,300
MAX_SOURCES = 1_024  # that asked us in the last 10 s; others wait for the next window
MAX_BLOCKED = 1_024


class SendLimits:
    """Our datagrams: a budget for all queries, and windows per IP address for everything."""

    __slots__ = ("_bucket", "_config", "_sent", "_sweep_at")

    def __init__(self, config: DhtConfig) -> None:
        self._sent: dict[str, list[float]] = {}  # host -> when we sent, the last ``host_per_10_s`` times
        self._sweep_at = inf
        self.configure(config)

    def configure(self, config: DhtConfig) -> None:
        """Take new limits; what was sent still counts."""
        self._config = config
        self._bucket = TokenBucket(config.queries_per_s, config.queries_per_s)

    def __len__(self) -> int:
        return len(self._sent)

    def query_at(self, host: str, now: float) -> float:
        """Return when a query to ``host`` is allowed: ``now``, or later."""
        wait_s = self._bucket.wait_s(now)
        return max(self._host_at(host, now), now + wait_s)

    def count_query(self, host: str, now: float) -> None:
        """A query goes to ``host``; ``query_at`` must have allowed it."""
        self._bucket.take(now)
        self._count(host, now)

    def take_answer(self, host: str, now: float) -> bool:
        """Say whether an answer may go to ``host`` now, and count it if so."""
        if self._host_at(host, now) > now:
            return False
        self._count(host, now)
        return True

    def deadline(self) -> float:
        """Return when old entries can be forgotten."""
        return self._sweep_at

    def sweep(self, now: float) -> None:
        """Forget the hosts that we left alone for 10 s."""
        self._sent = {host: times for host, times in self._sent.items() if now < times[-1] + LONG_S}
        self._sweep_at = now + LONG_S if self._sent else inf

    def _host_at(self, host: str, now: float) -> float:
        times = self._sent.get(host)
        if times is None:
            return now if len(self._sent) < MAX_HOSTS else self._sweep_at
        at = now
        for count, window_s in ((self._config.host_per_s, SHORT_S), (self._config.host_per_10_s, LONG_S)):
            if len(times) >= count:
                at = max(at, times[-count] + window_s)
        return at

    def _count(self, host: str, now: float) -> None:
        times = self._sent.setdefault(host, [])
        times.append(now)
        if len(times) > self._config.host_per_10_s:
            del times[0]
        if self._sweep_at == inf:
            self._sweep_at = now + LONG_S


class ServeLimits:
    """What strangers may have of us: queries per address in windows of 10 s, and bytes for all together.

    Who goes over its limit is not heard for five minutes, as with libtorrent.
    """

    __slots__ = ("_blocked", "_bytes", "_config", "_counts", "_window_ends")

    def __init__(self, config: DhtConfig) -> None:
        self._counts: dict[str, int] = {}
        self._window_ends = -inf
        self._blocked: dict[str, float] = {}
        self.configure(config)

    def configure(self, config: DhtConfig) -> None:
        """Take new limits; blocks remain."""
        self._config = config
        self._bytes = TokenBucket(config.serve_bytes_per_s, 3 * config.serve_bytes_per_s)

    def take_query(self, host: str, now: float) -> bool:
        """Say whether a query from ``host`` is heard, and count it."""
        if now >= self._window_ends:
            self._counts.clear()
            self._window_ends = now + LONG_S
        if self._blocked:
            if now < self._blocked.get(host, -inf):
                return False
            self._blocked.pop(host, None)
        count = self._counts.get(host, 0) + 1
        if count == 1 and len(self._counts) >= MAX_SOURCES:
            return False
        self._counts[host] = count
        if count > self._config.host_queries_per_10_s:
            self._blocked[host] = now + self._config.block_s
            if len(self._blocked) > MAX_BLOCKED:
                del self._blocked[next(iter(self._blocked))]
            return False
        return True

    def take_bytes(self, size: int, now: float) -> bool:
        """Say whether an answer of ``size`` bytes is within the budget, and count it if so."""
        return self._bytes.take(now, size)

    def deadline(self) -> float:
        """Return when the window can be forgotten."""
        return self._window_ends if self._counts else inf

    def sweep(self) -> None:
        """Forget the window, which has ended."""
        self._counts = {}

    def fill(self) -> tuple[int, int]:
        """Return how many sources are counted, and how many are blocked."""
        return len(self._counts), len(self._blocked)
