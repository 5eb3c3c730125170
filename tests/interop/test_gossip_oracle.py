"""Real iroh-gossip 0.35 as an oracle: it reads each message of our codec, ours reads its, the cores agree.

/iroh-gossip/0 and /1 carry the same messages (gossip-wire.md section 5); only the framing differs. That is
the business of carriers, nodes of the same wheel that hand our bytes over: tests/peers/gossip_0_wheel.py.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from kukuri_sidecar.proto.gossip.config import GossipConfig, MembershipConfig
from kukuri_sidecar.proto.gossip.events import (
    Broadcast,
    ClosePeer,
    Delivered,
    DownReason,
    GossipInput,
    JoinTopic,
    NeighborDown,
    NeighborUp,
    PeerDisconnected,
    QuitTopic,
    Received,
    Send,
    SetBlocked,
    SetOwnData,
)
from kukuri_sidecar.proto.gossip.state import GossipCore
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.gossip_messages import (
    Disconnect,
    ForwardJoin,
    Gossip,
    GossipMessage,
    Graft,
    IHave,
    Join,
    Neighbor,
    PeerInfo,
    Priority,
    Prune,
    Shuffle,
    ShuffleReply,
    decode,
    encode,
)
from kukuri_sidecar.wire.hashes import message_id
from kukuri_sidecar.wire.ids import EndpointId, TopicId
from kukuri_sidecar.wire.peer_data import decode_peer_data, encode_peer_data

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(sys.platform != "linux", reason="the wheel is shut in a network namespace"),
]

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/peers/gossip_0_wheel.py"
WHEEL = ROOT / ".cache/iroh-wheels/0.35.0"
CARRIERS = 3
WITHIN_S = 5.0
QUIET_S = 0.3  # nothing is said: the oracle's own timers are 80 ms
MAX_CONTENT = 4025  # at /0 the topic stands inside the frame; 4057 at /1
UNKNOWN = bytes(range(32))

Event = dict[str, Any]  # a JSON line of the program
MessageT = TypeVar("MessageT")


class Oracle:
    """The subprocess with one oracle at a time. Events that nobody has waited for are kept in order."""

    def __init__(self) -> None:
        if not (WHEEL / "iroh" / "__init__.py").is_file():
            pytest.fail("the iroh 0.35.0 wheel is missing: run python tests/peers/fetch_iroh_wheels.py")
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            env={**os.environ, "PYTHONPATH": str(WHEEL)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[Event] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.events: list[Event] = []
        self._last_id = 0

    def start(self) -> None:
        """Begin anew, with nodes that have never met."""
        self.events.clear()
        self.do("start", carriers=CARRIERS)
        started = self.wait(event="started")
        self.id = EndpointId.from_hex(started["oracle"])
        self.carriers = [Carrier(self, n, carrier) for n, carrier in enumerate(started["carriers"])]

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join(WITHIN_S)
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(json.loads(line))

    def next(self, within_s: float) -> Event | None:
        """Take the oldest event, whatever it is."""
        if self.events:
            return self.events.pop(0)
        try:
            return self._lines.get(timeout=max(0.0, within_s))
        except queue.Empty:
            return None

    def wait(self, within_s: float = WITHIN_S, **fields: object) -> Event:
        """Take the first event with these fields."""
        deadline = time.monotonic() + within_s
        passed: list[Event] = []
        while (event := self.next(deadline - time.monotonic())) is not None:
            if all(event.get(key) == value for key, value in fields.items()):
                self.events = passed + self.events
                return event
            passed.append(event)
        self.events = passed
        raise AssertionError(f"no {fields}; untaken: {passed[-10:]}")

    def quiet(self) -> list[Event]:
        """Return what still comes within a moment; it stays untaken."""
        deadline = time.monotonic() + QUIET_S
        seen: list[Event] = []
        while (event := self.next(deadline - time.monotonic())) is not None:
            seen.append(event)
        self.events = seen
        return list(seen)

    def do(self, action: str, **fields: object) -> None:
        self._last_id += 1
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"id": self._last_id, "do": action, **fields}) + "\n")
        self._process.stdin.flush()
        answer = self.wait(10, id=self._last_id)
        assert answer["event"] == "ok", answer

    def heard(self, topic: TopicId, type_: str, **fields: object) -> Event:
        return self.wait(event="heard", topic=topic.hex(), type=type_, **fields)

    def publish(self, topic: TopicId, content: bytes, scope: str = "swarm") -> None:
        self.do("publish", topic=topic.hex(), content=content.hex(), scope=scope)


class Carrier:
    """A node that speaks our bytes to the oracle."""

    def __init__(self, oracle: Oracle, number: int, ready: Event) -> None:
        self.oracle, self.number = oracle, number
        self.id = EndpointId.from_hex(ready["id"])
        addresses = [SocketAddr.parse(address) for address in ready["addresses"]]
        self.data = encode_peer_data(None, addresses)

    @property
    def info(self) -> PeerInfo:
        return PeerInfo(self.id, self.data)

    def send(self, topic: TopicId, *messages: GossipMessage) -> None:
        for message in messages:
            self.oracle.do("send", carrier=self.number, topic=topic.hex(), body=encode(message).hex())

    def expect(self, topic: TopicId, type_: type[MessageT], within_s: float = WITHIN_S) -> MessageT:
        """Take the next frame for us; it must be of this type, and our codec writes it as the oracle did."""
        frame = self.oracle.wait(within_s, event="frame", carrier=self.number, topic=topic.hex())
        body = bytes.fromhex(frame["body"])
        message = decode(body)
        assert encode(message) == body, "another form of the same message"
        assert type(message) is type_, message
        return message

    def frames(self, topic: TopicId) -> list[GossipMessage]:
        """Return the messages that are still untaken after a moment."""
        return [
            decode(bytes.fromhex(event["body"]))
            for event in self.oracle.quiet()
            if event["event"] == "frame" and event["carrier"] == self.number and event["topic"] == topic.hex()
        ]

    def meet(self, topic: TopicId) -> None:
        """Become the oracle's neighbour."""
        self.send(topic, Join(self.data))
        self.expect(topic, Neighbor)


