"""How real sidecar processes meet: tickets, addresses, dials at the same time, shared connections."""

import secrets

import anyio
import pytest

from e2e.hosts import (
    are_neighbors,
    black_hole,
    meet,
    new_topic,
    nodes,
    peer_info,
    refusal,
    refused,
    topic_info,
    until,
)
from kukuri_sidecar.wire.addr import EndpointAddr, SocketAddr
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.ticket import encode_ticket
from peers.sidecar import Json, Sidecar, node

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

MAX_PAYLOAD = 4057
LINE_END = {"max_peers": 1}  # an end of a line: one connection, so gossip cannot make a shortcut


# --- meeting --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iroh", "address"])
async def test_a_ticket_brings_two_live_topics_together(kind: str) -> None:
    """J2: both are in the topic already; importing the ticket extends it, nothing is rebuilt."""
    topic = new_topic()
    async with nodes(2) as (a, b):
        for host in (a, b):
            await host.join(topic)
            await host.wait("topic.state", topic_id=topic, state="isolated")
        ticket = await a.call("node.ticket", kind=kind)
        assert ticket["reason"] is None
        again = await b.join(topic, ticket["ticket"])
        assert not again["created"]
        await are_neighbors(topic, a, b)
        row = await topic_info(b, topic)
        assert (row["missing_bootstrap"], row["last_error"]) == ([], None)
        for one, other in ((a, b), (b, a)):
            await one.publish(topic, one.endpoint_id.encode())
            await other.wait("topic.message", topic_id=topic, delivered_from=one.endpoint_id)


async def test_every_way_to_write_a_peer() -> None:
    """A host name, IPv6, a base32 id, a ticket whose first address is dead: neighbours within 3 s."""
    topic = new_topic()
    both_families = {"net": {"bind_v4": "127.0.0.1:0", "bind_v6": "[::1]:0"}}
    with black_hole() as dead:
        async with node(config=both_families) as a, nodes(4, config=both_families) as joiners:
            await a.join(topic)
            v4, v6 = (address["address"] for address in a.info["addresses"])
            endpoint_id = EndpointId.from_hex(a.endpoint_id)
            stale = EndpointAddr(endpoint_id, (SocketAddr.parse(dead), SocketAddr.parse(v4)))
            ways = [
                f"{a.endpoint_id}@localhost:{v4.rpartition(':')[2]}",
                f"{a.endpoint_id}@{v6}",
                f"{base32(endpoint_id)}@{v4}",
                encode_ticket(stale),
            ]
            for joiner, way in zip(joiners, ways, strict=True):
                await joiner.join(topic, way)
                await are_neighbors(topic, a, joiner)


def base32(endpoint_id: bytes) -> str:
    from base64 import b32encode

    return b32encode(endpoint_id).decode().rstrip("=").lower()


async def test_a_ticket_with_the_wrong_identity_is_seen_for_what_it_is() -> None:
    """J2: nobody is taken for somebody else; the topic tells which bootstrap peer is missing and why."""
    topic, wrong = new_topic(), secrets.token_hex(32)
    async with nodes(2) as (a, b):
        await a.join(topic)
        address = a.info["addresses"][0]["address"]
        await b.join(topic, f"{wrong}@{address}")
        event = await b.wait("peer.state", endpoint_id=wrong, state="disconnected")
        assert event["reason"] == "identity_mismatch"
        row = await topic_info(b, topic)
        assert (row["missing_bootstrap"], row["last_error"]) == ([wrong], "identity_mismatch")
        assert row["neighbors"] == []
        await b.join(topic, a.address)
        await are_neighbors(topic, a, b)
        row = await topic_info(b, topic)
        assert (row["missing_bootstrap"], row["last_error"]) == ([wrong], None)


