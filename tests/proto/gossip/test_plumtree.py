from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from gossip_script import TOPIC, digest, message_id, of_type, peer_id, peers, sent_to
from kukuri_sidecar.proto.gossip.cache import PayloadCache
from kukuri_sidecar.proto.gossip.config import UPSTREAM, BroadcastConfig
from kukuri_sidecar.proto.gossip.events import Delivered, GossipEffect, Send
from kukuri_sidecar.proto.gossip.limits import TopicCounters, Total
from kukuri_sidecar.proto.gossip.plumtree import PlumTree
from kukuri_sidecar.wire.gossip_messages import Gossip, Graft, IHave, Prune, encode
from kukuri_sidecar.wire.ids import EndpointId, MessageId

FIXED = replace(BroadcastConfig(), adaptive_graft=False)  # 300 ms, then 150 ms
WAIT_S = 0.301  # the graft timeout and the raster of its timers
RETRY_S = 0.156


class Script:
    """PlumTree driven by peer numbers and contents."""

    def __init__(
        self,
        config: BroadcastConfig = FIXED,
        *,
        eager: Iterable[int] = (),
        lazy: Iterable[int] = (),
        max_message_bytes: int = 4_096,
        total: Total | None = None,
    ) -> None:
        self.counters = TopicCounters()
        self.total = total or Total(config.max_missing)
        self.payloads = PayloadCache(keep_s=config.cache_s, max_bytes=config.max_cache_bytes)
        self.accepts = True
        self.tree = PlumTree(
            TOPIC,
            config,
            payloads=self.payloads,
            missing_total=self.total,
            digest=digest,
            accept=lambda _sender, _content, _now: self.accepts,
            counters=self.counters,
            max_message_bytes=max_message_bytes,
        )
        for number in (*eager, *lazy):
            self.tree.neighbor_up(peer_id(number))
        for number in lazy:
            self.tree.prune(peer_id(number))

    def publish(self, content: bytes, now: float = 0.0) -> list[GossipEffect]:
        out: list[GossipEffect] = []
        self.tree.broadcast(message_id(content), content, now, out)
        return out

    def gossip(
        self, sender: int, content: bytes, hops: int | None = 0, now: float = 0.0
    ) -> list[GossipEffect]:
        out: list[GossipEffect] = []
        self.tree.gossip(peer_id(sender), Gossip(message_id(content), content, hops), now, out)
        return out

    def ihave(self, sender: int, *ids: MessageId, hops: int = 0, now: float = 0.0) -> None:
        self.tree.ihave(peer_id(sender), IHave(tuple((i, hops) for i in ids)), now)

    def graft(self, sender: int, wanted: MessageId | None, now: float = 0.0) -> list[GossipEffect]:
        out: list[GossipEffect] = []
        self.tree.graft(peer_id(sender), Graft(wanted, 0), now, out)
        return out

    def wait(self, now: float) -> list[GossipEffect]:
        out: list[GossipEffect] = []
        self.tree.on_deadline(now, out)
        assert self.tree.due > now
        return out

    @property
    def eager(self) -> list[int]:
        return [int.from_bytes(p) for p in self.tree.eager]

    @property
    def lazy(self) -> list[int]:
        return [int.from_bytes(p) for p in self.tree.lazy]

    @property
    def missing(self) -> int:
        return len(self.tree._missing)


def some_ids(count: int, start: int = 0) -> list[MessageId]:
    """Ids without content: promises that nobody can keep."""
    return [MessageId(i.to_bytes(32, "big")) for i in range(start + 1, start + count + 1)]


HI = message_id(b"hi")


# --- publishing -------------------------------------------------------------------------------------------


def test_publishing_pushes_to_eager_and_announces_to_lazy_peers() -> None:
    script = Script(eager=[1, 2], lazy=[3, 4])
    assert script.publish(b"hi") == [Send(peers([1, 2]), TOPIC, Gossip(HI, b"hi", 0))]
    assert script.tree.due == 0.005
    assert script.wait(0.005) == [Send(peers([3, 4]), TOPIC, IHave(((HI, 0),)))]


def test_neighbors_scope_reaches_lazy_peers_too() -> None:
    """U9: upstream sends it to eager peers only."""
    script = Script(eager=[1], lazy=[2])
    out: list[GossipEffect] = []
    script.tree.broadcast_to_neighbors(HI, b"hi", out)
    assert out == [Send(peers([1, 2]), TOPIC, Gossip(HI, b"hi", None))]
    assert script.graft(2, HI) == []  # not cached


