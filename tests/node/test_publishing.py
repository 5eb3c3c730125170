from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import anyio
import pytest

from kukuri_sidecar.errors import LimitReached
from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.node.events import NodeEvent, TopicPublished
from kukuri_sidecar.node.publishing import (
    CONFIRM_NEIGHBORS,
    MAX_OPEN_RECEIPTS,
    MAX_QUEUED_MESSAGES,
    RECEIPT_TIMEOUT_S,
    Queue,
    QueuedMessage,
    Receipts,
)
from kukuri_sidecar.wire.ids import MessageId, TopicId

pytestmark = pytest.mark.anyio

TOPIC, OTHER_TOPIC = TopicId(b"\1" * 32), TopicId(b"\2" * 32)


def name(number: int) -> MessageId:
    return MessageId(number.to_bytes(32, "big"))


class Told:
    """What the host was told, and when."""

    def __init__(self) -> None:
        self.events: list[tuple[float, NodeEvent]] = []

    def emit(self, event: NodeEvent) -> None:
        self.events.append((anyio.current_time(), event))

    def take(self) -> list[tuple[int, str, int]]:
        """Return (message number, state, acked by) of the events since the last call."""
        events, self.events = self.events, []
        taken = []
        for _, event in events:
            assert isinstance(event, TopicPublished)
            taken.append((int.from_bytes(event.message_id, "big"), event.state, event.acked_by))
        return taken


@pytest.fixture
async def told() -> Told:
    return Told()


@pytest.fixture
async def agenda() -> Agenda:
    return Agenda()


@pytest.fixture(autouse=True)
async def running(agenda: Agenda) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(agenda.run)
        yield
        tasks.cancel_scope.cancel()


@pytest.fixture
async def queue(agenda: Agenda, told: Told) -> Queue:
    return Queue(TOPIC, agenda, told.emit)


@pytest.fixture
async def receipts(agenda: Agenda, told: Told) -> Receipts:
    return Receipts(agenda, told.emit)


def message(number: int, ttl_s: float = 30.0) -> QueuedMessage:
    return QueuedMessage(name(number), b"content", False, anyio.current_time() + ttl_s)


# --- Queue ---------------------------------------------------------------------------------------------


async def test_waiting_messages_are_handed_out_once_and_in_order(queue: Queue, told: Told) -> None:
    for number in (3, 1, 2):
        queue.add(message(number))
    taken = queue.take_all(anyio.current_time())
    assert [item.message_id for item in taken] == [name(3), name(1), name(2)]
    assert len(queue) == 0
    assert queue.take_all(anyio.current_time()) == []
    await anyio.sleep(100)
    assert told.take() == []  # what becomes of them is the receipts' business


async def test_a_message_expires_at_its_moment_and_the_host_is_told(queue: Queue, told: Told) -> None:
    start = anyio.current_time()
    for number, ttl_s in ((1, 30.0), (2, 5.0), (3, 30.0)):
        queue.add(message(number, ttl_s))
    await anyio.sleep(6)
    assert [(round(at - start, 6), event) for at, event in told.events] == [
        (5.0, TopicPublished(TOPIC, name(2), "expired", 0))
    ]
    assert len(queue) == 2
    await anyio.sleep(60)
    assert told.take() == [(2, "expired", 0), (1, "expired", 0), (3, "expired", 0)]
    assert len(queue) == 0


async def test_what_expires_at_the_very_moment_of_the_first_neighbour_is_not_sent(
    queue: Queue, told: Told
) -> None:
    queue.add(message(1, 10.0))
    queue.add(message(2, 10.5))
    taken = queue.take_all(anyio.current_time() + 10.0)
    assert [item.message_id for item in taken] == [name(2)]
    assert told.take() == [(1, "expired", 0)]


async def test_a_message_without_time_expires_at_once(queue: Queue, told: Told) -> None:
    queue.add(message(1, 0.0))
    await anyio.sleep(0.001)
    assert told.take() == [(1, "expired", 0)]


async def test_leaving_fails_what_waits(queue: Queue, told: Told) -> None:
    queue.add(message(1))
    queue.add(message(2))
    queue.fail_all()
    queue.fail_all()
    await anyio.sleep(100)
    assert told.take() == [(1, "failed", 0), (2, "failed", 0)]
    assert len(queue) == 0


async def test_a_queue_has_a_most(queue: Queue, told: Told) -> None:
    for number in range(MAX_QUEUED_MESSAGES):
        queue.add(message(number, 1.0 if number == 0 else 30.0))
    for _ in range(2):
        with pytest.raises(LimitReached) as caught:
            queue.add(message(99))
        assert caught.value.details == {
            "limit": "queued_messages",
            "max": MAX_QUEUED_MESSAGES,
            "retry_at_ms": None,
        }
    assert len(queue) == MAX_QUEUED_MESSAGES
    await anyio.sleep(2)
    queue.add(message(99))  # one has expired
    assert told.take() == [(0, "expired", 0)]
    assert len(queue) == MAX_QUEUED_MESSAGES


async def test_queues_of_two_topics_do_not_disturb_each_other(agenda: Agenda, told: Told) -> None:
    first, second = Queue(TOPIC, agenda, told.emit), Queue(OTHER_TOPIC, agenda, told.emit)
    first.add(message(1, 5.0))
    second.add(message(2, 5.0))
    first.take_all(anyio.current_time())
    await anyio.sleep(10)
    assert [event for _, event in told.events] == [TopicPublished(OTHER_TOPIC, name(2), "expired", 0)]


