from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import inf, nextafter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kukuri_sidecar.node.events import TopicState
from kukuri_sidecar.node.join import (
    ATTEMPT_TIMEOUT_S,
    CANDIDATES_PER_ATTEMPT,
    HURRY_BURST,
    HURRY_PER_S,
    MAX_CANDIDATES,
    RETRY_MAX_S,
    RETRY_MIN_S,
    JoinSupervisor,
)
from kukuri_sidecar.wire.ids import EndpointId

START = 1000.0


def peer(number: int) -> EndpointId:
    return EndpointId(number.to_bytes(32, "big"))


def peers(*numbers: int) -> list[EndpointId]:
    return [peer(number) for number in numbers]


OWN = peer(0)


@pytest.fixture
def join(rng: Random) -> JoinSupervisor:
    return JoinSupervisor(OWN, rng)


def _run(join: JoinSupervisor, start: float, seconds: float) -> list[tuple[float, list[EndpointId]]]:
    """Let time pass, as the topics service does; return (time, whom to ask)."""
    asked = []
    while join.deadline <= start + seconds:
        now = max(start, join.deadline)
        if chosen := join.on_deadline(now):
            asked.append((now, chosen))
        assert join.deadline > now
    return asked


# --- attempts --------------------------------------------------------------------------------------------


def test_the_first_attempt_is_due_at_once(join: JoinSupervisor) -> None:
    assert (join.state, join.deadline, join.attempts) == (TopicState.JOINING, -inf, 0)
    assert join.add(peers(1, 2), START) == peers(1, 2)
    assert sorted(join.on_deadline(START)) == peers(1, 2)
    assert (join.state, join.attempts, join.next_attempt) == (TopicState.JOINING, 1, None)
    assert join.deadline == START + ATTEMPT_TIMEOUT_S


def test_an_attempt_without_answer_fails_after_its_timeout(join: JoinSupervisor) -> None:
    join.add(peers(1), START)
    join.on_deadline(START)
    end = START + ATTEMPT_TIMEOUT_S
    assert join.on_deadline(nextafter(end, -inf)) == []
    assert join.state is TopicState.JOINING
    assert join.on_deadline(end) == []
    assert join.state is TopicState.ISOLATED
    assert end + RETRY_MIN_S <= join.deadline <= end + 2 * RETRY_MIN_S
    assert join.next_attempt == join.deadline


def test_pauses_grow_from_the_least_to_the_most(join: JoinSupervisor) -> None:
    join.add(peers(1), START)
    times = [at for at, _ in _run(join, START, 3000)]
    pauses = [later - earlier - ATTEMPT_TIMEOUT_S for earlier, later in pairwise(times)]
    for failures, pause in enumerate(pauses, start=1):
        least = min(RETRY_MIN_S * 2 ** (failures - 1), RETRY_MAX_S / 2)
        assert RETRY_MIN_S <= least <= pause <= min(2 * least, RETRY_MAX_S) + 1e-9
    assert len(pauses) > 40


def test_an_attempt_asks_a_few_and_different_ones_in_turn(join: JoinSupervisor) -> None:
    join.add(peers(*range(1, 21)), START)
    asked = _run(join, START, 6000)
    assert all(len(chosen) == len(set(chosen)) == CANDIDATES_PER_ATTEMPT for _, chosen in asked)
    assert len(Counter(one for _, chosen in asked for one in chosen)) == 20
    assert join.attempts == len(asked)


def test_one_bootstrap_list_does_not_send_everybody_to_its_first_entries() -> None:
    first = Counter[EndpointId]()
    for seed in range(400):
        join = JoinSupervisor(OWN, Random(seed))
        join.add(peers(*range(1, 65)), START, by_host=True)
        first.update(join.on_deadline(START))
    assert len(first) == 64
    assert max(first.values()) < 60  # 25 expected