async def test_simultaneous_dials_end_in_one_neighbour_relation() -> None:
    """Both join with each other's address at once, 20 times; then both talk for longer than any clean-up."""
    async with nodes(5) as hosts:
        pairs = [(one, other) for i, one in enumerate(hosts) for other in hosts[i + 1 :]]
        for _ in range(2):
            topics = {new_topic(): pair for pair in pairs}
            for topic, (one, other) in topics.items():
                requests = [
                    (one, await one.send("topic.join", topic_id=topic, bootstrap=[other.address])),
                    (other, await other.send("topic.join", topic_id=topic, bootstrap=[one.address])),
                ]
                for host, request in requests:
                    await host.answer(request)
            for topic, pair in topics.items():
                await are_neighbors(topic, *pair)
            for beat in range(10):  # 2.5 s: a link that is taken for dead is closed after 2 s
                for topic, pair in topics.items():
                    for host in pair:
                        published = await host.publish(topic, bytes([beat]) + host.endpoint_id.encode())
                        assert published["neighbors"] == 1
                await anyio.sleep(0.25)
            for topic, (one, other) in topics.items():
                for host, peer in ((one, other), (other, one)):
                    said = [bytes([beat]) + peer.endpoint_id.encode() for beat in range(10)]
                    assert await host.wait_messages(topic, len(said)) == said
                    assert (await topic_info(host, topic))["neighbors"] == [peer.endpoint_id]
            assert not [e for host in hosts for e in host.events if e["type"] == "topic.neighbor_down"]
            await part(hosts)


async def part(hosts: list[Sidecar]) -> None:
    """Leave every topic; wait until nobody is connected any more."""
    for host in hosts:
        for row in (await host.call("topic.list"))["topics"]:
            await host.call("topic.leave", topic_id=row["topic_id"])
    for host in hosts:

        async def is_alone(host: Sidecar = host) -> bool:
            return not (await host.call("peer.list", state="connected"))["peers"]

        await until(is_alone, "end of the connections")
        host.events.clear()


# --- connections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("forget", [False, True])
async def test_connect_and_disconnect(forget: bool) -> None:
    """What peer.connect returns, the events and peer.list say the same; forget leaves no trace."""
    async with nodes(2) as (a, b):
        connected = await a.call("peer.connect", peer=b.address)
        assert connected["endpoint_id"] == b.endpoint_id
        assert (connected["path"], connected["address"]) == ("direct", b.address.partition("@")[2])
        assert connected["rtt_ms"] >= 0
        for host, peer, origins in ((a, b, ["ticket"]), (b, a, ["inbound"])):
            event = await host.wait("peer.state", endpoint_id=peer.endpoint_id, state="connected")
            assert (event["path"], event["reason"]) == ("direct", None)
            row = await peer_info(host, peer.endpoint_id)
            assert row is not None
            assert (row["state"], row["path"], row["origins"]) == ("connected", "direct", origins)
            assert row["address"] == peer.address.partition("@")[2]
            assert (row["topics"], row["last_error"], row["retry_at_ms"]) == ([], None, None)
            assert 0 <= event["ts_ms"] - row["connected_ms"] < 100
        assert (await a.call("peer.connect", peer=b.endpoint_id))["address"] == connected["address"]

        gone = await a.call("peer.disconnect", endpoint_id=b.endpoint_id, forget=forget)
        assert gone == {"was_connected": True}
        event = await a.wait("peer.state", endpoint_id=b.endpoint_id, state="disconnected")
        assert event["path"] is None
        await b.wait("peer.state", endpoint_id=a.endpoint_id, state="disconnected")
        row = await peer_info(a, b.endpoint_id)
        if forget:
            assert row is None
            await refused(a, "unknown_peer", "peer.disconnect", endpoint_id=b.endpoint_id)
            await refused(a, "no_addresses", "peer.connect", peer=b.endpoint_id)
        else:
            assert row is not None
            assert (row["state"], row["connected_ms"]) == ("disconnected", None)
            gone = await a.call("peer.disconnect", endpoint_id=b.endpoint_id)
            assert gone == {"was_connected": False}
            assert (await a.call("peer.connect", peer=b.endpoint_id))["endpoint_id"] == b.endpoint_id


