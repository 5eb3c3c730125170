"""The checker finds what it shall find, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from history import KEPT_S, Acked, Delivered, Down, Fact, History, Killed, Loss, Published, Up

NAMES = ["a", "b", "c", "d"]


def sound() -> list[Fact]:
    """Four members, all neighbours of all; a publishes and everybody gets it."""
    facts: list[Fact] = [Up(0.0, x, y) for x in NAMES for y in NAMES if x != y]
    facts += [Published(10.0, "a", b"m"), Acked(10.1, "a", b"m")]
    facts += [Delivered(10.05, name, b"m") for name in "bcd"]
    return facts


def verdict(facts: list[Fact]) -> tuple[int, int, int]:
    history = History(facts)
    return len(history.losses()), len(history.repeats()), len(history.inventions())


def test_a_sound_history() -> None:
    assert verdict(sound()) == (0, 0, 0)
    history = History(sound())
    assert (history.incomplete(), history.recovered_after(5.0)) == ([], 0.0)
    assert history.members == history.survivors == set(NAMES)


@given(facts=st.permutations(sound()))
def test_the_order_of_notes_does_not_matter(facts: list[Fact]) -> None:
    assert verdict(facts) == (0, 0, 0)
    assert History([f for f in facts if f != Delivered(10.05, "c", b"m")]).losses() == [Loss(b"m", "a", "c")]


def test_every_missing_delivery_is_a_loss() -> None:
    facts = [f for f in sound() if not isinstance(f, Delivered)]
    history = History(facts)
    assert history.losses() == [Loss(b"m", "a", name) for name in "bcd"]
    assert history.incomplete() == [Published(10.0, "a", b"m")]
    assert history.recovered_after(4.0) == 6.0


def test_without_acknowledgement_nothing_was_promised() -> None:
    facts = [f for f in sound() if not isinstance(f, Delivered | Acked)]
    assert History(facts).losses() == []


def test_the_dead_lose_nothing_but_their_acknowledged_words_count() -> None:
    facts = [f for f in sound() if f != Delivered(10.05, "c", b"m")]
    assert History([*facts, Killed(10.2, "c")]).losses() == []
    assert History([*facts, Killed(10.2, "a")]).losses() == [Loss(b"m", "a", "c")]
    assert History([*facts, Killed(10.2, "a")]).incomplete() == [], "what the dead said is nobody's recovery"


def cut(at: float, *pairs: str) -> list[Fact]:
    """Both ends of each pair lose the other."""
    return [Down(at, x, y) for pair in pairs for x, y in (pair, pair[::-1])]


@pytest.mark.parametrize(
    ("changes", "is_connected"),
    [
        ([], True),
        (cut(5.0, "ca", "cb"), True),
        (cut(5.0, "ca", "cb", "cd"), False),
        ([*cut(9.0, "ca", "cb", "cd"), Up(10.0, "c", "b")], True),
        ([*cut(9.0, "ca", "cb", "cd"), Up(10.0, "b", "c")], True),
        ([*cut(9.0, "ca", "cb", "cd"), Up(10.001, "c", "b")], False),
        (cut(20.0, "ca", "cb", "cd"), False),
        (cut(10.0 + KEPT_S, "ca", "cb", "cd"), False),
        (cut(10.001 + KEPT_S, "ca", "cb", "cd"), True),
        ([*cut(20.0, "ca", "cb"), Down(21.0, "c", "d")], True),
        ([*cut(20.0, "ca", "cb"), Killed(9.0, "d")], False),
        ([Killed(9.0, "b"), Killed(9.0, "d")], True),
    ],
)
def test_who_stayed_connected(changes: list[Fact], is_connected: bool) -> None:
    """A path of survivors at every moment from the publish until the caches have forgotten it."""
    facts = [f for f in sound() if f != Delivered(10.05, "c", b"m")] + changes
    history = History(facts)
    loss = [Loss(b"m", "a", "c")]
    assert (history.losses(), history.stranded()) == ((loss, []) if is_connected else ([], loss))


def test_parts_of_a_split_swarm_are_not_connected_however_many_links_they_have() -> None:
    facts = [f for f in sound() if not isinstance(f, Delivered)] + [Delivered(10.05, "b", b"m")]
    history = History(facts + cut(9.0, "ac", "ad", "bc", "bd"))
    assert history.losses() == []
    assert history.stranded() == [Loss(b"m", "a", name) for name in "cd"]


def test_a_path_may_lead_over_members_that_miss_the_message_too() -> None:
    facts = [f for f in sound() if not isinstance(f, Delivered)] + cut(9.0, "ac", "ad")
    assert History(facts).losses() == [Loss(b"m", "a", name) for name in "bcd"]


def test_whoever_never_had_a_neighbour_was_not_connected() -> None:
    facts = [f for f in sound() if "c" not in (f.member, getattr(f, "peer", None))]
    history = History([*facts, Published(1.0, "c", b"alone")])
    assert (history.losses(), history.stranded()) == ([], [Loss(b"m", "a", "c")])


def test_repeats_echoes_and_inventions() -> None:
    facts = sound()
    assert History([*facts, Delivered(11.0, "b", b"m")]).repeats() == {("b", b"m"): 2}
    assert History([*facts, Delivered(11.0, "a", b"m")]).repeats() == {("a", b"m"): 1}
    assert History([*facts, Delivered(11.0, "a", b"x")]).inventions() == {b"x"}


def test_recovery_is_the_last_incomplete_publish() -> None:
    later = [replace(f, message=b"n", at=f.at + 7) for f in sound() if isinstance(f, Published | Delivered)]
    last = [replace(f, message=b"o", at=f.at + 9) for f in sound() if isinstance(f, Published | Delivered)]
    history = History(sound() + later[:-1] + last)
    assert history.incomplete() == [Published(17.0, "a", b"n")]
    assert history.recovered_after(12.0) == 5.0
