"""The only place that reads the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

MAX_DRIFT_MS = 100.0  # ours: below, a second look at a moment gives the number of the first

WallMs = Callable[[], int]
"""Returns Unix time in whole milliseconds. For records, envelopes and the host's eyes; never for timers."""


def wall_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Instants:
    """Moments of the monotonic clock as Unix milliseconds, the same number whenever one is asked for.

    The clocks drift apart (NTP, suspend): beyond ``MAX_DRIFT_MS`` the numbers follow the wall.
    """

    def __init__(self, wall_ms: WallMs) -> None:
        self._wall_ms = wall_ms
        self._offset_ms = -inf

    def at_ms(self, moment: float, now: float) -> int:
        """Return when the finite monotonic ``moment`` (seconds) is or was; ``now`` is the present one."""
        offset_ms = self._wall_ms() - 1000 * now
        if abs(offset_ms - self._offset_ms) > MAX_DRIFT_MS:
            self._offset_ms = offset_ms
        return round(self._offset_ms + 1000 * moment)
