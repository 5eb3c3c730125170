"""Answers go first and are never dropped; events fill what is left of a write."""

from kukuri_sidecar.rpc import api
from kukuri_sidecar.rpc.feed import Feed
from kukuri_sidecar.rpc.outbox import CHUNK_BYTES, MAX_ANSWER_BYTES, Outbox


def outbox(events: int = 0) -> Outbox:
    feed = Feed(lambda: None)
    box = Outbox(feed, lambda body: body + b"\n", lambda: None)
    feed.release(feed.subscribe(["log"], None))
    for index in range(events):
        feed.publish(api.LogEvent(level="info", module="m", message=str(index), repeated=1), 0.0, 0)
    return box


def test_answers_overtake_events() -> None:
    box = outbox(events=2)
    box.answer(b"first")
    box.answer(b"second")
    lines = box.take().splitlines()
    assert lines[:2] == [b"first", b"second"]
    assert [b'"seq":1' in lines[2], b'"seq":2' in lines[3]] == [True, True]
    assert box.take() == b""


def test_a_write_is_about_one_chunk_and_answers_displace_events() -> None:
    box = outbox(events=4000)
    first = box.take()
    assert CHUNK_BYTES <= len(first) < CHUNK_BYTES + 300
    for _ in range(3):
        box.answer(b"x" * CHUNK_BYTES)
    for _ in range(3):
        assert box.take() == b"x" * CHUNK_BYTES + b"\n"
    assert b'"type":"log"' in box.take()


def test_a_frame_larger_than_a_chunk_goes_out_whole() -> None:
    box = outbox()
    body = b"x" * (3 * CHUNK_BYTES)
    box.answer(body)
    box.answer(b"y")
    assert box.take() == body + b"\n"
    assert box.take() == b"y\n"


def test_room_ends_at_eight_mebibytes_of_answers() -> None:
    box = outbox()
    box.answer(b"x" * (MAX_ANSWER_BYTES - 1))
    assert box.has_room
    box.answer(b"x")
    assert not box.has_room
    box.take()
    assert box.has_room
