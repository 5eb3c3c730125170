"""Strangers meet with nothing but a topic's name: real sidecars, a private DHT on loopback (J3)."""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from random import Random
from typing import Self

import anyio
import pytest

from e2e.hosts import nodes, topic_info, until
from interop.dht_tap import announce_falsely, tapped_dht
from kukuri_sidecar.wire.ids import DhtNodeId, Target, TopicId
from kukuri_sidecar.wire.krpc import Ping, Query
from kukuri_sidecar.wire.krpc_encode import encode
from kukuri_sidecar.wire.rendezvous_key import EPOCH_S, announce_key
from peers.dht_server import RunningDht, dht_server, private_dht
from peers.sidecar import DEADLINE_S, LOOPBACK, ROOT, Sidecar

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

TARGET_P95_S = 6.0
MERGE_S = 60.0  # J3
SECRET, OTHER_SECRET = "c2VjcmV0", "b3RoZXI="
FIRST_PACKETS = 6  # of a dial that nobody answers within 3 s: the first and its repetitions
ROUNDS = 4  # of looking for members: by the third everybody finds whoever can be found


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def network(anyio_backend: str) -> AsyncIterator[RunningDht]:
    """A hundred nodes, a fifth of them dead, 80 ms away."""
    async with dht_server("--nodes", "100", "--dead", "0.2", "--delay-ms", "80") as dht:
        yield dht


def name() -> str:
    return f"topic {uuid.uuid4()}"


def port(host: Sidecar) -> int:
    return int(host.info["bound"][0].rpartition(":")[2])


