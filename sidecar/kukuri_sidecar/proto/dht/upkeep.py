"""What a node does unasked: meet its neighbourhood, fill its table, check its contacts.

A quiet node with 100 contacts sends about ten datagrams a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from kukuri_sidecar.proto.backoff import backoff
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.dht.routing_table import RECHECK_S, Contact, RoutingTable
from kukuri_sidecar.wire.compact import NodeInfo

WALK_S = 900.0  # BEP 5: what did not change in 15 minutes is refreshed
JITTER = 0.1  # a network that was started at once must not walk at once (OpenDHT issue 869)
RETRY_LEAST_S, RETRY_MOST_S = 5.0, 300.0  # after a walk that met nobody
WARM_WALKS = 3  # into the far buckets, right after the first walk
CHECK_SPACING_S = 2.0  # between two pings


@dataclass(frozen=True, slots=True)
class WalkHome:
    """Walk to our own id."""


@dataclass(frozen=True, slots=True)
class WalkInto:
    """Walk to somewhere in the bucket of this index."""

    index: int


@dataclass(frozen=True, slots=True)
class Check:
    """Ask a contact that has not answered for long."""

    contact: Contact


@dataclass(frozen=True, slots=True)
class Try:
    """Ask a node that there would be room for."""

    info: NodeInfo


Chore: TypeAlias = WalkHome | WalkInto | Check | Try


class Upkeep:
    """When which chore is due. Report back with ``walked_home``."""

    __slots__ = ("_check_at", "_failures", "_home_at", "_into_at", "_rng", "_warm_walks")

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self.restart(-inf)

    def restart(self, now: float) -> None:
        """Begin anew, with a walk home: at the start, and in another network."""
        self._failures = 0
        self._home_at = now
        self._into_at = self._check_at = inf
        self._warm_walks = WARM_WALKS

    def deadline(self) -> float:
        """Return when ``due`` may have a chore."""
        return min(self._home_at, self._into_at, self._check_at)

    def hurry(self, now: float) -> None:
        """A contact failed or a place became free: look soon."""
        self._check_at = min(self._check_at, now + CHECK_SPACING_S)

    def due(self, table: RoutingTable, now: float) -> Chore | None:
        """Return the next chore, None when all is done for now."""
        if now >= self._home_at:
            self._home_at = now + self._jittered(WALK_S)
            self._into_at = min(self._into_at, self._home_at)
            self.hurry(now)
            return WalkHome()
        if now >= self._into_at:
            self._into_at = now + self._jittered(WALK_S)
            if self._warm_walks:
                self._warm_walks -= 1
                if self._warm_walks:
                    self._into_at = now + CHECK_SPACING_S
                return WalkInto(WARM_WALKS - 1 - self._warm_walks)
            index = table.sparse_prefix()
            return None if index is None else WalkInto(index)
        if now >= self._check_at:
            self._check_at = now + CHECK_SPACING_S
            spare = table.take_spare()
            if spare is not None:
                return Try(spare)
            stalest = table.stalest()
            if stalest is not None and now >= stalest.check_at:
                stalest.check_at = now + RECHECK_S
                return Check(stalest)
            self._check_at = max(self._check_at, now + WALK_S if stalest is None else stalest.check_at)
        return None

    def walked_home(self, answers: int, now: float) -> bool:
        """The walk home is over; say whether nobody answered, so that fresh addresses are wanted."""
        if answers == 0:
            self._failures += 1
            self._home_at = now + backoff(
                self._failures, self._rng, least_s=RETRY_LEAST_S, most_s=RETRY_MOST_S
            )
            return True
        self._failures = 0
        if self._warm_walks == WARM_WALKS:
            self._into_at = now
        return False

    def _jittered(self, pause_s: float) -> float:
        return pause_s * (1 - JITTER + 2 * JITTER * self._rng.random())
