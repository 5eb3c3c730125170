from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

import pytest

from gossip_script import TOPIC, of_type, peer_id, peers, sent_to
from kukuri_sidecar.proto.gossip.config import MembershipConfig
from kukuri_sidecar.proto.gossip.events import (
    DownReason,
    DropPeer,
    GossipEffect,
    NeighborDown,
    NeighborUp,
    PeerDataLearned,
    Send,
)
from kukuri_sidecar.proto.gossip.hyparview import HyParView, SwarmMessage
from kukuri_sidecar.proto.gossip.limits import PeerPolicy, TopicCounters
from kukuri_sidecar.wire.gossip_messages import (
    Disconnect,
    ForwardJoin,
    Join,
    Neighbor,
    PeerInfo,
    Priority,
    Shuffle,
    ShuffleReply,
    encode,
)
from kukuri_sidecar.wire.ids import EndpointId

HIGH, LOW = Priority.HIGH, Priority.LOW
ME = 0
OUR_DATA = b"here"


class Script:
    """HyParView of peer 0, driven by peer numbers."""

    def __init__(self, config: MembershipConfig | None = None, *, active: Iterable[int] = ()) -> None:
        self.policy = PeerPolicy({}, {})
        self.counters = TopicCounters()
        self.state = HyParView(
            peer_id(ME),
            TOPIC,
            config or MembershipConfig(),
            Random(1),
            own_data=OUR_DATA,
            policy=self.policy,
            counters=self.counters,
            max_message_bytes=4_096,
            now=0.0,
        )
        for number in active:
            self.got(number, Neighbor(LOW, None), now=-100.0)  # long ago: no answer is fresh

    def got(self, number: int, message: SwarmMessage, now: float = 0.0) -> list[GossipEffect]:
        out: list[GossipEffect] = []
        self.state.received(peer_id(number), message, now, out)
        return out

    def closed(self, number: int, now: float = 0.0) -> list[GossipEffect]:
        out: list[GossipEffect] = []
        self.state.connection_closed(peer_id(number), now, out)
        return out

    def join(self, numbers: Iterable[int], now: float = 0.0) -> list[GossipEffect]:
        out: list[GossipEffect] = []
        self.state.join(peers(numbers), now, out)
        return out

    def wait(self, now: float) -> list[GossipEffect]:
        out: list[GossipEffect] = []
        self.state.on_deadline(now, out)
        assert self.state.due > now
        return out

    def know(self, numbers: Iterable[int], source: int = 99) -> None:
        """Put peers into the passive view without any request going out."""
        for number in numbers:
            self.state._add_passive(peer_id(number), None, peer_id(source), [])

    @property
    def active(self) -> list[int]:
        return [int.from_bytes(p) for p in self.state.active]

    @property
    def passive(self) -> list[int]:
        return [int.from_bytes(p) for p in self.state.passive]

    @property
    def pending(self) -> list[int]:
        return [int.from_bytes(p) for p in self.state.pending()]


def downs(effects: Iterable[GossipEffect]) -> list[tuple[EndpointId, DownReason]]:
    return [(e.peer, e.reason) for e in of_type(effects, NeighborDown)]


def info(number: int, data: bytes | None = None) -> PeerInfo:
    return PeerInfo(peer_id(number), data)


# --- join -------------------------------------------------------------------------------------------------


def test_join_asks_every_peer_once_and_records_no_neighbor() -> None:
    script = Script()
    effects = script.join([1, 2, 1])
    assert effects == [Send(peers([1, 2]), TOPIC, Join(OUR_DATA))]
    assert script.active == script.passive == script.pending == []


def test_join_skips_us_neighbors_and_blocked_peers() -> None:
    script = Script(active=[1])
    script.policy.blocked[peer_id(2)] = None
    assert script.join([ME, 1, 2]) == []


def test_an_unanswered_join_gives_its_connection_back_after_five_seconds() -> None:
    script = Script()
    script.join([1])
    assert script.state.needs(peer_id(1))
    assert script.wait(4.999) == []
    assert script.wait(5.0) == [DropPeer(peer_id(1), TOPIC)]


