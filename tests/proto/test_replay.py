from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kukuri_sidecar.proto.replay import MAX_KEYS, WINDOW, ReplayWindows

NUMBERS = st.integers(0, 3 * WINDOW) | st.integers(0, 2**32 - 1)
MAX_U32 = 2**32 - 1


def record(windows: ReplayWindows[str], *numbers: int, key: str = "author") -> None:
    for number in numbers:
        windows.record(key, number)


class Naive:
    """What the window means, without a bitmap: everything that was ever recorded, in one set."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    @property
    def top(self) -> int:
        return max(self.numbers, default=0)

    def is_fresh(self, number: int) -> bool:
        return number not in self.numbers and number > self.top - WINDOW


# --- one author ----------------------------------------------------------------------------------------


def test_in_order_everything_is_fresh_once() -> None:
    windows: ReplayWindows[str] = ReplayWindows()
    for number in range(1, 3 * WINDOW):
        assert windows.is_fresh("author", number)
        record(windows, number)
        assert not windows.is_fresh("author", number)


@pytest.mark.parametrize(
    ("behind", "is_fresh"), [(WINDOW - 2, True), (WINDOW - 1, True), (WINDOW, False), (WINDOW + 1, False)]
)
def test_how_far_behind_a_number_may_come(behind: int, is_fresh: bool) -> None:
    windows: ReplayWindows[str] = ReplayWindows()
    record(windows, 1000)
    assert windows.is_fresh("author", 1000 - behind) is is_fresh


@pytest.mark.parametrize("jump", [1, WINDOW - 1, WINDOW, WINDOW + 1, MAX_U32 - 500])
def test_a_jump_ahead_moves_the_window_and_keeps_what_is_left_in_it(jump: int) -> None:
    windows: ReplayWindows[str] = ReplayWindows()
    old = range(401, 501)
    record(windows, *old, 500 + jump)
    for number in range(500 + jump - WINDOW - 2, 500 + jump + 3):
        is_old = number in old or number == 500 + jump
        assert windows.is_fresh("author", number) is (not is_old and number > 500 + jump - WINDOW), number


def test_the_largest_number_is_the_last() -> None:
    windows: ReplayWindows[str] = ReplayWindows()
    record(windows, MAX_U32)
    assert not windows.is_fresh("author", MAX_U32)
    assert windows.is_fresh("author", MAX_U32 - 1)
    assert not windows.is_fresh("author", 1)


@given(numbers=st.lists(NUMBERS, max_size=200), probes=st.lists(NUMBERS, max_size=20))
def test_the_window_is_what_a_plain_set_says(numbers: list[int], probes: list[int]) -> None:
    """In any order, as the caller uses it: only what is fresh is recorded."""
    windows: ReplayWindows[str] = ReplayWindows()
    naive = Naive()
    for number in numbers:
        assert windows.is_fresh("author", number) is naive.is_fresh(number)
        if naive.is_fresh(number):
            record(windows, number)
            naive.numbers.add(number)
    for number in probes + [n + d for n in numbers for d in (-WINDOW, 1 - WINDOW, -1, 0, 1) if n + d >= 0]:
        assert windows.is_fresh("author", number) is naive.is_fresh(number)


@given(numbers=st.lists(st.integers(1, 400), max_size=300))
def test_nothing_is_ever_taken_twice(numbers: list[int]) -> None:
    windows: ReplayWindows[str] = ReplayWindows()
    taken = []
    for number in numbers:
        if windows.is_fresh("author", number):
            record(windows, number)
            taken.append(number)
    assert len(taken) == len(set(taken))


@given(order=st.permutations(range(1, WINDOW + 1)))
def test_one_windows_worth_may_come_in_any_order(order: list[int]) -> None:
    windows: ReplayWindows[str] = ReplayWindows()
    for number in order:
        assert windows.is_fresh("author", number)
        record(windows, number)


# --- many authors --------------------------------------------------------------------------------------


def test_asking_changes_nothing() -> None:
    """A forged number must neither be burnt nor take room nor keep its key from being forgotten."""
    windows: ReplayWindows[str] = ReplayWindows(max_keys=2)
    record(windows, 5, key="a")
    record(windows, 5, key="b")
    for number in (1, 5, 6, MAX_U32):
        windows.is_fresh("a", number)
        windows.is_fresh("stranger", number)
    assert len(windows) == 2
    assert windows.is_fresh("a", 6)
    record(windows, 5, key="c")
    assert windows.is_fresh("a", 5), "still the least recently heard"
    assert not windows.is_fresh("b", 5)


@pytest.mark.parametrize("count", [MAX_KEYS - 1, MAX_KEYS, MAX_KEYS + 1])
def test_the_number_of_keys_is_bounded(count: int) -> None:
    windows: ReplayWindows[int] = ReplayWindows()
    for key in range(count):
        windows.record(key, 1)
    assert len(windows) == min(count, MAX_KEYS)
    assert windows.is_fresh(0, 1) is (count > MAX_KEYS)
    assert not windows.is_fresh(1, 1)
    assert not windows.is_fresh(count - 1, 1)


def test_who_is_heard_again_is_forgotten_later() -> None:
    windows: ReplayWindows[str] = ReplayWindows(max_keys=2)
    record(windows, 1, key="a")
    record(windows, 1, key="b")
    record(windows, 2, key="a")
    assert len(windows) == 2
    record(windows, 1, key="c")
    assert (windows.is_fresh("a", 1), windows.is_fresh("a", 2)) == (False, False)
    assert windows.is_fresh("b", 1)


class ManyAuthors(RuleBasedStateMachine):
    """Against sets in an OrderedDict, with room for three authors."""

    MAX = 3

    @initialize()
    def begin(self) -> None:
        self.windows: ReplayWindows[str] = ReplayWindows(max_keys=self.MAX)
        self.naive: OrderedDict[str, Naive] = OrderedDict()

    @rule(key=st.sampled_from("abcdef"), number=st.integers(0, 2 * WINDOW))
    def hear(self, key: str, number: int) -> None:
        naive = self.naive.get(key, Naive())
        assert self.windows.is_fresh(key, number) is naive.is_fresh(number)
        if naive.is_fresh(number):
            self.windows.record(key, number)
            naive.numbers.add(number)
            self.naive[key] = naive
            self.naive.move_to_end(key)
            if len(self.naive) > self.MAX:
                self.naive.popitem(last=False)

    @invariant()
    def within_bounds(self) -> None:
        assert len(self.windows) == len(self.naive) <= self.MAX


TestManyAuthors = ManyAuthors.TestCase
