from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest

from gossip_script import TOPIC, digest, message_id, of_type, peer_id, peers, sent_to
from kukuri_sidecar.proto.gossip.config import GossipConfig, ProbeConfig
from kukuri_sidecar.proto.gossip.events import (
    Broadcast,
    ClosePeer,
    Delivered,
    GossipEffect,
    GossipInput,
    JoinTopic,
    NetworkChanged,
    PeerDataLearned,
    PeerDisconnected,
    PeersDiscovered,
    Received,
    Send,
    SetBlocked,
)
from kukuri_sidecar.proto.gossip.state import GossipCore
from kukuri_sidecar.wire.gossip_messages import (
    Disconnect,
    Gossip,
    GossipMessage,
    Graft,
    IHave,
    Join,
    Neighbor,
    Priority,
    Prune,
)

LOW = Priority.LOW
HI = message_id(b"hi")


class Script:
    """A core in one topic with time that passes; ``lost`` peers are remembered but in no view."""

    def __init__(
        self, config: ProbeConfig | None = None, *, neighbors: Iterable[int] = (), lost: Iterable[int] = ()
    ) -> None:
        self.now = 0.0
        self.core = GossipCore(peer_id(0), Random(1), digest, GossipConfig(probe=config or ProbeConfig()))
        self.give(JoinTopic(TOPIC))
        for number in lost:
            self.got(number, Neighbor(LOW, b"at %d" % number))
            self.give(PeerDisconnected(peer_id(number)))
        for number in neighbors:
            self.got(number, Neighbor(LOW, None))

    def give(self, event: GossipInput) -> list[GossipEffect]:
        return self.core.handle(event, self.now)

    def got(self, number: int, message: GossipMessage) -> list[GossipEffect]:
        return self.give(Received(peer_id(number), TOPIC, message))

    def publish(self, content: bytes = b"hi") -> list[GossipEffect]:
        return self.give(Broadcast(TOPIC, content, message_id(content)))

    def wait(self, seconds: float) -> list[GossipEffect]:
        """Let time pass deadline by deadline; return all that came out."""
        end, out = self.now + seconds, []
        while self.core.deadline() <= end:
            self.now = self.core.deadline()
            out += self.core.on_deadline(self.now)
            assert self.core.deadline() > self.now
        self.now = end
        return out

    def probes(self, seconds: float) -> list[tuple[int, GossipMessage]]:
        """Let time pass; return what went to peers that are no neighbors."""
        neighbors = self.core.neighbors(TOPIC)
        sends = of_type(self.wait(seconds), Send)
        return [(int.from_bytes(p), s.message) for s in sends for p in s.to if p not in neighbors]


def test_a_settled_message_is_announced_to_a_peer_outside_the_view_every_twenty_seconds() -> None:
    script = Script(neighbors=[1, 2, 3], lost=[9])
    script.publish()
    probes = script.probes(70.0)
    assert set(probes) == {(9, IHave(((HI, 1),)))}
    assert 2 <= len(probes) <= 4


def test_the_probed_peers_connection_is_given_back() -> None:
    script = Script(neighbors=[1, 2, 3], lost=[9])
    script.publish()
    effects = script.wait(40.0)
    assert ClosePeer(peer_id(9)) in effects


def test_without_messages_and_with_enough_neighbors_nobody_is_probed() -> None:
    script = Script(neighbors=[1, 2, 3], lost=[9])
    assert script.probes(300.0) == []


def test_without_the_probe_nobody_is_probed() -> None:
    script = Script(ProbeConfig(enabled=False), neighbors=[1], lost=[9])
    script.publish()
    assert script.probes(300.0) == []


@pytest.mark.parametrize(
    ("age", "is_told"), [(2.999, False), (3.0, True), (79.999, True), (80.0, False), (80.001, False)]
)
def test_messages_are_announced_between_three_and_eighty_seconds_of_age(age: float, *, is_told: bool) -> None:
    """Younger ones may still be on their way; of older ones a peer that had them has forgotten the id."""
    script = Script(neighbors=[1, 2, 3], lost=[9])
    script.publish()
    probe = script.core._topics[TOPIC].probe
    out: list[GossipEffect] = []
    probe.on_deadline(age, script.core._topics[TOPIC].membership, out)
    assert bool(sent_to(out, 9)) is is_told


def test_the_latest_settled_message_is_announced() -> None:
    script = Script(neighbors=[1, 2, 3], lost=[9])
    script.publish(b"old")
    script.wait(1.5)
    script.publish(b"hi")
    script.wait(2.0)
    script.publish(b"new")
    probe = script.core._topics[TOPIC].probe
    out: list[GossipEffect] = []
    probe.on_deadline(5.0, script.core._topics[TOPIC].membership, out)
    assert sent_to(out, 9) == [IHave(((HI, 1),))]


def test_who_asks_gets_the_payload_and_our_join() -> None:
    script = Script(neighbors=[1, 2, 3], lost=[9])
    script.publish()
    while not script.probes(1.0):
        pass
    assert sent_to(script.got(9, Graft(HI, 1)), 9) == [Gossip(HI, b"hi", 0), Join(None)]
    effects = script.got(9, Neighbor(Priority.HIGH, None))
    assert peer_id(9) in script.core.neighbors(TOPIC)
    assert of_type(effects, ClosePeer) == []