def test_a_join_makes_a_neighbor_and_walks_on_to_all_others() -> None:
    script = Script(active=[1, 2])
    effects = script.got(9, Join(b"nine"))
    assert script.active == [1, 2, 9]
    assert of_type(effects, NeighborUp) == [NeighborUp(TOPIC, peer_id(9))]
    assert sent_to(effects, 9) == [Neighbor(HIGH, OUR_DATA)]
    assert effects[-1] == Send(peers([1, 2]), TOPIC, ForwardJoin(info(9, b"nine"), 6))


def test_a_join_evicts_somebody_when_the_view_is_full() -> None:
    script = Script(active=[1, 2, 3, 4, 5])
    effects = script.got(9, Join(None))
    [(victim, reason)] = downs(effects)
    number = int.from_bytes(victim)
    assert reason is DownReason.EVICTED
    assert [type(m) for m in sent_to(effects, number)] == [ShuffleReply, Disconnect]
    assert sent_to(effects, number)[1] == Disconnect(alive=True)
    assert DropPeer(victim, TOPIC) in effects
    assert number in script.passive  # it lives: it may come back
    assert len(script.active) == 5
    assert 9 in script.active


def test_a_neighbor_that_joins_again_is_answered_again() -> None:
    """It has restarted: upstream's test "reconnect after leave" depends on this."""
    script = Script(active=[9])
    assert sent_to(script.got(9, Join(None)), 9) == [Neighbor(HIGH, OUR_DATA)]
    assert script.active == [9]


# --- forward join -----------------------------------------------------------------------------------------


def test_a_walk_for_a_neighbor_renews_the_link() -> None:
    script = Script(active=[1, 2])
    assert sent_to(script.got(1, ForwardJoin(info(2), 4)), 2) == [Neighbor(HIGH, OUR_DATA)]


def test_at_the_end_of_the_walk_the_newcomer_is_asked_but_not_yet_a_neighbor() -> None:
    """Upstream's deviation from the paper: unreachable peers never enter the view."""
    script = Script(active=[1, 2])
    assert sent_to(script.got(1, ForwardJoin(info(9), 0)), 9) == [Neighbor(HIGH, OUR_DATA)]
    assert (script.active, script.pending) == ([1, 2], [9])
    effects = script.got(9, Neighbor(HIGH, None))
    assert script.active == [1, 2, 9]
    assert sent_to(effects, 9) == []  # that was the answer


@pytest.mark.parametrize("active", [[], [1]])
def test_a_lonely_peer_ends_the_walk(active: list[int]) -> None:
    script = Script(active=active)
    assert sent_to(script.got(1, ForwardJoin(info(9), 5)), 9) == [Neighbor(HIGH, OUR_DATA)]


@pytest.mark.parametrize(("ttl", "is_kept"), [(4, False), (3, True), (2, False)])
def test_a_walk_goes_on_and_leaves_a_trace_at_three_hops(ttl: int, *, is_kept: bool) -> None:
    script = Script(active=[1, 2])
    assert sent_to(script.got(1, ForwardJoin(info(9), ttl)), 2) == [ForwardJoin(info(9), ttl - 1)]
    assert (9 in script.passive) is is_kept


def test_a_walk_does_not_go_on_for_a_peer_that_we_are_asking() -> None:
    script = Script(active=[1, 2])
    script.got(1, ForwardJoin(info(9), 0))
    assert script.got(1, ForwardJoin(info(9), 4)) == []


def test_a_walk_longer_than_ours_is_cut() -> None:
    script = Script(active=[1, 2])
    assert sent_to(script.got(1, ForwardJoin(info(9), 65_535)), 2) == [ForwardJoin(info(9), 5)]


def test_a_walk_about_us_or_a_blocked_peer_ends() -> None:
    script = Script(active=[1])
    script.policy.blocked[peer_id(9)] = None
    assert script.got(1, ForwardJoin(info(ME), 0)) == script.got(1, ForwardJoin(info(9), 0)) == []


@pytest.mark.parametrize("count", [9, 10, 11])
def test_walks_make_us_ask_ten_peers_at_once_at_most(count: int) -> None:
    script = Script(active=[1])
    for number in range(100, 100 + count):
        script.got(1, ForwardJoin(info(number), 0))
    assert len(script.pending) == min(count, 10)
    assert len(script.passive) == count - min(count, 10)  # the rest is remembered