@pytest.fixture(scope="module")
def running() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.close()


@pytest.fixture
def topic(rng: Random) -> TopicId:
    return TopicId(rng.randbytes(32))


@pytest.fixture
def oracle(running: Oracle, topic: TopicId) -> Oracle:
    """Fresh nodes; the oracle has joined the topic."""
    running.start()
    running.do("subscribe", topic=topic.hex(), bootstrap=[])
    return running


@pytest.fixture
def carriers(oracle: Oracle) -> list[Carrier]:
    return oracle.carriers


def gossip(content: bytes, hops: int | None = 0) -> Gossip:
    return Gossip(message_id(content), content, hops)


# --- membership, message by message ----------------------------------------------------------------------


@pytest.mark.parametrize("with_data", [False, True])
def test_join(oracle: Oracle, carriers: list[Carrier], topic: TopicId, with_data: bool) -> None:
    a, *_ = carriers
    a.send(topic, Join(a.data if with_data else None))
    answer = a.expect(topic, Neighbor)
    assert answer.priority is Priority.HIGH
    assert answer.data is not None
    learned = decode_peer_data(answer.data)
    assert {address.host for address in learned.addresses} <= {"127.0.0.1", "::1"}
    assert encode_peer_data(learned.relay_url, learned.addresses) == answer.data
    oracle.heard(topic, "joined", peers=[a.id.hex()])


@pytest.mark.parametrize("priority", list(Priority))
def test_neighbor(oracle: Oracle, carriers: list[Carrier], topic: TopicId, priority: Priority) -> None:
    a, *_ = carriers
    a.send(topic, Neighbor(priority, None))
    a.expect(topic, Neighbor)
    a.send(topic, gossip(b"we are neighbours"))
    assert oracle.heard(topic, "received")["from"] == a.id.hex()


@pytest.mark.parametrize("ttl", [0, 1, 6, 300])
def test_forward_join_makes_it_dial_the_newcomer(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId, ttl: int
) -> None:
    """It has read the id, the address inside the peer data and the time to live."""
    a, b, _ = carriers
    a.meet(topic)
    a.send(topic, ForwardJoin(b.info, ttl))
    oracle.wait(event="opened", carrier=b.number, by="oracle")
    assert b.expect(topic, Neighbor).priority is Priority.HIGH


