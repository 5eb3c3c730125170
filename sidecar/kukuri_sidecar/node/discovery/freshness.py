"""The newest record seen of each endpoint: older ones are somebody's replay (trust.md R2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kukuri_sidecar.net.clock import WallMs
from kukuri_sidecar.wire.ids import EndpointId

MAX_REMEMBERED = 1_000
MAX_AHEAD_US = 600_000_000  # a record from further in the future would shut out all that follow it


class Freshness:
    """At most ``MAX_REMEMBERED`` endpoints, the least recently seen forgotten first; one for all sources."""

    def __init__(self, wall_ms: WallMs) -> None:
        self._wall_ms = wall_ms
        self._newest: dict[EndpointId, int] = {}

    def restore(self, known: Iterable[tuple[EndpointId, int]]) -> None:
        """Take what the last run knew, the most recently seen last."""
        for endpoint_id, timestamp_us in known:
            self.admit(endpoint_id, timestamp_us)

    def admit(self, endpoint_id: EndpointId, timestamp_us: int) -> bool:
        """Say whether the record counts: not older than any before, not from the future. Remember it then."""
        if timestamp_us > self._wall_ms() * 1000 + MAX_AHEAD_US:
            return False
        newest = self._newest.pop(endpoint_id, -1)
        if newest < 0 and len(self._newest) >= MAX_REMEMBERED:
            del self._newest[next(iter(self._newest))]
        self._newest[endpoint_id] = max(newest, timestamp_us)
        return timestamp_us >= newest

    def newest(self) -> Mapping[EndpointId, int]:
        """Return the timestamps (Unix microseconds), the most recently seen last."""
        return self._newest
