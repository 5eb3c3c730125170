from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.node import envelopes as envelopes_module
from kukuri_sidecar.node.envelopes import (
    AUTHOR_BURST,
    AUTHOR_PER_S,
    MAX_AGE_MS,
    MAX_AHEAD_MS,
    MAX_AUTHORS,
    Envelopes,
    Flaw,
    Mode,
    Opened,
    overhead_bytes,
)
from kukuri_sidecar.proto.replay import WINDOW
from kukuri_sidecar.wire.envelope import OVERHEAD_BYTES, seal
from kukuri_sidecar.wire.ids import TopicId
from kukuri_sidecar.wire.keys import SecretKey

TOPIC, OTHER_TOPIC = TopicId(b"\1" * 32), TopicId(b"\2" * 32)
AUTHOR, RECEIVER = SecretKey(b"\1" * 32), SecretKey(b"\2" * 32)
NOW_MS = 1_763_790_000_000
MAGIC = b"\xf5SG1"
SESSION = 7
JUDGING = [Mode.SIGNED, Mode.AUTO]


@dataclass
class World:
    """A receiver with clocks that a test sets, and an author whose fields a test chooses."""

    wall_ms: int = NOW_MS
    now: float = 1000.0
    seqs: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.receiver = Envelopes(RECEIVER, Random(1), lambda: self.wall_ms)

    def message(
        self,
        payload: bytes = b"hello",
        *,
        topic: TopicId = TOPIC,
        author: SecretKey = AUTHOR,
        ts_ms: int = NOW_MS,
        session: int = SESSION,
        seq: int | None = None,
        flags: int = 0,
    ) -> bytes:
        number = next(self.seqs) if seq is None else seq
        return seal(author, topic, payload, ts_ms=ts_ms, session=session, seq=number, flags=flags)

    def judge(self, content: bytes, mode: Mode = Mode.SIGNED, topic: TopicId = TOPIC) -> Opened | Flaw:
        return self.receiver.open(topic, mode, content, self.now)

    def accepts(self, content: bytes) -> bool:
        return isinstance(self.judge(content), Opened)


@pytest.fixture
def world() -> World:
    return World()


def forged(content: bytes) -> bytes:
    """The same envelope with another signature."""
    return content[:-1] + bytes([content[-1] ^ 1])


# --- what is given out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", JUDGING)
@pytest.mark.parametrize("payload", [b"", b"hello", bytes(3942), MAGIC])
def test_a_genuine_envelope_is_unwrapped(world: World, mode: Mode, payload: bytes) -> None:
    opened = world.judge(world.message(payload, seq=41), mode)
    assert opened == Opened(payload, AUTHOR.endpoint_id, 41)
    assert isinstance(opened, Opened)
    assert opened.is_verified


@pytest.mark.parametrize("content", [b"", b"plain", MAGIC, MAGIC + bytes(OVERHEAD_BYTES - 5), bytes(4057)])
def test_a_plain_message_is_delivered_in_auto_mode_only(world: World, content: bytes) -> None:
    assert world.judge(content, Mode.AUTO) == Opened(content)
    assert not Opened(content).is_verified
    assert world.judge(content, Mode.SIGNED) is Flaw.UNSIGNED


def test_raw_mode_looks_at_nothing(world: World) -> None:
    genuine = world.message(ts_ms=0)
    for content in (genuine, genuine, forged(genuine), b"", MAGIC):
        assert world.judge(content, Mode.RAW) == Opened(content)


def test_an_own_message_opens_elsewhere_with_rising_numbers(world: World) -> None:
    author = Envelopes(AUTHOR, Random(5), lambda: NOW_MS)
    opened = [world.judge(author.seal(TOPIC, b"%d" % number)) for number in range(5)]
    assert opened == [Opened(b"%d" % number, AUTHOR.endpoint_id, number + 1) for number in range(5)]


def test_every_topic_has_numbers_of_its_own(world: World) -> None:
    author = Envelopes(AUTHOR, Random(5), lambda: NOW_MS)
    for topic in (TOPIC, OTHER_TOPIC, TOPIC, OTHER_TOPIC):
        world.judge(author.seal(topic, b""), topic=topic)
    last = [world.judge(author.seal(topic, b""), topic=topic) for topic in (TOPIC, OTHER_TOPIC)]
    assert last == [Opened(b"", AUTHOR.endpoint_id, 3)] * 2


@pytest.mark.parametrize(("mode", "overhead"), [(Mode.RAW, 0), (Mode.AUTO, 0), (Mode.SIGNED, 115)])
def test_what_publishing_adds(mode: Mode, overhead: int) -> None:
    assert overhead_bytes(mode) == overhead