# --- neighbor ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", [HIGH, LOW])
def test_a_request_is_accepted_and_answered_while_there_is_a_slot(priority: Priority) -> None:
    script = Script(active=[1, 2, 3, 4])
    effects = script.got(9, Neighbor(priority, None))
    assert sent_to(effects, 9) == [Neighbor(priority, OUR_DATA)]
    assert script.active == [1, 2, 3, 4, 9]


def test_low_priority_neighbor_request_is_refused_when_view_is_full() -> None:
    """hyparview.rs:363-378, 450-460, but one DropPeer where upstream emits two."""
    script = Script(active=[1, 2, 3, 4, 5])
    effects = script.got(9, Neighbor(LOW, None))
    reply, disconnect = sent_to(effects, 9)
    assert isinstance(reply, ShuffleReply)
    assert disconnect == Disconnect(alive=True)
    assert of_type(effects, DropPeer) == [DropPeer(peer_id(9), TOPIC)]
    assert 9 not in script.active


def test_a_high_priority_request_evicts() -> None:
    script = Script(active=[1, 2, 3, 4, 5])
    assert downs(script.got(9, Neighbor(HIGH, None)))[0][1] is DownReason.EVICTED
    assert 9 in script.active


def test_an_answer_leaves_nothing_pending() -> None:
    """U4: upstream remembers its answers as requests, and they block its refills."""
    script = Script()
    for number in (1, 2, 3):
        script.got(number, Neighbor(LOW, None))
    assert script.pending == []
    script.got(4, Join(None))
    assert script.pending == []


def test_yes_after_our_yes_is_no_question() -> None:
    """Without U4's records two peers would answer each other for ever."""
    script = Script()
    script.got(1, Join(None), now=10.0)
    assert script.got(1, Neighbor(HIGH, None), now=10.1) == []


def test_yes_after_our_yes_does_not_win_back_a_slot_that_was_lost_meanwhile() -> None:
    """In a join storm the confirmations of evicted peers would evict others, endlessly."""
    script = Script(replace(MembershipConfig(), active_view=1, protected=0))
    script.got(1, Join(None), now=10.0)
    script.got(2, Join(None), now=10.05)
    assert script.active == [2]
    effects = script.got(1, Neighbor(HIGH, None), now=10.1)
    assert script.active == [2]
    assert sent_to(effects, 1)[-1] == Disconnect(alive=True)


@pytest.mark.parametrize(("later", "is_answered"), [(0.999, False), (1.0, True), (1.001, True)])
def test_a_neighbor_that_asks_again_is_answered_once_a_second(later: float, *, is_answered: bool) -> None:
    script = Script()
    script.got(1, Neighbor(LOW, None), now=10.0)
    assert bool(sent_to(script.got(1, Neighbor(HIGH, None), now=10.0 + later), 1)) is is_answered


@pytest.mark.parametrize("count", [4, 5, 6])
def test_eviction_on_demand_is_rationed(count: int) -> None:
    """Five Neighbor(High) of one peer in a row may evict, further ones count as Low."""
    script = Script(replace(MembershipConfig(), active_view=1, answer_interval_s=0.0))
    evictions = 0
    for i in range(count):
        script.got(1, Neighbor(LOW, None), now=i * 1e-3)
        evictions += len(downs(script.got(8, Neighbor(HIGH, None), now=i * 1e-3)))
        script.got(8, Disconnect(alive=True), now=i * 1e-3)
    assert evictions == min(count, 5)


# --- disconnect and lost connections ----------------------------------------------------------------------


def test_a_neighbor_that_needs_our_slot_stays_known_and_is_not_asked_at_once() -> None:
    script = Script(active=[1, 2])
    effects = script.got(1, Disconnect(alive=True))
    assert downs(effects) == [(peer_id(1), DownReason.EVICTED_US)]
    assert DropPeer(peer_id(1), TOPIC) in effects
    assert script.passive == [1]
    assert script.pending == []


def test_a_neighbor_that_leaves_is_forgotten() -> None:
    script = Script(active=[1, 2])
    script.know([1])
    effects = script.got(1, Disconnect(alive=False))
    assert downs(effects) == [(peer_id(1), DownReason.LEFT)]
    assert script.passive == []


