"""The frozen sidecar and a real Rust iroh-gossip node in one topic: the sentence this project exists for."""

from collections import Counter
from contextlib import AsyncExitStack

import anyio
import pytest

from peers.peer import RustPeer, payloads, rust_peer
from peers.sidecar import Sidecar, node

pytestmark = [pytest.mark.interop, pytest.mark.anyio, pytest.mark.timeout(120)]

TOPIC = "5a" * 32
COUNT = 1_000
MAX_PAYLOAD = 4057  # largest content of a frame at the default of 4096 bytes


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def meet(dialer: Sidecar | RustPeer, listener: Sidecar | RustPeer, topic: str = TOPIC) -> None:
    """Join both; `dialer` is given the other's address."""
    await listener.join(topic) if isinstance(listener, Sidecar) else await listener.join(topic, [])
    if isinstance(dialer, Sidecar):
        await dialer.join(topic, listener.address)
    else:
        await dialer.join(topic, [listener.address])
    for side in (dialer, listener):
        name = "topic.neighbor_up" if isinstance(side, Sidecar) else "neighbor_up"
        await side.wait(name)


@pytest.mark.parametrize("dialer", ["sidecar", "rust"])
@pytest.mark.parametrize("size", [1, 200, MAX_PAYLOAD])
async def test_a_thousand_messages_each_way(dialer: str, size: int) -> None:
    """Every byte equal, none lost, none doubled, whoever dialled."""
    async with rust_peer() as rust, node(frozen=True) as ours:
        await meet(*((ours, rust) if dialer == "sidecar" else (rust, ours)))
        # One byte has 256 values and gossip delivers equal contents once in 90 s: fewer, all different.
        count = COUNT if size > 1 else 256
        if size == 1:
            theirs = [bytes([value]) for value in range(count)]
            for content in theirs:
                await rust.publish(TOPIC, content)
        else:
            theirs = await rust.publish_many(TOPIC, count, size, seed=7)
        got = await ours.wait_messages(TOPIC, count)
        assert Counter(got) == Counter(theirs)

        mine = theirs if size == 1 else payloads(8, count, size)
        if size == 1:
            # What it has published itself a Rust node takes for seen: a second topic keeps the bytes fresh.
            topic = "5b" * 32
            await meet(ours, rust, topic)
        else:
            topic = TOPIC
        for content in mine:
            await ours.publish(topic, content)
        with anyio.fail_after(30):
            back = [await rust.received(topic) for _ in range(count)]
        assert Counter(back) == Counter(mine)
        assert back == mine, "one neighbour: the order of a publisher is kept"


async def test_one_byte_beyond_the_maximum_is_refused_with_the_limit_and_nothing_is_lost() -> None:
    from peers.sidecar import RpcError

    async with rust_peer() as rust, node(frozen=True) as ours:
        await meet(ours, rust)
        with pytest.raises(RpcError) as caught:
            await ours.publish(TOPIC, bytes(MAX_PAYLOAD + 1))
        assert caught.value.kind == "message_too_large"
        assert caught.value.details == {"limit": MAX_PAYLOAD, "size": MAX_PAYLOAD + 1}
        await ours.publish(TOPIC, bytes(MAX_PAYLOAD))
        await ours.publish(TOPIC, b"and after it")
        assert await rust.received(TOPIC) == bytes(MAX_PAYLOAD)
        assert await rust.received(TOPIC) == b"and after it"


async def test_three_rust_nodes_and_three_sidecars_share_a_topic() -> None:
    """Everybody publishes, everybody else hears everything exactly once."""
    async with AsyncExitStack() as stack:
        rusts = [await stack.enter_async_context(rust_peer()) for _ in range(3)]
        ours = [await stack.enter_async_context(node(frozen=True)) for _ in range(3)]
        first = rusts[0]
        await first.join(TOPIC, [])
        for rust in rusts[1:]:
            await rust.join(TOPIC, [first.address])
            await rust.wait("neighbor_up")
        for host in ours:
            await host.join(TOPIC, first.address)
            await host.wait("topic.neighbor_up")
        sent = Counter()
        for index, rust in enumerate(rusts):
            sent.update(await rust.publish_many(TOPIC, 50, 100, seed=100 + index))
        for index, host in enumerate(ours):
            for content in payloads(200 + index, 50, 100):
                await host.publish(TOPIC, content)
                sent[content] += 1
        for index, host in enumerate(ours):
            expected = sent - Counter(payloads(200 + index, 50, 100))
            got = await host.wait_messages(TOPIC, sum(expected.values()))
            assert Counter(got) == expected
        for index, rust in enumerate(rusts):
            expected = sent - Counter(payloads(100 + index, 50, 100))
            with anyio.fail_after(30):
                heard = [await rust.received(TOPIC) for _ in range(sum(expected.values()))]
            assert Counter(heard) == expected


async def test_a_rust_node_leaves_returns_and_is_killed() -> None:
    """Each end is seen for what it is, and the topic finds its way back when the node does."""
    secret = "11" * 32
    async with node(frozen=True) as ours:
        await ours.join(TOPIC)
        async with rust_peer(secret_hex=secret) as rust:
            await rust.join(TOPIC, [ours.address])
            await ours.wait("topic.neighbor_up", endpoint_id=rust.endpoint_id)
            await rust.wait("neighbor_up")
            await rust.leave(TOPIC)
            await ours.wait("topic.neighbor_down", endpoint_id=rust.endpoint_id, reason="left")
            await ours.wait("topic.state", state="isolated")
            await rust.join(TOPIC, [ours.address])
            await ours.wait("topic.neighbor_up", endpoint_id=rust.endpoint_id)
            await rust.wait("neighbor_up")  # upstream loses silently what it publishes before
            await rust.publish(TOPIC, b"back again")
            assert (await ours.wait_messages(TOPIC, 1)) == [b"back again"]
            rust.process.kill()
            # QUIC notices silence after its idle time (15 s dead_after of the contract, plus a heartbeat).
            await ours.wait("topic.neighbor_down", 40, endpoint_id=rust.endpoint_id, reason="connection_lost")
            await ours.wait("peer.state", endpoint_id=rust.endpoint_id, state="disconnected")
        async with rust_peer(secret_hex=secret) as again:
            await again.join(TOPIC, [ours.address])
            await ours.wait("topic.neighbor_up", endpoint_id=again.endpoint_id)
            await ours.publish(TOPIC, b"welcome")
            assert await again.received(TOPIC) == b"welcome"
