from __future__ import annotations

from math import inf, nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.proto.buckets import TokenBucket

RATES = st.sampled_from([0.1, 1.0, 3.0, 40.0, 1000.0]) | st.floats(0.01, 10_000)
BURSTS = st.integers(1, 5000).map(float)
STARTS = st.sampled_from([0.0, 1e-3, 1.0, 12_345.678, 1e6])
STEPS = st.lists(st.floats(0, 3), max_size=60)


@pytest.mark.parametrize("burst", [1, 2, 80, 2000])
def test_the_burst_is_exact(burst: int) -> None:
    bucket = TokenBucket(burst / 2, burst)
    assert [bucket.take(100.0) for _ in range(burst + 1)] == [True] * burst + [False]


def test_more_than_the_burst_never_comes() -> None:
    bucket = TokenBucket(1.0, 5.0)
    assert not bucket.take(0.0, 5.1)
    assert bucket.wait_s(0.0, 5.1) == inf
    assert bucket.take(0.0, 5.0)
    assert bucket.wait_s(0.0, 5.1) == inf


@given(rate=RATES, burst=BURSTS, start=STARTS, steps=STEPS)
def test_no_window_exceeds_burst_and_rate(
    rate: float, burst: float, start: float, steps: list[float]
) -> None:
    """However often it is asked, from any moment on: at most the burst, plus the rate times the time."""
    bucket = TokenBucket(rate, burst)
    now = start
    taken: list[float] = []
    for step in steps:
        now += step
        taken += [now for _ in range(3) if bucket.take(now)]
    for i, first in enumerate(taken):
        for j in range(i, len(taken)):
            assert j - i + 1 <= burst + rate * (taken[j] - first) + 1e-6 * burst + 1e-6


@given(rate=RATES, burst=BURSTS, start=STARTS)
def test_the_rate_is_reached(rate: float, burst: float, start: float) -> None:
    """Who waits as long as told gets a token each time: no more than one per 1/rate, and no less."""
    bucket = TokenBucket(rate, burst)
    assert bucket.take(start, burst)
    now = start
    for _ in range(50):
        now += bucket.wait_s(now)
        assert bucket.take(now)
    assert now - start == pytest.approx(50 / rate, rel=1e-3)


@given(rate=RATES, burst=BURSTS, start=STARTS, steps=STEPS, tokens=st.floats(0, 20))
def test_the_wait_is_exact(
    rate: float, burst: float, start: float, steps: list[float], tokens: float
) -> None:
    """At the promised moment the tokens are there, a moment before they are not, asking in between or not."""
    bucket = TokenBucket(rate, burst)
    now = start
    for step in steps:
        bucket.take(now, step)
        now += step / rate
    wait = bucket.wait_s(now, tokens)
    if wait == inf:
        assert tokens > burst
    elif wait:
        ready = now + wait
        assert not bucket.take(now, tokens)
        assert not bucket.take(now + wait / 3, tokens) or now + wait / 3 >= ready
        assert not bucket.take(nextafter(nextafter(ready, -inf), -inf), tokens)
        assert bucket.take(ready, tokens)
    else:
        assert bucket.take(now, tokens)


def test_a_clock_that_steps_back_earns_nothing() -> None:
    bucket = TokenBucket(1.0, 10.0)
    assert bucket.take(100.0, 10.0)
    for _ in range(5):
        assert not bucket.take(90.0)
        assert not bucket.take(100.0)
    assert bucket.take(101.0)
    assert not bucket.take(101.0)


def test_a_charge_may_run_into_debt_and_says_when_it_is_paid() -> None:
    bucket = TokenBucket(10, 20)
    assert bucket.charge(0.0, 20) == 0
    assert bucket.charge(0.0, 5) == pytest.approx(0.5)
    assert bucket.charge(0.5, 10) == pytest.approx(1.0)
    assert bucket.charge(10.0, 1) == 0
