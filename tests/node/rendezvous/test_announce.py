"""Scheme `announce` on the virtual clock: a member is never without a record, whatever the clocks say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from random import Random

import anyio
import pytest

from kukuri_sidecar.node.rendezvous.announce import (
    ANNOUNCE_INTERVAL_S,
    CALM_INTERVAL_S,
    CALM_NEIGHBORS,
    EAGER_INTERVAL_S,
    JITTER,
    Announce,
)
from kukuri_sidecar.proto.dht.events import AnnouncePeer, GetPeers
from kukuri_sidecar.proto.dht.storage import PEER_S
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.rendezvous_key import EPOCH_S, announce_key
from node.rendezvous.fakes import LOOKUP_S, TOPIC, FakeDht, Network

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0
BORDER_S = 100_000 * EPOCH_S  # an epoch begins here
A, B = SocketAddr("203.0.113.1", 4001), SocketAddr("203.0.113.2", 4002)


class Member:
    """One member that looks for the others from now on."""

    def __init__(self, network: Network, address: SocketAddr, rng: Random, *, clock_s: float) -> None:
        self.dht = FakeDht(network, address)
        self.address = address
        self.found: list[SocketAddr] = []
        self.neighbors = 0
        self._ahead_s = clock_s - anyio.current_time()
        self._announce = Announce(
            self.dht,  # type: ignore[arg-type]  # a stand-in with the one method that is used
            TOPIC,
            None,
            port=address.port,
            neighbors=lambda: self.neighbors,
            rng=rng,
            wall_ms=lambda: round(self.clock_s * 1000),
        )

    @property
    def clock_s(self) -> float:
        return anyio.current_time() + self._ahead_s

    async def run(self) -> None:
        async with aclosing(self._announce.meet()) as candidates:
            async for address in candidates:
                self.found.append(address)

    @property
    def announces(self) -> list[AnnouncePeer]:
        return [command for command in self.dht.commands if isinstance(command, AnnouncePeer)]


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for member in members:
            tasks.start_soon(member.run)
        yield
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("skews_s", "neighbors"),
    [
        ((0, 0), CALM_NEIGHBORS),
        ((-600, 600), CALM_NEIGHBORS),
        ((600, -600), CALM_NEIGHBORS),
        ((600, 0), CALM_NEIGHBORS),
        ((-600, 600), 0),
    ],
)
async def test_the_record_is_never_absent(rng: Random, skews_s: tuple[int, int], neighbors: int) -> None:
    """Thirty hours, five borders of an epoch, clocks ten minutes wrong.

    Whoever looks where its own clock tells it to finds the other's record there, at every moment.
    """
    network = Network()
    begin_s = BORDER_S + rng.uniform(-EPOCH_S, EPOCH_S)
    a, b = (
        Member(network, address, rng, clock_s=begin_s + skew_s)
        for address, skew_s in zip((A, B), skews_s, strict=True)
    )
    a.neighbors = b.neighbors = neighbors
    async with running(a, b):
        await anyio.sleep(4 * LOOKUP_S)
        end = anyio.current_time() + 30 * HOUR_S
        while anyio.current_time() < end:
            for seeker, sought in ((a, b), (b, a)):
                key = announce_key(TOPIC, None, int(seeker.clock_s // EPOCH_S))
                assert network.holds(key, sought.address), seeker.clock_s - BORDER_S
            await anyio.sleep(23)


async def test_an_announce_that_nobody_stored_is_made_again(rng: Random) -> None:
    """It counted as made: whoever joined before the DHT answered was invisible for a quarter of an hour."""
    network = Network()
    network.is_reachable = False
    member = Member(network, A, rng, clock_s=BORDER_S + 2 * HOUR_S)
    key = announce_key(TOPIC, None, int(member.clock_s // EPOCH_S))
    async with running(member):
        await anyio.sleep(60)
        assert len(member.announces) >= 8
        network.is_reachable = True
        await anyio.sleep(EAGER_INTERVAL_S * (1 + JITTER) + LOOKUP_S)
        assert network.holds(key, A)


async def test_a_record_is_renewed_before_it_lapses_and_not_much_sooner(rng: Random) -> None:
    member = Member(Network(), A, rng, clock_s=BORDER_S + 2 * HOUR_S)
    async with running(member):
        await anyio.sleep(2 * HOUR_S)
    least = 2 * HOUR_S / ANNOUNCE_INTERVAL_S
    assert least - 1 <= len(member.announces) <= least / (1 - JITTER) + 1
    assert ANNOUNCE_INTERVAL_S + CALM_INTERVAL_S < PEER_S


@pytest.mark.parametrize(
    ("neighbors", "pause_s"),
    [(0, EAGER_INTERVAL_S), (CALM_NEIGHBORS - 1, EAGER_INTERVAL_S), (3, CALM_INTERVAL_S)],
)
async def test_who_has_neighbours_looks_less_often(rng: Random, neighbors: int, pause_s: float) -> None:
    member = Member(Network(), A, rng, clock_s=BORDER_S + 2 * HOUR_S)
    member.neighbors = neighbors
    async with running(member):
        await anyio.sleep(HOUR_S)
    rounds = len(member.dht.commands)
    expected = HOUR_S / (pause_s + LOOKUP_S)
    assert 0.9 * expected <= rounds <= 1.1 * expected + 5


async def test_far_from_a_border_one_key_counts_near_it_two(rng: Random) -> None:
    for clock_s, epochs in (
        (BORDER_S + HOUR_S - 60, {0, -1}),
        (BORDER_S + HOUR_S + 60, {0}),
        (BORDER_S - HOUR_S - 60, {-1}),
        (BORDER_S - HOUR_S + 60, {-1, 0}),
    ):
        member = Member(Network(), A, rng, clock_s=clock_s)
        async with running(member):
            await anyio.sleep(3)
        keys = {command.info_hash for command in member.announces}
        assert keys == {announce_key(TOPIC, None, BORDER_S // EPOCH_S + epoch) for epoch in epochs}


async def test_it_ends_with_its_lookup(rng: Random) -> None:
    """A search that is stopped in the middle of a look-up leaves none behind."""
    member = Member(Network(), A, rng, clock_s=BORDER_S)
    async with running(member):
        await anyio.sleep(LOOKUP_S / 2)
        assert member.dht.running == 1
    assert member.dht.running == 0


async def test_it_yields_what_turns_up_again_and_again(rng: Random) -> None:
    network = Network()
    a, b = (Member(network, address, rng, clock_s=BORDER_S + 2 * HOUR_S) for address in (A, B))
    async with running(a, b):
        await anyio.sleep(60)
    assert a.found.count(B) >= 5
    assert b.found.count(A) >= 5
    assert any(isinstance(command, GetPeers) for command in a.dht.commands)
