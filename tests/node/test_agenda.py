from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from random import Random

import anyio
import anyio.to_thread
import pytest
from trio.testing import MockClock

from kukuri_sidecar.node.agenda import Agenda

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(agenda: Agenda) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(agenda.run)
        yield
        tasks.cancel_scope.cancel()


class Diary:
    """Notes what was called when."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, object]] = []

    def note(self, name: object) -> Callable[[float], None]:
        def action(now: float) -> None:
            assert now == anyio.current_time()
            self.entries.append((round(now - self.start, 6), name))

        return action

    @property
    def names(self) -> list[object]:
        return [name for _, name in self.entries]

    start = 0.0


@pytest.fixture
async def diary() -> Diary:
    diary = Diary()
    diary.start = anyio.current_time()
    return diary


async def test_appointments_are_kept_in_time_and_in_order(diary: Diary) -> None:
    agenda = Agenda()
    async with running(agenda):
        for name, after in (("c", 3.0), ("a", 1.0), ("b1", 2.0), ("b2", 2.0)):
            agenda.set(name, diary.start + after, diary.note(name))
        await anyio.sleep(10)
    assert diary.entries == [(1.0, "a"), (2.0, "b1"), (2.0, "b2"), (3.0, "c")]


async def test_what_was_booked_before_the_start_is_kept(diary: Diary) -> None:
    agenda = Agenda()
    agenda.set("past", diary.start - 5, diary.note("past"))
    agenda.set("now", diary.start, diary.note("now"))
    agenda.set("-inf", -inf, diary.note("-inf"))
    agenda.set("later", diary.start + 1, diary.note("later"))
    async with running(agenda):
        await anyio.sleep(2)
    assert diary.entries == [(0.0, "-inf"), (0.0, "past"), (0.0, "now"), (1.0, "later")]


async def test_an_earlier_appointment_wakes_a_sleeping_agenda(diary: Diary) -> None:
    agenda = Agenda()
    async with running(agenda):
        agenda.set("late", diary.start + 100, diary.note("late"))
        await anyio.sleep(1)
        agenda.set("soon", diary.start + 2, diary.note("soon"))
        await anyio.sleep(1.5)
        assert diary.entries == [(2.0, "soon")]
        await anyio.sleep(100)
    assert diary.entries == [(2.0, "soon"), (100.0, "late")]


async def test_a_second_booking_replaces_the_first_action_and_all(diary: Diary) -> None:
    agenda = Agenda()
    async with running(agenda):
        agenda.set("key", diary.start + 5, diary.note("old"))
        agenda.set("key", diary.start + 1, diary.note("earlier"))
        await anyio.sleep(2)
        agenda.set("key", diary.start + 3, diary.note("old"))
        agenda.set("key", diary.start + 6, diary.note("later"))
        await anyio.sleep(10)
    assert diary.entries == [(1.0, "earlier"), (6.0, "later")]


async def test_cancelled_appointments_are_not_kept(diary: Diary) -> None:
    agenda = Agenda()
    async with running(agenda):
        agenda.set("a", diary.start + 1, diary.note("a"))
        agenda.set("b", diary.start + 1, diary.note("b"))
        agenda.cancel("a")
        agenda.cancel("a")
        agenda.set("b", inf, diary.note("b"))  # the same as cancel
        agenda.cancel("never booked")
        await anyio.sleep(5)
    assert diary.entries == []
    assert not agenda._actions


async def test_actions_may_book_and_cancel(diary: Diary) -> None:
    agenda = Agenda()

    def first(now: float) -> None:
        diary.note("first")(now)
        agenda.cancel("doomed")  # due at this very moment
        agenda.set("at once", now, diary.note("at once"))
        agenda.set("first", now + 2, diary.note("again"))

    async with running(agenda):
        agenda.set("first", diary.start + 1, first)
        agenda.set("doomed", diary.start + 1, diary.note("doomed"))
        agenda.set("other", diary.start + 1, diary.note("other"))
        await anyio.sleep(10)
    assert diary.entries == [(1.0, "first"), (1.0, "other"), (1.0, "at once"), (3.0, "again")]


async def test_who_books_itself_for_now_leaves_the_others_their_turn(diary: Diary) -> None:
    agenda = Agenda()

    def again(now: float) -> None:
        diary.note("again")(now)
        agenda.set("again", now, again)

    async with running(agenda):
        agenda.set("again", diary.start, again)
        agenda.set("other", diary.start, diary.note("other"))
        while diary.names.count("again") < 100:  # this task gets its turn between two calls
            await anyio.lowlevel.checkpoint()
    assert diary.names[:2] == ["again", "other"]


async def test_a_failing_action_ends_the_agenda_loudly() -> None:
    agenda = Agenda()

    def fail(_: float) -> None:
        raise LookupError("a bug of ours")

    agenda.set("key", anyio.current_time() + 1, fail)
    with pytest.raises(LookupError):
        await agenda.run()


async def test_an_idle_agenda_sleeps(clock: MockClock, diary: Diary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between appointments nothing runs: one look at the clock for each wake-up."""
    agenda = Agenda()
    looks = 0
    original = anyio.current_time

    def count() -> float:
        nonlocal looks
        looks += 1
        return original()

    async with running(agenda):
        agenda.set("hour", diary.start + 3600, lambda _: None)
        await anyio.sleep(1)
        with monkeypatch.context() as patch:
            patch.setattr(anyio, "current_time", count)
            await anyio.sleep(7200)
    assert looks <= 2  # MockClock may land a rounding error before the deadline


