"""No acknowledged message is lost to whoever lives and stays connected, even if half the swarm dies (G20)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import anyio
import pytest

from history import Acked, Delivered, Down, Fact, History, Killed, Published, Up
from kukuri_sidecar.errors import SidecarError
from kukuri_sidecar.node.events import NeighborDown, NeighborUp, NodeEvent, TopicMessage, TopicPublished
from kukuri_sidecar.wire.hashes import message_id
from sim.nodes import Node, World, simulated_world, until

pytestmark = pytest.mark.anyio

SWARM = 12
RATE_PER_S = 5
LIVED_S = 130.0  # two shuffles: members know more of each other than their neighbours
DEATH_NOTICED_S = 15.0  # the idle time of a connection


@pytest.fixture
async def world(rng: Random) -> AsyncIterator[World]:
    async with simulated_world(rng) as world:
        yield world


async def swarm(world: World, rng: Random) -> list[Node]:
    nodes = [await world.node() for _ in range(SWARM)]
    for i, node in enumerate(nodes):
        await node.join(*(other.hint for other in rng.sample(nodes[:i], min(i, 2))))
        await anyio.sleep(rng.random())
    await until(lambda: all(node.neighbors() >= 2 for node in nodes), 60)
    await anyio.sleep(LIVED_S)
    return nodes


class Run:
    """A swarm that publishes all the time; some of it dies."""

    def __init__(self, world: World, nodes: list[Node], rng: Random) -> None:
        self.world, self.nodes, self.rng = world, nodes, rng
        self.killed: dict[Node, float] = {}
        self.payloads: dict[bytes, bytes] = {}
        self.published: list[Published] = []

    async def publish_for(self, seconds: float) -> None:
        """Let a random living node publish now and then, with confirmation."""
        end = anyio.current_time() + seconds
        while anyio.current_time() < end:
            node = self.rng.choice([node for node in self.nodes if node not in self.killed])
            payload = b"%d" % len(self.payloads)
            try:
                node.publish(payload, confirm=True)
            except SidecarError:
                continue
            finally:
                await anyio.sleep(1 / RATE_PER_S)
            self.payloads[message_id(payload)] = payload
            self.published.append(Published(anyio.current_time() - 1 / RATE_PER_S, node.id.hex(), payload))

    def kill(self, count: int) -> None:
        for node in self.rng.sample([node for node in self.nodes if node not in self.killed], count):
            self.killed[node] = anyio.current_time()
            self.world.net.kill(node.endpoint)

    def history(self) -> History:
        history = History(list(self.published))
        for node in self.nodes:
            died_at = self.killed.get(node)
            facts = (self._fact(at, node.id.hex(), event) for at, event in node.log)
            history.note(*(fact for fact in facts if fact and (died_at is None or fact.at < died_at)))
            if died_at is not None:
                history.note(Killed(died_at, node.id.hex()))
        return history

    def _fact(self, at: float, member: str, event: NodeEvent) -> Fact | None:
        match event:
            case TopicMessage():
                return Delivered(at, member, event.payload)
            case TopicPublished(_, name, "acked", _):
                return Acked(at, member, self.payloads[name])
            case NeighborUp(_, peer):
                return Up(at, member, peer.hex())
            case NeighborDown(_, peer, _):
                return Down(at, member, peer.hex())
        return None


@pytest.mark.parametrize("run", range(2))
@pytest.mark.parametrize("deaths", [[0], [3], [6], [2, 2, 2]])
async def test_no_acknowledged_message_is_lost(
    world: World, rng: Random, deaths: list[int], run: int
) -> None:
    """Half of the swarm is killed, at once or in three waves, while everybody publishes."""
    rng.seed(f"{rng.random()} {deaths} {run}")
    talk = Run(world, await swarm(world, rng), rng)
    await talk.publish_for(3)
    first_death = anyio.current_time()
    for count in deaths:
        last_death = anyio.current_time()
        talk.kill(count)
        await talk.publish_for(7)
    await talk.publish_for(DEATH_NOTICED_S)
    await anyio.sleep(5)
    history = talk.history()
    acked = sum(isinstance(fact, Acked) for fact in history.facts)
    print(f"killed {deaths}: {acked} of {len(history.published())} acknowledged, complete again after")
    print(f"{history.recovered_after(first_death):.1f} s, {len(history.stranded())} lost to parts cut off")
    assert history.losses() == []
    assert history.repeats() == {}
    assert history.inventions() == set()
    assert acked > 0.5 * len(history.published())
    assert history.recovered_after(last_death) <= DEATH_NOTICED_S + 3
    if not any(deaths):
        assert (history.incomplete(), history.stranded()) == ([], [])
