"""How long to wait before the next try: doubling, full jitter, a cap. Pure functions."""

from __future__ import annotations

from kukuri_sidecar.proto.core import Rng


def backoff(failures: int, rng: Rng, *, least_s: float, most_s: float) -> float:
    """Return the pause in seconds after ``failures`` (>= 1) failures in a row.

    Full jitter in the upper half: between half and all of ``least_s * 2 ** (failures - 1)``, capped, so that
    peers that failed together do not come back together and nobody comes back at once.
    """
    ceiling = min(most_s, least_s * 2.0 ** min(failures - 1, 30))
    return ceiling * (0.5 + rng.random() / 2)
