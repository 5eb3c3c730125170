"""What waits for stdout: two lanes. Answers first, never dropped; then events out of their bounded rings."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kukuri_sidecar.rpc.feed import Feed

CHUNK_BYTES = 65_536  # one write: a pipe's capacity on Linux, so that answers overtake events soon
MAX_ANSWER_BYTES = 8 << 20  # api.md section 5: when so much waits, stdin is not read


class Outbox:
    """The two lanes. ``wrap`` makes frames; ``wake`` is called when something is there to be taken."""

    def __init__(self, feed: Feed, wrap: Callable[[bytes], bytes], wake: Callable[[], None]) -> None:
        self._feed = feed
        self._wrap = wrap
        self._wake = wake
        self._answers: deque[bytes] = deque()
        self._answer_bytes = 0

    @property
    def has_room(self) -> bool:
        """Say whether more requests may be read."""
        return self._answer_bytes < MAX_ANSWER_BYTES

    @property
    def has_answers(self) -> bool:
        """Say whether answers wait."""
        return bool(self._answers)

    def answer(self, body: bytes) -> None:
        """Queue an answer."""
        self._answers.append(body)
        self._answer_bytes += len(body)
        self._wake()

    def take(self) -> bytes:
        """Return the frames of the next write, about CHUNK_BYTES, empty when nothing waits."""
        out: list[bytes] = []
        size = 0
        while self._answers and size < CHUNK_BYTES:
            body = self._answers.popleft()
            self._answer_bytes -= len(body)
            out.append(self._wrap(body))
            size += len(out[-1])
        while size < CHUNK_BYTES:
            event = self._feed.take()
            if event is None:
                break
            out.append(self._wrap(event))
            size += len(out[-1])
        return b"".join(out)
