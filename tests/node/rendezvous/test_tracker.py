"""Scheme tracker on the virtual clock: when it reads and writes, and what it makes of a hostile slot."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import cast

import anyio
import pytest

from kukuri_sidecar.node.dht import Dht, Finding
from kukuri_sidecar.node.rendezvous import tracker
from kukuri_sidecar.node.rendezvous.tracker import Tracker
from kukuri_sidecar.proto.dht.events import (
    Command,
    Ending,
    GetMutable,
    ItemFound,
    LookupFinished,
    LookupId,
    LookupReport,
    PutMutable,
    WriteReport,
)
from kukuri_sidecar.wire import bencode
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId, Target, TopicId
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.mutable_item import MutableItem, mutable_target, sign_item
from kukuri_sidecar.wire.tracker_record import (
    TrackerRecord,
    record_in,
    record_item,
    seal_record,
    sign_record,
    slot_at,
)

pytestmark = pytest.mark.anyio

TOPIC = TopicId(b"t" * 32)
SOMEWHERE = SocketAddr("192.0.2.1", 1)
STORED = WriteReport(stored=8, conflicts=0, not_most_recent=0, refused=0, unanswered=0)
CONFLICT = replace(STORED, stored=0, conflicts=8)
UNANSWERED = replace(STORED, stored=0, unanswered=8)
LOOKUP_S = 0.5
# The clock below starts 20 s into this minute.
MINUTE = 1_700_000_000 // 60


def wall_ms() -> int:
    return 1_700_000_000_000 + round(anyio.current_time() * 1000)


def minute() -> int:
    return wall_ms() // 60_000


@dataclass
class FakeDht:
    """Keeps every item, as nodes that disagree do; answers after half a second."""

    items: dict[Target, dict[MutableItem, float]] = field(default_factory=dict)  # item -> when it came
    reads: list[tuple[float, Target]] = field(default_factory=list)
    puts: list[tuple[float, MutableItem]] = field(default_factory=list)
    write: WriteReport = STORED
    is_stuck: bool = False

    @asynccontextmanager
    async def lookup(self, make: Callable[[LookupId], Command]) -> AsyncIterator[AsyncIterator[Finding]]:
        yield self._run(make(LookupId(1)))

    async def _run(self, command: Command) -> AsyncIterator[Finding]:
        now = anyio.current_time()
        if isinstance(command, PutMutable):
            target = command.item.target
            self.puts.append((now, command.item))
            if self.write == STORED:
                self.add(command.item)
        else:
            assert isinstance(command, GetMutable)
            assert command.newer_than is None
            target = mutable_target(command.public_key, command.salt)
            self.reads.append((now, target))
        await anyio.sleep(1_000 if self.is_stuck else LOOKUP_S)
        if isinstance(command, GetMutable):
            for item in self.items.get(target, ()):
                yield ItemFound(LookupId(1), item, SOMEWHERE)
        report = LookupReport(target, Ending.COMPLETE, 8, 8, LOOKUP_S, None, None, ())
        yield LookupFinished(
            LookupId(1), replace(report, write=self.write) if isinstance(command, PutMutable) else report
        )

    def add(self, item: MutableItem) -> None:
        self.items.setdefault(item.target, {})[item] = anyio.current_time()

    def add_record(
        self, who: SecretKey, peers: Iterable[EndpointId] = (), *, secret: bytes | None = None, ago: int = 0
    ) -> None:
        slot = slot_at(TOPIC, secret, minute() - ago)
        randomness = Random(who.endpoint_id).randbytes(96)
        self.add(record_item(slot, seal_record(slot, sign_record(slot, who, list(peers), []), randomness)))

    def published(self) -> list[TrackerRecord]:
        """What was put, each in the slot of its minute."""
        return [record_in(slot_at(TOPIC, None, self.minute_of(item)), item) for _, item in self.puts]

    def minute_of(self, item: MutableItem) -> int:
        return next(
            m
            for m in range(MINUTE, MINUTE + 60)
            if slot_at(TOPIC, None, m).owner.endpoint_id == item.public_key
        )


@dataclass
class Member:
    """One member: its provider, and what the topic would know."""

    dht: FakeDht
    rng: Random
    number: int
    secret: bytes | None = None
    neighbors: list[EndpointId] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    found: list[EndpointId] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.identity = key(self.number)
        self.id = self.identity.endpoint_id

    async def run(self) -> None:
        provider = Tracker(
            cast("Dht", self.dht),
            TOPIC,
            self.secret,
            identity=self.identity,
            neighbors=lambda: self.neighbors,
            message_hashes=lambda: self.hashes,
            rng=self.rng,
            wall_ms=wall_ms,
        )
        async for candidate in provider.meet():
            self.found.append(candidate)


def key(number: int) -> SecretKey:
    return SecretKey(number.to_bytes(32, "big"))


@pytest.fixture
def dht() -> FakeDht:
    return FakeDht()


@pytest.fixture
def member(dht: FakeDht, rng: Random) -> Member:
    return Member(dht, rng, 1)


async def run_for(seconds: float, *members: Member) -> None:
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as tasks:
            for one in members:
                tasks.start_soon(one.run)


async def test_two_members_find_each_other(dht: FakeDht, rng: Random) -> None:
    a, b = Member(dht, rng, 1), Member(dht, rng, 2)
    await run_for(4, a, b)
    assert set(a.found) == {b.id}
    assert set(b.found) == {a.id}


async def test_who_knows_another_secret_is_not_found(dht: FakeDht, rng: Random) -> None:
    a, b = Member(dht, rng, 1, secret=b"one"), Member(dht, rng, 2, secret=b"two")
    await run_for(70, a, b)
    assert a.found == b.found == []


async def test_both_this_minute_and_the_last_are_read(member: Member, dht: FakeDht) -> None:
    dht.add_record(key(2))
    dht.add_record(key(3), ago=1)
    dht.add_record(key(4), ago=2)
    await run_for(2, member)
    assert set(member.found) == {key(2).endpoint_id, key(3).endpoint_id}


async def test_an_isolated_member_polls_eagerly_for_a_minute(member: Member, dht: FakeDht) -> None:
    """Every 1.5 s as the crate, later every 8 s; each time two slots."""
    await run_for(300, member)
    early = [at for at, _ in dht.reads if at < 60]
    late = [at for at, _ in dht.reads if at >= 70]
    assert 2 * 20 <= len(early) <= 2 * 40
    assert 2 * 25 <= len(late) <= 2 * 50


async def test_a_member_with_neighbors_looks_around_when_it_publishes(member: Member, dht: FakeDht) -> None:
    member.neighbors = [key(9).endpoint_id]
    await run_for(600, member)
    assert len(dht.reads) == pytest.approx(2 * len(dht.puts), abs=2)


async def test_publishes_every_10_to_60_seconds_in_the_minute_of_now(member: Member, dht: FakeDht) -> None:
    await run_for(1_800, member)
    times = [at for at, _ in dht.puts]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] < 1
    assert min(pauses) >= 10
    assert max(pauses) <= 60 + 4 * LOOKUP_S + 1.5
    assert [MINUTE + int((20 + at) // 60) for at, _ in dht.puts] == [dht.minute_of(i) for _, i in dht.puts]


async def test_a_record_names_five_neighbors_and_hashes(member: Member, dht: FakeDht) -> None:
    member.neighbors = [key(n).endpoint_id for n in range(10, 17)]
    member.hashes = [bytes([n]) * 32 for n in range(1, 6)]
    await run_for(5, member)
    (record,) = dht.published()
    assert record == TrackerRecord(member.id, tuple(member.neighbors[:5]), tuple(member.hashes))


@pytest.mark.parametrize(("others", "is_published"), [(4, True), (5, False), (6, False)])
async def test_a_full_slot_gets_no_record_of_ours(
    member: Member, dht: FakeDht, others: int, is_published: bool
) -> None:
    for number in range(others):
        dht.add_record(key(100 + number))
    await run_for(3, member)
    assert bool(dht.puts) is is_published


async def test_a_put_that_nobody_took_is_tried_three_times_more(member: Member, dht: FakeDht) -> None:
    dht.write = UNANSWERED
    await run_for(200, member)
    times = [at for at, _ in dht.puts]
    pauses = [b - a for a, b in itertools.pairwise(times)]
    slack = 2 * LOOKUP_S + 1.5
    assert all(5 <= pause <= 15 + slack for pause in pauses[:3])
    assert 10 <= pauses[3] <= 60 + slack


async def test_a_slot_that_others_hold_is_no_failure(member: Member, dht: FakeDht) -> None:
    """All records have one seq: a node that keeps the first one refuses ours, and shows theirs."""
    dht.write = CONFLICT
    await run_for(600, member)
    assert len(dht.puts) <= 60


async def test_neighbors_of_publishers_are_found_and_we_never_are(member: Member, dht: FakeDht) -> None:
    peers = [key(n).endpoint_id for n in (3, 4)]
    dht.add_record(key(2), [*peers, member.id])
    await run_for(2, member)
    assert set(member.found) == {key(2).endpoint_id, *peers}


async def test_at_most_four_of_a_round_and_publishers_first(member: Member, dht: FakeDht) -> None:
    publishers = [key(n) for n in (2, 3, 4)]
    for publisher in publishers:
        dht.add_record(publisher, [key(n).endpoint_id for n in range(10, 15)])
    await run_for(1.4, member)
    assert len(member.found) == 4
    assert {publisher.endpoint_id for publisher in publishers} == set(member.found[:3])


async def test_whoever_has_enough_neighbors_is_left_alone(member: Member, dht: FakeDht) -> None:
    member.neighbors = [key(n).endpoint_id for n in range(10, 14)]
    dht.add_record(key(2))
    await run_for(200, member)
    assert member.found == []


async def test_rubbish_in_a_slot_hides_nobody(member: Member, dht: FakeDht) -> None:
    slot = slot_at(TOPIC, None, minute())
    for value in (b"", b"no record", bytes(600)):
        dht.add(sign_item(slot.owner, bencode.Encoded(bencode.encode(value)), 1, slot.salt))
    dht.add_record(key(2))
    await run_for(2, member)
    assert member.found == [key(2).endpoint_id]


async def test_a_flood_of_records_is_cut(
    member: Member, dht: FakeDht, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "MAX_READ_RECORDS", 3)
    opened = []
    monkeypatch.setattr(tracker, "record_in", lambda *args: opened.append(1) or record_in(*args))
    for number in range(8):
        dht.add_record(key(100 + number))
    await run_for(1.4, member)
    assert len(opened) == 3


async def test_a_dht_that_says_nothing_is_given_up_after_10_seconds(member: Member, dht: FakeDht) -> None:
    dht.is_stuck = True
    await run_for(25, member)
    assert len(dht.reads) == 4
    assert len(dht.puts) == 1