# --- every flaw ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", JUDGING)
@pytest.mark.parametrize(
    ("age_ms", "flaw"),
    [
        (MAX_AGE_MS - 1, None),
        (MAX_AGE_MS, None),
        (MAX_AGE_MS + 1, Flaw.EXPIRED),
        (NOW_MS, Flaw.EXPIRED),
        (1 - MAX_AHEAD_MS, None),
        (-MAX_AHEAD_MS, None),
        (-MAX_AHEAD_MS - 1, Flaw.FROM_THE_FUTURE),
        (NOW_MS - (1 << 48) + 1, Flaw.FROM_THE_FUTURE),
    ],
)
def test_the_time_window_is_exact(world: World, mode: Mode, age_ms: int, flaw: Flaw | None) -> None:
    assert (MAX_AGE_MS, MAX_AHEAD_MS) == (120_000, 30_000)
    judged = world.judge(world.message(ts_ms=NOW_MS - age_ms), mode)
    assert (None if isinstance(judged, Opened) else judged) is flaw


@pytest.mark.parametrize("mode", JUDGING)
def test_a_message_is_opened_once(world: World, mode: Mode) -> None:
    content = world.message()
    assert isinstance(world.judge(content, mode), Opened)
    assert world.judge(content, mode) is Flaw.REPLAYED
    # The same number with other bytes is a replay of the number.
    assert world.judge(world.message(b"other", seq=1), mode) is Flaw.REPLAYED


def test_a_replay_stays_refused_until_it_is_expired(world: World) -> None:
    content = world.message()
    assert world.accepts(content)
    for wait_ms in (0, 60_000, 91_000, 120_000):
        world.wall_ms, world.now = NOW_MS + wait_ms, 1000.0 + wait_ms / 1000
        assert world.judge(content) is Flaw.REPLAYED
    world.wall_ms = NOW_MS + 120_001
    assert world.judge(content) is Flaw.EXPIRED
    world.wall_ms = NOW_MS + 3_600_000
    assert world.judge(content) is Flaw.EXPIRED


@pytest.mark.parametrize(
    ("behind", "is_taken"), [(WINDOW - 2, True), (WINDOW - 1, True), (WINDOW, False), (WINDOW + 1, False)]
)
def test_how_late_a_message_may_come(world: World, behind: int, is_taken: bool) -> None:
    assert world.accepts(world.message(seq=500))
    assert world.accepts(world.message(seq=500 - behind)) is is_taken


def test_number_zero_is_never_used(world: World) -> None:
    assert world.judge(world.message(seq=0)) is Flaw.REPLAYED


def test_a_restarted_author_begins_anew_and_its_old_messages_stay_known(world: World) -> None:
    old = [world.message(session=1, seq=seq) for seq in (1, 2)]
    new = [world.message(session=2, seq=seq) for seq in (1, 2)]
    assert all(world.accepts(content) for content in (*old, *new))
    assert [world.judge(content) for content in (*old, *new)] == [Flaw.REPLAYED] * 4


@pytest.mark.parametrize("mode", JUDGING)
def test_an_own_message_that_comes_back_is_a_replay(world: World, mode: Mode) -> None:
    """Even when gossip has forgotten its id, which it does before the envelope expires."""
    content = world.receiver.seal(TOPIC, b"mine")
    world.wall_ms += 91_000
    assert world.judge(content, mode) is Flaw.REPLAYED
    last_run = world.message(author=RECEIVER)
    assert isinstance(world.judge(last_run, mode), Opened)


@pytest.mark.parametrize("mode", JUDGING)
def test_an_envelope_cannot_be_moved_to_another_topic(world: World, mode: Mode) -> None:
    content = world.message(topic=TOPIC)
    assert world.judge(content, mode, OTHER_TOPIC) is Flaw.BAD_SIGNATURE
    assert isinstance(world.judge(content, mode, TOPIC), Opened)


@pytest.mark.parametrize("mode", JUDGING)
def test_an_envelope_cannot_be_given_another_author(world: World, mode: Mode) -> None:
    content = world.message()
    stolen = content[:5] + RECEIVER.endpoint_id + content[37:]
    assert world.judge(stolen, mode) is Flaw.BAD_SIGNATURE


@pytest.mark.parametrize("mode", JUDGING)
@pytest.mark.parametrize("flag", [0x08, 0x10, 0x20, 0x40, 0x80])
def test_flags_of_another_version_are_malformed(world: World, mode: Mode, flag: int) -> None:
    content = world.message()
    assert world.judge(content[:4] + bytes([flag]) + content[5:], mode) is Flaw.MALFORMED


@pytest.mark.parametrize("mode", JUDGING)
def test_every_changed_bit_is_refused_and_burns_nothing(world: World, mode: Mode) -> None:
    content = world.message(seq=7)
    for at, bit in itertools.product(range(len(content)), range(8)):
        changed = bytearray(content)
        changed[at] ^= 1 << bit
        judged = world.judge(bytes(changed), mode)
        if at < len(MAGIC):  # it no longer claims to be an envelope
            assert judged == (Flaw.UNSIGNED if mode is Mode.SIGNED else Opened(bytes(changed)))
        else:
            assert isinstance(judged, Flaw), (at, bit)
    assert world.judge(content, mode) == Opened(b"hello", AUTHOR.endpoint_id, 7)


