"""Records in the DHT over virtual days: kept alive, replaced, found; lies and replays ignored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import cast

import anyio
import pytest

from kukuri_sidecar.errors import Offline
from kukuri_sidecar.net.clock import Instants
from kukuri_sidecar.node.dht import Dht
from kukuri_sidecar.node.discovery.dht import BOOTSTRAP_PATIENCE_S, DhtRecords
from kukuri_sidecar.node.discovery.freshness import Freshness
from kukuri_sidecar.node.discovery.provider import MAX_RELAYS, Discovered, Policy, select
from kukuri_sidecar.node.discovery.publisher import DEBOUNCE_MAX_S, DEBOUNCE_MIN_S, RETRY_MAX_S, Publisher
from kukuri_sidecar.node.events import NodeEvent, RecordPublished
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.endpoint_info import EndpointData, parse_packet, sign_endpoint_data
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.mutable_item import MutableItem, mutable_target
from kukuri_sidecar.wire.pkarr import packet_from_item
from sim.dht_service import LATENCY_S, SimDht

pytestmark = pytest.mark.anyio

OURS = SecretKey(b"\1" * 32)
THEIRS = SecretKey(b"\2" * 32)
HERE = SocketAddr("198.51.100.4", 4433)
THERE = SocketAddr("203.0.113.9", 4433)
PUBLIC = SocketAddr("1.2.3.4", 4433)
HOUR_S = 3600.0
INTERVAL_S = HOUR_S


def wall_ms() -> int:
    return 1_763_790_000_000 + round(anyio.current_time() * 1000)


def now_us() -> int:
    return wall_ms() * 1000


class World:
    def __init__(self, rng: Random, policy: Policy = "auto") -> None:
        self.dht = SimDht()
        self.addresses: tuple[SocketAddr, ...] = (HERE,)
        self.events: list[NodeEvent] = []
        self.records = DhtRecords(
            cast("Dht", self.dht), OURS, Freshness(wall_ms), lambda: self.addresses, ttl_s=30, wall_ms=wall_ms
        )
        self.publisher = Publisher(
            self.records,
            lambda: select(policy, self.addresses),
            interval_s=INTERVAL_S,
            emit=self.events.append,
            rng=rng,
            instants=Instants(wall_ms),
        )

    @property
    def kept(self) -> MutableItem | None:
        return self.dht.item(mutable_target(OURS.endpoint_id))

    async def found(self) -> list[Discovered]:
        return [one async for one in self.records.resolve(THEIRS.endpoint_id)]


@pytest.fixture
async def world(rng: Random) -> AsyncIterator[World]:
    world = World(rng)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.publisher.run)
        world.publisher.changed()
        yield world
        tasks.cancel_scope.cancel()


def addresses_of(item: MutableItem) -> tuple[SocketAddr, ...]:
    return parse_packet(packet_from_item(item)).addresses


def theirs(
    timestamp_us: int, addresses: tuple[SocketAddr, ...] = (PUBLIC,), relays: tuple[str, ...] = ()
) -> MutableItem:
    return sign_endpoint_data(THEIRS, EndpointData(addresses, relays), timestamp_us).to_item()


async def test_the_record_is_never_absent_for_a_day_and_its_bytes_stay_the_same(world: World) -> None:
    """R47, J5; the nodes that keep it forget it after two hours."""
    await anyio.sleep(DEBOUNCE_MAX_S + LATENCY_S + 0.01)
    until = anyio.current_time() + 24 * HOUR_S
    while anyio.current_time() < until:
        assert world.kept is not None
        await anyio.sleep(60)
    items = {item for _, item in world.dht.puts}
    assert len(items) == 1, "nothing changed, so nothing is signed anew"
    gaps = [b - a for (a, _), (b, _) in zip(world.dht.puts, world.dht.puts[1:], strict=False)]
    assert 22 <= len(gaps) <= 27
    assert all(0.9 * INTERVAL_S <= gap - LATENCY_S <= 1.1 * INTERVAL_S for gap in gaps)
    assert max(gaps) - min(gaps) > 0.05 * INTERVAL_S, "jitter"
    told = [event for event in world.events if isinstance(event, RecordPublished)]
    assert len(told) == len(world.dht.puts)
    assert all(event.ok for event in told)


async def test_a_new_address_replaces_the_old_ones_within_a_second(world: World) -> None:
    await anyio.sleep(10)
    ((_, first),) = world.dht.puts
    changed_at = anyio.current_time()
    world.addresses = (THERE,)
    world.publisher.changed()
    await anyio.sleep(0.3)
    world.addresses = (THERE, HERE)
    world.publisher.changed()  # a burst is one record
    await anyio.sleep(10)
    (_, _), (at, second) = world.dht.puts
    assert DEBOUNCE_MIN_S <= at - LATENCY_S - changed_at <= DEBOUNCE_MAX_S
    assert addresses_of(second) == (THERE, HERE)
    assert second.seq > first.seq
    assert second.is_genuine()
    assert abs(second.seq - now_us()) < 20_000_000


async def test_what_did_not_change_is_not_published_again(world: World) -> None:
    await anyio.sleep(10)
    world.publisher.changed()
    await anyio.sleep(10)
    assert len(world.dht.puts) == 1


async def test_the_seq_grows_even_when_the_clock_goes_back(rng: Random) -> None:
    times = iter([5_000, 5_000, 1_000])
    dht = SimDht()
    records = DhtRecords(
        cast("Dht", dht), OURS, Freshness(wall_ms), tuple, ttl_s=30, wall_ms=lambda: next(times)
    )
    for port in (1, 2, 3):
        await records.publish(EndpointData((SocketAddr("1.2.3.4", port),)))
    assert [item.seq for _, item in dht.puts] == [5_000_000, 5_000_001, 5_000_002]


async def test_a_newer_record_of_our_own_key_is_outdone(world: World) -> None:
    """Left by a run with another clock, or by our identity elsewhere: the present one must be found."""
    later = sign_endpoint_data(OURS, EndpointData((THERE,)), now_us() + 3_600_000_000).to_item()
    world.dht.store(later)
    await anyio.sleep(5)
    assert world.kept is not None
    assert world.kept.seq == later.seq + 1
    assert addresses_of(world.kept) == (HERE,)


async def test_failures_are_repeated_ever_more_slowly_and_then_forgotten(rng: Random) -> None:
    world = World(rng)
    world.dht.is_up = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.publisher.run)
        world.publisher.changed()
        await anyio.sleep(2 * HOUR_S)
        gaps = [b - a for a, b in zip(world.dht.attempts, world.dht.attempts[1:], strict=False)]
        assert gaps[0] < 5
        assert RETRY_MAX_S / 2 < gaps[-1] < RETRY_MAX_S + 5
        told = [event for event in world.events if isinstance(event, RecordPublished)]
        assert {(event.ok, event.error) for event in told} == {(False, "offline")}
        world.dht.is_up = True
        await anyio.sleep(RETRY_MAX_S)
        assert world.kept is not None
        last = world.events[-1]
        assert isinstance(last, RecordPublished)
        assert last.next_at_ms is not None
        assert last.next_at_ms - wall_ms() > 0.8 * INTERVAL_S * 1000 - RETRY_MAX_S * 1000
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("policy", "addresses"), [("none", (HERE,)), ("relay", (HERE,)), ("auto", ())])
async def test_nothing_is_sent_when_nothing_may_be_said(
    rng: Random, policy: Policy, addresses: tuple[SocketAddr, ...]
) -> None:
    world = World(rng, policy)
    world.addresses = addresses
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.publisher.run)
        world.publisher.changed()
        await anyio.sleep(3 * HOUR_S)
        publication = await world.publisher.publish()
        assert (publication.ok, publication.error, publication.next_at_ms) == (False, "no_addresses", None)
        assert world.dht.attempts == []
        assert world.events == []
        tasks.cancel_scope.cancel()


async def test_publishing_on_request_tells_what_came_of_it_and_moves_the_schedule(world: World) -> None:
    await anyio.sleep(1800)
    publication = await world.publisher.publish()
    assert (publication.ok, publication.stored, publication.error) == (True, 20, None)
    assert publication.next_at_ms is not None
    assert 0.9 * INTERVAL_S <= (publication.next_at_ms - wall_ms()) / 1000 <= 1.1 * INTERVAL_S
    await anyio.sleep(0.85 * INTERVAL_S)
    assert len(world.dht.puts) == 2


async def test_a_record_is_found_with_its_age_and_within_bounds(world: World) -> None:
    stamp = now_us()
    addresses = tuple(SocketAddr("1.2.3.4", port) for port in range(1, 12))
    relays = tuple(f"https://r{number}.example/" for number in range(4))
    world.dht.store(theirs(stamp, addresses, relays))
    (found,) = await world.found()
    assert found == Discovered(THEIRS.endpoint_id, addresses[:8], relays[:MAX_RELAYS], "dht", stamp)


async def test_a_replayed_record_is_ignored_and_a_later_one_streamed(world: World) -> None:
    """trust.md R2: whoever keeps an old record of the peer must not be able to lead us there."""
    old = theirs(now_us() - 60_000_000, (SocketAddr("1.1.1.1", 1),))
    new = theirs(now_us())
    world.dht.replays.append(old)
    world.dht.store(new)
    assert [one.addresses for one in await world.found()] == [((SocketAddr("1.1.1.1", 1)),), (PUBLIC,)]
    assert [one.addresses for one in await world.found()] == [(PUBLIC,)], "now we know better"


async def test_a_record_from_the_future_is_ignored(world: World) -> None:
    world.dht.store(theirs(now_us() + 700_000_000))
    assert await world.found() == []


async def test_an_item_that_is_no_record_is_ignored(world: World) -> None:
    world.dht.store(MutableItem(THEIRS.endpoint_id, 1, b"5:hello", bytes(64)))  # type: ignore[arg-type]
    assert await world.found() == []


async def test_without_any_node_the_source_is_offline_but_not_in_the_first_moment(rng: Random) -> None:
    world = World(rng)
    world.dht.is_up = False
    start = anyio.current_time()
    with pytest.raises(Offline):
        await world.found()
    assert BOOTSTRAP_PATIENCE_S <= anyio.current_time() - start < BOOTSTRAP_PATIENCE_S + 1
