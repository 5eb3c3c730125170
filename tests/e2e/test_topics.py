"""Topics between two to four real sidecar processes on loopback: meeting, talking, parting, and floods."""

import secrets
import signal
from collections import Counter
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from random import Random
from typing import Any

import anyio
import pytest

from e2e.hosts import black_hole, nodes, peer_info, refusal, refused, topic_info, until
from kukuri_sidecar.wire.addr import EndpointAddr, SocketAddr
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.ticket import encode_ticket
from peers.sidecar import Json, RpcError, Sidecar, node, sidecar

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

MAX_PAYLOAD = 4057
LINE_END = {"max_peers": 1}  # an end of a line: one connection, so gossip cannot make a shortcut


def new_topic() -> str:
    return secrets.token_hex(32)


async def meet(topic_id: str, dialer: Sidecar, listener: Sidecar, **options: Any) -> None:
    """Join both, the dialer with the listener's address, until each has seen the other."""
    await listener.join(topic_id, **options)
    await dialer.join(topic_id, listener.address, **options)
    await are_neighbors(topic_id, dialer, listener)


async def are_neighbors(topic_id: str, *pair: Sidecar, timeout_s: float = 3.0) -> None:
    for one, other in (pair, pair[::-1]):
        await one.wait("topic.neighbor_up", timeout_s, topic_id=topic_id, endpoint_id=other.endpoint_id)


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
    async with nodes(4) as hosts:
        pairs = [(one, other) for i, one in enumerate(hosts) for other in hosts[i + 1 :]]
        done = 0
        while done < 20:
            topics = [new_topic() for _ in pairs]
            for (one, other), topic in zip(pairs, topics, strict=True):
                requests = [
                    (one, await one.send("topic.join", topic_id=topic, bootstrap=[other.address])),
                    (other, await other.send("topic.join", topic_id=topic, bootstrap=[one.address])),
                ]
                for host, request in requests:
                    await host.answer(request)
            for pair, topic in zip(pairs, topics, strict=True):
                await are_neighbors(topic, *pair)
            for beat in range(12):  # 3 s: a link that is taken for dead is closed after 2 s
                for pair, topic in zip(pairs, topics, strict=True):
                    for host in pair:
                        assert (await host.publish(topic, bytes([beat]) + host.endpoint_id.encode()))[
                            "neighbors"
                        ] == 1
                await anyio.sleep(0.25)
            for (one, other), topic in zip(pairs, topics, strict=True):
                for host, peer in ((one, other), (other, one)):
                    got = await host.wait_messages(topic, 12)
                    assert got == [bytes([beat]) + peer.endpoint_id.encode() for beat in range(12)]
                    assert (await topic_info(host, topic))["neighbors"] == [peer.endpoint_id]
                    assert not [e for e in host.events if e["type"] == "topic.neighbor_down"]
            done += len(pairs)
            for host in hosts:
                for row in (await host.call("topic.list"))["topics"]:
                    await host.call("topic.leave", topic_id=row["topic_id"])
            for host in hosts:

                async def is_alone(host: Sidecar = host) -> bool:
                    peers = (await host.call("peer.list", state="connected"))["peers"]
                    return not peers

                await until(is_alone, "end of the connections", 15)
                host.events.clear()


# --- talking --------------------------------------------------------------------------------------------


async def test_a_thousand_messages_along_a_line(seed: int) -> None:
    """J4: A-B-C, every byte equal, exactly once, in the order in which the neighbour had them."""
    topic, rng = new_topic(), Random(seed)
    sizes = [0, MAX_PAYLOAD, 1] + [rng.choice((20, 200, 1000)) for _ in range(997)]
    sent = [rng.randbytes(size) for size in sizes]
    async with AsyncExitStack() as stack:
        a, c = await stack.enter_async_context(nodes(2, config=LINE_END))
        b = await stack.enter_async_context(node())
        await meet(topic, a, b)
        await meet(topic, c, b)
        await publish_all(a, topic, sent)
        for host in (b, c):
            assert await host.wait_messages(topic, len(sent)) == sent
        await refused(
            a, "message_too_large", "topic.publish", topic_id=topic, payload_b64="AAAA" * 1352 + "AAA="
        )
        await a.publish(topic, b"the last one")
        for host, sender, hops in ((b, a, 0), (c, b, 1)):
            last = await host.wait("topic.message", payload_b64="dGhlIGxhc3Qgb25l")
            assert (last["delivered_from"], last["scope"], last["round"]) == (
                sender.endpoint_id,
                "swarm",
                hops,
            )
            assert (last["author"], last["verified"], last["author_seq"]) == (None, False, None)
            assert Counter(host.messages(topic)) == Counter([*sent, b"the last one"])
            row = await topic_info(host, topic)
            assert (row["messages_in"], row["messages_out"], row["invalid"]) == (1001, 0, 0)
            assert row["last_received_ms"] <= last["ts_ms"]
        assert a.messages(topic) == [], "nobody hears himself"
        assert (await topic_info(a, topic))["messages_out"] == 1001


