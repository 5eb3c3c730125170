"""Signed, auto and raw topics among simulated nodes, some of them hostile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from random import Random

import anyio
import pytest

from kukuri_sidecar.errors import LimitReached, MessageTooLarge, NoNeighbors, RateLimited
from kukuri_sidecar.node.envelopes import AUTHOR_BURST, AUTHOR_PER_S, Flaw, Mode
from kukuri_sidecar.node.events import NeighborUp, NodeEvent, TopicInvalid, TopicPublished
from kukuri_sidecar.node.publishing import MAX_OPEN_RECEIPTS, MAX_QUEUED_MESSAGES
from kukuri_sidecar.proto.gossip.events import Broadcast
from kukuri_sidecar.wire.envelope import seal
from kukuri_sidecar.wire.gossip_messages import Gossip, Graft
from kukuri_sidecar.wire.hashes import message_id
from kukuri_sidecar.wire.ids import MessageId, TopicId
from sim.nodes import TOPIC, Node, World, simulated_world, until

pytestmark = pytest.mark.anyio

OTHER_TOPIC = TopicId(b"o" * 32)
SETTLED_S = 3.0  # whatever was said has gone round by then, Grafts included
SIGNED, AUTO, RAW = Mode.SIGNED, Mode.AUTO, Mode.RAW


@pytest.fixture
async def world(rng: Random) -> AsyncIterator[World]:
    async with simulated_world(rng) as world:
        yield world


async def line(world: World, *modes: Mode) -> list[Node]:
    """Nodes in a row: each is the neighbour of those beside it and cannot reach the others."""
    nodes = [await world.node() for _ in modes]
    world.chain(*nodes)
    for i, (node, mode) in enumerate(zip(nodes, modes, strict=True)):
        await node.join(*([nodes[i - 1].hint] if i else []), mode=mode)
    expected = [(i > 0) + (i < len(nodes) - 1) for i in range(len(nodes))]
    await until(lambda: [node.neighbors() for node in nodes] == expected, 30)
    await anyio.sleep(SETTLED_S)
    return nodes


@pytest.fixture
async def attacked(world: World) -> list[Node]:
    """A (signed) - M (raw, hostile) - B (signed) - C (raw): C shows what B passes on."""
    return await line(world, SIGNED, RAW, SIGNED, RAW)


def announced_to(node: Node) -> int:
    """Return how many ids of messages the node was told."""
    view = node.topics.swarm._core.view(TOPIC)
    assert view is not None
    return view.counters.announced


def inject(node: Node, content: bytes) -> MessageId:
    """Broadcast whatever bytes, as a raw node may."""
    name = message_id(content)
    node.topics.swarm.handle(Broadcast(TOPIC, content, name))
    return name


def gossip(content: bytes, hops: int | None = 0) -> Gossip:
    return Gossip(message_id(content), content, hops)


def invalid(node: Node) -> list[tuple[int, str]]:
    return [(event.count, event.reason) for event in node.events if isinstance(event, TopicInvalid)]


def sealed_by(
    node: Node,
    payload: bytes = b"by m",
    *,
    age_ms: int = 0,
    seq: int = 1,
    session: int = 1,
    topic_id: TopicId = TOPIC,
) -> bytes:
    """An envelope of the node's key with fields that a program of its own chooses."""
    ts_ms = node.wall_ms() - age_ms
    return seal(node.secret, topic_id, payload, ts_ms=ts_ms, session=session, seq=seq)


# --- signed: what is delivered and passed on --------------------------------------------------------------


async def test_signed_messages_pass_a_raw_node_unchanged_and_are_unwrapped(attacked: list[Node]) -> None:
    a, m, b, c = attacked
    a.publish(b"from a")
    b.publish(b"from b")
    await until(lambda: len(m.received) == len(c.received) == 2, 5)
    assert [(e.payload, e.author, e.author_seq) for e in b.messages] == [(b"from a", a.id, 1)]
    assert [(e.payload, e.author, e.author_seq) for e in a.messages] == [(b"from b", b.id, 1)]
    assert set(m.received) == set(c.received)
    assert all(len(content) == len(b"from a") + 115 for content in m.received)
    assert {e.author for e in m.messages + c.messages} == {None}
    assert b.messages[0].delivered_from == m.id, "the last hop, not the author"


Attack = Callable[
    [Node, Node, bytes], bytes
]  # (m, a, an envelope of m that nobody has seen) -> what m injects