def test_an_attempt_ends_at_once_when_nobody_is_reachable(join: JoinSupervisor) -> None:
    join.add(peers(1, 2, 3), START)
    join.on_deadline(START)
    join.unreachable(peer(1), START + 0.1)
    join.unreachable(peer(1), START + 0.2)
    join.unreachable(peer(3), START + 0.3)
    join.unreachable(peer(9), START + 0.3)  # was not asked
    assert join.deadline == START + ATTEMPT_TIMEOUT_S
    join.unreachable(peer(2), START + 0.4)
    assert join.deadline == START + 0.4
    assert join.on_deadline(START + 0.4) == []
    assert join.state is TopicState.ISOLATED
    assert START + 0.4 + RETRY_MIN_S <= join.deadline <= START + 0.4 + 2 * RETRY_MIN_S
    before = join.deadline
    join.unreachable(peer(2), START + 0.5)  # between attempts it is no news
    assert join.deadline == before


def test_with_nobody_known_the_attempts_go_on_in_vain(join: JoinSupervisor) -> None:
    assert join.on_deadline(START) == []
    assert (join.state, join.attempts) == (TopicState.ISOLATED, 1)
    assert _run(join, START, 1000) == []
    assert 1000 / RETRY_MAX_S < join.attempts < 30
    assert join.next_attempt is not None


def test_the_first_one_met_after_a_long_time_alone_is_tried_at_once_and_soon_again(
    join: JoinSupervisor,
) -> None:
    """The hours without anybody were no failures: the pauses begin at the least."""
    _run(join, START, 5000)
    now = START + 5000
    assert join.add(peers(1), now) == peers(1)
    times = [at for at, _ in _run(join, now, 20)]
    assert times[0] == now
    assert times[1] <= now + ATTEMPT_TIMEOUT_S + 2 * RETRY_MIN_S


def test_ourselves_are_no_candidate(join: JoinSupervisor) -> None:
    assert join.add([OWN, peer(1), OWN], START, by_host=True) == peers(1)
    assert join.candidates == (peer(1),)


# --- neighbours ----------------------------------------------------------------------------------------


def test_a_neighbour_ends_the_search_and_its_loss_begins_it_at_once(join: JoinSupervisor) -> None:
    join.add(peers(1, 2), START)
    join.on_deadline(START)
    join.neighbor_up(peer(2))
    assert (join.state, join.deadline, join.next_attempt) == (TopicState.JOINED, inf, None)
    assert join.on_deadline(START + 1000) == []
    join.neighbor_up(peer(3))
    join.neighbor_down(peer(2), START + 1000)
    assert (join.state, join.deadline) == (TopicState.JOINED, inf)
    join.neighbor_down(peer(3), START + 1001)
    assert (join.state, join.deadline, join.next_attempt) == (TopicState.ISOLATED, START + 1001, START + 1001)
    assert sorted(join.on_deadline(START + 1001)) == peers(1, 2, 3)


def test_a_neighbour_resets_the_pauses(join: JoinSupervisor) -> None:
    join.add(peers(1), START)
    _run(join, START, 1000)
    join.neighbor_up(peer(1))
    join.neighbor_down(peer(1), START + 2000)
    times = [at for at, _ in _run(join, START + 2000, 30)]
    assert times[0] == START + 2000
    assert times[1] <= START + 2000 + ATTEMPT_TIMEOUT_S + 2 * RETRY_MIN_S


def test_the_loss_of_a_stranger_changes_nothing(join: JoinSupervisor) -> None:
    join.add(peers(1), START)
    join.on_deadline(START)
    join.neighbor_down(peer(7), START + 1)
    assert (join.state, join.deadline) == (TopicState.JOINING, START + ATTEMPT_TIMEOUT_S)


def test_what_joins_while_joined_is_known_but_not_tried(join: JoinSupervisor) -> None:
    join.neighbor_up(peer(1))
    assert join.add(peers(2, 1, 3), START) == peers(2, 3)  # the service asks the core to join them too
    assert join.deadline == inf
    assert join.candidates == tuple(peers(1, 2, 3))


