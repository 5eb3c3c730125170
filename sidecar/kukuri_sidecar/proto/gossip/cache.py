"""Memory of messages: payloads for Grafts under one byte cap, and ids against duplicates.

Retention is constant, so order of arrival is order of expiry: no heap. Expiry runs on a coarse tick; an
entry may live up to one tick longer than its time, as upstream's.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from kukuri_sidecar.wire.gossip_messages import Gossip
from kukuri_sidecar.wire.ids import MessageId

Shelf: TypeAlias = dict[MessageId, Gossip]
"""The cached payloads of one topic."""


class PayloadCache:
    """Payloads of all topics, each on its topic's shelf; the oldest go first, by age and by bytes."""

    __slots__ = ("_keep_s", "_line", "_max_bytes", "used_bytes")

    def __init__(self, *, keep_s: float, max_bytes: int) -> None:
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._line: deque[tuple[float, int, Shelf, MessageId]] = deque()
        self.used_bytes = 0

    def put(self, shelf: Shelf, message: Gossip, now: float) -> None:
        """Keep ``message`` on ``shelf``, making room first if needed."""
        message_id = message.id
        if message_id in shelf:
            return
        size = len(message.content)
        shelf[message_id] = message
        self._line.append((now + self._keep_s, size, shelf, message_id))
        self.used_bytes += size
        while self.used_bytes > self._max_bytes:
            self._drop_oldest()

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        line = self._line
        while line and now >= line[0][0]:
            self._drop_oldest()

    def due(self) -> float | None:
        """Return when the oldest payload expires."""
        return self._line[0][0] if self._line else None

    def _drop_oldest(self) -> None:
        _, size, shelf, message_id = self._line.popleft()
        shelf.pop(message_id, None)
        self.used_bytes -= size


class SeenIds(dict[MessageId, float]):
    """Ids of one topic's messages, oldest first, each with the time to forget it."""

    __slots__ = ()

    def expire(self, now: float) -> None:
        """Forget ids whose time has come."""
        old = []
        for message_id, forget_at in self.items():
            if now < forget_at:
                break
            old.append(message_id)
        for message_id in old:
            del self[message_id]

    def forget_oldest(self, count: int) -> None:
        """Forget up to ``count`` ids early."""
        for message_id in list(self)[:count]:
            del self[message_id]

    def due(self) -> float | None:
        """Return when the oldest id is to be forgotten."""
        return next(iter(self.values()), None)