def test_only_an_answer_to_our_probe_is_a_reason_to_join() -> None:
    script = Script(neighbors=[1, 2, 3], lost=[9])
    script.publish()
    assert sent_to(script.got(9, Graft(HI, 1)), 9) == [Gossip(HI, b"hi", 0)]
    while not script.probes(1.0):
        pass
    assert sent_to(script.got(9, Graft(message_id(b"other"), 1)), 9) == []
    assert sent_to(script.got(8, Graft(HI, 1)), 8) == [Gossip(HI, b"hi", 0)]


@pytest.mark.parametrize(("pause", "joins"), [(4.999, 1), (5.0, 2), (5.001, 2)])
def test_healing_joins_once_in_five_seconds(pause: float, joins: int) -> None:
    """Two nodes with plain random identities would otherwise join half a swarm at once."""
    script = Script(neighbors=[1, 2, 3], lost=[8, 9])
    script.publish()
    topic = script.core._topics[TOPIC]
    count = 0
    for number, now in ((8, 10.0), (9, 10.0 + pause)):
        topic.probe._probed[peer_id(number)] = HI
        count += topic.probe.grafted(peer_id(number), HI, topic.membership, now)
    assert count == joins


def test_a_stranger_that_probes_us_is_asked_for_what_we_miss() -> None:
    """The other half of the probe: what upstream's nodes do, too."""
    script = Script(neighbors=[1, 2, 3])
    script.got(9, IHave(((HI, 1),)))
    assert sent_to(script.wait(1.0), 9)[0] == Graft(HI, 1)
    effects = script.got(9, Gossip(HI, b"hi", 0))
    assert len(of_type(effects, Delivered)) == 1


def test_a_quiet_topic_with_few_neighbors_joins_a_remembered_peer_once_a_minute() -> None:
    script = Script(neighbors=[1, 2], lost=[9])
    joins = script.probes(200.0)
    assert set(joins) == {(9, Join(None))}
    assert 2 <= len(joins) <= 4


def test_a_lonely_peer_looks_for_company_at_once_and_again_and_again() -> None:
    script = Script(neighbors=[1], lost=[8, 9])
    script.publish()
    script.give(PeerDisconnected(peer_id(1)))
    assert {m for _, m in script.probes(1.5)} == {Join(None)}
    assert len(script.probes(30.0)) >= 3


def test_a_changed_network_is_a_reason_to_look() -> None:
    script = Script(neighbors=[1, 2, 3, 4, 5], lost=[9])
    script.wait(100.0)
    script.give(NetworkChanged())
    assert script.probes(1.0) == [(9, Join(None))]
    assert script.probes(100.0) == []


def test_the_driver_is_told_again_where_a_remembered_peer_was() -> None:
    script = Script(neighbors=[1, 2, 3], lost=[9])
    script.publish()
    effects = script.wait(30.0)
    assert PeerDataLearned(peer_id(9), b"at 9") in effects


def test_peers_of_discovery_are_candidates() -> None:
    script = Script(neighbors=[1, 2, 3])
    script.give(PeersDiscovered(TOPIC, peers([0, 1, 7])))
    script.publish()
    assert {n for n, _ in script.probes(60.0)} == {7}


def test_a_peer_that_left_or_is_blocked_is_not_looked_for() -> None:
    script = Script(neighbors=[1, 2, 3, 8], lost=[9])
    script.got(8, Disconnect(alive=False))
    script.give(SetBlocked(peers([9])))
    script.publish()
    assert script.probes(100.0) == []


@pytest.mark.parametrize("count", [255, 256, 257])
def test_remembered_peers_are_bounded(count: int) -> None:
    script = Script(lost=range(1, count + 1))
    members = script.core._topics[TOPIC].probe._members
    assert len(members) == min(count, 256)
    assert peer_id(count) in members  # the oldest went


@pytest.mark.parametrize("count", [63, 64, 65])
def test_discovered_peers_are_bounded(count: int) -> None:
    script = Script()
    script.give(PeersDiscovered(TOPIC, peers(range(1, count + 1))))
    assert len(script.core._topics[TOPIC].probe._discovered) == min(count, 64)


def test_one_message_a_second_is_remembered_for_probes() -> None:
    script = Script(neighbors=[1, 2, 3])
    for i in range(2_000):
        script.publish(b"%d" % i)
        script.wait(0.1)
    assert len(script.core._topics[TOPIC].probe._messages) <= 82


def test_probes_in_flight_are_bounded() -> None:
    script = Script(replace(ProbeConfig(), interval_s=0.5), neighbors=[1, 2, 3], lost=range(10, 60))
    for i in range(10):
        script.publish(b"%d" % i)
        script.wait(4.0)
    assert len(script.core._topics[TOPIC].probe._probed) == 16


def test_false_payloads_are_no_probes() -> None:
    script = Script(neighbors=[1, 2, 3], lost=[9])
    script.got(1, Gossip(HI, b"not hi", 0))
    script.got(1, Prune())
    assert script.probes(100.0) == []