ATTACKS: dict[str, tuple[Attack, str]] = {
    "plain": (lambda m, a, e: b"plain", "unsigned"),
    "empty": (lambda m, a, e: b"", "unsigned"),
    "magic only": (lambda m, a, e: e[:4], "unsigned"),
    "shortened": (lambda m, a, e: e[:-1], "bad_signature"),
    "another payload": (lambda m, a, e: e[:51] + b"X" + e[52:], "bad_signature"),
    "another author": (lambda m, a, e: e[:5] + a.id + e[37:], "bad_signature"),
    "another time": (lambda m, a, e: e[:42] + bytes([e[42] ^ 1]) + e[43:], "bad_signature"),
    "another session": (lambda m, a, e: e[:43] + bytes(4) + e[47:], "bad_signature"),
    "another number": (lambda m, a, e: e[:47] + bytes([0, 0, 9, 9]) + e[51:], "bad_signature"),
    "a bit of the signature": (lambda m, a, e: e[:-1] + bytes([e[-1] ^ 128]), "bad_signature"),
    "a version to come": (lambda m, a, e: e[:4] + b"\x08" + e[5:], "malformed"),
    "expired": (lambda m, a, e: sealed_by(m, age_ms=120_001), "expired"),
    "of tomorrow": (lambda m, a, e: sealed_by(m, age_ms=-40_000), "from_the_future"),
    "number zero": (lambda m, a, e: sealed_by(m, seq=0), "replayed"),
    "for another topic": (lambda m, a, e: sealed_by(m, topic_id=OTHER_TOPIC), "bad_signature"),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_nothing_false_is_delivered_or_passed_on(attacked: list[Node], name: str) -> None:
    """Neither as a payload nor as an announcement nor on request, and the genuine ones still come through."""
    a, m, b, c = attacked
    a.publish(b"genuine")
    await until(lambda: len(c.received) == 1, 5)
    attack, reason = ATTACKS[name]
    before = announced_to(c)
    content = attack(m, a, sealed_by(m, seq=7))
    false_id = inject(m, content)
    await anyio.sleep(SETTLED_S)
    for victim in (a, b):
        assert invalid(victim) == [(1, reason)]
        assert victim.info.invalid == 1
    c.say(b, Graft(false_id, 0))
    m.say(b, gossip(content), gossip(content, None))
    await anyio.sleep(SETTLED_S)
    assert (len(a.received), b.received, c.received) == (0, [b"genuine"], m.received)
    assert announced_to(c) == before
    assert b.info.invalid == 1, "what was refused is known and not judged again"
    a.publish(b"still")
    b.publish(b"here")
    await until(lambda: len(c.received) == 3, 5)
    assert (a.received, b.received) == ([b"here"], [b"genuine", b"still"])


async def test_recorded_messages_are_of_no_use_ever(attacked: list[Node]) -> None:
    """Replayed at 0, 60, 91, 119, 121 and 3600 s (trust.md R1), also to their author, in both scopes."""
    a, m, b, c = attacked
    start = anyio.current_time()
    for number in range(150):
        (a, b)[number % 2].publish(b"%d" % number)
        await anyio.sleep(0.03)
    await until(
        lambda: len(m.received) == len(c.received) == 150 and len(a.received) == len(b.received) == 75, 5
    )
    recorded = m.received[:]
    for wait_s in (0, 60, 91, 119, 121, 3600):
        await anyio.sleep(max(0.0, start + wait_s - anyio.current_time()))
        if m.neighbors() < 2:
            await until(lambda: m.neighbors() == 2)
        for content in recorded:
            for victim in (a, b):
                m.say(victim, gossip(content), gossip(content, None))
        await anyio.sleep(SETTLED_S)
        assert len(a.received) == len(b.received) == 75, wait_s
        assert len(c.received) == 150, wait_s
    assert {reason for _, reason in invalid(a) + invalid(b)} == {"replayed", "expired"}


async def test_the_first_and_every_hundredth_invalid_message_is_told(attacked: list[Node]) -> None:
    _, m, b, _ = attacked
    for number in range(301):
        inject(m, b"plain %d" % number)
        if number % 50 == 0:
            await anyio.sleep(0.1)
    await anyio.sleep(SETTLED_S)
    told = [event for event in b.events if isinstance(event, TopicInvalid)]
    assert [event.count for event in told] == [1, 100, 200, 300]
    assert {(event.topic_id, event.reason, event.delivered_from) for event in told} == {
        (TOPIC, "unsigned", m.id)
    }
    assert b.info.invalid == 301


async def test_a_copy_is_known_before_it_is_judged(attacked: list[Node]) -> None:
    """dedup comes first: the second copy of a genuine message is a duplicate, no replay."""
    a, m, b, _ = attacked
    a.publish(b"genuine")
    await until(lambda: b.received == [b"genuine"], 5)
    for _ in range(5):
        m.say(b, gossip(m.received[0]))
    await anyio.sleep(SETTLED_S)
    assert b.received == [b"genuine"]
    assert b.info.invalid == 0


async def test_an_author_that_floods_is_cut_to_its_rate_and_nobody_else_is(attacked: list[Node]) -> None:
    a, m, b, c = attacked
    flood = 2 * int(AUTHOR_BURST)
    for seq in range(1, flood + 1):
        inject(m, sealed_by(m, b"%d" % seq, seq=seq))
    a.publish(b"patience")
    await until(lambda: b"patience" in b.received, 5)
    await anyio.sleep(SETTLED_S)
    by_m = [e for e in b.messages if e.author == m.id]
    assert len(by_m) == pytest.approx(AUTHOR_BURST, abs=5)
    assert b.info.invalid == flood - len(by_m)
    assert invalid(b)[0] == (1, "too_many")
    assert len(c.received) == len(b.received)


async def test_forgeries_in_an_authors_name_cost_it_nothing(attacked: list[Node]) -> None:
    """Neither its numbers nor its rate: what it says next is delivered."""
    a, m, b, _ = attacked
    a.publish(b"one")
    await until(lambda: b.received == [b"one"], 5)
    genuine = m.received[0]
    for seq in range(2, 500):
        inject(m, genuine[:47] + seq.to_bytes(4, "big") + genuine[51:])
    await anyio.sleep(0.5)
    for number in range(100):
        a.publish(b"%d" % number)
    await until(lambda: len(b.received) == 101, 5)
    assert [e.author_seq for e in b.messages] == list(range(1, 102))


@pytest.mark.parametrize(("ahead_s", "is_taken"), [(119, True), (121, False), (-29, True), (-31, False)])
async def test_how_far_clocks_may_differ(world: World, ahead_s: int, is_taken: bool) -> None:
    a, b = await line(world, SIGNED, SIGNED)
    b.clock_skew_ms = ahead_s * 1000
    a.publish(b"what time is it")
    await anyio.sleep(SETTLED_S)
    assert b.received == ([b"what time is it"] if is_taken else [])
    assert b.info.invalid == (not is_taken)


# --- auto and raw -----------------------------------------------------------------------------------------


async def test_every_mode_beside_every_other(world: World) -> None:
    """signed - auto - raw - auto - signed: everybody gets what its mode promises."""
    s, auto, raw, auto2, s2 = await line(world, SIGNED, AUTO, RAW, AUTO, SIGNED)
    s.publish(b"signed")
    auto.publish(b"automatic")
    raw.publish(b"raw")
    await until(lambda: len(auto2.received) == 3 and len(raw.received) == 2, 5)
    await anyio.sleep(SETTLED_S)
    assert [(e.payload, e.author, e.author_seq) for e in s2.messages] == [(b"signed", s.id, 1)]
    assert {(e.payload, e.author, e.author_seq) for e in auto2.messages} == {
        (b"signed", s.id, 1),
        (b"automatic", None, None),
        (b"raw", None, None),
    }
    (envelope,) = [content for content in raw.received if content != b"automatic"]
    assert (envelope[:4], envelope[51:-64]) == (b"\xf5SG1", b"signed")
    assert s.received == []
    assert s.info.invalid == s2.info.invalid == 2
    assert auto.info.invalid == auto2.info.invalid == raw.info.invalid == 0


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name][1] != "unsigned"])
async def test_an_auto_node_refuses_what_only_claims_to_be_signed(world: World, name: str) -> None:
    a, m, b, c = await line(world, AUTO, RAW, AUTO, RAW)
    inject(m, sealed_by(m, b"genuine", seq=5))
    await until(lambda: len(c.received) == 1, 5)
    assert b.received == [b"genuine"]
    attack, reason = ATTACKS[name]
    inject(m, attack(m, a, sealed_by(m, seq=7)))
    inject(m, b"plain")
    await until(lambda: b"plain" in c.received, 5)
    await anyio.sleep(SETTLED_S)
    assert invalid(b) == [(1, reason)]
    assert b.received == [b"genuine", b"plain"]
    assert len(c.received) == 2


