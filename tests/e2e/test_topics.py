"""Topics between two to four real sidecar processes on loopback: talking, parting, accidents."""

import os
import secrets
import signal
from collections import Counter
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from pathlib import Path
from random import Random

import anyio
import pytest

from e2e.hosts import are_neighbors, meet, new_topic, nodes, refused, topic_info, until
from peers.sidecar import Json, RpcError, Sidecar, node, sidecar

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

MAX_PAYLOAD = 4057
LINE_END = {"max_peers": 1}  # an end of a line: one connection, so gossip cannot make a shortcut


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


# --- parting and accidents ------------------------------------------------------------------------------


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
        memory = resident_bytes(b)
        sent = [number.to_bytes(4, "big") for number in range(count)]
        results = await publish_all(a, topic, sent)
        assert {(result["state"], result["neighbors"]) for result in results} == {("accepted", 1)}
        assert resident_bytes(b) - memory < 32 << 20
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


def resident_bytes(host: Sidecar) -> int:
    """Memory of the process right now."""
    pages = Path(f"/proc/{host.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def check_gaps(events: list[Json]) -> None:
    """A lost event is one that a `lagged` before or after the gap has counted."""
    seqs = [event["seq"] for event in events]
    assert seqs == sorted(set(seqs))
    gaps = sum(later - earlier - 1 for earlier, later in pairwise(seqs))
    lagged = [event for event in events if event["type"] == "lagged"]
    assert gaps == sum(event["missed"] - 1 for event in lagged)