def test_a_flapping_neighbour_does_not_make_us_ask_without_end(join: JoinSupervisor) -> None:
    """Neighbor and Disconnect cost it two small messages; each would make us send four Joins."""
    join.add(peers(*range(1, 30)), START)
    asked = 0
    for step in range(2000):
        now = START + step / 100
        join.neighbor_up(peer(99))
        join.neighbor_down(peer(99), now)
        asked += bool(join.on_deadline(now)) if now >= join.deadline else 0
    assert asked <= HURRY_BURST + 2 * 20 * HURRY_PER_S


# --- news ----------------------------------------------------------------------------------------------


def _isolated(join: JoinSupervisor, count: int = 20) -> float:
    """Fail often enough to be in a long pause; return a moment in it."""
    join.add(peers(*range(1, count + 1)), START)
    _run(join, START, 1000)
    while join.deadline - START < 1010:
        join.on_deadline(join.deadline)
    now = START + 1001
    assert join.deadline > now
    return now


def test_news_in_a_pause_are_tried_at_once_all_of_them(join: JoinSupervisor) -> None:
    now = _isolated(join)
    pause_ends = join.deadline
    assert join.add(peers(101, 102, 3), now) == peers(101, 102)
    assert join.deadline == now
    assert sorted(join.on_deadline(now)) == peers(101, 102)  # the news, not four out of twenty-two
    assert join.deadline == pause_ends  # the schedule goes on as it was
    assert join.state is TopicState.ISOLATED


def test_news_in_an_attempt_are_tried_at_once_and_do_not_prolong_it(join: JoinSupervisor) -> None:
    join.add(peers(1), START)
    join.on_deadline(START)
    join.add(peers(2), START + 2)
    assert join.on_deadline(START + 2) == peers(2)
    assert join.deadline == START + ATTEMPT_TIMEOUT_S
    join.unreachable(peer(1), START + 3)
    assert join.deadline == START + ATTEMPT_TIMEOUT_S  # the other may still answer
    join.unreachable(peer(2), START + 4)
    assert join.deadline == START + 4


def test_too_many_news_wait_for_the_schedule(join: JoinSupervisor) -> None:
    now = _isolated(join)
    join.add(peers(*range(101, 111)), now)
    assert len(join.on_deadline(now)) == CANDIDATES_PER_ATTEMPT
    assert join.deadline > now + 1


def test_known_ones_are_no_news_unless_the_host_names_them(join: JoinSupervisor) -> None:
    now = _isolated(join)
    before = join.deadline
    assert join.add(peers(1, 2), now) == []
    assert join.deadline == before
    assert join.add(peers(2), now, by_host=True) == []
    assert join.on_deadline(now) == peers(2)


def test_whom_the_attempt_has_asked_is_no_news_either(join: JoinSupervisor) -> None:
    join.add(peers(1), START)
    join.on_deadline(START)
    join.add(peers(1), START + 1, by_host=True)
    assert join.deadline == START + ATTEMPT_TIMEOUT_S
    join.add(peers(1, 2), START + 1, by_host=True)
    assert join.on_deadline(START + 1) == peers(2)


def test_the_host_comes_before_strangers(join: JoinSupervisor) -> None:
    now = _isolated(join)
    join.add(peers(*range(201, 230)), now)
    join.add(peers(101, 102), now, by_host=True)
    join.add(peers(*range(231, 260)), now)
    assert set(peers(101, 102)) <= set(join.on_deadline(now))


