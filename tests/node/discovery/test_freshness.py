from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.node.discovery.freshness import MAX_AHEAD_US, MAX_REMEMBERED, Freshness
from kukuri_sidecar.wire.ids import EndpointId

NOW_MS = 1_763_790_000_000
NOW_US = NOW_MS * 1000
A, B = EndpointId(b"a" * 32), EndpointId(b"b" * 32)


def freshness() -> Freshness:
    return Freshness(lambda: NOW_MS)


@given(st.lists(st.integers(0, NOW_US + MAX_AHEAD_US), max_size=30))
def test_no_record_that_is_older_than_one_before_counts(timestamps: list[int]) -> None:
    memory = freshness()
    newest = -1
    for timestamp in timestamps:
        assert memory.admit(A, timestamp) is (timestamp >= newest)
        newest = max(newest, timestamp)


def test_records_from_the_future_never_count() -> None:
    """A record of the year 3000 would shut out every later one."""
    memory = freshness()
    assert not memory.admit(A, NOW_US + MAX_AHEAD_US + 1)
    assert memory.admit(A, NOW_US)
    assert memory.admit(A, NOW_US + MAX_AHEAD_US)


def test_endpoints_do_not_disturb_each_other_and_the_oldest_is_forgotten() -> None:
    memory = freshness()
    memory.admit(A, 5)
    memory.admit(B, 5)
    for number in range(MAX_REMEMBERED - 2):
        memory.admit(EndpointId(number.to_bytes(32, "big")), 1)
    assert not memory.admit(A, 4)
    memory.admit(EndpointId(b"\xff" * 32), 1)
    assert len(memory.newest()) == MAX_REMEMBERED
    assert memory.admit(B, 4), "B was the least recently seen"
    assert not memory.admit(A, 4)


def test_the_memory_survives_a_restart() -> None:
    memory, after = freshness(), freshness()
    memory.admit(A, 7)
    after.restore(memory.newest().items())
    assert not after.admit(A, 6)
    assert after.admit(A, 7)