def test_publishing_again_only_announces() -> None:
    """U14: the payload again would make everybody who has it prune us. Who missed it asks."""
    script = Script(eager=[1], lazy=[2])
    script.publish(b"hi")
    script.wait(0.005)
    assert script.publish(b"hi", now=40.0) == []
    assert script.wait(40.005) == [Send(peers([1, 2]), TOPIC, IHave(((HI, 0),)))]


def test_publishing_alone_is_kept_for_those_who_ask() -> None:
    script = Script()
    assert script.publish(b"hi") == []
    script.tree.neighbor_up(peer_id(1))
    assert sent_to(script.graft(1, HI), 1) == [Gossip(HI, b"hi", 0)]


# --- payloads ---------------------------------------------------------------------------------------------


def test_a_payload_is_passed_on_announced_and_delivered_with_the_hops_it_came_with() -> None:
    script = Script(eager=[1, 2], lazy=[3, 4])
    effects = script.gossip(1, b"hi", hops=4)
    assert effects == [
        Send(peers([2]), TOPIC, Gossip(HI, b"hi", 5)),
        Delivered(TOPIC, HI, b"hi", peer_id(1), 4),
    ]
    assert script.wait(0.005) == [Send(peers([3, 4]), TOPIC, IHave(((HI, 5),)))]


def test_a_payload_is_not_announced_to_its_sender() -> None:
    script = Script(eager=[1], lazy=[2, 3])
    script.tree._config = replace(FIXED, adopt_deliverer=False)
    script.gossip(2, b"hi")
    assert script.wait(0.005) == [Send(peers([3]), TOPIC, IHave(((HI, 1),)))]


def test_who_brings_a_new_payload_becomes_eager() -> None:
    """Paper, Algorithm 1. Upstream leaves such links lazy on one side only."""
    script = Script(eager=[1], lazy=[2])
    script.gossip(2, b"hi")
    assert (script.eager, script.lazy) == ([1, 2], [])


def test_a_false_id_is_ignored() -> None:
    script = Script(eager=[1, 2])
    out: list[GossipEffect] = []
    script.tree.gossip(peer_id(1), Gossip(HI, b"not hi", 0), 0.0, out)
    assert out == []
    assert script.counters.spoofed == 1
    assert len(of_type(script.gossip(2, b"hi"), Delivered)) == 1  # the real one is still welcome


def test_a_second_copy_makes_the_link_lazy() -> None:
    script = Script(eager=[1, 2])
    script.gossip(1, b"hi")
    assert script.gossip(2, b"hi") == [Send(peers([2]), TOPIC, Prune())]
    assert (script.eager, script.lazy) == ([1], [2])


def test_a_payload_that_the_owner_refuses_goes_nowhere_and_is_not_asked_for() -> None:
    script = Script(eager=[1, 2])
    script.ihave(2, HI)
    script.accepts = False
    assert script.gossip(1, b"hi") == []
    assert script.wait(1.0) == []
    assert script.missing == script.total.used == 0


def test_neighbors_scope_is_delivered_each_time_and_goes_no_further() -> None:
    script = Script(eager=[1, 2], lazy=[3])
    for _ in range(2):
        assert script.gossip(1, b"hi", hops=None) == [Delivered(TOPIC, HI, b"hi", peer_id(1), None)]
    assert script.eager == [1, 2]


def test_neighbors_scope_of_a_known_message_is_dropped_without_prune() -> None:
    script = Script(eager=[1, 2])
    script.gossip(1, b"hi")
    assert script.gossip(2, b"hi", hops=None) == []
    assert script.eager == [1, 2]


@pytest.mark.parametrize(("hops", "onward"), [(126, 127), (65_534, 65_535), (65_535, 65_535)])
def test_hops_saturate(hops: int, onward: int) -> None:
    script = Script(eager=[1, 2])
    assert sent_to(script.gossip(1, b"hi", hops=hops), 2) == [Gossip(HI, b"hi", onward)]


@pytest.mark.parametrize(
    ("size", "hops", "is_forwarded"),
    [(4_056, 126, True), (4_057, 126, True), (4_058, 126, False), (4_056, 127, True), (4_057, 127, False)],
)
def test_what_no_longer_fits_a_frame_is_delivered_but_not_passed_on(
    size: int, hops: int, *, is_forwarded: bool
) -> None:
    """A body of 4096 bytes would end the receiver's stream (U1, U7)."""
    script = Script(eager=[1, 2])
    content = b"x" * size
    effects = script.gossip(1, content, hops=hops)
    assert len(of_type(effects, Delivered)) == 1
    assert bool(sent_to(effects, 2)) is is_forwarded
    if is_forwarded:
        assert len(encode(sent_to(effects, 2)[0])) <= 4_095