@pytest.mark.parametrize("count", [0, 1, 2])
def test_shuffle_is_answered_with_as_many_nodes_and_their_data_verbatim(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId, count: int
) -> None:
    a, b, c = carriers
    a.meet(topic)
    extra = b"\xe1\x53\x43 after the addresses"  # ignored and carried (gossip-wire.md section 1)
    nodes = (PeerInfo(b.id, b.data + extra), PeerInfo(c.id, None))[:count]
    a.send(topic, Shuffle(a.id, nodes, 0))
    reply = a.expect(topic, ShuffleReply)
    assert sorted(reply.nodes) == sorted(nodes)


def test_shuffle_of_another_origin_is_answered_to_the_origin(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId
) -> None:
    """It knows where the origin is from the node's own entry."""
    a, b, _ = carriers
    a.meet(topic)
    a.send(topic, Shuffle(b.id, (b.info,), 0))
    assert len(b.expect(topic, ShuffleReply).nodes) == 1


def test_shuffle_reply_tells_it_whom_to_ask_in_worse_times(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId
) -> None:
    a, b, _ = carriers
    a.meet(topic)
    a.send(topic, ShuffleReply((b.info,)), Disconnect(alive=False))
    assert b.expect(topic, Neighbor).priority is Priority.HIGH


@pytest.mark.parametrize("alive", [True, False])
def test_disconnect(oracle: Oracle, carriers: list[Carrier], topic: TopicId, alive: bool) -> None:
    a, *_ = carriers
    a.meet(topic)
    oracle.heard(topic, "joined")
    a.send(topic, Disconnect(alive))
    oracle.heard(topic, "neighbor_down", peer=a.id.hex())
    oracle.wait(event="closed", carrier=a.number)


# --- broadcast, message by message ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 127, 128, 200, MAX_CONTENT])
def test_gossip_is_delivered_and_passed_on_with_the_next_round(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId, size: int, rng: Random
) -> None:
    a, b, _ = carriers
    a.meet(topic)
    b.meet(topic)
    a.expect(topic, ForwardJoin)
    content = rng.randbytes(size)
    a.send(topic, gossip(content, 126))
    heard = oracle.heard(topic, "received")
    assert (heard["content"], heard["from"]) == (content.hex(), a.id.hex())
    assert b.expect(topic, Gossip) == gossip(content, 127)


def test_a_frame_above_the_limit_makes_it_deaf_for_the_connection(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId
) -> None:
    """Which is why ours never writes one. The limit is the frame's: 4097 bytes with the topic."""
    a, *_ = carriers
    a.meet(topic)
    a.send(topic, gossip(bytes(MAX_CONTENT + 2)), gossip(b"after"))
    assert not [event for event in oracle.quiet() if event.get("type") == "received"]
    oracle.publish(topic, b"but not mute")
    assert a.expect(topic, Gossip) == gossip(b"but not mute")


@pytest.mark.parametrize("hops", [0, 127, 128, 300, 16_383, 0xFFFE])
def test_rounds_of_every_length(oracle: Oracle, carriers: list[Carrier], topic: TopicId, hops: int) -> None:
    a, b, _ = carriers
    a.meet(topic)
    b.meet(topic)
    a.expect(topic, ForwardJoin)
    a.send(topic, gossip(b"far", hops))
    assert b.expect(topic, Gossip).round == hops + 1


def test_scope_neighbors_is_not_passed_on_and_not_deduplicated(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId
) -> None:
    a, b, _ = carriers
    a.meet(topic)
    b.meet(topic)
    for _ in range(2):
        a.send(topic, gossip(b"psst", None))
        oracle.heard(topic, "received", content=b"psst".hex())
    assert b.frames(topic) == []
    oracle.publish(topic, b"to my neighbours", "neighbors")
    assert b.expect(topic, Gossip) == gossip(b"to my neighbours", None)


