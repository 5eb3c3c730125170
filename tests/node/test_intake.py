"""A peer that sends too fast waits for its credit; nothing is dropped."""

from __future__ import annotations

import pytest

from kukuri_sidecar.node.intake import Intake


@pytest.mark.parametrize(("messages", "waits"), [(1_999, False), (2_000, False), (2_001, True)])
def test_the_burst_of_messages_is_exact(messages: int, waits: bool) -> None:
    intake = Intake(messages_per_s=1_000, bytes_per_s=1 << 20)
    assert (intake.take(0.0, 3, messages, 10) > 0) is waits
    assert intake.release() == ({3: 10} if waits else {})


@pytest.mark.parametrize(("size", "waits"), [(999, False), (1_000, False), (1_001, True)])
def test_the_burst_of_bytes_is_exact(size: int, waits: bool) -> None:
    intake = Intake(messages_per_s=1_000, bytes_per_s=1_000)
    assert (intake.take(0.0, 3, 1, size) > 0) is waits


def test_credit_is_held_per_stream_and_returned_once() -> None:
    intake = Intake(messages_per_s=10, bytes_per_s=1 << 20)
    assert intake.take(0.0, 3, 20, 100) == 0
    assert intake.take(0.0, 3, 10, 100) == pytest.approx(1.0)
    assert intake.take(0.0, 7, 5, 50) == pytest.approx(1.5)
    assert intake.release() == {3: 100, 7: 50}
    assert intake.release() == {}
    assert intake.take(2.0, 3, 1, 100) == 0