def test_one_message_at_a_time_steers_the_tree() -> None:
    """Cuts that follow several messages at once leave no tree: upstream's state after a burst."""
    script = Script(eager=[1, 2, 3])
    low, high = sorted((b"one", b"two"), key=message_id)
    script.gossip(1, high, now=0.0)
    script.gossip(1, low, now=0.1)
    assert script.gossip(2, high, now=0.2) == []
    assert script.eager == [1, 2, 3]
    assert script.gossip(2, low, now=0.2) == [Send(peers([2]), TOPIC, Prune())]
    assert script.gossip(3, high, now=0.599) == []
    assert script.gossip(3, high, now=0.6) == [Send(peers([3]), TOPIC, Prune())]


def test_with_upstreams_policy_every_copy_cuts() -> None:
    script = Script(UPSTREAM.broadcast, eager=[1, 2, 3])
    script.gossip(1, b"one")
    script.gossip(1, b"two")
    script.gossip(2, b"one")
    script.gossip(3, b"two")
    assert script.eager == [1]


# --- announcements and Grafts -----------------------------------------------------------------------------


def test_a_promise_is_called_in_when_the_payload_does_not_come() -> None:
    script = Script(eager=[1], lazy=[2, 3])
    script.ihave(2, HI, hops=7)
    script.ihave(3, HI, hops=5, now=0.1)
    assert script.wait(0.299) == []
    assert script.wait(WAIT_S + 0.005) == [Send(peers([2]), TOPIC, Graft(HI, 7))]
    assert script.eager == [1, 2]
    assert script.wait(0.306 + RETRY_S) == [Send(peers([3]), TOPIC, Graft(HI, 5))]
    assert script.counters.broken_promises == 1


def test_upstreams_timeouts_can_be_had() -> None:
    script = Script(UPSTREAM.broadcast, eager=[1], lazy=[2, 3])
    script.ihave(2, HI)
    script.ihave(3, HI)
    assert script.wait(0.079) == []
    assert len(sent_to(script.wait(0.0851), 2)) == 1
    assert len(sent_to(script.wait(0.131), 3)) == 1


def test_a_payload_in_time_needs_no_graft() -> None:
    script = Script(eager=[1], lazy=[2])
    script.ihave(2, HI)
    script.gossip(1, b"hi", now=0.2)
    assert [type(e.message) for e in of_type(script.wait(5.0), Send)] == [IHave]
    assert script.missing == script.total.used == 0
    assert script.tree._promised == {}


def test_without_an_eager_peer_nobody_is_waited_for() -> None:
    script = Script(BroadcastConfig(), lazy=[2])
    script.ihave(2, HI)
    assert sent_to(script.wait(0.005), 2) == [Graft(HI, 0)]


def test_when_all_promises_are_broken_a_later_one_starts_again() -> None:
    script = Script(eager=[1], lazy=[2, 3])
    script.ihave(2, HI)
    script.wait(0.31)
    assert script.wait(0.5) == []
    assert script.wait(2.0) == []
    script.ihave(3, HI, now=2.0)
    assert sent_to(script.wait(2.31), 3) == [Graft(HI, 0)]


@pytest.mark.parametrize(("after", "is_kept"), [(9.999, True), (10.0, False), (10.001, False)])
def test_promises_expire_after_ten_seconds(after: float, *, is_kept: bool) -> None:
    """U17: upstream keeps them for ever."""
    script = Script(eager=[1], lazy=[2])
    script.ihave(2, HI)
    script.wait(after)
    assert (script.missing == 1) is is_kept
    assert script.total.used == script.missing
    assert bool(script.tree._promised) is is_kept


def test_a_lost_neighbor_promises_nothing() -> None:
    script = Script(eager=[1], lazy=[2, 3])
    script.ihave(2, *some_ids(3), HI)
    script.ihave(3, HI)
    script.tree.neighbor_down(peer_id(2))
    assert script.missing == 1
    assert sent_to(script.wait(0.31), 3) == [Graft(HI, 0)]