def test_a_lost_slot_is_filled_from_the_passive_view() -> None:
    script = Script(active=[1, 2, 3, 4, 5])
    script.know([7])
    effects = script.got(1, Disconnect(alive=True))
    assert sent_to(effects, 7) == [Neighbor(LOW, OUR_DATA)]


def test_a_lost_connection_ends_the_neighborship_and_forgets_the_peer() -> None:
    script = Script(active=[1, 2])
    script.know([7])
    effects = script.closed(1)
    assert downs(effects) == [(peer_id(1), DownReason.CONNECTION_LOST)]
    assert 1 not in script.passive
    assert sent_to(effects, 7) == [Neighbor(LOW, OUR_DATA)]


def test_the_expected_close_after_an_eviction_changes_nothing() -> None:
    script = Script(active=[1, 2])
    script.got(1, Disconnect(alive=True))
    assert script.closed(1) == []
    assert script.passive == [1]


def test_a_peer_that_cannot_be_dialled_is_forgotten_and_the_next_one_asked() -> None:
    """Upstream waits out its 500 ms although the dial has failed."""
    script = Script(replace(MembershipConfig(), parallel_requests=False), active=[1])
    script.know([7, 8])
    script.got(1, ShuffleReply(()))
    [asked] = script.pending
    effects = script.closed(asked)
    other = 15 - asked
    assert sent_to(effects, other) == [Neighbor(LOW, OUR_DATA)]
    assert asked not in script.passive


def test_a_passive_peer_stays_known_when_a_passing_connection_closes() -> None:
    """Upstream forgets who answered its shuffle as soon as that connection closes."""
    script = Script(active=[1])
    script.know([7])
    script.closed(7)
    assert script.passive == [7]


def test_the_expected_close_does_not_end_a_new_request() -> None:
    """The request goes over a connection of its own."""
    script = Script(active=[1, 2])
    script.got(1, Disconnect(alive=True))
    script.wait(0.11)
    assert script.pending == [1]
    script.closed(1)
    assert (script.pending, script.passive) == ([1], [1])


def test_an_evicted_neighbor_that_we_were_asking_is_answered_when_it_comes_back() -> None:
    """Its yes was to an older question; without our answer it would count us and we it, or neither."""
    script = Script(replace(MembershipConfig(), active_view=2), active=[1, 2])
    script.policy.pinned[peer_id(2)] = None
    script.got(2, ForwardJoin(info(1), 4))
    assert script.pending == [1]
    script.got(9, Join(None))
    assert script.active == [2, 9]
    assert sent_to(script.got(1, Neighbor(HIGH, None)), 1) == [Neighbor(HIGH, OUR_DATA)]


# --- refill -----------------------------------------------------------------------------------------------


def test_refill_asks_for_all_free_slots_and_only_the_first_with_priority() -> None:
    script = Script()
    script.know(range(10, 18))
    effects = script.got(1, ShuffleReply(()))
    requests = [e.message for e in of_type(effects, Send)]
    assert requests == [Neighbor(HIGH, OUR_DATA)] + [Neighbor(LOW, OUR_DATA)] * 4


def test_refill_asks_politely_while_there_is_a_neighbor() -> None:
    script = Script(active=[1])
    script.know([7])
    assert sent_to(script.got(1, ShuffleReply(())), 7) == [Neighbor(LOW, OUR_DATA)]


def test_a_request_without_answer_fails_after_half_a_second() -> None:
    script = Script(active=[1])
    script.know([7])
    script.got(1, ShuffleReply(()))
    script.wait(0.499)
    assert script.pending == [7]
    script.know([8])
    assert sent_to(script.wait(0.5), 8) == [Neighbor(LOW, OUR_DATA)]
    assert 7 not in script.passive
    assert script.state.needs(peer_id(7))  # the dial may still succeed
    script.got(7, Neighbor(LOW, None), now=3.0)
    assert 7 in script.active
    assert peer_id(7) in script.state.chosen


def test_our_own_stall_is_no_fault_of_the_peer() -> None:
    """Architecture section 7: a request gets more time, once."""
    script = Script(active=[1])
    script.know([7])
    script.got(1, ShuffleReply(()))
    script.wait(20.0)
    assert script.pending == [7]
    script.wait(40.0)
    assert script.pending == []