@given(cut=st.integers(1, 119), mode=st.sampled_from(JUDGING))
def test_a_shortened_envelope_is_never_taken_for_signed(cut: int, mode: Mode) -> None:
    world = World()
    judged = world.judge(world.message()[:-cut], mode)
    assert isinstance(judged, Flaw) or not judged.is_verified


@given(content=st.binary(max_size=300) | st.binary(max_size=300).map(MAGIC.__add__))
def test_whatever_comes_is_judged(content: bytes) -> None:
    """Signed mode gives nothing out that nobody signed; auto mode gives it out as it is."""
    world = World()
    assert isinstance(world.judge(content), Flaw)
    assert world.judge(content, Mode.AUTO) == Opened(content) or content.startswith(MAGIC)


# --- rate of an author -----------------------------------------------------------------------------------


def test_an_author_may_not_send_more_than_its_rate(world: World) -> None:
    """One author, two topics: 200 at once, then 50 a second."""
    burst = int(AUTHOR_BURST)
    for number in range(burst):
        topic = (TOPIC, OTHER_TOPIC)[number % 2]
        assert isinstance(world.judge(world.message(topic=topic), topic=topic), Opened)
    assert world.judge(world.message()) is Flaw.TOO_MANY
    world.now += 1.0
    judged = [world.judge(world.message()) for _ in range(int(AUTHOR_PER_S) + 1)]
    assert [isinstance(one, Opened) for one in judged] == [True] * int(AUTHOR_PER_S) + [False]
    assert world.accepts(world.message(author=RECEIVER)), "others have a rate of their own"


def test_a_message_over_the_rate_may_come_again(world: World) -> None:
    """Its number is not burnt: what was refused for the moment is no replay."""
    while world.accepts(world.message()):
        pass
    late = world.message()
    assert world.judge(late) is Flaw.TOO_MANY
    world.now += 1.0
    assert world.accepts(late)


def test_forgeries_use_up_neither_numbers_nor_the_rate_of_the_author_they_name(world: World) -> None:
    for seq in range(1, 5 * int(AUTHOR_BURST)):
        assert world.judge(forged(world.message(seq=seq))) is Flaw.BAD_SIGNATURE
    assert world.judge(forged(world.message(seq=2**32 - 1))) is Flaw.BAD_SIGNATURE
    genuine = [world.judge(world.message(seq=seq)) for seq in range(1, int(AUTHOR_BURST) + 1)]
    assert all(isinstance(one, Opened) for one in genuine)


def test_forgeries_are_not_remembered(world: World) -> None:
    """Strangers' names cost nothing: they push no author out and take no room."""
    for number in range(100):
        stranger = SecretKey(number.to_bytes(32, "big"))
        world.judge(forged(world.message(author=stranger)))
        world.judge(world.message(author=stranger, ts_ms=0))
    assert not world.receiver._rates
    assert len(world.receiver._windows) == 0


@pytest.mark.parametrize("count", [MAX_AUTHORS - 1, MAX_AUTHORS, MAX_AUTHORS + 1])
def test_the_authors_with_a_rate_are_bounded(
    world: World, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envelopes_module, "verify_envelope", lambda *_: True)
    content = world.message(seq=1)
    for number in range(count):
        author = number.to_bytes(32, "big")
        assert world.accepts(content[:5] + author + content[37:])
    assert len(world.receiver._rates) == min(count, MAX_AUTHORS)
    assert len(world.receiver._windows) == min(count, MAX_AUTHORS)
    assert (bytes(32) in world.receiver._rates) is (count <= MAX_AUTHORS), "the least recently heard goes"


# --- order of the questions ------------------------------------------------------------------------------


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The contents whose signature was checked, in order."""
    seen: list[bytes] = []
    real = envelopes_module.verify_envelope

    def verify(envelope, topic_id):
        seen.append(envelope.signed + envelope.signature)
        return real(envelope, topic_id)

    monkeypatch.setattr(envelopes_module, "verify_envelope", verify)
    return seen


def with_flags(content: bytes, flags: int) -> bytes:
    return content[:4] + bytes([flags]) + content[5:]


def test_the_first_of_several_flaws_is_told_and_the_signature_is_the_last_but_one(
    world: World, verified: list[bytes]
) -> None:
    """shape -> time -> replay -> signature -> rate: what costs least is asked first."""
    assert world.accepts(world.message(seq=300))
    while world.accepts(world.message(b"use up the rate", session=9)):
        pass
    del verified[:]
    everything = forged(world.message(ts_ms=0, seq=300))
    assert world.judge(with_flags(everything, 0x80)) is Flaw.MALFORMED
    assert world.judge(everything) is Flaw.EXPIRED
    assert world.judge(forged(world.message(ts_ms=NOW_MS + 60_000, seq=300))) is Flaw.FROM_THE_FUTURE
    assert world.judge(forged(world.message(seq=300))) is Flaw.REPLAYED
    assert verified == [], "none of these is worth a signature check"
    assert world.judge(forged(world.message(seq=301))) is Flaw.BAD_SIGNATURE
    assert len(verified) == 1
    assert world.judge(world.message(seq=301)) is Flaw.TOO_MANY
    assert len(verified) == 2
