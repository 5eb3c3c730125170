"""A search per topic: it begins with the join, or with the node, and ends with the leave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import anyio
import anyio.lowlevel
import pytest

from kukuri_sidecar.node.rendezvous.service import Rendezvous, Search
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.keys import SecretKey
from node.rendezvous.fakes import LOOKUP_S, TOPIC, FakeDht, FakePeers, FakeTopic, Network

pytestmark = pytest.mark.anyio

OWN, OTHER = SocketAddr("203.0.113.1", 4001), SocketAddr("203.0.113.2", 4002)
PEER = EndpointId(b"p" * 32)
HALF_HOUR_S = 1800.0


class World:
    """One node's rendezvous in a network where another member has announced itself."""

    def __init__(self, rng: Random, *, has_dht: bool = True) -> None:
        self.network = Network()
        self.dht = FakeDht(self.network, OWN)
        self.peers, self.topic = FakePeers({OTHER: PEER}), FakeTopic()
        self.rendezvous = Rendezvous(
            identity=SecretKey(bytes(32)),
            dht=self.dht if has_dht else None,  # type: ignore[arg-type]  # stand-ins
            peers=self.peers,  # type: ignore[arg-type]
            own_addresses=lambda: (OWN,),
            port=lambda: OWN.port,
            emit=lambda _: None,
            rng=rng,
            wall_ms=lambda: round(1e9 + anyio.current_time() * 1000),
        )

    def join(self) -> bool:
        return self.rendezvous.start(
            Search(TOPIC, ("announce",), None, self.topic, lambda: tuple(self.topic.neighbors), lambda: ())
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.rendezvous.run)
            yield
            tasks.cancel_scope.cancel()


async def test_without_a_dht_nothing_begins_and_that_is_said(rng: Random) -> None:
    world = World(rng, has_dht=False)
    async with world.running():
        assert not world.join()
        world.rendezvous.stop(TOPIC)


async def test_a_member_is_met(rng: Random) -> None:
    world = World(rng)
    async with world.running():
        assert world.join()
        await anyio.sleep(1)
        (key,) = {command.info_hash for command in world.dht.commands}  # type: ignore[union-attr]
        world.network.records[key][OTHER] = anyio.current_time() + HALF_HOUR_S
        await anyio.sleep(5)
        assert world.topic.members == [PEER]
        assert world.network.holds(key, OWN)


async def test_a_topic_joined_before_the_node_runs_is_searched(rng: Random) -> None:
    world = World(rng)
    world.join()
    async with world.running():
        await anyio.sleep(LOOKUP_S)
        assert len(world.dht.commands) == 1


async def test_leaving_ends_the_search_at_once(rng: Random) -> None:
    world = World(rng)
    async with world.running():
        world.join()
        await anyio.sleep(LOOKUP_S / 2)
        world.rendezvous.stop(TOPIC)
        await anyio.lowlevel.checkpoint()
        assert world.dht.running == 0
        before = len(world.dht.commands)
        await anyio.sleep(HALF_HOUR_S)
        assert len(world.dht.commands) == before
        assert not any(world.network.holds(key, OWN) for key in world.network.records)


async def test_a_topic_left_in_the_moment_of_its_join_is_not_searched(rng: Random) -> None:
    """A batch can do that; the search began after its end had been asked for, and never ended."""
    world = World(rng)
    async with world.running():
        world.join()
        world.rendezvous.stop(TOPIC)
        await anyio.sleep(60)
        assert world.dht.commands == []


async def test_two_joins_make_one_search(rng: Random) -> None:
    world = World(rng)
    async with world.running():
        world.join()
        world.join()
        await anyio.sleep(LOOKUP_S / 2)
        assert len(world.dht.commands) == 1
        world.join()
        await anyio.lowlevel.checkpoint()
        assert len(world.dht.commands) == 1


async def test_a_topic_can_be_left_and_joined_again(rng: Random) -> None:
    world = World(rng)
    async with world.running():
        for rounds in (1, 2, 3):
            world.join()
            await anyio.sleep(LOOKUP_S / 2)
            assert len(world.dht.commands) == rounds
            world.rendezvous.stop(TOPIC)
