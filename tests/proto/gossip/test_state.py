from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip_script import OTHER_TOPIC, TOPIC, digest, message_id, of_type, peer_id, peers, sent_to
from kukuri_sidecar.errors import LocalProtocolError
from kukuri_sidecar.proto.core import Core
from kukuri_sidecar.proto.gossip.config import UPSTREAM, BroadcastConfig, GossipConfig
from kukuri_sidecar.proto.gossip.events import (
    Broadcast,
    ClosePeer,
    Delivered,
    DownReason,
    DropPeer,
    GossipEffect,
    GossipInput,
    JoinTopic,
    NeighborDown,
    NeighborUp,
    NetworkChanged,
    PeerDisconnected,
    PeersDiscovered,
    QuitTopic,
    Received,
    Send,
    SetBlocked,
    SetOwnData,
    SetPinned,
)
from kukuri_sidecar.proto.gossip.state import GossipCore
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
    encode,
)
from kukuri_sidecar.wire.ids import MessageId, TopicId

ME = 0
LOW = Priority.LOW


def new_core(config: GossipConfig | None = None, seed: int = 1, **keywords: Any) -> GossipCore:
    return GossipCore(peer_id(ME), Random(seed), digest, config, **keywords)


def joined(*topics: TopicId, config: GossipConfig | None = None) -> GossipCore:
    core = new_core(config)
    for topic in topics or (TOPIC,):
        core.handle(JoinTopic(topic), 0.0)
    return core


def got(
    core: GossipCore, number: int, message: GossipMessage, now: float = 0.0, topic: TopicId = TOPIC
) -> list[GossipEffect]:
    return core.handle(Received(peer_id(number), topic, message), now)


def broadcast(content: bytes, topic: TopicId = TOPIC) -> Broadcast:
    return Broadcast(topic, content, message_id(content))


def test_the_core_has_the_shape_of_all_cores() -> None:
    core: Core[GossipInput, GossipEffect] = new_core()
    assert core.deadline() == float("inf")


def test_joining_asks_the_bootstrap_peers_and_joining_again_extends() -> None:
    core = new_core()
    core.handle(SetOwnData(b"here"), 0.0)
    assert core.handle(JoinTopic(TOPIC, peers([1])), 0.0) == [Send(peers([1]), TOPIC, Join(b"here"))]
    assert core.handle(JoinTopic(TOPIC, peers([2])), 0.0) == [Send(peers([2]), TOPIC, Join(b"here"))]
    assert core.handle(JoinTopic(TOPIC), 0.0) == []
    assert core.topics() == (TOPIC,)


def test_a_message_travels_from_neighbor_to_neighbor() -> None:
    core = joined()
    got(core, 1, Join(None))
    got(core, 2, Join(None))
    effects = got(core, 1, Gossip(message_id(b"hi"), b"hi", 0))
    assert sent_to(effects, 2) == [Gossip(message_id(b"hi"), b"hi", 1)]
    assert of_type(effects, Delivered) == [Delivered(TOPIC, message_id(b"hi"), b"hi", peer_id(1), 0)]
    assert core.neighbors(TOPIC) == peers([1, 2])


def test_neighbors_are_exactly_the_eager_and_lazy_peers() -> None:
    core = joined()
    got(core, 1, Join(None))
    got(core, 2, Join(None))
    got(core, 2, Prune())
    view = core.view(TOPIC)
    assert view is not None
    assert (view.neighbors, view.eager, view.lazy) == (peers([1, 2]), peers([1]), peers([2]))
    core.handle(PeerDisconnected(peer_id(2)), 0.0)
    view = core.view(TOPIC)
    assert view is not None
    assert (view.neighbors, view.lazy) == (peers([1]), ())


def test_topics_do_not_mix() -> None:
    core = joined(TOPIC, OTHER_TOPIC)
    got(core, 1, Join(None))
    got(core, 2, Join(None), topic=OTHER_TOPIC)
    assert core.neighbors(OTHER_TOPIC) == peers([2])
    for topic in (TOPIC, OTHER_TOPIC):
        hi = Gossip(message_id(b"hi"), b"hi", 0)
        assert [e.topic_id for e in of_type(got(core, 1, hi, topic=topic), Delivered)] == [topic]


def test_a_topic_that_is_not_joined_is_silence() -> None:
    """As upstream: no answer, not even to a Join."""
    core = joined()
    assert got(core, 1, Join(None), topic=OTHER_TOPIC) == []
    assert core.ignored == 1
    assert core.view(OTHER_TOPIC) is None
    assert core.neighbors(OTHER_TOPIC) == ()


