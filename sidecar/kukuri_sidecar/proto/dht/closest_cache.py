"""The closest nodes of the last look-ups: the next one for the same target starts at its end.

A record that is published every hour, or a topic that is polled, costs one round trip instead of four.
"""

from __future__ import annotations

from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.ids import Target

MAX_TARGETS = 64
MAX_NODES = 20  # per target
KEEP_S = 4_000.0  # a little more than the hour after which records are published again


class ClosestCache:
    """Targets and who answered near them, the least recent out first."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[Target, tuple[float, tuple[NodeInfo, ...]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, target: Target, nodes: tuple[NodeInfo, ...], now: float) -> None:
        """Remember who answered near ``target``."""
        self._entries.pop(target, None)
        if nodes:
            self._entries[target] = now + KEEP_S, nodes[:MAX_NODES]
        if len(self._entries) > MAX_TARGETS:
            del self._entries[next(iter(self._entries))]

    def get(self, target: Target, now: float) -> tuple[NodeInfo, ...]:
        """Return who answered near ``target`` not long ago."""
        expires_at, nodes = self._entries.get(target, (now, ()))
        return nodes if now < expires_at else ()

    def clear(self) -> None:
        """Forget all: the network is another one."""
        self._entries.clear()