async def publish_all(host: Sidecar, topic_id: str, payloads: list[bytes]) -> list[Json]:
    """Publish in batches of 50, never more than one on its way."""
    results = []
    for start in range(0, len(payloads), 50):
        results += await host.publish_batch(topic_id, payloads[start : start + 50])
    return results


async def test_signed_messages_name_their_author_behind_a_relay() -> None:
    topic = new_topic()
    async with AsyncExitStack() as stack:
        a, c = await stack.enter_async_context(nodes(2, config=LINE_END))
        b = await stack.enter_async_context(node())
        await meet(topic, a, b, mode="signed")
        await meet(topic, c, b, mode="signed")
        limit = (await topic_info(a, topic))["max_payload_bytes"]
        assert limit == 3942
        payloads = [b"", bytes(limit), b"x"]
        for payload in payloads:
            await a.publish(topic, payload)
        assert await c.wait_messages(topic, 3) == payloads
        for number in range(1, 4):
            event = await c.wait("topic.message", author_seq=number)
            assert (event["author"], event["verified"]) == (a.endpoint_id, True)
            assert event["delivered_from"] == b.endpoint_id


@pytest.mark.parametrize("size", [512, 4096, 65_536, 1_048_576])
async def test_a_swarm_with_its_own_message_size(size: int) -> None:
    """max_message_bytes of the topic rules, not the default: the largest payload arrives, also by relay."""
    topic = new_topic()
    async with AsyncExitStack() as stack:
        a, c = await stack.enter_async_context(nodes(2, config=LINE_END))
        b = await stack.enter_async_context(node())
        await meet(topic, a, b, max_message_bytes=size)
        await meet(topic, c, b, max_message_bytes=size)
        limit = (await topic_info(a, topic))["max_payload_bytes"]
        largest = min(limit, 780_000)  # base64 of it fits into a frame of 1 MiB
        sent = [bytes([number]) * largest for number in range(3)] + [b"small"]
        for count, payload in enumerate(sent, 1):
            await a.publish(topic, payload)
            for host in (b, c):
                assert await host.wait_messages(topic, count, 10) == sent[:count]


async def test_confirm_and_scope() -> None:
    """acked by the neighbours that have every byte; `neighbors` goes one hop and no further."""
    topic = new_topic()
    async with AsyncExitStack() as stack:
        a, c = await stack.enter_async_context(nodes(2, config=LINE_END))
        b = await stack.enter_async_context(node())
        await meet(topic, a, b)
        await meet(topic, c, b)
        for host, neighbors in ((a, 1), (b, 2)):
            published = await host.publish(topic, host.endpoint_id.encode(), confirm=True)
            assert (published["state"], published["neighbors"]) == ("accepted", neighbors)
            event = await host.wait("topic.published", message_id=published["message_id"])
            assert (event["state"], event["acked_by"]) == ("acked", neighbors)
        near = await a.publish(topic, b"near", scope="neighbors", confirm=True)
        far = await a.publish(topic, b"far")
        event = await b.wait("topic.message", message_id=near["message_id"])
        assert (event["scope"], event["round"]) == ("neighbors", None)
        assert (await a.wait("topic.published", message_id=near["message_id"]))["state"] == "acked"
        await c.wait("topic.message", message_id=far["message_id"])
        assert b"near" not in c.messages(topic)