def test_a_graft_makes_the_link_eager_and_is_answered_from_the_cache() -> None:
    script = Script(eager=[1], lazy=[2])
    script.gossip(1, b"hi", hops=3)
    assert script.graft(2, HI) == [Send(peers([2]), TOPIC, Gossip(HI, b"hi", 4))]
    assert script.eager == [1, 2]
    assert script.graft(1, None) == script.graft(1, some_ids(1)[0]) == []


def test_a_prune_makes_the_link_lazy() -> None:
    script = Script(eager=[1, 2])
    script.tree.prune(peer_id(2))
    assert (script.eager, script.lazy) == ([1], [2])


def test_strangers_are_served_but_never_enrolled() -> None:
    """U6: upstream puts them into its sets, and later dials ghosts."""
    script = Script(eager=[1])
    assert len(of_type(script.gossip(9, b"hi"), Delivered)) == 1
    assert script.gossip(9, b"hi") == [Send(peers([9]), TOPIC, Prune())]  # they may count us as eager
    assert len(sent_to(script.graft(9, HI), 9)) == 1
    script.ihave(9, some_ids(1)[0])
    assert len(sent_to(script.wait(0.31), 9)) == 1
    script.tree.prune(peer_id(9))
    assert (script.eager, script.lazy) == ([1], [])


def test_announcements_do_not_go_to_peers_that_left_meanwhile() -> None:
    """U6: upstream dials them again for it."""
    script = Script(lazy=[1, 2])
    script.publish(b"hi")
    script.tree.neighbor_down(peer_id(1))
    assert script.wait(0.005) == [Send(peers([2]), TOPIC, IHave(((HI, 0),)))]


def test_a_link_that_turned_eager_meanwhile_still_gets_its_announcement() -> None:
    script = Script(lazy=[1])
    script.publish(b"hi")
    script.graft(1, None)
    assert sent_to(script.wait(0.005), 1) == [IHave(((HI, 0),))]


def test_peers_with_the_same_announcements_share_an_effect() -> None:
    script = Script(replace(FIXED, adopt_deliverer=False), eager=[1], lazy=[2, 3, 4])
    script.gossip(1, b"a")
    script.gossip(2, b"b")
    a, b = (message_id(b"a"), 1), (message_id(b"b"), 1)
    assert script.wait(0.005) == [
        Send(peers([2]), TOPIC, IHave((a,))),
        Send(peers([3, 4]), TOPIC, IHave((a, b))),
    ]


@pytest.mark.parametrize(("count", "sizes"), [(115, [115]), (116, [116]), (117, [116, 1])])
def test_announcements_fit_frames(count: int, sizes: list[int]) -> None:
    script = Script(lazy=[1])
    for i in range(count):
        script.tree._announce(peers([1]), some_ids(1, i)[0], 65_535, 0.0)
    frames = [e.message for e in of_type(script.wait(0.005), Send)]
    assert [len(m.items) for m in frames if isinstance(m, IHave)] == sizes
    assert all(len(encode(m)) < 4_096 for m in frames)


# --- tree optimisation ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hops", "is_switched"), [(6, False), (8, False), (9, True)])
def test_upstreams_own_test_of_the_optimisation(hops: int, *, is_switched: bool) -> None:
    """plumtree.rs test optimize_tree: 7 hops closer is worth a switch; we count the same way."""
    script = Script(replace(FIXED, optimize_hops=7), eager=[2, 3])
    script.tree.prune(peer_id(2))
    script.ihave(2, HI, hops=2)
    effects = script.gossip(3, b"hi", hops=hops - 1)
    assert (sent_to(effects, 2) == [Graft(None, 2)]) is is_switched
    assert (sent_to(effects, 3) == [Prune()]) is is_switched
    assert (script.eager, script.lazy) == (([2], [3]) if is_switched else ([3], [2]))


def test_an_eager_peer_that_announces_counts_us_as_lazy_and_gets_a_graft() -> None:
    """Upstream prunes the other link without it, and may be left with none."""
    script = Script(eager=[2, 3])
    script.ihave(2, HI, hops=1)
    effects = script.gossip(3, b"hi", hops=5)
    assert sent_to(effects, 2)[-1] == Graft(None, 1)
    assert sent_to(effects, 3) == [Prune()]


def test_a_strangers_short_path_changes_nothing() -> None:
    script = Script(eager=[3])
    script.ihave(9, HI, hops=0)
    assert [type(e) for e in script.gossip(3, b"hi", hops=9)] == [Delivered]


# --- bounds -----------------------------------------------------------------------------------------------