def test_a_false_id_is_ignored(oracle: Oracle, carriers: list[Carrier], topic: TopicId) -> None:
    a, b, _ = carriers
    a.meet(topic)
    b.meet(topic)
    a.send(topic, Gossip(message_id(b"other"), b"false", 0), gossip(b"true"))
    assert oracle.heard(topic, "received")["content"] == b"true".hex()
    assert b.frames(topic) == [gossip(b"true", 1)]


def test_a_second_copy_is_answered_with_prune(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId
) -> None:
    a, b, _ = carriers
    a.meet(topic)
    b.meet(topic)
    a.expect(topic, ForwardJoin)
    a.send(topic, gossip(b"twice"))
    b.expect(topic, Gossip)
    b.send(topic, gossip(b"twice", 1))
    b.expect(topic, Prune)


def test_after_prune_it_announces_and_graft_fetches_the_payload(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId
) -> None:
    a, *_ = carriers
    a.meet(topic)
    a.send(topic, Prune(), gossip(b"now it has read that"))
    oracle.heard(topic, "received")
    oracle.publish(topic, b"lazily")
    assert a.expect(topic, IHave).items == ((message_id(b"lazily"), 0),)
    a.send(topic, Graft(message_id(b"lazily"), 0))  # as if the core had waited in vain
    assert a.expect(topic, Gossip) == gossip(b"lazily", 0)
    oracle.publish(topic, b"eager again")
    assert a.expect(topic, Gossip) == gossip(b"eager again", 0)


def test_graft_without_an_id_makes_the_link_eager(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId
) -> None:
    a, *_ = carriers
    a.meet(topic)
    a.send(topic, Prune(), Graft(None, 7), gossip(b"now it has read that"))
    oracle.heard(topic, "received")
    oracle.publish(topic, b"eager")
    assert a.expect(topic, Gossip) == gossip(b"eager", 0)


@pytest.mark.parametrize("hops", [0, 3, 130, 300])
def test_what_is_announced_and_does_not_come_is_asked_for(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId, hops: int
) -> None:
    a, *_ = carriers
    a.meet(topic)
    wanted = gossip(b"announced", hops)
    start = time.monotonic()
    a.send(topic, IHave(((wanted.id, hops), (message_id(b"also"), 0))))
    grafts = [a.expect(topic, Graft), a.expect(topic, Graft)]
    assert time.monotonic() - start > 0.07
    assert sorted(grafts) == sorted([Graft(wanted.id, hops), Graft(message_id(b"also"), 0)])
    a.send(topic, wanted)
    assert oracle.heard(topic, "received")["content"] == b"announced".hex()


def test_as_many_announcements_as_fit_a_frame(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId
) -> None:
    a, *_ = carriers
    a.meet(topic)
    names = [
        message_id(number.to_bytes(2, "big")) for number in range(115)
    ]  # 116 at /1: no topic in the frame
    a.send(topic, IHave(tuple((name, 200) for name in names)))
    assert {a.expect(topic, Graft).id for _ in names} == set(names)


def test_an_empty_announcement_and_what_follows_a_message_mean_nothing(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId
) -> None:
    """The carrier of extras of our own (gossip-wire.md section 1)."""
    a, *_ = carriers
    a.meet(topic)
    oracle.do("send", carrier=a.number, topic=topic.hex(), body=(encode(IHave(())) + b"\xe1SC extra").hex())
    oracle.do("send", carrier=a.number, topic=topic.hex(), body=(encode(gossip(b"on")) + b"extra").hex())
    assert oracle.heard(topic, "received")["content"] == b"on".hex()
    assert a.frames(topic) == []


def test_topics_it_has_not_joined_are_passed_over(
    oracle: Oracle, carriers: list[Carrier], topic: TopicId
) -> None:
    a, *_ = carriers
    a.send(TopicId(UNKNOWN), Join(a.data), gossip(b"lost"))
    a.meet(topic)
    assert a.frames(TopicId(UNKNOWN)) == []


# --- our core against it ----------------------------------------------------------------------------------

FAST = GossipConfig(membership=MembershipConfig(shuffle_interval_s=0.4))