@pytest.mark.parametrize("per_s", [1, 10, 1000])
def test_a_stream_of_candidates_is_no_busy_loop_and_holds_nobody_up(join: JoinSupervisor, per_s: int) -> None:
    """Strangers that connect with ever new ids: the pace stays, and so do attempts with the others."""
    join.add(peers(1, 2, 3, 4), START, by_host=True)
    seconds, asked, times = 60, Counter[EndpointId](), []
    for step in range(seconds * per_s):
        now = START + step / per_s
        join.add(peers(1000 + step), now)
        while now >= join.deadline:
            chosen = join.on_deadline(now)
            asked.update(chosen)
            times += [now] if chosen else []
            assert join.deadline > now
    attempts = seconds / (ATTEMPT_TIMEOUT_S + RETRY_MIN_S) + 1
    assert len(times) <= HURRY_BURST + seconds * HURRY_PER_S + attempts
    assert join.state is TopicState.ISOLATED  # the first attempt did end
    assert set(peers(1, 2, 3, 4)) <= set(join.candidates)
    assert sum(asked[one] for one in peers(1, 2, 3, 4)) >= 4


def test_every_piece_of_a_slow_stream_is_tried_at_once(join: JoinSupervisor) -> None:
    now = _isolated(join)
    for step in range(20):
        at = now + 2 * step
        _run(join, at - 1, 0.5)
        join.add(peers(500 + step), at)
        assert peer(500 + step) in join.on_deadline(at)


# --- the bound -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [MAX_CANDIDATES - 1, MAX_CANDIDATES, MAX_CANDIDATES + 1])
def test_candidates_have_a_most_and_the_longest_known_is_forgotten(join: JoinSupervisor, count: int) -> None:
    assert len(join.add(peers(*range(1, count + 1)), START)) == min(count, MAX_CANDIDATES)
    assert len(join.candidates) == min(count, MAX_CANDIDATES)
    assert (peer(1) in join.candidates) == (count <= MAX_CANDIDATES)
    assert peer(count) in join.candidates


def test_who_is_forgotten_at_once_is_not_reported_as_new(join: JoinSupervisor) -> None:
    fresh = join.add(peers(*range(1, 1000)), START)
    assert fresh == list(join.candidates)
    assert len(fresh) == MAX_CANDIDATES


def test_strangers_push_out_neither_neighbours_nor_whom_the_host_named(join: JoinSupervisor) -> None:
    join.add(peers(*range(1, 65)), START, by_host=True)
    join.neighbor_up(peer(70))
    join.neighbor_up(peer(71))
    join.add(peers(*range(1000, 2000)), START)
    assert len(join.candidates) == MAX_CANDIDATES
    assert set(peers(*range(1, 65), 70, 71)) <= set(join.candidates)


def test_a_host_that_names_too_many_keeps_the_last(join: JoinSupervisor) -> None:
    for first in (1, 101, 201):
        join.add(peers(*range(first, first + 64)), START, by_host=True)
    assert set(peers(*range(201, 265))) <= set(join.candidates)
    assert len(join.candidates) == MAX_CANDIDATES


def test_neighbours_find_room_even_among_neighbours(join: JoinSupervisor) -> None:
    for number in range(1, MAX_CANDIDATES + 10):
        join.neighbor_up(peer(number))
    assert len(join.candidates) == MAX_CANDIDATES
    assert join.candidates[-1] == peer(MAX_CANDIDATES + 9)
    join.neighbor_up(peer(20))
    assert join.candidates[-1] == peer(20)  # met again: kept longest


# --- every sequence ------------------------------------------------------------------------------------

NUMBERS = st.integers(0, 9)
STEPS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0, 5.0, 70.0]) | st.floats(0, 10)