def frames_of(ids: list[MessageId]) -> list[list[MessageId]]:
    return [ids[i : i + 116] for i in range(0, len(ids), 116)]


@pytest.mark.parametrize("count", [115, 116, 117])
def test_ids_beyond_what_a_frame_holds_are_ignored(count: int) -> None:
    script = Script(lazy=[1])
    script.ihave(1, *some_ids(count))
    assert script.missing == min(count, 116)
    assert script.counters.announced_ignored == count - min(count, 116)


@pytest.mark.parametrize("count", [1_999, 2_000, 2_001])
def test_a_peer_may_announce_two_thousand_ids_a_second(count: int) -> None:
    script = Script(replace(FIXED, max_missing_per_peer=10_000), lazy=[1])
    for ids in frames_of(some_ids(count)):
        script.ihave(1, *ids)
    assert script.missing == min(count, 2_000)
    script.ihave(1, *some_ids(100, 5_000), now=0.05)
    assert script.missing == min(min(count, 2_000) + 100, 2_100)


@pytest.mark.parametrize("count", [1_999, 2_000, 2_001])
def test_a_peer_may_owe_us_two_thousand_payloads(count: int) -> None:
    script = Script(replace(FIXED, ids_per_peer_s=10_000.0), lazy=[1])
    for ids in frames_of(some_ids(count)):
        script.ihave(1, *ids)
    assert script.missing == min(count, 2_000)
    script.ihave(2, *some_ids(1, 5_000))  # another peer is not affected
    assert script.missing == min(count, 2_000) + 1


@pytest.mark.parametrize("count", [99, 100, 101])
def test_a_topic_misses_so_many_payloads_and_no_more(count: int) -> None:
    script = Script(replace(FIXED, max_missing_per_topic=100), lazy=[1])
    script.ihave(1, *some_ids(50))
    script.ihave(2, *some_ids(count - 50, 50))
    assert script.missing == min(count, 100)


@pytest.mark.parametrize("count", [99, 100, 101])
def test_all_topics_share_one_budget_of_missing_payloads(count: int) -> None:
    total = Total(100)
    one, other = Script(total=total, lazy=[1]), Script(total=total, lazy=[1])
    one.ihave(1, *some_ids(60))
    other.ihave(1, *some_ids(count - 60))
    assert total.used == min(count, 100)
    one.tree.close()
    assert total.used == other.missing


@pytest.mark.parametrize("count", [15, 16, 17])
def test_sixteen_promises_of_one_payload_are_enough(count: int) -> None:
    script = Script()
    for number in range(1, count + 1):
        script.ihave(number, HI)
    assert len(script.tree._missing[HI].sources) == min(count, 16)


@pytest.mark.parametrize("count", [15, 16, 17])
def test_sixteen_grafts_are_in_flight_to_one_peer(count: int) -> None:
    script = Script(eager=[1], lazy=[2])
    script.ihave(2, *some_ids(count))
    assert len(sent_to(script.wait(0.31), 2)) == min(count, 16)
    script.wait(0.31 + RETRY_S)
    assert script.counters.grafts_sent == count  # the others when those have failed


def test_one_graft_is_out_for_a_payload() -> None:
    script = Script(eager=[1], lazy=[2, 3, 4])
    for number in (2, 3, 4):
        script.ihave(number, HI)
    assert len(of_type(script.wait(0.31), Send)) == 1


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_payload_is_sent_three_times_to_one_peer_on_request(count: int) -> None:
    script = Script(eager=[1, 2])
    script.publish(b"hi")
    answers = [bool(script.graft(1, HI)) for _ in range(count)]
    assert answers.count(True) == min(count, 3)
    assert script.counters.grafts_refused == count - min(count, 3)
    assert script.graft(2, HI)


@pytest.mark.parametrize("count", [199, 200, 201])
def test_two_hundred_payloads_a_second_are_sent_to_one_peer_on_request(count: int) -> None:
    script = Script(eager=[1])
    contents = [b"%d" % i for i in range(count)]
    for content in contents:
        script.publish(content)
    answers = [bool(script.graft(1, message_id(content))) for content in contents]
    assert answers.count(True) == min(count, 200)
    assert script.graft(1, message_id(contents[-1]), now=1.0)


def test_records_of_answers_are_bounded() -> None:
    script = Script(replace(FIXED, max_answer_records=10), eager=[1])
    for i in range(30):
        script.publish(b"%d" % i)
        script.graft(1, message_id(b"%d" % i))
    assert len(script.tree._answers) == 10


