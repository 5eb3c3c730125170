"""Nothing is lost without being counted: events received + sum of `missed` = last `seq`, in every storm."""

import json
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kukuri_sidecar.errors import LimitReached, UnknownSubscription
from kukuri_sidecar.rpc import api, feed
from kukuri_sidecar.rpc.feed import MAX_EVENTS, MAX_SUBSCRIPTIONS, Feed

TOPICS = ["aa" * 32, "bb" * 32, "cc" * 32]
PEER = "11" * 32

Json = Any  # what JSON holds


def nothing() -> None:
    pass


def message(topic: str = TOPICS[0], payload: bytes = b"x") -> api.TopicMessageEvent:
    return api.TopicMessageEvent(
        topic_id=topic,
        message_id=PEER,
        payload_b64=payload,
        delivered_from=PEER,
        scope="swarm",
        round=0,
        author=None,
        verified=False,
        author_seq=None,
    )


def topic_state(topic: str = TOPICS[0], neighbors: int = 0) -> api.TopicStateEvent:
    return api.TopicStateEvent(
        topic_id=topic, state="joined", neighbors=neighbors, next_attempt_at_ms=None, reason=None
    )


def peer_state(peer: str = PEER, rtt_ms: int = 0) -> api.PeerStateEvent:
    return api.PeerStateEvent(endpoint_id=peer, state="connected", path="direct", rtt_ms=rtt_ms, reason=None)


def log(text: str = "x") -> api.LogEvent:
    return api.LogEvent(level="info", module="m", message=text, repeated=1)


def published(count: int) -> api.TopicPublishedEvent:
    return api.TopicPublishedEvent(topic_id=TOPICS[0], message_id=PEER, state="acked", acked_by=count)


def params(event: bytes | None) -> Json:
    assert event is not None
    decoded = json.loads(event)
    assert decoded == {"jsonrpc": "2.0", "method": "event", "params": decoded["params"]}
    return decoded["params"]


def drain(source: Feed) -> list[Json]:
    out = []
    while (event := source.take()) is not None:
        out.append(params(event))
    return out


def started(*subscriptions: tuple[list[str] | None, list[str] | None]) -> Feed:
    source = Feed(nothing)
    for types, topic_ids in subscriptions or ((None, None),):
        source.release(source.subscribe(types, topic_ids))
    return source


def types(events: list[Json]) -> list[str]:
    return [event["type"] for event in events]


# --- the equation --------------------------------------------------------------------------------------


class Ledger:
    """A host's books of one subscription."""

    def __init__(self) -> None:
        self.received = 0
        self.missed = 0
        self.last_seq = 0

    def take(self, event: Json) -> None:
        assert event["seq"] > self.last_seq, "seq only grows"
        self.last_seq = event["seq"]
        if event["type"] == "lagged":
            assert event["missed"] >= 1
            self.missed += event["missed"]
        else:
            self.received += 1


STEPS = st.one_of(
    st.tuples(st.just("message"), st.sampled_from(TOPICS), st.integers(1, 40)),
    st.tuples(st.just("state"), st.sampled_from(TOPICS), st.integers(1, 3)),
    st.tuples(st.just("peer"), st.sampled_from(["11" * 32, "22" * 32]), st.integers(1, 3)),
    st.tuples(st.just("log"), st.just(""), st.integers(1, 30)),
    st.tuples(st.just("read"), st.just(""), st.integers(1, 30)),
    st.tuples(st.just("wait"), st.just(""), st.integers(1, 15)),
    st.tuples(st.just("subscribe"), st.sampled_from(["", "*", "topic.*", "log"]), st.integers(0, 2)),
    st.tuples(st.just("unsubscribe"), st.just(""), st.integers(1, 9)),
)


