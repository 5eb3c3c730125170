"""Token buckets at, below and above their limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.proto.buckets import TokenBucket


def test_starts_full_and_refills_at_its_rate() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=3)
    assert [bucket.take(5.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(5.05)
    assert bucket.take(5.11)
    assert not bucket.take(5.12)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_grants_nothing() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=1)
    assert bucket.take(5.0)
    assert not bucket.take(1.0)
    assert not bucket.take(5.05)


@given(st.lists(st.floats(0, 1), max_size=200), st.floats(0.1, 50), st.integers(1, 20))
def test_never_grants_more_than_burst_plus_rate(gaps: list[float], rate: float, burst: int) -> None:
    bucket = TokenBucket(rate, burst)
    now, granted = 0.0, 0
    for gap in gaps:
        now += gap
        granted += bucket.take(now)
        assert granted <= burst + rate * now + 1e-6