class CoreNode:
    """Our production core behind a carrier; cores hand messages to one another without a network."""

    def __init__(
        self, carrier: Carrier, topic: TopicId, others: list[CoreNode], config: GossipConfig
    ) -> None:
        self.carrier, self.topic, self.others = carrier, topic, others
        self.core = GossipCore(carrier.id, Random(carrier.number), message_id, config)
        self.delivered: list[Delivered] = []
        self.ups: list[EndpointId] = []
        self.downs: list[tuple[EndpointId, DownReason]] = []
        self.sent: Counter[str] = Counter()
        self.got: Counter[str] = Counter()
        others.append(self)
        self.handle(SetOwnData(carrier.data))

    def handle(self, event: GossipInput) -> None:
        self._perform(self.core.handle(event, time.monotonic()))

    def tick(self) -> None:
        self._perform(self.core.on_deadline(time.monotonic()))

    def take(self, peer: EndpointId, message: GossipMessage) -> None:
        self.got[type(message).__name__] += 1
        self.handle(Received(peer, self.topic, message))

    def _perform(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Send(to, topic_id, message):
                    for peer in to:
                        self._send(peer, topic_id, message)
                case Delivered():
                    self.delivered.append(effect)
                case NeighborUp(_, peer):
                    self.ups.append(peer)
                case NeighborDown(_, peer, reason):
                    self.downs.append((peer, reason))
                case ClosePeer(peer) if peer == self.carrier.oracle.id:
                    self.carrier.oracle.do("hang_up", carrier=self.carrier.number)

    def _send(self, peer: EndpointId, topic_id: TopicId, message: GossipMessage) -> None:
        self.sent[type(message).__name__] += 1
        for other in self.others:
            if other.carrier.id == peer:
                other.take(self.carrier.id, message)
                return
        assert peer == self.carrier.oracle.id
        self.carrier.send(topic_id, message)

    @property
    def contents(self) -> list[bytes]:
        return [message.content for message in self.delivered]

    def broadcast(self, content: bytes, *, neighbors_only: bool = False) -> None:
        self.handle(Broadcast(self.topic, content, message_id(content), neighbors_only))


def pump(cores: list[CoreNode], until: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    """Let the cores and the oracle talk until the condition holds; what it tells its host goes to `told`."""
    oracle = cores[0].carrier.oracle
    by_number = {core.carrier.number: core for core in cores}
    give_up_at = time.monotonic() + within_s
    while not until():
        now = time.monotonic()
        assert now < give_up_at, "it never came true"
        for core in cores:
            if now >= core.core.deadline():
                core.tick()
        wake_at = min([give_up_at, *(core.core.deadline() for core in cores)])
        event = oracle.next(min(0.05, wake_at - time.monotonic()))
        if event is None:
            continue
        core = by_number.get(event.get("carrier", -1))
        if event["event"] == "frame" and core:
            core.take(oracle.id, decode(bytes.fromhex(event["body"])))
        elif event["event"] == "closed" and core:
            core.handle(PeerDisconnected(oracle.id))
        elif event["event"] == "heard":
            told.append(event)


told: list[Event] = []  # everything the oracle told its host during the test


@pytest.fixture
def cores(oracle: Oracle, topic: TopicId) -> list[CoreNode]:
    told.clear()
    made: list[CoreNode] = []
    for carrier in oracle.carriers:
        CoreNode(carrier, topic, made, replace(FAST))
    return made


def oracle_received() -> list[bytes]:
    return [bytes.fromhex(event["content"]) for event in told if event["type"] == "received"]


def join(core: CoreNode) -> None:
    oracle = core.carrier.oracle
    core.handle(JoinTopic(core.topic, (oracle.id,)))
    pump(core.others, lambda: oracle.id in core.ups)


def test_our_core_joins_talks_and_leaves(oracle: Oracle, cores: list[CoreNode]) -> None:
    a = cores[0]
    join(a)
    sizes = [0, 200, MAX_CONTENT]
    for size in sizes:
        a.broadcast(b"a" * size)
        if size:  # of equal contents a node takes only one
            oracle.publish(a.topic, b"o" * size)
    pump(cores, lambda: len(oracle_received()) == 3 and len(a.delivered) == 2)
    assert oracle_received() == [b"a" * size for size in sizes]
    assert a.contents == [b"o" * 200, b"o" * MAX_CONTENT]
    a.broadcast(b"psst", neighbors_only=True)
    oracle.publish(a.topic, b"psst too", "neighbors")
    pump(cores, lambda: oracle_received()[-1:] == [b"psst"] and a.contents[-1:] == [b"psst too"])
    assert a.delivered[-1].round is None
    a.handle(QuitTopic(a.topic))
    pump(cores, lambda: told[-1]["type"] == "neighbor_down")


def test_three_cores_and_the_oracle_hear_each_other_exactly_once(
    oracle: Oracle, cores: list[CoreNode]
) -> None:
    for core in cores:
        join(core)
    pump(cores, lambda: all(len(core.core.neighbors(core.topic)) == 3 for core in cores))
    sent: dict[str, list[bytes]] = {"oracle": [], **{str(n): [] for n in range(CARRIERS)}}
    for number in range(20):
        for n, core in enumerate(cores):
            sent[str(n)].append(b"%d of %d" % (number, n))
            core.broadcast(sent[str(n)][-1])
        sent["oracle"].append(b"%d of the oracle" % number)
        oracle.publish(cores[0].topic, sent["oracle"][-1])
        pump(cores, lambda: len(oracle_received()) == 3 * (number + 1))  # noqa: B023 - asked at once
    pump(cores, lambda: all(len(core.delivered) == 60 for core in cores))
    everything = Counter(content for contents in sent.values() for content in contents)
    assert Counter(oracle_received()) == everything - Counter(sent["oracle"])
    for n, core in enumerate(cores):
        assert Counter(core.contents) == everything - Counter(sent[str(n)])
    assert sum(core.got["Prune"] + core.sent["Prune"] for core in cores), "the links were thinned out"
    assert not any(core.downs for core in cores)


def test_what_the_oracle_only_announces_our_core_asks_for(oracle: Oracle, cores: list[CoreNode]) -> None:
    a = cores[0]
    join(a)
    a.carrier.send(a.topic, Prune(), gossip(b"now it has read that"))
    oracle.heard(a.topic, "received")
    oracle.publish(a.topic, b"lazily")
    pump(cores, lambda: a.contents == [b"lazily"])
    assert (a.got["IHave"], a.sent["Graft"], a.got["Gossip"]) == (1, 1, 1)


def test_what_our_core_only_announces_the_oracle_asks_for(oracle: Oracle, cores: list[CoreNode]) -> None:
    a = cores[0]
    join(a)
    a.handle(Received(oracle.id, a.topic, Prune()))
    a.broadcast(b"lazily")
    pump(cores, lambda: oracle_received() == [b"lazily"])
    assert (a.sent["IHave"], a.got["Graft"], a.sent["Gossip"]) == (1, 1, 1)


def test_our_shuffle_is_answered(oracle: Oracle, cores: list[CoreNode]) -> None:
    a = cores[0]
    join(a)
    pump(cores, lambda: a.got["ShuffleReply"] == 2)
    assert a.sent["Shuffle"] >= 2
    assert not a.downs


def test_whom_our_core_turns_away_is_told_and_stays_in_the_topic(
    oracle: Oracle, cores: list[CoreNode]
) -> None:
    a, b, _ = cores
    join(a)
    join(b)
    pump(cores, lambda: b.carrier.id in a.ups)
    a.handle(SetBlocked((oracle.id,)))
    pump(cores, lambda: any(e["type"] == "neighbor_down" and e["peer"] == a.carrier.id.hex() for e in told))
    assert (oracle.id, DownReason.EVICTED) in a.downs
    b.broadcast(b"still here")
    pump(cores, lambda: oracle_received() == [b"still here"] and a.contents == [b"still here"])


def test_the_oracle_goes(oracle: Oracle, cores: list[CoreNode]) -> None:
    a = cores[0]
    join(a)
    oracle.do("shut_down")
    pump(cores, lambda: bool(a.downs))
    assert a.downs == [(oracle.id, DownReason.CONNECTION_LOST)]
