from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.proto.backoff import backoff

SEEDS = st.integers(0, 2**32)
LEAST = st.floats(0.01, 60)


@given(failures=st.integers(1, 10_000), least=LEAST, factor=st.floats(1, 10_000), seed=SEEDS)
def test_a_pause_stays_within_its_bounds(failures: int, least: float, factor: float, seed: int) -> None:
    most = least * factor
    assert least <= backoff(failures, Random(seed), least_s=least, most_s=most) <= most


class Extreme:
    """Chance at its ends."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value

    def randrange(self, stop: int, /) -> int:
        return 0

    def getrandbits(self, k: int, /) -> int:
        return 0


SHORTEST, LONGEST = Extreme(0.0), Extreme(1 - 2**-53)


@pytest.mark.parametrize(
    ("failures", "shortest", "longest"),
    [(1, 1, 2), (2, 2, 4), (3, 4, 8), (6, 32, 64), (7, 32, 64), (8, 32, 64), (1000, 32, 64)],
)
def test_pauses_double_up_to_the_cap(failures: int, shortest: float, longest: float) -> None:
    """The join supervisor's 1, 2, 4 … 64 s."""
    assert backoff(failures, SHORTEST, least_s=1.0, most_s=64.0) == shortest
    assert backoff(failures, LONGEST, least_s=1.0, most_s=64.0) == pytest.approx(longest)


@given(LEAST, SEEDS)
def test_equal_bounds_leave_no_choice(least: float, seed: int) -> None:
    assert backoff(1, Random(seed), least_s=least, most_s=least) == least
    assert backoff(9, Random(seed), least_s=least, most_s=least) == least


def test_those_who_failed_together_do_not_come_back_together(rng: Random) -> None:
    pauses = sorted(backoff(1, rng, least_s=1.0, most_s=60.0) for _ in range(1000))
    assert pauses[0] < 1.05
    assert pauses[-1] > 1.95
    assert 1.4 < sum(pauses) / 1000 < 1.6