class AnySequence(RuleBasedStateMachine):
    """Whatever happens in whatever order, and however late we are called."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.join = JoinSupervisor(OWN, Random(seed))
        self.now = START
        self.neighbors: set[EndpointId] = set()
        self.asked_at: list[float] = []
        self.losses = 0
        self.has_failed = False

    @rule(step=STEPS)
    def pass_time(self, step: float) -> None:
        self.now += step

    @precondition(lambda self: self.join.deadline < inf)
    @rule(late=st.sampled_from([0.0, 0.0, 0.3]))
    def pass_time_to_the_deadline(self, late: float) -> None:
        self.now = max(self.now, self.join.deadline) + late

    @rule(numbers=st.lists(NUMBERS, max_size=6), by_host=st.booleans())
    def add(self, numbers: list[int], by_host: bool) -> None:
        known = set(self.join.candidates)
        fresh = self.join.add(peers(*numbers), self.now, by_host=by_host)
        expected = [one for one in dict.fromkeys(peers(*numbers)) if one not in known | {OWN}]
        if len(known) + len(numbers) <= MAX_CANDIDATES:  # else one may be forgotten and met again in one call
            assert fresh == expected
        assert set(fresh) <= set(peers(*numbers)) & set(self.join.candidates)

    @rule(numbers=st.integers(100, 10_000))
    def flood(self, numbers: int) -> None:
        self.join.add(peers(*range(numbers, numbers + 150)), self.now)

    @rule(number=NUMBERS.filter(bool))
    def neighbor_up(self, number: int) -> None:
        self.join.neighbor_up(peer(number))
        self.neighbors.add(peer(number))

    @rule(number=NUMBERS)
    def neighbor_down(self, number: int) -> None:
        was_joined = bool(self.neighbors)
        self.join.neighbor_down(peer(number), self.now)
        self.neighbors.discard(peer(number))
        if was_joined and not self.neighbors:
            self.losses += 1
            assert self.now <= self.join.deadline <= self.now + 1 / HURRY_PER_S + 1e-6
            assert self.join.state is TopicState.ISOLATED

    @rule(number=NUMBERS)
    def unreachable(self, number: int) -> None:
        self.join.unreachable(peer(number), self.now)

    @rule()
    def on_deadline(self) -> None:
        was_due = self.now >= self.join.deadline
        attempts, had_candidates = self.join.attempts, bool(self.join.candidates)
        chosen = self.join.on_deadline(self.now)
        assert self.join.deadline > self.now
        assert len(chosen) == len(set(chosen)) <= CANDIDATES_PER_ATTEMPT
        assert set(chosen) <= set(self.join.candidates)
        if had_candidates:
            assert self.join.attempts == attempts + bool(chosen)
        assert was_due or not chosen
        self.asked_at += [self.now] if chosen else []

    @invariant()
    def holds(self) -> None:
        join = self.join
        assert set(join.neighbors) == self.neighbors
        assert (join.state is TopicState.JOINED) == bool(self.neighbors)
        assert (join.deadline == inf) == bool(self.neighbors)
        assert len(join.candidates) == len(set(join.candidates)) <= MAX_CANDIDATES
        assert OWN not in join.candidates
        assert self.neighbors <= set(join.candidates)
        assert join.next_attempt is None or join.next_attempt == join.deadline
        if not self.neighbors:
            assert join.deadline <= self.now + RETRY_MAX_S + 1e-9
        assert set(join._named) <= set(join.candidates)
        assert set(join._news) <= set(join.candidates)

    @invariant()
    def asks_at_a_bounded_pace(self) -> None:
        """In any stretch: the burst, two a second, and no more attempts of the schedule than fit into it."""
        for i, first in enumerate(self.asked_at):
            for j in range(i, len(self.asked_at)):
                seconds = self.asked_at[j] - first
                assert j - i + 1 <= HURRY_BURST + 2 * seconds * HURRY_PER_S + seconds / RETRY_MIN_S + 3


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=40)


@given(st.integers(0, 2**32), st.lists(NUMBERS, max_size=8))
def test_the_same_seed_asks_the_same(seed: int, numbers: list[int]) -> None:
    runs = []
    for _ in range(2):
        join = JoinSupervisor(OWN, Random(seed))
        join.add(peers(*numbers), START)
        runs.append(_run(join, START, 100))
    assert runs[0] == runs[1]
