"""Has this author's message been here before? A sliding window per author, as IPsec has it (RFC 4303)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)

WINDOW = 128  # how far behind the newest a message may come (gossip-wire.md section 6)
MAX_KEYS = 10_000  # authors and sessions remembered, least recently heard forgotten first


class ReplayWindows(Generic[KeyT]):
    """For each key the highest number seen and a bitmap of the ``WINDOW`` numbers below it."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._windows: dict[KeyT, tuple[int, int]] = {}  # key -> (top, bitmap; bit i = top - i was seen)

    def __len__(self) -> int:
        return len(self._windows)

    def is_fresh(self, key: KeyT, number: int) -> bool:
        """Say whether ``number`` is new and not too old; changes nothing, so a forgery cannot burn it."""
        top, seen = self._windows.get(key, (0, 0))
        behind = top - number
        return behind < 0 or (behind < WINDOW and not seen >> behind & 1)

    def record(self, key: KeyT, number: int) -> None:
        """Note a number whose signature was checked."""
        top, seen = self._windows.pop(key, (0, 0))
        if number > top:
            shift = number - top
            seen = (seen << shift | 1) & ((1 << WINDOW) - 1) if shift < WINDOW else 1
            top = number
        else:
            seen |= 1 << (top - number)
        if len(self._windows) >= self._max_keys:
            del self._windows[next(iter(self._windows))]
        self._windows[key] = (top, seen)
