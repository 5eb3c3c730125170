"""Subscriptions: filter, number, keep in bounded rings, account for every loss. No I/O, no clock.

Order and loss are api.md section 5: ``seq`` numbers what passed the filter; a full ring replaces its oldest
events of the busiest topic in place by one ``lagged`` that takes the first lost ``seq``. Hence always:
events received other than ``lagged`` + sum of ``missed`` = last ``seq``. State events are merged before they
get a number: at most one per second and object, the latest wins.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from kukuri_sidecar.errors import LimitReached, UnknownSubscription
from kukuri_sidecar.rpc import api

MAX_SUBSCRIPTIONS = 8  # api.md 4.7
MAX_EVENTS = 4096  # api.md section 5: per subscription
MAX_BYTES = 8 << 20  # api.md section 5: all subscriptions together
MAX_TOPICS = 256  # ours: topics accounted apart in one ring; limits.topics is 64, more count as no topic
MERGE_S = 1.0  # api.md section 5
MAX_STATES = 4096  # ours: objects whose last state event is remembered; more are not merged
MAX_MISSED_TOPICS = 1024  # ours: topics whose losses `topic.list` can tell

_HEADER = b'{"jsonrpc":"2.0","method":"event","params":{"subscription":%d,"seq":%d,%b'
_HEADER_BYTES = len(_HEADER) + 8  # what the header adds to a queued event, roughly

_STATE_KEYS: dict[type[api.Event], str] = {
    api.NodeChangedEvent: "",
    api.PeerStateEvent: "endpoint_id",
    api.TopicStateEvent: "topic_id",
}
_HAS_TOPIC = {kind: "topic_id" in kind.__struct_fields__ for kind in api.EVENTS}
_TYPE = {kind: str(kind.__struct_config__.tag) for kind in api.EVENTS}

_encoder = msgspec.json.Encoder()


class Feed:
    """All subscriptions. ``now`` is monotonic seconds; ``wake`` is called when ``take`` has something."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._subscriptions: dict[int, _Subscription] = {}
        self._last_number = 0
        self._turn = 0
        self._states: dict[tuple[str, str], _State] = {}  # ordered by free_at
        self._held = 0
        self._missed: dict[str, int] = {}

    @property
    def is_idle(self) -> bool:
        """Say whether nobody listens, so that making an event is a waste."""
        return not self._subscriptions

    @property
    def queued_bytes(self) -> int:
        """Sum of what all rings hold."""
        return sum(subscription.bytes for subscription in self._subscriptions.values())

    def subscribe(self, types: Iterable[str] | None, topic_ids: Iterable[str] | None) -> int:
        """Start a subscription; its events are numbered from now on and come out after ``release``."""
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise LimitReached(
                f"{MAX_SUBSCRIPTIONS} subscriptions at most",
                limit="subscriptions",
                max=MAX_SUBSCRIPTIONS,
                retry_at_ms=None,
            )
        self._last_number += 1
        self._subscriptions[self._last_number] = _Subscription(self._last_number, types, topic_ids)
        return self._last_number

    def release(self, number: int) -> None:
        """Let the events out; call it when the answer to the subscriber is queued."""
        subscription = self._subscriptions.get(number)
        if subscription is not None:
            subscription.is_released = True
            self._wake()

    def unsubscribe(self, number: int) -> tuple[int, int]:
        """End a subscription at once. Returns its last seq and how many events were not told of."""
        subscription = self._subscriptions.pop(number, None)
        if subscription is None:
            raise UnknownSubscription(f"no subscription {number}")
        return subscription.last_seq, subscription.untold

    def publish(self, event: api.Event, now: float, ts_ms: int) -> None:
        """Queue an event for everybody who asked for it, or hold a state event back until it is due."""
        if not self._subscriptions:
            self._states.clear()
            self._held = 0
            return
        key_field = _STATE_KEYS.get(type(event))
        if key_field is None or not self._hold(event, key_field, now, ts_ms):
            self._push(event, ts_ms)

    def deadline(self) -> float:
        """Return when ``on_deadline`` wants to run; inf when nothing is held back."""
        return next(iter(self._states.values())).free_at if self._held else math.inf

    def on_deadline(self, now: float) -> None:
        """Queue the state events that are due."""
        due = self._expire(now)
        for key, state in due:
            if state.event is not None:
                self._held -= 1
                self._push(state.event, state.ts_ms)
                self._states[key] = _State(now + MERGE_S)

    def take(self) -> bytes | None:
        """Return the next event as JSON, the subscriptions in turn; None when nothing waits."""
        numbers = tuple(self._subscriptions)
        for _ in numbers:
            self._turn = (self._turn + 1) % len(numbers)
            event = self._subscriptions[numbers[self._turn]].take()
            if event is not None:
                return event
        return None

    def missed_of(self, topic_id: str) -> int:
        """Return how many events of a topic the host was too slow for."""
        return self._missed.get(topic_id, 0)

    def _hold(self, event: api.Event, key_field: str, now: float, ts_ms: int) -> bool:
        """Hold a state event back if its object had one within the last second."""
        key = (_TYPE[type(event)], getattr(event, key_field) if key_field else "")
        state = self._states.get(key)
        if state is not None and now < state.free_at:
            self._held += state.event is None
            state.event, state.ts_ms = event, ts_ms
            return True
        if state is not None and state.event is not None:  # due, and overtaken before on_deadline came
            self._held -= 1
        self._states.pop(key, None)
        if not self._held:
            self._expire(now)
        if len(self._states) < MAX_STATES:
            self._states[key] = _State(now + MERGE_S)
        return False

    def _expire(self, now: float) -> list[tuple[tuple[str, str], _State]]:
        out = []
        for key, state in self._states.items():
            if now < state.free_at:
                break
            out.append((key, state))
        for key, _ in out:
            del self._states[key]
        return out

    def _push(self, event: api.Event, ts_ms: int) -> None:
        kind = type(event)
        topic_id: str | None = getattr(event, "topic_id", None) if _HAS_TOPIC[kind] else None
        tail = b""
        for subscription in self._subscriptions.values():
            if subscription.wants(_TYPE[kind], topic_id):
                tail = tail or b'"ts_ms":%d,%b}' % (ts_ms, _encoder.encode(event)[1:])
                subscription.push(topic_id, tail)
                if subscription.length > MAX_EVENTS:
                    self._lose(subscription, ts_ms)
        if tail:
            self._shrink(ts_ms)
            self._wake()

    def _shrink(self, ts_ms: int) -> None:
        excess = self.queued_bytes - MAX_BYTES
        while excess > 0:
            fullest = max(self._subscriptions.values(), key=lambda subscription: subscription.bytes)
            before = fullest.bytes
            self._lose(fullest, ts_ms)
            excess -= before - fullest.bytes

    def _lose(self, subscription: _Subscription, ts_ms: int) -> None:
        topic_id = subscription.lose(ts_ms)
        if topic_id is not None:
            count = self._missed.pop(topic_id, 0) + 1
            while len(self._missed) >= MAX_MISSED_TOPICS:
                del self._missed[next(iter(self._missed))]
            self._missed[topic_id] = count