# --- publishing -------------------------------------------------------------------------------------------


async def test_numbers_of_an_author_have_no_gaps_whatever_is_refused_in_between(world: World) -> None:
    a, b = await line(world, SIGNED, SIGNED)
    refused = 0
    while len(b.received) < 300:
        try:
            a.publish(b"%d" % len(b.received))
        except RateLimited as exc:
            wait_ms = exc.details["retry_after_ms"]
            assert isinstance(wait_ms, int)
            refused += 1
            with pytest.raises(MessageTooLarge):
                a.publish(bytes(3943))
            await anyio.sleep(wait_ms / 1000)
        await anyio.sleep(0.001)
    assert refused
    assert [e.author_seq for e in b.messages] == list(range(1, len(b.messages) + 1))


async def test_what_the_bounds_refuse_takes_no_number(world: World) -> None:
    """Neither a full queue nor too many awaited confirmations nor an isolated topic leaves a gap."""
    a, b = await world.node(), await world.node()
    await a.join(mode=SIGNED)
    with pytest.raises(NoNeighbors):
        a.publish(b"nobody")
    for number in range(MAX_QUEUED_MESSAGES):
        a.publish(b"%d" % number, queue=True)
    for _ in range(5):
        with pytest.raises(LimitReached):
            a.publish(b"one more", queue=True)
    await b.join(a.hint, mode=SIGNED)
    await until(lambda: len(b.received) == MAX_QUEUED_MESSAGES, 10)
    for connection in a.endpoint.connections:
        connection.reads = False
    unconfirmed = 0
    while len(a.topics._receipts) < MAX_OPEN_RECEIPTS:
        a.publish(b"%d" % unconfirmed, confirm=True)
        unconfirmed += 1
        await anyio.sleep(1 / AUTHOR_PER_S)
    with pytest.raises(LimitReached):
        a.publish(b"one too many", confirm=True)
    for connection in a.endpoint.connections:
        connection.reads = True
    a.publish(b"at last")
    await until(lambda: b"at last" in b.received, 60)
    assert b.messages[-1].author_seq == MAX_QUEUED_MESSAGES + unconfirmed + 1


