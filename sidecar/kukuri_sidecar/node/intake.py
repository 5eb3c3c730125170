"""How fast one peer may fill us: above that its credit returns later, and so it slows down by itself."""

from __future__ import annotations

from kukuri_sidecar.proto.buckets import TokenBucket


class Intake:
    """The rates of one connection. Nothing is dropped: what was received is used, the next comes later."""

    def __init__(self, messages_per_s: float, bytes_per_s: float) -> None:
        self._messages = TokenBucket(messages_per_s, 2 * messages_per_s)
        self._bytes = TokenBucket(bytes_per_s, bytes_per_s)
        self._held: dict[int, int] = {}  # stream -> bytes whose credit waits

    def take(self, now: float, stream_id: int, messages: int, size: int) -> float:
        """Note what arrived; return for how many seconds its credit is to be held back, mostly 0."""
        wait_s = max(self._messages.charge(now, messages), self._bytes.charge(now, size))
        if wait_s:
            self._held[stream_id] = self._held.get(stream_id, 0) + size
        return wait_s

    def release(self) -> dict[int, int]:
        """Return the credit per stream that has waited long enough."""
        held, self._held = self._held, {}
        return held