class _State:
    """When an object's next state event may go out, and the one that waits for it."""

    __slots__ = ("event", "free_at", "ts_ms")

    def __init__(self, free_at: float) -> None:
        self.free_at = free_at
        self.event: api.Event | None = None
        self.ts_ms = 0


class _Bucket:
    """The queued events of one topic (or of none) in one ring, and its pending ``lagged``."""

    __slots__ = ("lagged_seq", "lagged_ts_ms", "missed", "seqs", "topic_id")

    def __init__(self, topic_id: str | None) -> None:
        self.topic_id = topic_id
        self.seqs: deque[int] = deque()
        self.lagged_seq: int | None = None
        self.lagged_ts_ms = 0
        self.missed = 0


class _Subscription:
    """One filter and one ring. ``length`` counts events, ``bytes`` roughly what they will be on the wire."""

    __slots__ = (
        "_buckets",
        "_entries",
        "_topic_ids",
        "_wanted",
        "bytes",
        "is_released",
        "last_seq",
        "length",
        "number",
    )

    def __init__(self, number: int, types: Iterable[str] | None, topic_ids: Iterable[str] | None) -> None:
        patterns = None if types is None else list(types)
        self.number = number
        self.is_released = False
        self.last_seq = 0
        self.length = 0
        self.bytes = 0
        self._wanted = {kind: _matches(patterns, kind) for kind in _TYPE.values()}
        self._topic_ids = None if topic_ids is None else frozenset(topic_ids)
        # In order of seq; None is the place of a bucket's `lagged`.
        self._entries: dict[int, tuple[_Bucket, bytes | None]] = {}
        self._buckets: dict[str | None, _Bucket] = {}

    @property
    def untold(self) -> int:
        """Count the events that wait, and the lost ones whose ``lagged`` waits."""
        return self.length + sum(bucket.missed for bucket in self._buckets.values())

    def wants(self, kind: str, topic_id: str | None) -> bool:
        """Say whether an event passes the filter."""
        return self._wanted[kind] and (
            topic_id is None or self._topic_ids is None or topic_id in self._topic_ids
        )

    def push(self, topic_id: str | None, tail: bytes) -> None:
        """Number an event and queue it."""
        if topic_id not in self._buckets and len(self._buckets) >= MAX_TOPICS:
            topic_id = None
        bucket = self._buckets.get(topic_id)
        if bucket is None:
            bucket = self._buckets[topic_id] = _Bucket(topic_id)
        self.last_seq += 1
        bucket.seqs.append(self.last_seq)
        self._entries[self.last_seq] = (bucket, tail)
        self.length += 1
        self.bytes += len(tail) + _HEADER_BYTES

    def lose(self, ts_ms: int) -> str | None:
        """Give up the oldest event of the busiest topic, or without topics of the rest; returns the topic."""
        bucket = max(
            (bucket for bucket in self._buckets.values() if bucket.topic_id is not None and bucket.seqs),
            key=lambda bucket: len(bucket.seqs),
            default=None,
        )
        if bucket is None:
            bucket = self._buckets[None]
        seq = bucket.seqs.popleft()
        _, tail = self._entries[seq]
        self.length -= 1
        self.bytes -= len(tail or b"") + _HEADER_BYTES
        if bucket.lagged_seq is None:
            bucket.lagged_seq, bucket.lagged_ts_ms = seq, ts_ms
            self._entries[seq] = (bucket, None)  # keeps its place
        else:
            del self._entries[seq]
        bucket.missed += 1
        return bucket.topic_id

    def take(self) -> bytes | None:
        """Remove the oldest entry and return it as JSON; None when there is none or it must wait."""
        if not self.is_released or not self._entries:
            return None
        # A dict looks for its first key behind the deleted ones: 2 us on average, and bounded by its size,
        # while a search from the last seq taken would be as long as the loss.
        seq = next(iter(self._entries))
        bucket, tail = self._entries.pop(seq)
        if tail is None:
            tail = b'"ts_ms":%d,%b}' % (bucket.lagged_ts_ms, _encoder.encode(_lagged(bucket))[1:])
            bucket.lagged_seq, bucket.missed = None, 0
        else:
            bucket.seqs.popleft()  # its own: both are in order of seq
            self.length -= 1
            self.bytes -= len(tail) + _HEADER_BYTES
        if not bucket.seqs and bucket.lagged_seq is None:
            del self._buckets[bucket.topic_id]
        return _HEADER % (self.number, seq, tail)


def _lagged(bucket: _Bucket) -> api.LaggedEvent:
    return api.LaggedEvent(topic_id=bucket.topic_id, missed=bucket.missed)


def _matches(patterns: list[str] | None, kind: str) -> bool:
    """Say whether a filter asks for an event type; without a filter everything but `log` is wanted."""
    if patterns is None:
        return kind != "log"
    return any(
        kind.startswith(pattern[:-1]) if pattern.endswith("*") else kind == pattern for pattern in patterns
    )
