"""Endpoint records between real iroh 1.x and us: an endpoint id is enough.

Through a DHT of our nodes, and through one of libtorrent nodes.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

import anyio
import pytest

from interop.libtorrent_network import libtorrent_network
from kukuri_sidecar.wire.keys import SecretKey
from peers.peer import PeerError, RustPeer, rust_peer
from peers.sidecar import RpcError, Sidecar, node

pytestmark = [pytest.mark.interop, pytest.mark.anyio, pytest.mark.timeout(90)]

DHT_NODES = 4  # a look-up of iroh wants more than one answer
PATIENCE_S = 1.0  # between two tries: who asks a DHT node too often is not answered for minutes

_hosts = count(10)


def dht(bootstrap: Sequence[str], mode: str = "server", **more: Any) -> dict[str, Any]:
    """The configuration of one node. Each has an address of its own: DHT nodes count queries by host."""
    net = {"bind_v4": f"127.0.1.{next(_hosts) % 256}:0", "bind_v6": None}
    return {"net": net, "dht": {"bootstrap_nodes": list(bootstrap), "mode": mode}, **more}


@asynccontextmanager
async def network() -> AsyncIterator[list[str]]:
    """A private DHT on loopback; yields the addresses of its nodes. They publish nothing of their own."""
    async with AsyncExitStack() as stack:
        nodes: list[str] = []
        for _ in range(DHT_NODES):
            config = dht(nodes, publish={"dht": "none"})
            host = await stack.enter_async_context(node(config=config))
            nodes.append(str(host.info["bound"][0]))
        yield nodes


@pytest.fixture
async def nodes() -> AsyncIterator[list[str]]:
    async with network() as nodes:
        yield nodes


@pytest.fixture(params=["our_nodes", "libtorrent"])
async def any_nodes(request: pytest.FixtureRequest) -> AsyncIterator[list[str]]:
    """One kind of network after the other; in the second nobody of ours keeps anything."""
    if request.param == "our_nodes":
        async with network() as nodes:
            yield nodes
    else:
        with libtorrent_network() as nodes:
            yield nodes


async def published(host: Sidecar) -> None:
    """Wait until the sidecar's own schedule has put its record into the DHT."""
    await host.wait("discovery.published", sink="dht", ok=True, timeout_s=20)


async def probed(rust: RustPeer, peer: str, within_s: float = 20.0) -> dict[str, Any]:
    """Have the Rust node dial a bare id until it is found: its own first look-ups may come too early."""
    with anyio.fail_after(within_s):
        while True:
            try:
                return await rust.connect_probe(peer)
            except PeerError:
                await anyio.sleep(PATIENCE_S)


async def connected(host: Sidecar, peer: str, within_s: float = 20.0) -> dict[str, Any]:
    """Connect to a bare id; what is not published yet is not there yet."""
    with anyio.fail_after(within_s):
        while True:
            try:
                return await host.call("peer.connect", peer=peer)
            except RpcError as error:
                if error.kind != "no_addresses":
                    raise
                await anyio.sleep(PATIENCE_S)


async def test_rust_finds_and_dials_a_sidecar_by_its_id_alone(any_nodes: list[str]) -> None:
    """What `dns`, `relay` or tickets would tell the Rust node is all switched off: only the DHT is left."""
    async with node(config=dht(any_nodes, "client")) as ours, rust_peer(dht=any_nodes) as rust:
        await published(ours)
        answer = await probed(rust, ours.endpoint_id)
        assert answer["peer"] == ours.endpoint_id


async def test_a_sidecar_finds_and_dials_rust_by_its_id_alone(any_nodes: list[str]) -> None:
    async with rust_peer(dht=any_nodes) as rust, node(config=dht(any_nodes, "client")) as ours:
        peer = await connected(ours, rust.endpoint_id)
        assert peer["endpoint_id"] == rust.endpoint_id
        assert peer["address"] == rust.ready["addresses"][0]
        (row,) = (await ours.call("peer.list", endpoint_id=rust.endpoint_id))["peers"]
        assert "dht" in row["origins"]
        found = await ours.wait("discovery.peer_found", endpoint_id=rust.endpoint_id)
        assert rust.ready["addresses"][0] in found["addresses"]
        resolved = await ours.call("discovery.resolve", endpoint_id=rust.endpoint_id, until="all")
        assert {"address": rust.ready["addresses"][0], "sources": ["dht"]} in resolved["addresses"]
        assert resolved["source_errors"] == {}


