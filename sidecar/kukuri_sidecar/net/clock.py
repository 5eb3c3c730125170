"""The only place that reads the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable

WallMs = Callable[[], int]
"""Returns Unix time in whole milliseconds. For records, envelopes and the host's eyes; never for timers."""


def wall_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