async def test_what_an_author_may_publish_everybody_takes(world: World) -> None:
    """accepted must not mean refused by every receiver: the limit per author holds for ourselves."""
    a, b = await line(world, SIGNED, SIGNED)
    accepted = 0
    for _ in range(20 * 20):
        try:
            a.publish(b"%d" % accepted)
            accepted += 1
        except RateLimited:
            await anyio.sleep(0.05)
    await anyio.sleep(SETTLED_S)
    assert accepted > 300
    assert (len(b.received), b.info.invalid) == (accepted, 0)


async def test_the_limit_per_author_is_for_signed_topics_only(world: World) -> None:
    a, b = await line(world, RAW, RAW)
    for number in range(1000):
        a.publish(b"%d" % number)
    await until(lambda: len(b.received) == 1000, 10)


@pytest.mark.parametrize(("mode", "times"), [(SIGNED, 3), (AUTO, 1), (RAW, 1)])
async def test_the_same_payload_again(world: World, mode: Mode, times: int) -> None:
    """In an envelope it has another number and is another message; raw bytes are one message for 90 s."""
    a, b = await line(world, mode, mode)
    for _ in range(3):
        a.publish(b"again")
        await anyio.sleep(1)
    await anyio.sleep(SETTLED_S)
    assert b.received == [b"again"] * times
    assert b.info.invalid == 0
    await anyio.sleep(95)
    a.publish(b"again")
    await anyio.sleep(SETTLED_S)
    assert b.received == [b"again"] * (times + 1)


@pytest.mark.parametrize(("mode", "limit"), [(SIGNED, 3942), (AUTO, 4057), (RAW, 4057)])
async def test_the_largest_payload_crosses_several_hops_and_one_byte_more_is_refused(
    world: World, mode: Mode, limit: int
) -> None:
    a, b, c = await line(world, mode, RAW, mode)
    assert (a.info.max_payload_bytes, b.info.max_payload_bytes) == (limit, 4057)
    for size in (limit - 1, limit):
        a.publish(bytes(size))
    with pytest.raises(MessageTooLarge) as caught:
        a.publish(bytes(limit + 1))
    assert caught.value.details == {"limit": limit, "size": limit + 1}
    await until(lambda: len(c.received) == 2, 5)
    assert sorted(map(len, c.received)) == [limit - 1, limit]


async def test_leaving_and_joining_again_goes_on_counting(world: World) -> None:
    """Numbers that began anew in the same session would be replays for everybody who stayed."""
    a, b = await line(world, SIGNED, SIGNED)
    for number in range(3):
        a.publish(b"%d" % number)
    await until(lambda: len(b.received) == 3, 5)
    await a.topics.leave(TOPIC)
    await a.join(b.hint, mode=SIGNED)
    await until(lambda: a.neighbors() == 1, 30)
    a.publish(b"back")
    await until(lambda: b.received[-1] == b"back", 5)
    assert b.messages[-1].author_seq == 4


