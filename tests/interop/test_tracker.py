"""Scheme tracker and the crate distributed-topic-tracker in one private DHT: who reads whose records.

The DHT is three nodes of crate mainline on loopback addresses of their own; the crate takes the first one for
the public bootstrap hosts. Records hold ids only, so each test says which side knows the other's address.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from random import SystemRandom
from typing import Any

import anyio
import pytest

from kukuri_sidecar.wire.hashes import derive_topic_id
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.tracker_record import seal_record, sign_record, slot_at
from peers.peer import PeerError, RustPeer
from peers.sidecar import Sidecar, node
from peers.tracker_peer import tracker_dht, tracker_node

pytestmark = [pytest.mark.interop, pytest.mark.anyio, pytest.mark.timeout(150)]

SECRET = "shared secret"
FOUND_S = 60.0  # a first DHT look-up of the crate may take 10 s, and it retries


def secret_b64(secret: str = SECRET) -> str:
    return base64.b64encode(secret.encode()).decode()


@pytest.fixture
def topic() -> str:
    return f"interop {os.urandom(8).hex()}"


@pytest.fixture
async def dht() -> AsyncIterator[str]:
    """Yield the IP of the first node, which listens at port 6881."""
    rng = SystemRandom()
    # Look-ups of ours count datagrams per IP address: every node has one of its own.
    hosts = [f"127.{rng.randrange(1, 255)}.{rng.randrange(256)}.{rng.randrange(1, 255)}" for _ in range(3)]
    first, *others = (f"{host}:6881" for host in hosts)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(tracker_dht(first))
        for other in others:
            await stack.enter_async_context(tracker_dht(other, first))
        yield hosts[0]


def dht_config(dht: str) -> dict[str, Any]:
    return {
        "dht": {"bootstrap_nodes": [f"{dht}:6881"], "mode": "client", "persist_table": False},
        "rendezvous": {"schemes": ["tracker"]},
    }


async def join(ours: Sidecar, topic: str, secret: str = SECRET) -> str:
    rendezvous = {"schemes": ["tracker"], "secret_b64": secret_b64(secret)}
    answer = await ours.call("topic.join", topic=topic, derive="sha512", rendezvous=rendezvous)
    return str(answer["topic_id"])


async def records(rust: RustPeer, topic: str, within_s: float = FOUND_S) -> list[dict[str, Any]]:
    """Let the crate read this minute and the last one until it finds something."""
    with anyio.fail_after(within_s):
        while True:
            minute = int(time.time() // 60)
            for m in (minute, minute - 1):
                found = await rust.command("records", within_s=30, topic=topic, secret=SECRET, minute=m)
                if found["records"]:
                    return list(found["records"])
            await anyio.sleep(0.5)


async def gossip_both_ways(ours: Sidecar, rust: RustPeer, topic: str, topic_id: str) -> None:
    await ours.publish(topic_id, b"from the sidecar")
    event = await rust.wait("received", topic=topic)
    assert base64.b64decode(event["payload_b64"]) == b"from the sidecar"
    text = base64.b64encode(b"from the crate").decode()
    await rust.command("publish", topic=topic, payload_b64=text)
    assert await ours.wait_messages(topic_id, 1) == [b"from the crate"]


async def test_the_crate_opens_what_we_seal() -> None:
    async with tracker_node(dht="127.0.0.1") as rust:
        for minute in (0, 29_000_000, 2**63):
            slot = slot_at(derive_topic_id("name", "sha512"), b"secret", minute)
            publisher = SecretKey(os.urandom(32))
            peers = [SecretKey(os.urandom(32)).endpoint_id for _ in range(3)]
            hashes = [os.urandom(32) for _ in range(5)]
            sealed = seal_record(slot, sign_record(slot, publisher, peers, hashes), os.urandom(96))
            fields = {"topic": "name", "minute": minute, "sealed_hex": sealed.hex()}
            answer = await rust.command("open", secret="secret", **fields)
            assert answer["record"] == {
                "publisher": publisher.endpoint_id.hex(),
                "minute": minute,
                "active_peers": [peer.hex() for peer in peers],
                "message_hashes": [text.hex() for text in hashes],
            }
            with pytest.raises(PeerError):
                await rust.command("open", secret="another", **fields)


async def test_the_crate_reads_our_record_from_the_dht(dht: str, topic: str) -> None:
    async with tracker_node(dht=dht) as rust, node(config=dht_config(dht)) as ours:
        await join(ours, topic)
        (record,) = await records(rust, topic)
        assert record["publisher"] == ours.endpoint_id
        assert record["active_peers"] == record["message_hashes"] == []


async def test_the_crate_finds_us_and_dials(dht: str, topic: str) -> None:
    """Only the crate's side knows where the other is."""
    async with tracker_node(dht=dht) as rust, node(config=dht_config(dht)) as ours:
        await rust.command("add_address", peer=ours.address)
        topic_id = await join(ours, topic)
        await records(rust, topic)
        await rust.command("track", topic=topic, secret=SECRET)
        await ours.wait("topic.neighbor_up", FOUND_S, endpoint_id=rust.endpoint_id)
        await rust.wait("neighbor_up", topic=topic, peer=ours.endpoint_id)
        await gossip_both_ways(ours, rust, topic, topic_id)


async def test_we_find_the_crate_and_dial(dht: str, topic: str) -> None:
    """Only our side knows where the other is, from an earlier connection."""
    async with tracker_node(dht=dht) as rust, node(config=dht_config(dht)) as ours:
        await ours.call("peer.connect", peer=rust.address)
        await ours.call("peer.disconnect", endpoint_id=rust.endpoint_id, forget=False)
        await ours.wait("peer.state", endpoint_id=rust.endpoint_id, state="disconnected")
        await rust.command("track", topic=topic, secret=SECRET)
        topic_id = await join(ours, topic)
        found = await ours.wait("discovery.peer_found", FOUND_S, topic_id=topic_id)
        assert (found["endpoint_id"], found["addresses"]) == (rust.endpoint_id, [])
        await ours.wait("topic.neighbor_up", FOUND_S, endpoint_id=rust.endpoint_id)
        await gossip_both_ways(ours, rust, topic, topic_id)


async def test_another_secret_keeps_us_apart(dht: str, topic: str) -> None:
    async with tracker_node(dht=dht) as rust, node(config=dht_config(dht)) as ours:
        await rust.command("add_address", peer=ours.address)
        await rust.command("track", topic=topic, secret=SECRET)
        await join(ours, topic, "another secret")
        await anyio.sleep(15)
        assert not rust.seen("neighbor_up")
        assert not [event for event in ours.events if event["type"] == "discovery.peer_found"]
