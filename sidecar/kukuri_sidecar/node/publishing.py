"""What becomes of published messages: those that wait for a first neighbour, and who acknowledged which."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio

from kukuri_sidecar.errors import LimitReached
from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.node.events import Emit, TopicPublished
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId

MAX_QUEUED_MESSAGES = 64  # per isolated topic (api.md 4.6)
MAX_OPEN_RECEIPTS = 1024  # confirmed messages whose acknowledgements are awaited, all topics
RECEIPT_TIMEOUT_S = 30.0  # as long as the payload cache could still repair a loss
CONFIRM_NEIGHBORS = 2  # acked: by min(2, n) neighbours (api.md section 5)


@dataclass(eq=False, slots=True)
class Receipt:
    """Counts the neighbours that acknowledged one message on QUIC level."""

    on_change: Callable[[Receipt], None]
    sent_to: int = 0
    acked_by: int = 0
    _peers: dict[EndpointId, None] = field(default_factory=dict)

    def note_sent(self, peer: EndpointId) -> bool:
        """The message goes to ``peer``; False when it did before: whoever asks for it again counts once."""
        if peer in self._peers:
            return False
        self._peers[peer] = None
        self.sent_to += 1
        return True

    def note_ack(self) -> None:
        """One more neighbour has every byte of the message."""
        self.acked_by += 1
        self.on_change(self)


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message that waits for the topic's first neighbour until ``expires_at`` (monotonic seconds)."""

    message_id: MessageId
    content: bytes
    neighbors_only: bool
    expires_at: float


class Queue:
    """The waiting messages of one topic, oldest first. Nothing here survives the process."""

    def __init__(self, topic_id: TopicId, agenda: Agenda, emit: Emit) -> None:
        self._topic_id = topic_id
        self._agenda = agenda
        self._emit = emit
        self._messages: deque[QueuedMessage] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def require_room(self) -> None:
        """Raise LimitReached when ``MAX_QUEUED_MESSAGES`` wait already."""
        if len(self._messages) >= MAX_QUEUED_MESSAGES:
            raise LimitReached(
                "as many messages as allowed wait for the first neighbour",
                limit="queued_messages",
                max=MAX_QUEUED_MESSAGES,
                retry_at_ms=None,
            )

    def add(self, message: QueuedMessage) -> None:
        """Keep the message; LimitReached as ``require_room``."""
        self.require_room()
        self._messages.append(message)
        self._arm()

    def take_all(self, now: float) -> list[QueuedMessage]:
        """Hand out what has not expired and start empty."""
        self._expire(now)
        messages, self._messages = list(self._messages), deque()
        self._arm()
        return messages

    def fail_all(self) -> None:
        """The topic is left: nothing that waits will ever be sent."""
        for message in self._messages:
            self._emit(TopicPublished(self._topic_id, message.message_id, "failed", 0))
        self._messages.clear()
        self._arm()

    def _expire(self, now: float) -> None:
        kept: deque[QueuedMessage] = deque()
        for message in self._messages:
            if now >= message.expires_at:
                self._emit(TopicPublished(self._topic_id, message.message_id, "expired", 0))
            else:
                kept.append(message)
        self._messages = kept
        self._arm()

    def _arm(self) -> None:
        key = ("queue", self._topic_id)
        if self._messages:
            self._agenda.set(key, min(message.expires_at for message in self._messages), self._expire)
        else:
            self._agenda.cancel(key)


class Receipts:
    """Confirmed messages on their way: ``acked`` when enough neighbours have every byte, else ``expired``.

    A message that is published twice is awaited twice: two promises, two events.
    """

    def __init__(self, agenda: Agenda, emit: Emit) -> None:
        self._agenda = agenda
        self._emit = emit
        self._open: dict[Receipt, tuple[TopicId, MessageId]] = {}
        self._by_message: dict[tuple[TopicId, MessageId], list[Receipt]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def require_room(self) -> None:
        """Raise LimitReached when ``MAX_OPEN_RECEIPTS`` are awaited already."""
        if len(self._open) >= MAX_OPEN_RECEIPTS:
            raise LimitReached(
                "as many confirmations as allowed are awaited",
                limit="open_receipts",
                max=MAX_OPEN_RECEIPTS,
                retry_at_ms=None,
            )

    def open(self, topic_id: TopicId, message_id: MessageId, *, promised: bool = False) -> Receipt:
        """Begin to count for a message; LimitReached as ``require_room``.

        ``promised``: the message comes from a queue, which has a bound of its own, and was accepted long ago.
        """
        if not promised:
            self.require_room()
        receipt = Receipt(self._on_ack)
        self._open[receipt] = (topic_id, message_id)
        self._by_message.setdefault((topic_id, message_id), []).append(receipt)
        deadline = anyio.current_time() + RECEIPT_TIMEOUT_S
        self._agenda.set(("receipt", receipt), deadline, lambda _: self._settle(receipt, "expired"))
        return receipt

    def of(self, topic_id: TopicId, message_id: MessageId) -> Sequence[Receipt]:
        """Return who counts for a message that is about to be sent, pushed or asked for."""
        return self._by_message.get((topic_id, message_id), ())

    def _on_ack(self, receipt: Receipt) -> None:
        if receipt.acked_by >= min(CONFIRM_NEIGHBORS, receipt.sent_to):
            self._settle(receipt, "acked")

    def _settle(self, receipt: Receipt, state: str) -> None:
        key = self._open.pop(receipt, None)
        if key:
            self._agenda.cancel(("receipt", receipt))
            same = self._by_message[key]
            same.remove(receipt)
            if not same:
                del self._by_message[key]
            self._emit(TopicPublished(*key, state, receipt.acked_by))