def test_what_comes_from_ourselves_is_ignored() -> None:
    assert got(joined(), ME, Join(None)) == []


# --- connections ------------------------------------------------------------------------------------------


def test_a_connection_is_closed_when_the_last_topic_drops_it() -> None:
    """U5: upstream drops the peer for all topics when one topic drops it."""
    core = joined(TOPIC, OTHER_TOPIC)
    got(core, 1, Join(None))
    got(core, 1, Join(None), topic=OTHER_TOPIC)
    effects = got(core, 1, Disconnect(alive=True))
    assert of_type(effects, DropPeer) == [DropPeer(peer_id(1), TOPIC)]
    assert of_type(effects, ClosePeer) == []
    effects = got(core, 1, Disconnect(alive=True), topic=OTHER_TOPIC)
    assert of_type(effects, ClosePeer) == [ClosePeer(peer_id(1))]


def test_a_stranger_in_one_topic_may_be_wanted_in_another() -> None:
    core = joined(TOPIC, OTHER_TOPIC)
    core.handle(JoinTopic(OTHER_TOPIC, peers([1])), 0.0)
    effects = got(core, 1, ShuffleReply(()))
    assert of_type(effects, DropPeer) == [DropPeer(peer_id(1), TOPIC)]
    assert of_type(effects, ClosePeer) == []
    assert core.needs(peer_id(1))


def test_closing_comes_after_everything_that_is_sent() -> None:
    core = joined()
    for number in (1, 2, 3, 4, 5):
        got(core, number, Neighbor(LOW, None))
    effects = got(core, 9, Neighbor(LOW, None))
    assert [type(e) for e in effects] == [Send, Send, DropPeer, ClosePeer]


def test_leaving_says_goodbye_and_closes() -> None:
    core = joined(TOPIC, OTHER_TOPIC)
    got(core, 1, Join(None))
    got(core, 2, Join(None))
    got(core, 2, Join(None), topic=OTHER_TOPIC)
    effects = core.handle(QuitTopic(TOPIC), 0.0)
    assert sent_to(effects, 1)[-1] == Disconnect(alive=False)
    assert {(e.peer, e.reason) for e in of_type(effects, NeighborDown)} == {
        (peer_id(1), DownReason.LOCAL),
        (peer_id(2), DownReason.LOCAL),
    }
    assert of_type(effects, ClosePeer) == [ClosePeer(peer_id(1))]
    assert core.topics() == (OTHER_TOPIC,)
    assert core.handle(QuitTopic(TOPIC), 0.0) == []


def test_a_lost_connection_counts_in_every_topic() -> None:
    core = joined(TOPIC, OTHER_TOPIC)
    got(core, 1, Join(None))
    got(core, 1, Join(None), topic=OTHER_TOPIC)
    effects = core.handle(PeerDisconnected(peer_id(1)), 0.0)
    assert [e.topic_id for e in of_type(effects, NeighborDown)] == [TOPIC, OTHER_TOPIC]
    assert not core.needs(peer_id(1))


# --- policy -----------------------------------------------------------------------------------------------


def test_a_blocked_peer_is_dropped_and_not_heard() -> None:
    core = joined()
    got(core, 1, Join(None))
    effects = core.handle(SetBlocked(peers([1])), 0.0)
    assert [e.reason for e in of_type(effects, NeighborDown)] == [DownReason.EVICTED]
    assert of_type(effects, ClosePeer) == [ClosePeer(peer_id(1))]
    assert got(core, 1, Join(None)) == []
    core.handle(SetBlocked(()), 0.0)
    assert len(of_type(got(core, 1, Join(None)), NeighborUp)) == 1


def test_pinned_peers_survive_a_join_flood() -> None:
    core = joined()
    got(core, 1, Join(None))
    core.handle(SetPinned(peers([1])), 0.0)
    for number in range(10, 60):
        got(core, number, Join(None))
    assert peer_id(1) in core.neighbors(TOPIC)


@pytest.mark.parametrize(
    "event",
    [
        broadcast(b"hi", OTHER_TOPIC),
        broadcast(b"x" * 4_058),
        SetOwnData(b"x" * 257),
        SetPinned(peers(range(65))),
        SetBlocked(peers(range(1_025))),
    ],
    ids=lambda event: type(event).__name__,
)
def test_misuse_is_loud(event: GossipInput) -> None:
    with pytest.raises(LocalProtocolError):
        joined().handle(event, 0.0)


@pytest.mark.parametrize(
    "event",
    [
        broadcast(b"x" * 4_057),
        SetOwnData(b"x" * 256),
        SetPinned(peers(range(64))),
        SetBlocked(peers(range(1_024))),
    ],
    ids=lambda event: type(event).__name__,
)
def test_at_the_limit_all_is_well(event: GossipInput) -> None:
    joined().handle(event, 0.0)