async def test_a_message_for_neighbours_only_is_signed_goes_no_further_and_cannot_be_replayed(
    attacked: list[Node],
) -> None:
    a, m, b, c = attacked
    b.publish(b"psst", neighbors_only=True)
    await until(lambda: len(m.received) == len(c.received) == 1, 5)
    m.say(a, gossip(m.received[0], None))
    m.say(a, gossip(m.received[0], None))
    await anyio.sleep(SETTLED_S)
    assert [(e.payload, e.author, e.round) for e in a.messages] == [(b"psst", b.id, None)]
    assert invalid(a) == [(1, "replayed")]


async def test_a_signed_message_does_not_wait_until_it_is_worthless(world: World) -> None:
    """Receivers refuse what is older than 120 s: it expires here before, and the host is told."""
    a, b = await world.node(), await world.node()
    await a.join(mode=SIGNED)
    a.publish(b"early", queue=True, ttl_s=300)
    await anyio.sleep(89)
    a.publish(b"late", queue=True, ttl_s=300)
    await anyio.sleep(2)
    assert [e.state for e in a.events if isinstance(e, TopicPublished)] == ["expired"]
    await b.join(a.hint, mode=SIGNED)
    await until(lambda: b.received == [b"late"], 30)
    assert b.info.invalid == 0


async def test_a_raw_message_may_wait_as_long_as_the_host_wants(world: World) -> None:
    a, b = await world.node(), await world.node()
    await a.join(mode=RAW)
    a.publish(b"patient", queue=True, ttl_s=300)
    await anyio.sleep(250)
    await b.join(a.hint, mode=RAW)
    await until(lambda: b.received == [b"patient"], 30)


@pytest.mark.parametrize("run", range(6))
async def test_what_waited_goes_before_what_is_published_afterwards(
    world: World, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await world.node(), await world.node()
    await a.join(mode=SIGNED)
    for number in range(3):
        a.publish(b"%d" % number, queue=True)

    is_up = anyio.Event()
    emit = a.topics._emit

    def watch(event: NodeEvent) -> None:
        emit(event)
        if isinstance(event, NeighborUp):
            is_up.set()

    monkeypatch.setattr(a.topics, "_emit", watch)
    await b.join(a.hint, mode=SIGNED)
    await is_up.wait()
    a.publish(b"3")
    await until(lambda: len(b.received) == 4, 5)
    assert b.received == [b"0", b"1", b"2", b"3"]


# --- everything at once -----------------------------------------------------------------------------------


@pytest.mark.parametrize("run", range(3))
async def test_among_hostile_and_plain_nodes_signed_ones_hear_each_other_exactly(
    world: World, rng: Random, run: int
) -> None:
    """Three signed nodes, one auto, one raw, one hostile: the signed ones deliver what is genuine."""
    rng.seed(f"{rng.random()} {run}")
    modes = [SIGNED, AUTO, SIGNED, RAW, SIGNED, RAW]
    nodes = [await world.node() for _ in modes]
    for node, mode in zip(nodes, modes, strict=True):
        await node.join(
            *([] if node is nodes[0] else [rng.choice(nodes[: nodes.index(node)]).hint]), mode=mode
        )
    await until(lambda: all(node.neighbors() >= 2 for node in nodes), 30)
    await anyio.sleep(SETTLED_S)
    *_, hostile = nodes
    signed = [node for node, mode in zip(nodes, modes, strict=True) if mode is SIGNED]
    sent: dict[Node, list[bytes]] = {node: [] for node in signed}
    false = 0
    for number in range(200):
        node = rng.choice(nodes)
        if node is hostile:
            false += 1
            heard = hostile.received or [b"nothing yet"]
            victim = rng.choice(heard)
            content = bytearray(victim)
            if content:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            inject(hostile, rng.choice([bytes(content), b"junk %d" % number, victim]))
        else:
            payload = b"%d" % number
            node.publish(payload)
            if node in sent:
                sent[node].append(payload)
        await anyio.sleep(rng.choice([0.0, 0.005, 0.05]))
    assert false > 10
    await anyio.sleep(SETTLED_S)
    for node in signed:
        for author in signed:
            heard = [e.payload for e in node.messages if e.author == author.id]
            assert sorted(heard) == sorted([] if author is node else sent[author])
        assert {e.author for e in node.messages} <= {author.id for author in signed}


def test_attacks_name_every_flaw_but_the_rate() -> None:
    assert {reason for _, reason in ATTACKS.values()} == set(Flaw) - {Flaw.TOO_MANY}
