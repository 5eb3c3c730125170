"""Real Rust peers among themselves: the harness must be trusted before the sidecar is blamed."""

from contextlib import AsyncExitStack

import pytest

from peers.peer import PeerError, PeerTimeout, RustPeer, binary, content, payload, rust_peer

pytestmark = [pytest.mark.interop, pytest.mark.anyio]

TOPIC = "5a" * 32
OTHER_TOPIC = "a5" * 32


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The harness must work on both: interop tests of the services may run on either."""
    return str(request.param)


async def meet(a: RustPeer, b: RustPeer, topic_id: str = TOPIC) -> None:
    await a.join(topic_id)
    await b.join(topic_id, [a.address])
    await a.wait("neighbor_up", topic_id=topic_id, peer=b.endpoint_id)
    await b.wait("neighbor_up", topic_id=topic_id, peer=a.endpoint_id)


async def test_two_peers_exchange_messages_of_both_scopes() -> None:
    async with rust_peer() as a, rust_peer() as b:
        await meet(a, b)
        await a.publish(TOPIC, b"hello")
        swarm = await b.wait("received")
        await b.publish(TOPIC, b"\x00\xff", scope="neighbors")
        direct = await a.wait("received")

        assert (content(swarm), swarm["scope"], swarm["round"]) == (b"hello", "swarm", 0)
        assert swarm["delivered_from"] == a.endpoint_id
        assert (content(direct), direct["scope"], direct["round"]) == (b"\x00\xff", "neighbors", None)
        assert await a.neighbors(TOPIC) == [b.endpoint_id]


async def test_five_peers_each_get_what_the_others_publish() -> None:
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(rust_peer()) for _ in range(5)]
        first, *others = peers
        await first.join(TOPIC)
        for peer in others:
            await peer.join(TOPIC, [first.ticket])
            await peer.wait("neighbor_up")
        for number, peer in enumerate(peers):
            await peer.publish_many(TOPIC, 10, 64, seed=number)
        for number, peer in enumerate(peers):
            got = await peer.received_many(TOPIC, 40)
            assert set(got) == {
                payload(seed, i, 64) for seed in range(5) if seed != number for i in range(10)
            }


async def test_a_paced_bulk_arrives_in_order_and_equals_what_python_computes() -> None:
    async with rust_peer() as a, rust_peer() as b:
        await meet(a, b)
        sent = await a.publish_many(TOPIC, 1000, 256, seed=2**64 - 1, rate_per_s=2000)
        assert await b.received_many(TOPIC, 1000) == sent
        assert b.seen("lagged") == []


async def test_the_size_limit_counts_the_frame_and_a_message_above_it_silences_the_sender() -> None:
    """4096 leaves 4057 for the content; 4058 "succeeds" and nothing gets out any more, silently (U1)."""
    async with rust_peer() as a, rust_peer() as b:
        await meet(a, b)
        await a.publish_many(TOPIC, 1, 4057)
        assert len(await b.received(TOPIC)) == 4057
        await a.publish_many(TOPIC, 1, 4058, seed=2)
        await a.publish(TOPIC, b"after")
        with pytest.raises(PeerTimeout):
            await b.received(TOPIC, within_s=1)
    async with rust_peer(max_message_size=9000) as a, rust_peer(max_message_size=9000) as b:
        await meet(a, b)
        await a.publish_many(TOPIC, 1, 8900)
        assert len(await b.received(TOPIC)) == 8900


async def test_a_topic_that_is_left_becomes_neighbor_down() -> None:
    async with rust_peer() as a, rust_peer() as b:
        await meet(a, b)
        await meet(a, b, OTHER_TOPIC)
        await b.leave(TOPIC)
        await b.wait("left", topic_id=TOPIC)
        await a.wait("neighbor_down", topic_id=TOPIC, peer=b.endpoint_id)
        assert await a.neighbors(OTHER_TOPIC) == [b.endpoint_id]


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_a_killed_peer_is_noticed_by_the_idle_timeout() -> None:
    async with rust_peer() as a, rust_peer() as b:
        await meet(a, b)
        b.kill()
        await b.wait("ended")
        down = await a.wait("connection_down", peer=b.endpoint_id, within_s=40)
        assert "timed out" in down["reason"]
        await a.wait("neighbor_down", topic_id=TOPIC, peer=b.endpoint_id)


async def test_log_lines_can_be_waited_for() -> None:
    async with rust_peer(rust_log="iroh_gossip=debug") as a, rust_peer() as b:
        await meet(a, b)
        assert "stream opened" in await a.wait_log(f"topic={TOPIC[:10]}")


async def test_the_probe_reports_success_and_the_reason_of_failure() -> None:
    async with rust_peer() as a, rust_peer(secret_hex="07" * 32) as b:
        assert (await a.connect_probe(b.address))["peer"] == b.endpoint_id
        up = await b.wait("connection_up", peer=a.endpoint_id, side="server")
        down = await b.wait("connection_down", connection=up["connection"])
        assert down["reason"] == "closed by peer: probe (code 0)"
        with pytest.raises(PeerError, match="error 120: peer doesn't support any known protocol"):
            await a.connect_probe(b.address, "nobody-speaks-this/1")
        with pytest.raises(PeerError, match="No addressing information"):
            await a.connect_probe("09" * 32)


async def test_commands_that_cannot_work_say_why() -> None:
    async with rust_peer() as peer:
        with pytest.raises(PeerError, match="topic not joined"):
            await peer.neighbors(TOPIC)
        with pytest.raises(PeerError, match="Invalid character"):
            await peer.neighbors("xy" * 32)
        with pytest.raises(PeerError, match="unknown field `colour`"):
            await peer.command("neighbors", topic_id=TOPIC, colour=1)
        await peer.send("not json")
        assert (await peer.wait("error"))["id"] is None
        await peer.close()
        with pytest.raises(PeerError):
            await peer.join(TOPIC)


async def test_stats_count_connections_and_messages() -> None:
    async with rust_peer() as a, rust_peer() as b:
        await meet(a, b)
        await a.publish_many(TOPIC, 3, 32)
        await b.received_many(TOPIC, 3)
        stats = await b.stats()
        assert stats["connections"]["opened"] == 1
        assert stats["connections"]["live"][0]["peer"] == a.endpoint_id
        assert stats["topics"][0]["received"] == 3
        assert stats["gossip"]["msgs_data_recv"] == 3


def test_the_program_is_where_the_build_script_puts_it() -> None:
    assert binary().exists(), "tests/peers/build_rust_peers.sh builds it"