async def test_connect_is_answered_by_whatever_comes_first() -> None:
    """The peer's own dial, although we know a dead address only; or peer.disconnect, which ends ours."""
    async with nodes(2) as (a, b):
        with black_hole() as dead:
            pending = await a.send("peer.connect", peer=f"{b.endpoint_id}@{dead}")
            await a.wait("peer.state", endpoint_id=b.endpoint_id, state="connecting")
            await b.call("peer.connect", peer=a.address)
            assert (await a.answer(pending, 2))["address"] == b.address.partition("@")[2]

            stranger = secrets.token_hex(32)
            pending = await a.send("peer.connect", peer=f"{stranger}@{dead}")
            await a.wait("peer.state", endpoint_id=stranger, state="connecting")
            gone = await a.call("peer.disconnect", endpoint_id=stranger)
            assert gone == {"was_connected": False}
            assert await refusal(a, "cancelled", pending) == {}
            await a.wait("peer.state", endpoint_id=stranger, state="disconnected")


async def test_two_topics_share_one_connection() -> None:
    """The second topic needs no dial; the connection lives as long as one of them."""
    one, two = new_topic(), new_topic()
    async with nodes(2) as (a, b):
        await meet(one, a, b)
        since = (await connected(a, b))["connected_ms"]
        await b.join(two)
        await a.join(two)  # without an address: whom we talk to may be in this topic as well
        await are_neighbors(two, a, b)
        row = await connected(a, b)
        assert (sorted(row["topics"]), row["connected_ms"]) == (sorted([one, two]), since)
        for topic in (one, two):
            await a.publish(topic, topic.encode())
            assert await b.wait_messages(topic, 1) == [topic.encode()]
        await a.call("topic.leave", topic_id=one)
        await b.wait("topic.neighbor_down", topic_id=one, reason="left")
        await a.publish(two, b"still here")
        assert await b.wait_messages(two, 2)
        row = await connected(a, b)
        assert (row["topics"], row["connected_ms"]) == ([two], since)
        for host in (a, b):
            await host.wait("peer.state", state="connected")
            states = [e["state"] for e in host.events if e["type"] == "peer.state"]
            assert states.count("connected") == 1
        await b.call("topic.leave", topic_id=two)
        await a.call("topic.leave", topic_id=two)
        for host, peer in ((a, b), (b, a)):
            await host.wait("peer.state", endpoint_id=peer.endpoint_id, state="disconnected")


async def connected(host: Sidecar, peer: Sidecar) -> Json:
    row = await peer_info(host, peer.endpoint_id)
    assert row is not None
    assert row["state"] == "connected"
    return row


async def test_a_hundred_and_fifty_topics_with_one_peer() -> None:
    """Each has streams of its own on the one connection; limits.topics decides, nothing else."""
    topics = [f"{number:064x}" for number in range(150)]
    async with nodes(2, config={"limits": {"topics": 150}}) as (a, b):
        for topic in topics:
            await b.join(topic)
            await a.join(topic, b.address)
        for host in (a, b):
            for topic in topics:
                await host.wait("topic.neighbor_up", topic_id=topic)
        for topic in topics:
            await a.publish(topic, topic.encode())
        for topic in topics:
            assert await b.wait_messages(topic, 1) == [topic.encode()]


async def test_what_the_lists_say_is_what_was_seen() -> None:
    """Every field of topic.list and peer.list against the events and the other side."""
    name = "kukuri:topic:" + secrets.token_hex(4)
    async with nodes(3) as (a, b, c):
        topic = (await a.call("topic.join", topic=name))["topic_id"]
        for host in (b, c):
            await host.call("topic.join", topic=name, bootstrap=[a.address])
        for pair in ((a, b), (a, c), (b, c)):
            await are_neighbors(topic, *pair, timeout_s=10)
        for host in (a, b, c):
            others = sorted(other.endpoint_id for other in (a, b, c) if other is not host)
            row = await topic_info(host, topic)
            assert (row["name"], row["state"], row["mode"], row["path"]) == (name, "joined", "auto", "direct")
            assert sorted(row["neighbors"]) == others
            assert (row["known_peers"], row["next_attempt_at_ms"], row["lagged"]) == (2, None, 0)
            assert not row["remember"]
            peers = (await host.call("peer.list", topic_id=topic))["peers"]
            assert [peer["endpoint_id"] for peer in peers] == others
            assert all(peer["topics"] == [topic] for peer in peers)
            page = await host.call("peer.list", limit=1)
            rest = await host.call("peer.list", limit=1, cursor=page["cursor"])
            assert [p["endpoint_id"] for p in page["peers"] + rest["peers"]] == others
            assert rest["cursor"] is None
