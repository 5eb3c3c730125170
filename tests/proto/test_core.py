from __future__ import annotations

from math import inf, nextafter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kukuri_sidecar.proto.core import STALE_TIMERS, OrderedSet, Timers, pick, sample

KEYS = st.integers(0, 5)
TIMES = st.sampled_from([0.0, 0.1, 0.3, 1.0, 1.5, 7.0]) | st.floats(0, 10)


# --- Timers --------------------------------------------------------------------------------------------


def _drain(timers: Timers[int], now: float) -> list[int]:
    fired = []
    while (key := timers.pop_due(now)) is not None:
        fired.append(key)
    return fired


def test_equal_times_fire_in_the_order_they_were_set() -> None:
    timers: Timers[int] = Timers()
    for key in (3, 1, 2):
        timers.set(key, 1.0)
    timers.set(3, 1.0)  # set again: now the last
    assert _drain(timers, 1.0) == [1, 2, 3]


@given(at=st.floats(allow_nan=False, allow_infinity=False))
def test_a_timer_fires_at_its_exact_deadline_and_not_before(at: float) -> None:
    timers: Timers[int] = Timers()
    timers.set(1, at)
    assert timers.deadline() == at
    assert timers.pop_due(nextafter(at, -inf)) is None
    assert timers.pop_due(at) == 1
    assert timers.deadline() == inf


def test_nothing_is_due_of_no_timers() -> None:
    timers: Timers[int] = Timers()
    assert timers.pop_due(inf) is None
    timers.set(1, 1.0)
    timers.cancel(1)
    timers.cancel(1)
    assert timers.pop_due(inf) is None
    assert timers.deadline() == inf


def test_keys_need_no_order_of_their_own() -> None:
    timers: Timers[object] = Timers()
    timers.set("text", 1.0)
    timers.set(("a", 1), 1.0)
    assert timers.pop_due(1.0) == "text"


@pytest.mark.parametrize("keys", [1, 10, 1000])
def test_a_timer_that_is_set_anew_all_the_time_takes_no_room(keys: int) -> None:
    """An idle timer is set again with every packet of a peer: 1,000/s towards 30 s ahead."""
    timers: Timers[int] = Timers()
    for i in range(20_000):
        timers.set(i % keys, 30.0 + i / 1000)
    assert len(timers) == keys
    assert len(timers._heap) <= 2 * keys + STALE_TIMERS
    assert len(_drain(timers, inf)) == keys


class TimersAgainstAModel(RuleBasedStateMachine):
    """Every sequence of calls behaves as a list sorted by (time, order of setting)."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: Timers[int] = Timers()
        self.model: dict[int, float] = {}  # in the order of setting
        self.now = 0.0

    @rule(key=KEYS, at=TIMES)
    def set(self, key: int, at: float) -> None:
        self.timers.set(key, at)
        self.model.pop(key, None)
        self.model[key] = at

    @rule(key=KEYS)
    def cancel(self, key: int) -> None:
        self.timers.cancel(key)
        self.model.pop(key, None)

    @rule(step=TIMES)
    def pop_one(self, step: float) -> None:
        self.now += step
        due = sorted((at, i, key) for i, (key, at) in enumerate(self.model.items()) if self.now >= at)
        expected = due[0][2] if due else None
        assert self.timers.pop_due(self.now) == expected
        if due:
            del self.model[due[0][2]]

    @precondition(lambda self: self.model)
    @rule()
    def jump_to_the_deadline(self) -> None:
        self.now = max(self.now, self.timers.deadline())
        assert self.timers.pop_due(self.now) is not None
        first = min(self.model.values())
        del self.model[next(key for key, at in self.model.items() if at == first)]

    @invariant()
    def agrees(self) -> None:
        assert self.timers.deadline() == min(self.model.values(), default=inf)
        assert len(self.timers) == len(self.model)
        assert all((key in self.timers) == (key in self.model) for key in range(6))


TestTimersAgainstAModel = TimersAgainstAModel.TestCase
TestTimersAgainstAModel.settings = settings(max_examples=50, stateful_step_count=30)


# --- OrderedSet ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=2))))
def test_an_ordered_set_keeps_the_order_of_first_insertion(steps: list[tuple[bool, bytes]]) -> None:
    items: OrderedSet[bytes] = OrderedSet()
    model: list[bytes] = []
    for add, item in steps:
        if add:
            items.add(item)
            model += [item] if item not in model else []
        else:
            items.discard(item)
            model = [kept for kept in model if kept != item]
    assert list(items) == model
    assert len(items) == len(model)
    assert all(item in items for item in model)


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_set_operations_keep_order_too(left: list[int], right: list[int]) -> None:
    a, b = OrderedSet(left), OrderedSet(right)
    assert list(a | b) == list(dict.fromkeys(left + right))
    assert list(a - b) == [item for item in dict.fromkeys(left) if item not in right]
    assert set(a & b) == set(left) & set(right)
    assert (a == b) == (set(left) == set(right))


def test_an_ordered_set_gives_up_its_oldest_first() -> None:
    items = OrderedSet([3, 1, 2])
    assert [items.pop(), items.pop(), items.pop()] == [3, 1, 2]
    with pytest.raises(KeyError):
        items.pop()
    with pytest.raises(KeyError):
        items.remove(3)
    assert repr(OrderedSet([2, 1])) == "OrderedSet([2, 1])"


# --- chance --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(), unique=True), st.integers(-3, 12), st.integers(0, 2**32))
def test_a_sample_is_distinct_bounded_and_repeatable(items: list[int], count: int, seed: int) -> None:
    chosen = sample(Random(seed), items, count)
    assert len(chosen) == max(0, min(count, len(items)))
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(items)
    assert chosen == sample(Random(seed), items, count)


def test_a_sample_is_fair(rng: Random) -> None:
    counts = dict.fromkeys(range(10), 0)
    for _ in range(5000):
        for item in sample(rng, range(10), 3):
            counts[item] += 1
    assert all(1300 < count < 1700 for count in counts.values())  # 1500 expected, sigma 32


@given(st.lists(st.integers()), st.integers(0, 2**32))
def test_pick_takes_one_of_them_or_none_of_nothing(items: list[int], seed: int) -> None:
    chosen = pick(Random(seed), items)
    assert chosen in items if items else chosen is None