async def test_the_same_content_twice() -> None:
    """One message id, delivered once; each confirm is answered."""
    topic = new_topic()
    async with nodes(2) as (a, b):
        await meet(topic, a, b)
        both = await a.publish_batch(topic, [b"again", b"again"], confirm=True)
        assert len({published["message_id"] for published in both}) == 1
        event = await a.wait("topic.published", message_id=both[0]["message_id"])
        assert (event["state"], event["acked_by"]) == ("acked", 1)
        await a.publish(topic, b"barrier")
        await b.wait("topic.message", payload_b64="YmFycmllcg==")
        assert b.messages(topic) == [b"again", b"barrier"]


async def test_a_message_that_is_only_announced_is_acknowledged_once_it_is_fetched() -> None:
    """Both publish the same at once: each has the other's copy already and asks for announcements only."""
    topic = new_topic()
    async with nodes(2) as (a, b):
        await meet(topic, a, b)
        for _ in range(5):
            same = [secrets.token_bytes(16) for _ in range(10)]
            async with anyio.create_task_group() as tasks:
                for host in (a, b):
                    tasks.start_soon(host.publish_batch, topic, same)
        for number in range(3):
            published = await a.publish(topic, b"news %d" % number, confirm=True)
            event = await a.wait("topic.published", 5, message_id=published["message_id"])
            assert (event["state"], event["acked_by"]) == ("acked", 1)
            await b.wait("topic.message", message_id=published["message_id"])


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


async def test_a_queued_message_goes_to_the_first_neighbour() -> None:
    """In order, then acked; a time to live that ends before is expired."""
    topic = new_topic()
    async with nodes(2) as (a, b):
        await a.join(topic)
        short = await a.publish(topic, b"short", if_isolated="queue", queue_ttl_ms=100)
        waiting = [await a.publish(topic, bytes([n]), if_isolated="queue") for n in range(5)]
        assert {published["state"] for published in waiting} == {"queued"}
        await a.wait("topic.published", message_id=short["message_id"], state="expired")
        await b.join(topic, a.address)
        assert await b.wait_messages(topic, 5) == [bytes([n]) for n in range(5)]
        for published in waiting:
            event = await a.wait("topic.published", message_id=published["message_id"])
            assert (event["state"], event["acked_by"]) == ("acked", 1)
        now = await a.publish(topic, b"now", if_isolated="queue")
        assert (now["state"], now["neighbors"]) == ("accepted", 1)


# --- parting --------------------------------------------------------------------------------------------


async def test_leaving_is_told_as_leaving() -> None:
    topic = new_topic()
    async with nodes(2) as (a, b):
        await meet(topic, a, b)
        assert await a.call("topic.leave", topic_id=topic) == {"state": "left"}
        assert (await b.wait("topic.neighbor_down", topic_id=topic))["reason"] == "left"
        assert (await a.wait("topic.neighbor_down", topic_id=topic))["reason"] == "local"
        event = await b.wait("topic.state", topic_id=topic, state="isolated", reason="left")
        assert event["neighbors"] == 0
        await a.wait("topic.state", topic_id=topic, state="left")
        assert (await a.call("topic.list"))["topics"] == []
        assert (await topic_info(b, topic))["neighbors"] == []
        await b.publish(topic, b"to nobody", if_isolated="queue")
        await a.join(topic, b.address)
        await are_neighbors(topic, a, b)
        assert await a.wait_messages(topic, 1) == [b"to nobody"]


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


# --- accidents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who_returns", ["restarted", "survivor"])
async def test_a_killed_sidecar_is_a_neighbour_again(who_returns: str) -> None:
    """The same key on the same port; the survivor finds it by itself when the restarted one knows nobody."""
    topic, secret = new_topic(), secrets.token_hex(32)
    async with node() as a:
        async with sidecar() as b:
            await b.initialize(ephemeral=True, secret_key_hex=secret)
            await meet(topic, a, b)
            bind = b.info["bound"][0]
            b.process.kill()
        async with sidecar() as again:
            config = {"net": {"bind_v4": bind, "bind_v6": None}}
            await again.initialize(ephemeral=True, secret_key_hex=secret, config=config)
            assert again.endpoint_id == b.endpoint_id
            if who_returns == "restarted":
                await again.join(topic, a.address)
            else:
                await again.join(topic)
                await a.publish(topic, b"are you there?")  # on the old connection: answered by a reset
                await a.wait("topic.neighbor_down", topic_id=topic, reason="connection_lost")
                await a.wait("topic.neighbor_up", topic_id=topic)
            await again.wait("topic.neighbor_up", topic_id=topic)
            await again.publish(topic, b"I am back")
            await a.wait("topic.message", topic_id=topic, delivered_from=b.endpoint_id)
            await a.publish(topic, b"welcome")
            await again.wait("topic.message", topic_id=topic, payload_b64="d2VsY29tZQ==")