def key(topic_id: str, secret: bytes | None = None) -> Target:
    """What members announce now; a test that runs across an epoch's border may look for the wrong one."""
    return announce_key(TopicId.from_hex(topic_id), secret, int(time.time() // EPOCH_S))


async def join_all(hosts: list[Sidecar], topic: str, **more: object) -> str:
    requests = [await host.send("topic.join", topic=topic, **more) for host in hosts]
    answers = [await host.answer(request) for host, request in zip(hosts, requests, strict=True)]
    return str(answers[0]["topic_id"])


class Silent:
    """A socket that hears everything and says nothing."""

    def __init__(self) -> None:
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._udp.setblocking(False)
        self._heard: list[int] = []
        self.port: int = self._udp.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._udp.close()

    @property
    def heard(self) -> list[int]:
        """The senders' ports of all datagrams so far."""
        with suppress(BlockingIOError):
            while True:
                self._heard.append(self._udp.recvfrom(2048)[1][1])
        return self._heard

    async def heard_all(self, hosts: list[Sidecar]) -> bool:
        return {port(host) for host in hosts} <= set(self.heard)


# --- (a) two strangers ---------------------------------------------------------------------------------


async def meeting_s(dht: RunningDht) -> float:
    """From the joins of two fresh profiles until each has the other as its neighbour."""
    async with nodes(2, config=dht.config) as (a, b):
        start = time.monotonic()
        await join_all([a, b], name())
        await a.wait("topic.neighbor_up", timeout_s=60, endpoint_id=b.endpoint_id)
        await b.wait("topic.neighbor_up", timeout_s=60, endpoint_id=a.endpoint_id)
        return time.monotonic() - start


async def check_meetings(dht: RunningDht, runs: int, record_property: Callable[[str, object], None]) -> None:
    taken = [await meeting_s(dht) for _ in range(runs)]
    p50, p95 = statistics.median(taken), sorted(taken)[round(0.95 * (runs - 1))]
    figures = {
        "runs": runs,
        "p50 s": round(p50, 2),
        "p95 s": round(p95, 2),
        "slowest s": round(max(taken), 2),
    }
    print(figures)
    record_property("two strangers meet", figures)
    assert p95 <= TARGET_P95_S


async def test_two_strangers_meet(
    network: RunningDht, record_property: Callable[[str, object], None]
) -> None:
    await check_meetings(network, 3, record_property)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_two_strangers_meet_among_500_nodes_20_times(
    record_property: Callable[[str, object], None],
) -> None:
    """The acceptance test J3 in numbers."""
    async with dht_server("--nodes", "500", "--dead", "0.2", "--delay-ms", "80") as dht:
        await check_meetings(dht, 20, record_property)


# --- (b) a secret --------------------------------------------------------------------------------------


async def test_only_who_knows_the_secret_is_met(rng: Random) -> None:
    async with tapped_dht(rng) as tap, nodes(4, config=private_dht(tap.address)) as (a, b, c, nobody):
        topic = name()
        await join_all([a], topic, rendezvous={"secret_b64": SECRET})
        await join_all([b], topic, rendezvous={"secret_b64": OTHER_SECRET})
        topic_id = await join_all([nobody], topic)
        strangers = (a, b, nobody)
        await tap.until(lambda: all(tap.rounds(port(host)) >= ROUNDS for host in strangers))
        keys = [tap.keys(port(host)) for host in strangers]
        assert all(keys)
        assert not keys[0] & keys[1]
        assert not (keys[0] | keys[1]) & keys[2]
        await join_all([c], topic, rendezvous={"secret_b64": SECRET})
        await a.wait("topic.neighbor_up", endpoint_id=c.endpoint_id)
        await c.wait("topic.neighbor_up", endpoint_id=a.endpoint_id)
        for host in (b, nobody):
            assert (await topic_info(host, topic_id))["neighbors"] == []


# --- (c) clusters --------------------------------------------------------------------------------------


async def test_clusters_that_started_apart_merge(record_property: Callable[[str, object], None]) -> None:
    """Nobody joins anew, nobody is told: the DHT becomes reachable, and that is all."""
    with Silent() as unreachable:
        async with nodes(7, config=private_dht(unreachable.address)) as hosts:
            clusters = [hosts[:2], hosts[2:4], hosts[4:]]
            topic = name()
            topic_id = await join_all([cluster[0] for cluster in clusters], topic)
            for first, *others in clusters:
                await join_all(others, topic, bootstrap=[first.address])
                for other in others:
                    await other.wait("topic.neighbor_up", endpoint_id=first.endpoint_id)
            await until(lambda: unreachable.heard_all(hosts), "question of everybody")
            assert len(await parts(hosts, topic_id)) == 3
            unreachable.close()
            async with dht_server("--bind", unreachable.address):
                start = time.monotonic()
                await until(lambda: is_one(hosts, topic_id), "one swarm", MERGE_S)
                figures = {"merged after s": round(time.monotonic() - start, 1)}
                print(figures)
                record_property("three clusters", figures)
                await hosts[0].publish(topic_id, b"to all of you")
                for host in hosts[1:]:
                    assert await host.wait_messages(topic_id, 1) == [b"to all of you"]


async def parts(hosts: list[Sidecar], topic_id: str) -> list[set[str]]:
    """The connected components of the swarm."""
    components: list[set[str]] = []
    for host in hosts:
        linked = {host.endpoint_id, *(await topic_info(host, topic_id))["neighbors"]}
        touched = [component for component in components if component & linked]
        components = [component for component in components if component not in touched]
        components.append(linked.union(*touched))
    return components


async def is_one(hosts: list[Sidecar], topic_id: str) -> bool:
    return len(await parts(hosts, topic_id)) == 1


# --- (d) leaving ---------------------------------------------------------------------------------------


async def test_who_leaves_is_silent_at_once(rng: Random) -> None:
    """The record lapses after half an hour; nothing renews it."""
    async with tapped_dht(rng) as tap, nodes(1, config=private_dht(tap.address)) as (host,):
        left = await join_all([host], name())
        kept = await join_all([host], name())
        me = port(host)
        await tap.until(lambda: tap.announces(me, key(left)) >= 1 and tap.announces(me, key(kept)) >= 1)
        await host.call("topic.leave", topic_id=left)
        rounds = tap.rounds(me, key(kept))
        await tap.until(lambda: tap.rounds(me, key(kept)) >= rounds + 1)  # what was on its way is here
        before = tap.rounds(me, key(left)), tap.announces(me, key(left))
        await tap.until(lambda: tap.rounds(me, key(kept)) >= rounds + 4)
        assert (tap.rounds(me, key(left)), tap.announces(me, key(left))) == before


# --- (e) switched off ----------------------------------------------------------------------------------


async def test_switched_off_means_no_datagram_at_all() -> None:
    with Silent() as bootstrap:
        off = {**private_dht(bootstrap.address), "enable_dht": False}
        async with nodes(2, config=off) as (a, b):
            topic_id = await join_all([a, b], name())
            await join_all([b], "another", rendezvous={"schemes": ["announce"]})
            await a.call("topic.join", topic_id=topic_id, bootstrap=[b.address])
            await a.wait("topic.neighbor_up", endpoint_id=b.endpoint_id)
        assert bootstrap.heard == []
        async with nodes(1, config=private_dht(bootstrap.address)) as others:  # it would have been heard
            await until(lambda: bootstrap.heard_all(others), "question")


# --- (f) false candidates ------------------------------------------------------------------------------


async def test_false_candidates_are_harmless(rng: Random) -> None:
    """Ports where nobody is, where nobody answers, and where somebody is who is no member of the topic."""
    async with AsyncExitStack() as stack:
        tap = await stack.enter_async_context(tapped_dht(rng))
        a, b, stranger = await stack.enter_async_context(nodes(3, config=private_dht(tap.address)))
        mute = [stack.enter_context(Silent()) for _ in range(4)]
        iroh_port = await stack.enter_async_context(iroh_wheel())
        topic = name()
        first = await join_all([stranger], "elsewhere")
        topic_id = str((await a.call("topic.join", topic=topic))["topic_id"])
        false = [silent.port for silent in mute] + dead_ports(12) + [iroh_port, port(stranger)]
        await announce_falsely(rng, tap.address, key(topic_id), false)
        met = {iroh_port, port(stranger)}
        await until(lambda: found(a, met), "candidate of the false ones")
        await join_all([b], topic)
        await a.wait("topic.neighbor_up", timeout_s=30, endpoint_id=b.endpoint_id)
        await b.wait("topic.neighbor_up", timeout_s=30, endpoint_id=a.endpoint_id)
        assert (await topic_info(a, topic_id))["neighbors"] == [b.endpoint_id]
        assert (await topic_info(stranger, first))["neighbors"] == []
        await a.publish(topic_id, b"still here")
        assert await b.wait_messages(topic_id, 1) == [b"still here"]
        for silent in mute:
            assert len(silent.heard) <= 2 * FIRST_PACKETS, "two sidecars, one short dial each"


async def found(host: Sidecar, ports: set[int]) -> bool:
    """Say whether the host was told of candidates at all these ports."""
    seen = {
        int(address.rpartition(":")[2])
        for event in host.events
        if event["type"] == "discovery.peer_found"
        for address in event["addresses"]
    }
    return ports <= seen


def dead_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for udp in sockets:
        udp.bind(("127.0.0.1", 0))
    ports = [udp.getsockname()[1] for udp in sockets]
    for udp in sockets:
        udp.close()
    return ports


@asynccontextmanager
async def iroh_wheel() -> AsyncIterator[int]:
    """A real iroh endpoint that speaks our ALPN and knows no topic; yields its port."""
    program = ROOT / "tests/peers/iroh_wheel.py"
    process = await anyio.open_process([sys.executable, str(program), "/iroh-gossip/1"], stderr=None)
    assert process.stdout is not None
    try:
        with anyio.fail_after(DEADLINE_S):
            ready = json.loads(await process.stdout.receive())
        yield int(ready["addr"].rpartition(":")[2])
    finally:
        with anyio.CancelScope(shield=True):
            process.kill()
            await process.aclose()


# --- (g) one socket for both ---------------------------------------------------------------------------


async def test_a_flood_of_krpc_does_not_stop_the_topic(rng: Random) -> None:
    """Both protocols come in on one socket; 2,000 questions a second to each."""
    serving = {**LOOPBACK, "dht": {"bootstrap_nodes": [], "mode": "server"}}
    async with nodes(2, config=serving) as (a, b), anyio.create_task_group() as tasks:
        topic_id = await join_all([a], name())
        await b.call("topic.join", topic_id=topic_id, bootstrap=[a.address])
        await b.wait("topic.neighbor_up", endpoint_id=a.endpoint_id)
        tasks.start_soon(flood, port(a))
        tasks.start_soon(flood, port(b))
        sent = [os.urandom(100) for _ in range(200)]
        for payload in sent:
            await a.publish(topic_id, payload)
        assert sorted(await b.wait_messages(topic_id, len(sent))) == sorted(sent)
        assert (await topic_info(a, topic_id))["neighbors"] == [b.endpoint_id]
        tasks.cancel_scope.cancel()


async def flood(to: int) -> None:
    query = encode(Query(b"f", DhtNodeId(bytes(20)), Ping(), read_only=False))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        while True:
            for _ in range(20):
                udp.sendto(query, ("127.0.0.1", to))
            await anyio.sleep(0.01)