def test_a_flood_of_bogus_ids_neither_grows_nor_stops_us() -> None:
    """Trust M5: 10^5 ids here; one honest payload on the way is repaired all the same."""
    script = Script(eager=[1], lazy=[2, 3])
    now = 0.0
    for i in range(1_000):
        now += 0.01
        script.ihave(2, *some_ids(100, i * 100), now=now)
        script.wait(now)
        assert script.missing <= 2_000
    script.ihave(3, HI, now=now)
    grafts = sent_to(script.wait(now + 0.31), 3)
    assert grafts == [Graft(HI, 0)]
    script.wait(now + 30.0)
    assert script.missing == len(script.tree._timers) == script.total.used == 0
    assert script.tree._promised == script.tree._in_flight == {}


# --- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "is_kept"), [(29.999, True), (30.0, False)])
def test_payloads_are_kept_for_thirty_seconds(age: float, *, is_kept: bool) -> None:
    script = Script(eager=[1])
    script.publish(b"hi")
    script.payloads.expire(age)
    assert bool(script.graft(1, HI)) is is_kept


@pytest.mark.parametrize(("age", "is_known"), [(89.999, True), (90.0, False)])
def test_ids_are_kept_for_ninety_seconds(age: float, *, is_known: bool) -> None:
    script = Script(eager=[1])
    script.gossip(1, b"hi")
    script.tree.seen.expire(age)
    assert (HI in script.tree.seen) is is_known


@pytest.mark.parametrize("size", [999, 1_000, 1_001])
def test_the_payload_cache_is_bounded_in_bytes_and_drops_the_oldest(size: int) -> None:
    cache = PayloadCache(keep_s=30.0, max_bytes=1_000)
    one: dict[MessageId, Gossip] = {}
    other: dict[MessageId, Gossip] = {}
    first, last = some_ids(2)
    cache.put(one, Gossip(first, b"x" * 500, 0), 0.0)
    cache.put(other, Gossip(last, b"x" * (size - 500), 0), 1.0)
    assert cache.used_bytes <= 1_000
    assert (first in one) is (size <= 1_000)
    assert last in other


# --- adaptive timeouts (U16) -------------------------------------------------------------------------------


def observe(script: Script, delay_s: float, count: int) -> None:
    for i in range(count):
        content = b"%f %d" % (delay_s, i)
        now = 100.0 * (1 + len(script.tree.seen))
        script.ihave(2, message_id(content), hops=0, now=now)
        script.gossip(1, content, hops=0, now=now + delay_s)
        script.wait(now + 50.0)


@pytest.mark.parametrize(("delay_s", "timeout_s"), [(0.001, 0.08), (0.05, 0.23), (0.9, 0.4)])
def test_the_graft_timeout_follows_the_delays_within_limits(delay_s: float, timeout_s: float) -> None:
    script = Script(BroadcastConfig(), eager=[1], lazy=[2])
    assert script.tree.timing.timeout_s == 0.3
    observe(script, delay_s, 64)
    assert script.tree.timing.timeout_s == pytest.approx(timeout_s, abs=0.04)
    assert script.tree.timing.retry_s == max(0.04, script.tree.timing.timeout_s / 2)


def test_a_few_samples_prove_little() -> None:
    script = Script(BroadcastConfig(), eager=[1], lazy=[2])
    observe(script, 0.0, 8)
    assert script.tree.timing.timeout_s == pytest.approx(0.24)


def test_a_needed_graft_teaches_nothing_and_a_hasty_one_teaches_patience() -> None:
    script = Script(BroadcastConfig(), eager=[1, 3], lazy=[2])
    timing = script.tree.timing
    script.ihave(2, HI)
    script.wait(0.31)
    script.gossip(2, b"hi", now=0.35)
    assert script.counters.repaired == 1
    assert timing._samples == []
    script.gossip(1, b"hi", now=0.45)
    assert timing._samples == [0.45]


def test_upstreams_timeouts_never_move() -> None:
    script = Script(UPSTREAM.broadcast, eager=[1], lazy=[2])
    observe(script, 0.01, 64)
    assert (script.tree.timing.timeout_s, script.tree.timing.retry_s) == (0.08, 0.04)


def test_ids_of_peers() -> None:
    """The script's own words: integers and ids agree."""
    assert int.from_bytes(peer_id(7)) == 7
    assert isinstance(peer_id(7), EndpointId)