def test_a_refusal_is_followed_by_another_request_soon_and_not_of_the_same_peer() -> None:
    """Upstream waits for the next shuffle, up to a minute."""
    script = Script(replace(MembershipConfig(), parallel_requests=False), active=[1])
    script.know([7, 8])
    script.got(1, ShuffleReply(()))
    [asked] = script.pending
    script.got(asked, Disconnect(alive=True), now=0.05)
    effects = script.wait(0.151)
    assert script.pending == [15 - asked]
    assert [type(e) for e in effects] == [Send]
    script.got(15 - asked, Disconnect(alive=True), now=0.2)
    assert script.wait(30.0) == []  # all have refused
    script.wait(60.0)
    script.wait(61.0)
    assert len(script.pending) == 1  # after a shuffle the world may have changed


def test_when_all_known_peers_are_dead_those_that_had_no_room_are_asked() -> None:
    """After a mass failure 30 passive peers may all be dead."""
    script = Script(replace(MembershipConfig(), passive_view=2), active=[1])
    for number in (10, 11, 12):
        script.know([number], source=number)
    [spare] = {10, 11, 12} - set(script.passive)
    script.got(1, ShuffleReply(()))
    assert spare not in script.pending
    assert sent_to(script.wait(0.5), spare) == [Neighbor(LOW, OUR_DATA)]


@pytest.mark.parametrize("count", [127, 128, 129])
def test_the_reserve_is_bounded(count: int) -> None:
    script = Script(replace(MembershipConfig(), passive_view=1))
    for number in range(100, 101 + count):
        script.know([number], source=number)
    assert len(script.state._reserve) == min(count, 128)


# --- shuffle ----------------------------------------------------------------------------------------------


def test_a_shuffle_goes_out_every_minute_with_three_active_four_passive_and_us() -> None:
    script = Script(active=[1, 2, 3, 4, 5])
    script.know(range(10, 18), source=1)
    assert script.state.due == 60.0
    [send] = of_type(script.wait(60.0), Send)
    message = send.message
    assert isinstance(message, Shuffle)
    numbers = [int.from_bytes(node.endpoint_id) for node in message.nodes]
    assert (message.origin, message.ttl) == (peer_id(ME), 6)
    assert message.nodes[-1] == info(ME, OUR_DATA)
    assert len([n for n in numbers if n in script.active]) == 3
    assert len([n for n in numbers if n in script.passive]) == 4
    assert send.to[0] not in peers(numbers)
    assert script.state.due == 120.0


def test_a_shuffle_walks_on_but_neither_back_nor_home() -> None:
    script = Script(active=[1, 2, 3])
    for _ in range(20):
        [send] = of_type(script.got(1, Shuffle(peer_id(2), (info(9),), 4)), Send)
        assert send == Send(peers([3]), TOPIC, Shuffle(peer_id(2), (info(9),), 3))


def test_at_the_end_of_a_shuffle_the_origin_gets_as_many_peers_as_it_sent() -> None:
    script = Script(active=[1, 2])
    script.know(range(20, 28))
    effects = script.got(1, Shuffle(peer_id(8), (info(9), info(10), info(8)), 0))
    [reply] = sent_to(effects, 8)
    assert isinstance(reply, ShuffleReply)
    assert len(reply.nodes) == 3
    assert peer_id(8) not in [node.endpoint_id for node in reply.nodes]
    assert {9, 10, 8} <= set(script.passive)
    assert script.state.needs(peer_id(8))  # until the reply is through
    assert DropPeer(peer_id(8), TOPIC) in script.wait(5.0)


@pytest.mark.parametrize(("active", "origin"), [([1], 8), ([1, 2], 2)])
def test_a_shuffle_that_cannot_walk_on_ends_here(active: list[int], origin: int) -> None:
    script = Script(active=active)
    effects = script.got(1, Shuffle(peer_id(origin), (info(9),), 4))
    assert [type(m) for m in sent_to(effects, origin)] == [ShuffleReply]
    assert 9 in script.passive


def test_our_own_shuffle_that_comes_home_is_ignored() -> None:
    script = Script(active=[1])
    assert script.got(1, Shuffle(peer_id(ME), (info(9),), 0)) == []