@settings(max_examples=200)
@given(
    steps=st.lists(STEPS, max_size=60),
    max_events=st.integers(1, 40),
    max_bytes=st.integers(2_000, 40_000),
    max_topics=st.integers(1, 4),
)
def test_every_event_is_received_or_counted(
    steps: list[tuple[str, str, int]], max_events: int, max_bytes: int, max_topics: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "MAX_EVENTS", max_events)
        patch.setattr(feed, "MAX_BYTES", max_bytes)
        patch.setattr(feed, "MAX_TOPICS", max_topics)
        source = Feed(nothing)
        books: dict[int, Ledger] = {}
        now = 0.0

        def subscribe(pattern: str, topics: int) -> None:
            if len(books) < MAX_SUBSCRIPTIONS:
                number = source.subscribe([pattern] if pattern else None, TOPICS[:topics] or None)
                source.release(number)
                books[number] = Ledger()

        def read(count: float) -> None:
            while count > 0 and (event := source.take()) is not None:
                count -= 1
                decoded = params(event)
                books[decoded["subscription"]].take(decoded)

        subscribe("", 0)
        for action, name, count in steps:
            match action:
                case "message":
                    for _ in range(count):
                        source.publish(message(name, b"x" * (count % 7) * 50), now, 0)
                case "state":
                    for index in range(count):
                        source.publish(topic_state(name, index), now, 0)
                case "peer":
                    for index in range(count):
                        source.publish(peer_state(name, index), now, 0)
                case "log":
                    for _ in range(count):
                        source.publish(log(), now, 0)
                case "read":
                    read(count)
                case "wait":
                    now += count / 10
                    if now >= source.deadline():
                        source.on_deadline(now)
                    assert source.deadline() > now
                case "subscribe":
                    subscribe(name, count)
                case "unsubscribe":
                    if count in books:
                        last_seq, untold = source.unsubscribe(count)
                        book = books.pop(count)
                        assert book.received + book.missed + untold == last_seq
            assert source.queued_bytes <= max_bytes
            assert all(one.length <= max_events for one in source._subscriptions.values())
        read(math.inf)
        for number, book in books.items():
            last_seq, untold = source.unsubscribe(number)
            assert untold == 0
            assert book.received + book.missed == last_seq


def test_a_late_reader_gets_the_newest_and_one_exact_loss() -> None:
    """The case of the contract's example: consecutive losses, so the next seq is lagged.seq + missed."""
    source = started()
    for index in range(20_000):
        source.publish(published(index), 0.0, index)
    events = drain(source)
    lagged, rest = events[0], events[1:]
    assert lagged == {
        "subscription": 1,
        "seq": 1,
        "ts_ms": MAX_EVENTS,  # when the first one was lost
        "type": "lagged",
        "topic_id": TOPICS[0],
        "missed": 20_000 - MAX_EVENTS,
    }
    assert [event["seq"] for event in rest] == list(range(20_000 - MAX_EVENTS + 1, 20_001))
    assert source.missed_of(TOPICS[0]) == 20_000 - MAX_EVENTS


@pytest.mark.parametrize(("count", "missed"), [(MAX_EVENTS - 1, 0), (MAX_EVENTS, 0), (MAX_EVENTS + 1, 1)])
def test_the_ring_at_its_limit(count: int, missed: int) -> None:
    source = started()
    for index in range(count):
        source.publish(published(index), 0.0, 0)
    events = drain(source)
    assert sum(event.get("missed", 0) for event in events) == missed
    assert len(events) == min(count, MAX_EVENTS + 1)


