"""Topics, pool, links and the gossip core together, on the virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import anyio
import pytest

from kukuri_sidecar.errors import LimitReached, MessageTooLarge, ModeMismatch, NoNeighbors, UnknownTopic
from kukuri_sidecar.node import events
from kukuri_sidecar.node.envelopes import Mode
from kukuri_sidecar.node.events import PeerChanged, PeerState, TopicPublished, TopicState
from kukuri_sidecar.node.publishing import MAX_QUEUED_MESSAGES
from kukuri_sidecar.wire.addr import HostPort, PeerHint
from sim.nodes import TOPIC, World, simulated_world, until

pytestmark = pytest.mark.anyio

DEAD = HostPort("192.0.2.1", 9)


@pytest.fixture
async def world(rng: Random) -> AsyncIterator[World]:
    async with simulated_world(rng) as world:
        yield world


async def test_two_nodes_meet_and_talk_whoever_dials(world: World) -> None:
    a, b = await world.node(), await world.node()
    await a.join()
    await b.join(a.hint)
    await until(lambda: a.neighbors() == b.neighbors() == 1, 1)
    assert a.publish(b"from a") == b.publish(b"from b") == "accepted"
    await until(lambda: a.received == [b"from b"] and b.received == [b"from a"], 1)
    changes = [e.state for e in a.events if isinstance(e, PeerChanged)]
    assert changes == [PeerState.CONNECTED]


async def test_without_anybody_the_topic_is_isolated_and_says_when_it_tries_again(world: World) -> None:
    a = await world.node()
    await a.join()
    assert a.state is TopicState.ISOLATED
    with pytest.raises(NoNeighbors) as caught:
        a.publish(b"nobody")
    first = caught.value.details["next_attempt_at_ms"]
    assert isinstance(first, int)
    assert 1_000 <= first - a.wall_ms() <= 2_000
    await anyio.sleep(600)
    (info,) = a.topics.list(None)
    assert 8 <= info.join_attempts <= 30  # 1, 2, 4 ... 64 s with jitter
    assert info.next_attempt_at_ms is not None
    assert info.next_attempt_at_ms - a.wall_ms() <= 64_000


async def test_a_dead_bootstrap_peer_is_tried_again_until_it_lives(world: World) -> None:
    """Upstream never dials a peer again whose first dial failed (U2)."""
    a, b = await world.node(), await world.node()
    b.endpoint.is_up = False
    await a.join(b.hint)
    await anyio.sleep(45)
    assert a.state is TopicState.ISOLATED
    assert len(a.endpoint.dials) >= 2
    (info,) = a.topics.list(None)
    assert info.last_error == "dial_timeout"
    assert info.missing_bootstrap == (b.id,)
    b.endpoint.is_up = True
    await b.join()
    await until(lambda: a.state is TopicState.JOINED, 90)
    (info,) = a.topics.list(None)
    assert info.last_error is None


async def test_a_new_address_is_tried_at_once_in_spite_of_the_backoff(world: World) -> None:
    a, b = await world.node(), await world.node()
    await b.join()
    await a.join(PeerHint(b.id, (DEAD,)))
    await anyio.sleep(60)
    assert a.state is TopicState.ISOLATED
    await a.join(b.hint)
    assert await until(lambda: a.state is TopicState.JOINED) < 0.5


async def test_a_lost_neighbor_is_replaced_and_the_return_of_the_lost_one_noticed(world: World) -> None:
    a, b = await world.node(), await world.node()
    await a.join()
    await b.join(a.hint)
    await until(lambda: a.state is b.state is TopicState.JOINED)
    world.net.partition([a.endpoint], [b.endpoint])
    await until(lambda: a.state is b.state is TopicState.ISOLATED, 20)
    downs = [e.reason for e in a.events if isinstance(e, events.NeighborDown)]
    assert downs == ["connection_lost"]
    await anyio.sleep(60)
    world.net.heal()
    await until(lambda: a.state is b.state is TopicState.JOINED, 80)


async def test_a_node_that_lost_all_neighbors_asks_members_that_it_only_heard_of(world: World) -> None:
    """Even those that once had no slot for it: the swarm may be small enough now."""
    a, b, c = await world.node(), await world.node(), await world.node()
    await a.join()
    await b.join(a.hint)
    await c.join()
    await until(lambda: a.neighbors() == 1)
    membership = a.topics.swarm._core._topics[TOPIC].membership
    membership.passive[c.id] = b.id
    membership._refused[c.id] = None
    a.peers.learn(c.hint, "gossip")
    world.net.kill(b.endpoint)
    await until(lambda: a.state is TopicState.ISOLATED, 20)
    assert await until(lambda: a.state is TopicState.JOINED) < 1
    assert a.info.neighbors == (c.id,)


async def test_a_message_waits_for_the_first_neighbor_and_is_confirmed(world: World) -> None:
    a, b = await world.node(), await world.node()
    await a.join()
    assert a.publish(b"early", queue=True) == "queued"
    await anyio.sleep(5)
    await b.join(a.hint)
    await until(lambda: b.received == [b"early"], 5)
    await until(lambda: any(isinstance(e, TopicPublished) for e in a.events), 1)
    fates = [(e.state, e.acked_by) for e in a.events if isinstance(e, TopicPublished)]
    assert fates == [("acked", 1)]


async def test_a_waiting_message_expires(world: World) -> None:
    a = await world.node()
    await a.join()
    a.publish(b"short", queue=True, ttl_s=2)
    a.publish(b"long", queue=True, ttl_s=4)
    await anyio.sleep(3)
    assert [e.state for e in a.events if isinstance(e, TopicPublished)] == ["expired"]
    await a.topics.leave(TOPIC)
    assert [e.state for e in a.events if isinstance(e, TopicPublished)] == ["expired", "failed"]


@pytest.mark.parametrize("count", [MAX_QUEUED_MESSAGES - 1, MAX_QUEUED_MESSAGES, MAX_QUEUED_MESSAGES + 1])
async def test_the_queue_of_a_topic_is_bounded(world: World, count: int) -> None:
    a = await world.node()
    await a.join()
    for number in range(min(count, MAX_QUEUED_MESSAGES)):
        a.publish(number.to_bytes(2, "big"), queue=True)
    if count > MAX_QUEUED_MESSAGES:
        with pytest.raises(LimitReached):
            a.publish(b"one more", queue=True)


async def test_a_publish_that_nobody_acknowledges_expires(world: World) -> None:
    a, b = await world.node(), await world.node()
    await a.join()
    await b.join(a.hint)
    await until(lambda: a.neighbors() == 1)
    for connection in a.endpoint.connections:
        connection.reads = False
    a.publish(b"into the void", confirm=True)
    await anyio.sleep(31)
    assert [(e.state, e.acked_by) for e in a.events if isinstance(e, TopicPublished)] == [("expired", 0)]


async def test_two_neighbors_must_acknowledge(world: World) -> None:
    a, b, c = await world.node(), await world.node(), await world.node()
    await a.join()
    await b.join(a.hint)
    await c.join(a.hint)
    await until(lambda: a.neighbors() == b.neighbors() == c.neighbors() == 2, 5)
    a.publish(b"sure", confirm=True)
    await until(lambda: any(isinstance(e, TopicPublished) for e in a.events), 1)
    assert [(e.state, e.acked_by) for e in a.events if isinstance(e, TopicPublished)] == [("acked", 2)]


async def test_leaving_is_seen_and_ends_the_connection(world: World) -> None:
    a, b = await world.node(), await world.node()
    await a.join()
    await b.join(a.hint)
    await until(lambda: a.neighbors() == 1)
    await b.topics.leave(TOPIC)
    await until(lambda: a.state is TopicState.ISOLATED, 1)
    assert [e.reason for e in a.events if isinstance(e, events.NeighborDown)] == ["left"]
    await until(lambda: not b.endpoint.connections, 6)
    with pytest.raises(UnknownTopic):
        b.publish(b"gone")


async def test_crossing_dials_end_in_one_neighborship_that_works(world: World) -> None:
    a, b = await world.node(), await world.node()
    await a.join(b.hint)
    await b.join(a.hint)
    await until(lambda: a.neighbors() == b.neighbors() == 1, 2)
    for number in range(5):
        a.publish(b"a%d" % number)
        b.publish(b"b%d" % number)
    await until(lambda: len(a.received) == len(b.received) == 5, 2)
    await anyio.sleep(30)
    assert a.neighbors() == b.neighbors() == 1


async def test_twenty_nodes_through_one_all_hear_all(world: World) -> None:
    nodes = [await world.node() for _ in range(20)]
    await nodes[0].join()
    for node in nodes[1:]:
        await node.join(nodes[0].hint)
    await until(lambda: all(node.neighbors() >= 2 for node in nodes), 10)
    await anyio.sleep(2)  # until the neighbourships of the join storm are mutual
    for number, node in enumerate(nodes):
        node.publish(b"from %d" % number)
    await until(lambda: all(len(node.received) == 19 for node in nodes), 10)
    world.net.kill(nodes[0].endpoint)
    await anyio.sleep(40)
    nodes[5].publish(b"without the first")
    await until(lambda: all(b"without the first" in node.received for node in nodes[1:5]), 10)


async def test_modes_and_sizes_of_a_joined_topic_are_fixed(world: World) -> None:
    a = await world.node()
    await a.join(mode=Mode.RAW)
    with pytest.raises(ModeMismatch):
        await a.join(mode=Mode.SIGNED)
    with pytest.raises(MessageTooLarge) as caught:
        a.publish(bytes(4058), queue=True)
    assert caught.value.details == {"limit": 4057, "size": 4058}
    assert a.publish(bytes(4057), queue=True) == "queued"


async def test_a_changed_network_ends_every_pause(world: World) -> None:
    """After an hour offline the next try is a minute away; a new address makes it now."""
    a, b = await world.node(), await world.node()
    await b.join()
    b.endpoint.is_up = False
    await a.join(b.hint)
    await anyio.sleep(3_600)
    b.endpoint.is_up = True
    while a.peers.retry_at(b.id) < anyio.current_time() + 5:  # in the middle of a long pause
        b.endpoint.is_up = False
        await anyio.sleep(1)
    b.endpoint.is_up = True
    a.peers.network_changed()
    a.topics.network_changed()
    assert await until(lambda: a.state is TopicState.JOINED) < 1
