"""What a node has done since it was made; plain numbers for metrics.get."""

from __future__ import annotations

from dataclasses import dataclass

from kukuri_sidecar.wire.ids import DhtNodeId


@dataclass(slots=True)
class Counters:
    """Since the start of the core."""

    queries: int = 0
    responses: int = 0
    """Answers to our queries that were no errors."""
    errors: int = 0
    timeouts: int = 0
    """Queries that nobody answered in 3 s."""
    unmatched: int = 0
    """Answers that nobody asked for."""
    malformed: int = 0
    """Datagrams that are no KRPC."""
    publishes_ok: int = 0
    publishes_failed: int = 0
    requests: int = 0
    """Queries from others, heard or not."""
    requests_served: int = 0
    requests_limited: int = 0
    """Not answered because the asker or all together asked too much."""


@dataclass(frozen=True, slots=True)
class DhtStatus:
    """A node's state at one moment; bounds and their fill level beside each other in ``fill``."""

    counters: Counters
    node_id: DhtNodeId
    nodes_good: int
    nodes_dubious: int
    network_size: int | None
    is_serving: bool
    fill: dict[str, tuple[int, int]]
    """Name of a bound -> (used, limit)."""