async def test_gossip_between_rust_and_a_sidecar_that_know_nothing_but_ids(nodes: list[str]) -> None:
    topic = secrets.token_hex(32)
    async with rust_peer(dht=nodes) as rust, node(config=dht(nodes, rendezvous={"schemes": []})) as ours:
        await rust.join(topic)
        await ours.join(topic, rust.endpoint_id)
        await ours.wait("topic.state", topic_id=topic, state="joined", timeout_s=30)
        await ours.publish(topic, b"found you")
        assert await rust.received(topic) == b"found you"


async def test_two_sidecars_connect_by_bare_id(any_nodes: list[str]) -> None:
    """J3b: mutual seeds by id without addresses, one in `bootstrap_peers`, one in `topic.join`."""
    topic = secrets.token_hex(32)
    quiet: dict[str, Any] = {"rendezvous": {"schemes": []}}  # the topic's name must not be what helps
    seed = secrets.token_hex(32)
    first = SecretKey(bytes.fromhex(seed)).endpoint_id.hex()
    async with (
        node(config=dht(any_nodes, "client", **quiet, bootstrap_peers=[first])) as b,
        node(config=dht(any_nodes, "client", **quiet), secret_key_hex=seed) as a,
    ):
        assert a.endpoint_id == first
        await a.join(topic, b.endpoint_id)
        await b.join(topic)
        await a.wait("topic.state", topic_id=topic, state="joined", timeout_s=30)
        await b.wait("topic.state", topic_id=topic, state="joined", timeout_s=30)
        rows = [
            (await one.call("peer.list", endpoint_id=other.endpoint_id))["peers"][0]
            for one, other in ((a, b), (b, a))
        ]
        assert any("dht" in row["origins"] for row in rows)


async def test_a_sidecar_that_moved_is_found_again(nodes: list[str]) -> None:
    """J5: another port, the same id; the old record is replaced, the stale address only costs a moment."""
    seed = secrets.token_hex(32)
    async with node(config=dht(nodes)) as seeker:
        async with node(config=dht(nodes), secret_key_hex=seed) as before:
            await published(before)
            await connected(seeker, before.endpoint_id)
        await seeker.wait("peer.state", endpoint_id=before.endpoint_id, state="disconnected", timeout_s=20)
        async with node(config=dht(nodes), secret_key_hex=seed) as after:
            await published(after)
            peer = await connected(seeker, after.endpoint_id)
            assert peer["address"] == after.info["bound"][0]


async def test_nothing_is_published_with_none(nodes: list[str]) -> None:
    async with node(config=dht(nodes, publish={"dht": "none"})) as silent, node(config=dht(nodes)) as seeker:
        (sink,) = (await silent.call("discovery.publish"))["sinks"]
        assert sink == {"sink": "dht", "ok": False, "stored": 0, "error": "no_addresses", "next_at_ms": None}
        with pytest.raises(RpcError) as caught:
            await seeker.call("discovery.resolve", endpoint_id=silent.endpoint_id)
        assert caught.value.kind == "no_addresses"
        assert caught.value.details == {"source_errors": {"dht": "no_addresses"}}
        with pytest.raises(RpcError) as caught:
            await seeker.call("peer.connect", peer=silent.endpoint_id)
        assert caught.value.kind == "no_addresses"
        assert caught.value.details == {"source_errors": {"dht": "no_addresses"}}


async def test_publishing_on_request_says_how_many_nodes_keep_the_record(nodes: list[str]) -> None:
    async with node(config=dht(nodes, "client")) as ours:
        await published(ours)
        (sink,) = (await ours.call("discovery.publish", sinks=["dht"]))["sinks"]
        assert (sink["ok"], sink["stored"], sink["error"]) == (True, DHT_NODES, None)
        assert 3_000_000 < sink["next_at_ms"] - sink_time(ours) < 4_000_000


def sink_time(host: Sidecar) -> int:
    """Unix milliseconds of the last event, which the publication has just emitted."""
    return int(host.events[-1]["ts_ms"])