@pytest.mark.parametrize("run", range(10))
async def test_any_sequence_is_as_a_sorted_list(diary: Diary, rng: Random, run: int) -> None:
    """Random bookings, replacements and cancellations from several tasks, against a plain model."""
    agenda = Agenda()
    rng.seed(f"{rng.random()} {run}")
    model: dict[int, tuple[float, int]] = {}
    kept: list[tuple[float, int]] = []
    expected: list[tuple[float, int]] = []

    def note(key: int, serial: int) -> Callable[[float], None]:
        def action(now: float) -> None:
            kept.append((round(now - diary.start, 6), serial))
            at, booked = model.pop(key)
            expected.append((round(at, 6), booked))

        return action

    async with running(agenda):
        for serial in range(200):
            key = rng.randrange(12)
            if rng.random() < 0.2:
                agenda.cancel(key)
                model.pop(key, None)
            else:
                at = anyio.current_time() - diary.start + rng.choice([0.25, 0.5, 1.0, 7.0, rng.random()])
                agenda.set(key, diary.start + at, note(key, serial))
                model.pop(key, None)
                model[key] = (at, serial)
            if rng.random() < 0.5:
                await anyio.sleep(rng.choice([0.1, 0.25, 0.5]))
        await anyio.sleep(10)
    assert not model
    assert [serial for _, serial in kept] == [serial for _, serial in expected]
    assert kept == expected
    assert [at for at, _ in kept] == sorted(at for at, _ in kept)


class TestOnTheRealLoop:
    """A node is composed in a worker thread and runs on asyncio."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_an_agenda_may_be_made_and_filled_in_another_thread(self) -> None:
        called = anyio.Event()

        def compose() -> Agenda:
            agenda = Agenda()
            agenda.set("key", -inf, lambda _: called.set())
            return agenda

        agenda = await anyio.to_thread.run_sync(compose)
        with anyio.fail_after(5):
            async with running(agenda):
                await called.wait()

    async def test_appointments_are_not_kept_early(self) -> None:
        agenda, early, done = Agenda(), [], anyio.Event()
        for number in range(50):
            at = anyio.current_time() + number / 10_000

            def check(now: float, at: float = at, is_last: bool = number == 49) -> None:
                early.extend([now - at] if now < at else [])
                if is_last:
                    done.set()

            agenda.set(number, at, check)
        with anyio.fail_after(5):
            async with running(agenda):
                await done.wait()
        assert early == []