def test_the_busiest_topic_loses_its_oldest_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the quiet topic nor events without a topic pay for a flood in another one."""
    monkeypatch.setattr(feed, "MAX_EVENTS", 6)
    quiet, loud = TOPICS[0], TOPICS[1]
    source = started((["*"], None))
    source.publish(log(), 0.0, 0)  # 1
    source.publish(message(quiet), 0.0, 0)  # 2
    for _ in range(8):
        source.publish(message(loud), 0.0, 0)  # 3 to 10, of which 3, 4, 5, 6 are lost
    source.publish(message(quiet), 0.0, 0)  # 11, and 7 is lost
    got = [
        (event["seq"], event["type"], event.get("topic_id"), event.get("missed")) for event in drain(source)
    ]
    assert got == [
        (1, "log", None, None),
        (2, "topic.message", quiet, None),
        (3, "lagged", loud, 5),
        (8, "topic.message", loud, None),
        (9, "topic.message", loud, None),
        (10, "topic.message", loud, None),
        (11, "topic.message", quiet, None),
    ]


def test_without_topics_the_oldest_state_events_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_EVENTS", 2)
    source = started()
    for index in range(5):
        source.publish(peer_state(f"{index:064x}"), 0.0, 0)
    got = [
        (event["seq"], event["type"], event.get("topic_id", ""), event.get("missed"))
        for event in drain(source)
    ]
    assert got == [(1, "lagged", None, 3), (4, "peer.state", "", None), (5, "peer.state", "", None)]


def test_a_loss_after_a_lagged_was_read_is_a_new_lagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_EVENTS", 2)
    source = started()
    for _ in range(4):
        source.publish(message(), 0.0, 0)
    assert params(source.take())["missed"] == 2
    for _ in range(3):
        source.publish(message(), 0.0, 0)
    got = [(event["seq"], event["type"], event.get("missed")) for event in drain(source)]
    assert got == [(3, "lagged", 3), (6, "topic.message", None), (7, "topic.message", None)]


def test_the_fullest_subscription_pays_for_the_shared_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_BYTES", 20_000)
    source = started((["topic.message"], None), (["log"], None))
    source.publish(log(), 0.0, 0)
    for _ in range(100):
        source.publish(message(payload=b"x" * 300), 0.0, 0)
    assert 18_000 < source.queued_bytes <= 20_000
    by_subscription = Counter((event["subscription"], event["type"]) for event in drain(source))
    assert by_subscription[2, "log"] == 1
    assert by_subscription[2, "lagged"] == 0
    assert by_subscription[1, "lagged"] == 1
    assert source.queued_bytes == 0


def test_bytes_are_what_goes_over_the_wire() -> None:
    source = started()
    source.publish(message(payload=b"x" * 1000), 0.0, 1_763_790_000_000)
    queued = source.queued_bytes
    event = source.take()
    assert event is not None
    assert 0 <= queued - len(event) < 20


# --- state events --------------------------------------------------------------------------------------


def test_a_state_is_told_at_once_then_once_a_second_the_latest_wins() -> None:
    source = started()
    for index in range(5):
        source.publish(peer_state(rtt_ms=index), 10.0 + index / 10, index)
    assert [event["rtt_ms"] for event in drain(source)] == [0]
    assert source.deadline() == 11.0
    source.on_deadline(10.99)
    assert drain(source) == []
    source.on_deadline(11.0)
    (merged,) = drain(source)
    assert (merged["rtt_ms"], merged["seq"], merged["ts_ms"]) == (4, 2, 4)
    source.publish(peer_state(rtt_ms=9), 11.5, 9)
    assert drain(source) == []
    source.on_deadline(12.0)
    assert [event["rtt_ms"] for event in drain(source)] == [9]
    source.on_deadline(13.0)
    assert source.deadline() == math.inf
    source.publish(peer_state(rtt_ms=10), 13.0, 10)
    assert [event["rtt_ms"] for event in drain(source)] == [10]


def test_a_held_state_is_overtaken_by_one_that_is_due() -> None:
    """The timer may be late; the older state must not come after the newer one."""
    source = started()
    source.publish(peer_state(rtt_ms=1), 0.0, 0)
    source.publish(peer_state(rtt_ms=2), 0.5, 0)
    source.publish(peer_state(rtt_ms=3), 1.2, 0)
    source.on_deadline(5.0)
    assert [event["rtt_ms"] for event in drain(source)] == [1, 3]


def test_objects_and_types_are_merged_apart_and_messages_never() -> None:
    source = started()
    for peer in ("11" * 32, "22" * 32):
        source.publish(peer_state(peer), 0.0, 0)
    for topic in TOPICS:
        source.publish(topic_state(topic), 0.0, 0)
    for _ in range(3):
        source.publish(message(), 0.0, 0)
    assert Counter(types(drain(source))) == {"peer.state": 2, "topic.state": 3, "topic.message": 3}


def test_merging_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_STATES", 3)
    source = started()
    for _ in range(2):
        for index in range(5):
            source.publish(peer_state(f"{index:064x}"), 0.0, 0)
    assert len(drain(source)) == 5 + 2, "the two that are not remembered are told twice"
    source.on_deadline(1.0)
    assert len(drain(source)) == 3


# --- filters and lives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (None, {"topic.message", "topic.state", "peer.state"}),
        (["*"], {"topic.message", "topic.state", "peer.state", "log"}),
        (["topic.*"], {"topic.message", "topic.state"}),
        (["topic.message", "log"], {"topic.message", "log"}),
        (["health.changed"], set()),
        ([], set()),
    ],
)
def test_filter_by_type(patterns: list[str] | None, wanted: set[str]) -> None:
    source = started((patterns, None))
    for event in (message(), topic_state(), peer_state(), log()):
        source.publish(event, 0.0, 0)
    events = drain(source)
    assert set(types(events)) == wanted
    assert [event["seq"] for event in events] == list(range(1, len(wanted) + 1)), (
        "only what passed has a number"
    )


def test_filter_by_topic_leaves_events_without_one_alone() -> None:
    source = started((None, [TOPICS[1]]))
    for topic in TOPICS:
        source.publish(message(topic), 0.0, 0)
    source.publish(peer_state(), 0.0, 0)
    assert [event.get("topic_id") for event in drain(source)] == [TOPICS[1], None]


def test_lagged_passes_every_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MAX_EVENTS", 1)
    source = started((["topic.message"], None))
    for _ in range(3):
        source.publish(message(), 0.0, 0)
    assert types(drain(source)) == ["lagged", "topic.message"]


def test_events_wait_for_the_answer_and_stop_with_the_subscription() -> None:
    woken = []
    source = Feed(lambda: woken.append(True))
    number = source.subscribe(None, None)
    source.publish(message(), 0.0, 0)
    assert source.take() is None
    source.release(number)
    assert woken
    assert params(source.take())["seq"] == 1
    for _ in range(3):
        source.publish(message(), 0.0, 0)
    assert source.unsubscribe(number) == (4, 3)
    assert source.take() is None
    assert source.queued_bytes == 0
    with pytest.raises(UnknownSubscription):
        source.unsubscribe(number)
    source.release(number)  # its answer may come later than its end


def test_subscriptions_are_bounded_and_numbers_never_return() -> None:
    source = started(*[(None, None)] * MAX_SUBSCRIPTIONS)
    with pytest.raises(LimitReached) as caught:
        source.subscribe(None, None)
    assert caught.value.details == {"limit": "subscriptions", "max": 8, "retry_at_ms": None}
    source.unsubscribe(3)
    assert source.subscribe(None, None) == MAX_SUBSCRIPTIONS + 1


def test_subscriptions_take_turns() -> None:
    source = started(*[(None, None)] * 3)
    for _ in range(2):
        source.publish(message(), 0.0, 0)
    assert sorted(event["subscription"] for event in drain(source)[:3]) == [1, 2, 3]


def test_nobody_listens_nothing_is_kept() -> None:
    source = started()
    source.publish(peer_state(rtt_ms=1), 0.0, 0)
    source.publish(peer_state(rtt_ms=2), 0.1, 0)
    source.unsubscribe(1)
    assert source.is_idle
    source.publish(peer_state(rtt_ms=3), 0.2, 0)
    assert source.deadline() == math.inf
    source.release(source.subscribe(None, None))
    source.publish(peer_state(rtt_ms=4), 0.3, 0)
    assert [event["rtt_ms"] for event in drain(source)] == [4]