async def test_a_neighbour_that_stands_still_gets_what_was_accepted() -> None:
    """A suspended neighbour: publishing is refused instead of being dropped; nothing accepted is lost."""
    topic = new_topic()
    fast = {"limits": {"publish_per_s": 100_000, "messages_per_s_per_peer": 100_000}}
    async with nodes(2, config=fast) as (a, b):
        await meet(topic, a, b)
        b.process.send_signal(signal.SIGSTOP)
        accepted: list[bytes] = []
        refusal: RpcError | None = None
        while refusal is None:
            payload = len(accepted).to_bytes(4, "big") + bytes(1_000)
            try:
                assert (await a.publish(topic, payload))["neighbors"] == 1
                accepted.append(payload)
            except RpcError as error:
                refusal = error
        assert refusal.kind == "rate_limited"
        assert refusal.details["retry_after_ms"] > 0
        assert len(accepted) > 200
        b.process.send_signal(signal.SIGCONT)
        accepted.append(b"at last")

        async def is_taken() -> bool:
            with suppress(RpcError):
                return bool(await a.publish(topic, accepted[-1]))
            return False

        await until(is_taken, "room")
        assert await b.wait_messages(topic, len(accepted)) == accepted


async def test_a_host_that_stops_reading_gets_an_exact_count() -> None:
    """J4: 20,000 small messages into a full pipe; what is lost is counted, and nothing else is lost."""
    topic, count = new_topic(), 20_000
    fast = {"limits": {"publish_per_s": 100_000, "messages_per_s_per_peer": 100_000}}
    async with nodes(2, config=fast) as (a, b):
        await meet(topic, a, b)
        await b.wait("topic.state", topic_id=topic, state="joined")  # from now on the topic has only messages
        b.stop_reading()
        sent = [number.to_bytes(4, "big") for number in range(count)]
        results = await publish_all(a, topic, sent)
        assert {(result["state"], result["neighbors"]) for result in results} == {("accepted", 1)}
        b.read_on()
        after = [b"after %d" % number for number in range(100)]
        await publish_all(a, topic, after)
        await b.wait("topic.message", 30, payload_b64="YWZ0ZXIgOTk=")

        events = [e for e in b.events if e.get("topic_id") == topic and e["type"] == "topic.message"]
        lagged = [e for e in b.events if e["type"] == "lagged"]
        missed = sum(e["missed"] for e in lagged)
        assert missed > 0
        assert {e["topic_id"] for e in lagged} == {topic}
        assert len(events) + missed == count + len(after)
        got = b.messages(topic)
        assert got[-len(after) :] == after
        numbers = [int.from_bytes(payload, "big") for payload in got[: -len(after)]]
        assert numbers == sorted(set(numbers)), "once, in order"
        assert (await topic_info(b, topic))["lagged"] == missed
        assert (await topic_info(b, topic))["messages_in"] == count + len(after)
        gone = await b.call("events.unsubscribe", subscription=1)
        assert gone == {"last_seq": b.last_seq, "missed": 0}
        assert len(b.events) - len(lagged) + missed == gone["last_seq"]
        check_gaps(b.events)


def check_gaps(events: list[Json]) -> None:
    """A lost event is one that a `lagged` before or after the gap has counted."""
    seqs = [event["seq"] for event in events]
    assert seqs == sorted(set(seqs))
    gaps = sum(later - earlier - 1 for earlier, later in pairwise(seqs))
    lagged = [event for event in events if event["type"] == "lagged"]
    assert gaps == sum(event["missed"] - 1 for event in lagged)