def test_a_shuffle_reply_fills_the_views() -> None:
    script = Script(active=[1])
    effects = script.got(1, ShuffleReply((info(9), info(ME), info(1))))
    assert script.passive == [9]
    assert sent_to(effects, 9) == [Neighbor(LOW, OUR_DATA)]


@pytest.mark.parametrize("count", [15, 16, 17])
def test_sixteen_entries_of_a_message_are_read(count: int) -> None:
    script = Script(replace(MembershipConfig(), max_passive_per_source=30), active=[1, 2, 3, 4, 5])
    script.got(1, ShuffleReply(tuple(info(n) for n in range(100, 100 + count))))
    assert len(script.passive) == min(count, 16)


def test_node_lists_are_cut_to_fit_a_frame() -> None:
    """U13: with fat peer data upstream's Shuffle passes 4095 bytes and ends its own send half."""
    script = Script(replace(MembershipConfig(), max_own_data_bytes=1_024), active=[1, 2, 3, 4, 5])
    fat = b"x" * 1_024
    script.state.own_data = fat
    for number in range(10, 20):
        script.got(1 + number % 5, ShuffleReply((info(number, fat),)))
    for number in (1, 2, 3, 4, 5):
        script.got(number, Neighbor(LOW, fat))
    [shuffle] = of_type(script.wait(60.0), Send)
    [reply] = sent_to(script.got(1, Shuffle(peer_id(77), tuple(info(n) for n in range(8)), 0)), 77)
    for message, floor in ((shuffle.message, 3), (reply, 3)):
        assert 3_000 < len(encode(message)) < 4_096
        assert isinstance(message, Shuffle | ShuffleReply)
        assert len(message.nodes) >= floor
    assert isinstance(shuffle.message, Shuffle)
    assert shuffle.message.nodes[-1] == info(ME, fat)  # we ourselves are never cut


# --- passive view -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [29, 30, 31])
def test_the_passive_view_holds_thirty(count: int) -> None:
    script = Script(active=[1])
    for number in range(100, 100 + count):
        script.know([number], source=number)
    assert len(script.passive) == min(count, 30)
    assert 100 + count - 1 in script.passive  # the newest is in


@pytest.mark.parametrize("count", [7, 8, 9])
def test_one_peer_fills_eight_places_of_the_passive_view(count: int) -> None:
    script = Script()
    script.know([50, 51], source=1)
    script.know(range(100, 100 + count), source=2)
    assert len(script.passive) == 2 + min(count, 8)
    assert {50, 51} <= set(script.passive)


# --- strangers, leaving, blocking --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", [ShuffleReply(()), ForwardJoin(info(9), 4), Shuffle(peer_id(9), (), 4)], ids=lambda m: type(m)
)
def test_the_connection_of_a_stranger_is_given_back_after_its_message(message: SwarmMessage) -> None:
    script = Script(active=[1, 2])
    assert of_type(script.got(50, message), DropPeer) == [DropPeer(peer_id(50), TOPIC)]


def test_the_connection_of_a_peer_that_we_are_asking_is_kept() -> None:
    """Upstream closes it under its own request."""
    script = Script(active=[1])
    script.got(1, ForwardJoin(info(9), 0))
    assert of_type(script.got(9, ShuffleReply(())), DropPeer) == []


def test_leaving_tells_neighbors_and_those_who_may_count_us_as_one_soon() -> None:
    script = Script(active=[1])
    script.got(1, ForwardJoin(info(8), 0))
    script.join([9])
    out: list[GossipEffect] = []
    script.state.quit(out)
    assert [type(m) for m in sent_to(out, 1)] == [ShuffleReply, Disconnect]
    assert sent_to(out, 1)[1] == sent_to(out, 8)[0] == sent_to(out, 9)[0] == Disconnect(alive=False)
    assert downs(out) == [(peer_id(1), DownReason.LOCAL)]
    assert {e.peer for e in of_type(out, DropPeer)} == set(peers([1, 8, 9]))


