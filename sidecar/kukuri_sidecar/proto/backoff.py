"""How long to wait before the next try: doubling, jitter, a least and a most. Pure functions."""

from __future__ import annotations

from kukuri_sidecar.proto.core import Rng

MAX_DOUBLINGS = 30  # keeps the power small; any cap is reached long before


def backoff(failures: int, rng: Rng, *, least_s: float, most_s: float) -> float:
    """Return the pause in seconds after ``failures`` (>= 1) failures in a row, within both bounds.

    Evenly from ``least_s * 2 ** (failures - 1)`` to twice that, at the cap from half of ``most_s`` to all of
    it: peers that failed together do not come back together, and nobody comes back at once.
    """
    ceiling = min(most_s, least_s * 2.0 ** min(failures, MAX_DOUBLINGS))
    floor = max(min(least_s, ceiling), ceiling / 2)
    return floor + (ceiling - floor) * rng.random()
