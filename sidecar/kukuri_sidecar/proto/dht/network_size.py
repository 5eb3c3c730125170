"""How many nodes the network has, judged by how close the closest ones come to a target.

Least squares over the closest n responders (pubky mainline's method): with N nodes the i-th closest is
expected at i * 2^160 / (N + 1).
"""

from __future__ import annotations

from collections.abc import Sequence

from kukuri_sidecar.proto.dht.distance import ID_BITS

SAMPLES = 32  # look-ups remembered; the deviation of the mean is then about 0.281 * 32^-0.529 = 4.5 %
MIN_RESPONDERS = 8
ASSUMED_NODES = 1_000_000  # before the first sample, so that a cold node does not spray its writes


class NetworkSize:
    """The mean over the last look-ups."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: list[float] = []

    def observe(self, distances: Sequence[int]) -> None:
        """Take the ascending distances of a complete look-up's closest nodes; fewer than 8 say nothing."""
        if len(distances) < MIN_RESPONDERS:
            return
        squares = sum(i * i for i in range(1, len(distances) + 1))
        weighted = sum(i * distance for i, distance in enumerate(distances, 1))
        self._samples.append(squares * (1 << ID_BITS) / max(1, weighted))
        del self._samples[:-SAMPLES]

    @property
    def nodes(self) -> int | None:
        """The estimate; None before the first look-up."""
        return round(sum(self._samples) / len(self._samples)) if self._samples else None

    def expected_distance(self, rank: int) -> int:
        """Return the distance at which the ``rank``-th closest node of an honest network is expected."""
        return rank * (1 << ID_BITS) // ((self.nodes or ASSUMED_NODES) + 1)