def test_a_blocked_neighbor_is_dropped_and_never_comes_back() -> None:
    script = Script(active=[1, 2])
    script.know([7])
    script.policy.blocked = dict.fromkeys(peers([1, 7]))
    out: list[GossipEffect] = []
    script.state.apply_policy(0.0, out)
    assert downs(out) == [(peer_id(1), DownReason.EVICTED)]
    assert sent_to(out, 1)[-1] == Disconnect(alive=True)
    assert (script.active, script.passive) == ([2], [])
    script.got(2, ShuffleReply((info(1), info(7))))
    assert script.passive == []


# --- slots that nobody can take (trust E1) ----------------------------------------------------------------


def test_a_join_flood_does_not_evict_the_two_neighbors_that_we_chose_first() -> None:
    script = Script()
    script.join([1, 2, 3])
    for number in (1, 2, 3):
        script.got(number, Neighbor(HIGH, None))
    for number in range(100, 400):
        script.got(number, Join(None))
    assert {1, 2} <= set(script.active)
    assert 3 not in script.active
    assert len(script.active) == 5


def test_a_walk_does_not_make_a_chosen_neighbor() -> None:
    script = Script(active=[1])
    script.got(1, ForwardJoin(info(9), 0))
    script.got(9, Neighbor(HIGH, None))
    assert not script.state.chosen


def test_pinned_neighbors_stay_and_one_slot_is_always_open() -> None:
    script = Script(active=[1, 2, 3, 4, 5])
    script.policy.pinned = dict.fromkeys(peers([1, 2, 3, 4, 5]))
    for number in range(100, 200):
        script.got(number, Join(None))
    assert script.active[:4] == [1, 2, 3, 4]
    assert script.active[4] >= 100


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_peer_may_join_three_times_in_a_row(count: int) -> None:
    script = Script(active=[1])
    for i in range(count):
        script.got(9, Join(None), now=i * 1e-3)
        script.got(9, Disconnect(alive=False), now=i * 1e-3)
    assert script.counters.joins == min(count, 3)
    assert script.counters.joins_refused == count - min(count, 3)
    script.got(9, Join(None), now=10.1)
    assert 9 in script.active


# --- peer data --------------------------------------------------------------------------------------------


def test_peer_data_is_passed_on_when_it_is_new_or_changed() -> None:
    script = Script(active=[1])
    assert of_type(script.got(1, Neighbor(LOW, b"a")), PeerDataLearned) == [PeerDataLearned(peer_id(1), b"a")]
    assert of_type(script.got(1, Neighbor(LOW, b"a")), PeerDataLearned) == []
    assert of_type(script.got(1, Neighbor(LOW, b"b")), PeerDataLearned) == [PeerDataLearned(peer_id(1), b"b")]
    assert of_type(script.got(1, Neighbor(LOW, b"")), PeerDataLearned) == []
    assert of_type(script.got(1, Neighbor(LOW, None)), PeerDataLearned) == []


def test_addresses_come_before_the_message_that_needs_them() -> None:
    script = Script(active=[1])
    effects = script.got(1, ForwardJoin(info(9, b"nine"), 0))
    assert [type(e) for e in effects] == [PeerDataLearned, Send]


@pytest.mark.parametrize(("size", "is_kept"), [(1_023, True), (1_024, True), (1_025, False)])
def test_fat_peer_data_counts_as_unknown(size: int, *, is_kept: bool) -> None:
    script = Script(active=[1, 2])
    effects = script.got(9, Join(b"x" * size))
    assert bool(of_type(effects, PeerDataLearned)) is is_kept
    [forward] = sent_to(effects, 1)
    assert isinstance(forward, ForwardJoin)
    assert (forward.peer.data is not None) is is_kept


def test_data_of_peers_in_no_view_is_forgotten() -> None:
    script = Script(active=[1, 2])
    script.got(1, ShuffleReply((info(9, b"nine"),)))
    assert script.state.data_of(peer_id(9)) == b"nine"
    script.got(9, Disconnect(alive=False))
    script.wait(0.6)
    script.wait(6.0)
    assert script.state.data_of(peer_id(9)) is None


@pytest.mark.parametrize("count", [63, 64, 65])
def test_joins_under_way_are_bounded(count: int) -> None:
    script = Script()
    effects = script.join(range(100, 100 + count))
    kept = [n for n in range(100, 100 + count) if script.state.needs(peer_id(n))]
    assert len(kept) == min(count, 64)
    assert len(of_type(effects, DropPeer)) == count - min(count, 64)