def test_a_frame_limit_below_upstreams_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        GossipConfig(max_message_bytes=511)
    GossipConfig(max_message_bytes=512)


def test_a_topic_may_have_its_own_frame_limit() -> None:
    core = new_core()
    core.handle(JoinTopic(TOPIC, max_message_bytes=512), 0.0)
    with pytest.raises(LocalProtocolError):
        core.handle(broadcast(b"x" * 474), 0.0)
    core.handle(broadcast(b"x" * 473), 0.0)


def test_the_owner_may_refuse_messages() -> None:
    core = new_core(accept=lambda topic, sender, content, now: content != b"bad")
    core.handle(JoinTopic(TOPIC), 0.0)
    got(core, 1, Join(None))
    got(core, 2, Join(None))
    assert got(core, 1, Gossip(message_id(b"bad"), b"bad", 0)) == []
    assert len(got(core, 1, Gossip(message_id(b"good"), b"good", 0))) == 2


# --- time and memory --------------------------------------------------------------------------------------


def test_payloads_and_ids_are_forgotten_in_time_and_an_idle_topic_sleeps() -> None:
    core = joined()
    got(core, 1, Neighbor(LOW, None))
    core.handle(broadcast(b"hi"), 100.0)
    assert core.cached_bytes() == 2
    ticks = []
    while core.deadline() < 200.0:
        ticks.append(core.deadline())
        core.on_deadline(ticks[-1])
    assert core.cached_bytes() == 0
    assert len(of_type(core.handle(broadcast(b"hi"), 200.0), Send)) == 1  # new again
    assert len(ticks) < 25  # an idle topic does not tick every second


@pytest.mark.parametrize("count", [9, 10, 11])
def test_remembered_ids_are_bounded_over_all_topics(count: int) -> None:
    config = GossipConfig(broadcast=replace(BroadcastConfig(), max_seen=10))
    core = joined(TOPIC, OTHER_TOPIC, config=config)
    core.handle(broadcast(b"only", OTHER_TOPIC), 0.0)
    for i in range(count - 1):
        core.handle(broadcast(b"%d" % i), 0.0)
    core.on_deadline(1.5)
    got(core, 1, Neighbor(LOW, None), 2.0)
    first_again = of_type(core.handle(broadcast(b"0"), 2.0), Send)
    assert bool(first_again) is (count > 10)  # the larger topic lost its oldest
    assert core.handle(broadcast(b"only", OTHER_TOPIC), 2.0) == []


def test_a_left_topic_gives_its_budgets_back() -> None:
    core = joined()
    got(core, 1, Neighbor(LOW, None))
    got(core, 1, IHave(tuple((message_id(b"%d" % i), 0) for i in range(50))))
    core.handle(broadcast(b"hi"), 0.0)
    core.handle(QuitTopic(TOPIC), 0.0)
    assert core._missing_total.used == 0
    core.on_deadline(31.0)
    assert core.cached_bytes() == 0


# --- properties -------------------------------------------------------------------------------------------

CONTENTS = [b"c%d" % i for i in range(8)]
IDS = [message_id(content) for content in CONTENTS] + [MessageId(bytes([i]) * 32) for i in range(4)]
TOPICS = [TOPIC, OTHER_TOPIC]

some_peer = st.integers(0, 14).map(peer_id)
some_data = st.sampled_from([None, b"", b"data", b"x" * 1_024, b"x" * 1_025])
some_info = st.builds(PeerInfo, some_peer, some_data)
some_infos = st.lists(some_info, max_size=20).map(tuple)
some_ttl = st.sampled_from([0, 1, 2, 3, 4, 6, 7, 65_535])
some_hops = st.sampled_from([0, 1, 5, 9, 65_535])
some_message = st.one_of(
    st.builds(Join, some_data),
    st.builds(ForwardJoin, some_info, some_ttl),
    st.builds(Shuffle, some_peer, some_infos, some_ttl),
    st.builds(ShuffleReply, some_infos),
    st.builds(Neighbor, st.sampled_from(Priority), some_data),
    st.builds(Disconnect, st.booleans(), st.booleans()),
    st.builds(Gossip, st.sampled_from(IDS), st.sampled_from(CONTENTS), st.one_of(st.none(), some_hops)),
    st.just(Prune()),
    st.builds(Graft, st.one_of(st.none(), st.sampled_from(IDS)), some_hops),
    st.lists(st.tuples(st.sampled_from(IDS), some_hops), max_size=130).map(lambda items: IHave(tuple(items))),
)
some_topic = st.sampled_from(TOPICS)
some_event = st.one_of(
    st.builds(JoinTopic, some_topic, st.lists(some_peer, max_size=4).map(tuple)),
    st.builds(QuitTopic, some_topic),
    st.builds(PeerDisconnected, some_peer),
    st.builds(SetBlocked, st.lists(some_peer, max_size=2).map(tuple)),
    st.builds(SetPinned, st.lists(some_peer, max_size=6).map(tuple)),
    st.builds(SetOwnData, st.sampled_from([b"", b"a", b"x" * 256])),
    st.builds(PeersDiscovered, some_topic, st.lists(some_peer, max_size=4).map(tuple)),
    st.builds(NetworkChanged),
    st.sampled_from(CONTENTS).map(lambda content: broadcast(content)),
    *[st.builds(Received, some_peer, some_topic, some_message)] * 6,
)
some_pause = st.sampled_from([0.0, 0.001, 0.005, 0.1, 0.5, 3.0, 30.0])
some_history = st.lists(st.tuples(some_event, some_pause, st.booleans()), max_size=60)


