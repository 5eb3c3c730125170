"""The pool and discovery, on the virtual clock: only the id of a peer is known, or its address is stale."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from random import Random

import anyio
import pytest

from kukuri_sidecar.errors import NoAddresses
from kukuri_sidecar.node.discovery.provider import Discovered
from kukuri_sidecar.node.peers import SEARCH_PAUSE_MAX_S, STALE_AFTER_S
from kukuri_sidecar.wire.addr import HostPort, PeerHint, SocketAddr
from kukuri_sidecar.wire.ids import EndpointId
from sim.nodes import Node, World, simulated_world, until

pytestmark = pytest.mark.anyio

DEAD = HostPort("192.0.2.1", 9)


class Finder:
    """What `Discovery.find` is to the pool; answers after `takes_s` with what it was told."""

    def __init__(self) -> None:
        self.knows: dict[EndpointId, tuple[SocketAddr, ...]] = {}
        self.relays: tuple[str, ...] = ()
        self.takes_s = 0.4
        self.lasts_s = 0.0
        self.asked: list[float] = []
        self.cancelled = 0

    async def find(
        self, endpoint_id: EndpointId, found: Callable[[Discovered], None], timeout_s: float
    ) -> dict[str, str]:
        self.asked.append(anyio.current_time())
        try:
            await anyio.sleep(self.takes_s)
            addresses = self.knows.get(endpoint_id, ())
            if addresses or self.relays:
                found(Discovered(endpoint_id, addresses, self.relays, "dht"))
            await anyio.sleep(self.lasts_s)
        except BaseException:
            self.cancelled += 1
            raise
        return {} if addresses else {"dht": "no_addresses"}


@pytest.fixture
async def world(rng: Random) -> AsyncIterator[World]:
    async with simulated_world(rng) as world:
        yield world


@pytest.fixture
def finder() -> Finder:
    return Finder()


async def seeker(world: World, finder: Finder) -> Node:
    node = await world.node()
    swarm = node.topics.swarm
    node.peers.wire(node.endpoint, swarm.user_for, swarm.unreachable, node.topics.topics_of, finder.find)
    return node


async def test_an_id_is_enough_to_connect(world: World, finder: Finder) -> None:
    """J3b."""
    a, b = await seeker(world, finder), await world.node()
    finder.knows[b.id] = (b.endpoint.address,)
    finder.lasts_s = 100
    start = anyio.current_time()
    peer = await a.peers.connect(PeerHint(b.id), 10)
    assert peer.address == b.endpoint.address
    assert anyio.current_time() - start < STALE_AFTER_S, "without an address the search begins at once"
    (info,) = a.peers.list()
    assert info.origins == ("ticket", "dht")
    await anyio.sleep(0.1)
    assert finder.cancelled == 1, "who is connected is not searched for any longer"


async def test_a_topic_is_joined_by_id_alone(world: World, finder: Finder) -> None:
    a, b = await seeker(world, finder), await world.node()
    finder.knows[b.id] = (b.endpoint.address,)
    await b.join()
    await a.join(PeerHint(b.id))
    await until(lambda: a.neighbors() == b.neighbors() == 1, 3)


async def test_an_address_that_answers_needs_no_search(world: World, finder: Finder) -> None:
    a, b = await seeker(world, finder), await world.node()
    await a.peers.connect(b.hint, 10)
    assert finder.asked == []


async def test_a_stale_address_is_helped_by_what_the_search_finds(world: World, finder: Finder) -> None:
    """J5: the address joins the dial that is under way."""
    a, b = await seeker(world, finder), await world.node()
    finder.knows[b.id] = (b.endpoint.address,)
    start = anyio.current_time()
    await a.peers.connect(PeerHint(b.id, (DEAD,)), 10)
    assert STALE_AFTER_S < anyio.current_time() - start < STALE_AFTER_S + 1
    assert len(a.endpoint.dials) == 1


async def test_nothing_found_is_said_with_who_was_asked(world: World, finder: Finder) -> None:
    a, b = await seeker(world, finder), await world.node()
    with pytest.raises(NoAddresses) as caught:
        await a.peers.connect(PeerHint(b.id), 10)
    assert caught.value.details == {"source_errors": {"dht": "no_addresses"}}
    finder.relays = ("https://relay.example.org/",)
    with pytest.raises(NoAddresses) as caught:
        await a.peers.connect(PeerHint(b.id), 10)
    assert caught.value.details == {"source_errors": {"dht": "relay_unavailable"}}
    assert len(finder.asked) == 2, "the host's own request is never put off"


async def test_searches_for_somebody_who_is_away_become_rare(world: World, finder: Finder) -> None:
    """Each asks dozens of strangers, and tells them whom we look for."""
    a, b = await seeker(world, finder), await world.node()
    await a.join(PeerHint(b.id))
    await anyio.sleep(3600)
    gaps = [y - x for x, y in zip(finder.asked, finder.asked[1:], strict=False)]
    assert gaps[0] < 5
    assert gaps[-1] > SEARCH_PAUSE_MAX_S / 2
    assert len(finder.asked) < 35
    finder.knows[b.id] = (b.endpoint.address,)
    await b.join()
    await until(lambda: a.neighbors() == 1, SEARCH_PAUSE_MAX_S + 70)