@pytest.mark.parametrize("run", range(10))
async def test_every_queued_message_has_exactly_one_fate(
    queue: Queue, told: Told, rng: Random, run: int
) -> None:
    rng.seed(f"{rng.random()} {run}")
    added, taken, refused = [], [], 0
    for number in range(300):
        action = rng.random()
        if action < 0.75:
            try:
                queue.add(message(number, rng.choice([0.0, 0.5, 5.0, 30.0])))
                added.append(number)
            except LimitReached:
                refused += 1
                assert len(queue) == MAX_QUEUED_MESSAGES
        elif action < 0.77:
            taken += [int.from_bytes(item.message_id, "big") for item in queue.take_all(anyio.current_time())]
        elif action < 0.78:
            queue.fail_all()
        else:
            await anyio.sleep(rng.choice([0.1, 0.5, 3.0]))
        assert len(queue) <= MAX_QUEUED_MESSAGES
    await anyio.sleep(31)
    told_of = [number for number, _, _ in told.take()]
    assert sorted(taken + told_of) == added
    assert len(queue) == 0


# --- Receipts ------------------------------------------------------------------------------------------


async def test_two_acknowledgements_confirm_a_message(receipts: Receipts, told: Told) -> None:
    receipt = receipts.open(TOPIC, name(1))
    receipt.sent_to = 5
    receipt.note_ack()
    assert told.take() == []
    receipt.note_ack()
    assert told.take() == [(1, "acked", CONFIRM_NEIGHBORS)]
    for _ in range(3):
        receipt.note_ack()  # the others come later
    await anyio.sleep(RECEIPT_TIMEOUT_S + 1)
    assert told.take() == []
    assert len(receipts) == 0


async def test_an_only_neighbour_is_enough(receipts: Receipts, told: Told) -> None:
    receipt = receipts.open(TOPIC, name(1))
    receipt.sent_to = 1
    receipt.note_ack()
    assert told.take() == [(1, "acked", 1)]


@pytest.mark.parametrize("acks", [0, 1])
async def test_too_few_acknowledgements_expire_at_the_moment_with_their_number(
    receipts: Receipts, told: Told, acks: int
) -> None:
    start = anyio.current_time()
    receipt = receipts.open(TOPIC, name(1))
    receipt.sent_to = 3
    for _ in range(acks):
        receipt.note_ack()
    await anyio.sleep(RECEIPT_TIMEOUT_S - 0.001)
    assert told.events == []
    await anyio.sleep(0.002)
    assert [round(at - start, 6) for at, _ in told.events] == [RECEIPT_TIMEOUT_S]
    assert told.take() == [(1, "expired", acks)]
    receipt.note_ack()
    receipt.note_ack()
    assert told.take() == []


async def test_a_message_that_reached_nobody_expires(receipts: Receipts, told: Told) -> None:
    receipts.open(TOPIC, name(1))
    await anyio.sleep(RECEIPT_TIMEOUT_S + 1)
    assert told.take() == [(1, "expired", 0)]


async def test_a_message_published_twice_is_confirmed_twice(receipts: Receipts, told: Told) -> None:
    """The same payload has the same message id; each publish was promised an event."""
    first = receipts.open(TOPIC, name(1))
    first.sent_to = 2
    await anyio.sleep(10)
    second = receipts.open(TOPIC, name(1))
    second.sent_to = 2
    first.note_ack()
    second.note_ack()
    first.note_ack()
    assert told.take() == [(1, "acked", 2)]
    await anyio.sleep(RECEIPT_TIMEOUT_S + 1)
    assert told.take() == [(1, "expired", 1)]


async def test_the_same_message_in_two_topics_is_two_messages(receipts: Receipts, told: Told) -> None:
    one, other = receipts.open(TOPIC, name(1)), receipts.open(OTHER_TOPIC, name(1))
    one.sent_to = other.sent_to = 1
    other.note_ack()
    assert [event for _, event in told.events] == [TopicPublished(OTHER_TOPIC, name(1), "acked", 1)]


async def test_awaited_confirmations_have_a_most(receipts: Receipts, told: Told) -> None:
    opened = [receipts.open(TOPIC, name(number)) for number in range(MAX_OPEN_RECEIPTS)]
    with pytest.raises(LimitReached) as caught:
        receipts.open(TOPIC, name(9999))
    assert caught.value.details == {"limit": "open_receipts", "max": MAX_OPEN_RECEIPTS, "retry_at_ms": None}
    opened[5].sent_to = 1
    opened[5].note_ack()
    receipts.open(TOPIC, name(9999))
    assert len(receipts) == MAX_OPEN_RECEIPTS
    await anyio.sleep(RECEIPT_TIMEOUT_S + 1)
    assert len(receipts) == 0
    assert len(told.take()) == MAX_OPEN_RECEIPTS + 1


async def test_what_was_promised_in_a_queue_is_counted_beyond_the_most(
    receipts: Receipts, told: Told
) -> None:
    """Else the first neighbour of an isolated topic would end the node: nobody is there to hear a refusal."""
    for number in range(MAX_OPEN_RECEIPTS):
        receipts.open(TOPIC, name(number))
    receipt = receipts.open(TOPIC, name(9999), promised=True)
    receipt.sent_to = 1
    receipt.note_ack()
    assert told.take() == [(9999, "acked", 1)]