def replay(history: list[tuple[GossipInput, float, bool]], config: GossipConfig) -> list[list[GossipEffect]]:
    """Feed a history into a fresh core, checking after every step; return all effects."""
    core = new_core(config)
    core.handle(JoinTopic(TOPIC), 0.0)
    neighbors: dict[TopicId, set[object]] = {topic: set() for topic in TOPICS}
    now, steps = 0.0, []

    def take(effects: list[GossipEffect]) -> None:
        steps.append(effects)
        for effect in effects:
            if isinstance(effect, NeighborUp):
                assert effect.peer not in neighbors[effect.topic_id]
                neighbors[effect.topic_id].add(effect.peer)
            elif isinstance(effect, NeighborDown):
                neighbors[effect.topic_id].remove(effect.peer)
            elif isinstance(effect, Send):
                assert effect.to
                assert len(set(effect.to)) == len(effect.to)
                assert peer_id(ME) not in effect.to
                assert len(encode(effect.message)) < config.max_message_bytes
            elif isinstance(effect, ClosePeer):
                assert not core.needs(effect.peer)
        for topic in core.topics():
            check_topic(core, topic, config)
            assert set(core.neighbors(topic)) == neighbors[topic]

    for event, pause, is_late in history:
        if isinstance(event, Broadcast) and event.topic_id not in core.topics():
            continue
        take(core.handle(event, now))
        end = now + pause
        while core.deadline() <= end:
            now = end if is_late else max(now, core.deadline())
            take(core.on_deadline(now))
            assert core.deadline() > now
        now = end
    return steps


def check_topic(core: GossipCore, topic: TopicId, config: GossipConfig) -> None:
    view = core.view(topic)
    assert view is not None
    membership = config.membership
    assert len(view.neighbors) <= membership.active_view
    assert len(view.passive) <= membership.passive_view
    assert len(view.pending) <= membership.max_pending
    assert peer_id(ME) not in (*view.neighbors, *view.passive, *view.pending)
    assert not set(view.neighbors) & set(view.passive)
    assert set(view.eager) | set(view.lazy) == set(view.neighbors)
    assert not set(view.eager) & set(view.lazy)
    assert set(view.chosen) <= set(view.neighbors)
    blocked = core._policy.blocked
    assert not set(blocked) & {*view.neighbors, *view.passive, *view.pending}
    tree = core._topics[topic].tree
    state = core._topics[topic].membership
    assert set(state._peer_data) <= {*view.neighbors, *view.passive, *view.pending, *state._holds}
    assert sum(tree._in_flight.values()) == sum(m.asked is not None for m in tree._missing.values())
    assert core._missing_total.used == sum(len(t.tree._missing) for t in core._topics.values())


@given(history=some_history)
@settings(max_examples=150, deadline=None)
def test_any_history_keeps_the_invariants(history: list[tuple[GossipInput, float, bool]]) -> None:
    """Views within capacity, never ourselves, neighbors reported exactly, deadlines in the future."""
    replay(history, GossipConfig())


@given(history=some_history)
@settings(max_examples=50, deadline=None)
def test_upstreams_policy_keeps_the_invariants_too(history: list[tuple[GossipInput, float, bool]]) -> None:
    replay(history, UPSTREAM)


@given(history=some_history)
@settings(max_examples=50, deadline=None)
def test_the_same_history_gives_the_same_effects(history: list[tuple[GossipInput, float, bool]]) -> None:
    assert replay(history, GossipConfig()) == replay(history, GossipConfig())
