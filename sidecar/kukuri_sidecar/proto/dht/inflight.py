"""Questions under way: which answer belongs to which, and when to stop waiting.

A question is *slow* after a short, adaptive time: somebody else is asked as well, its own answer still
counts. After 3 s it is *dead*.
"""

from __future__ import annotations

import heapq
from enum import Enum, auto
from math import inf

from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.dht.rtt import RttEstimator
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.krpc import TID_BYTES

DEAD_S = 3.0  # mainline-dht.md 2.7; libtorrent waits 15 s, mainline 2 s
MAX_TRANSACTIONS = 512  # slow ones included: three seconds at the send limit, and some


class Fate(Enum):
    """What time does to a question."""

    SLOW = auto()
    DEAD = auto()


class Transaction:
    """One question under way."""

    __slots__ = ("expected", "is_open", "is_slow", "purpose", "sent_at", "tid", "to")

    def __init__(
        self, tid: bytes, to: SocketAddr, expected: NodeInfo | None, purpose: object, now: float
    ) -> None:
        self.tid = tid
        self.to = to
        self.expected = expected
        """Who should be there; None when only the address is known."""
        self.purpose = purpose
        """What its owner keeps with it."""
        self.sent_at = now
        self.is_slow = False
        self.is_open = True


class InFlight:
    """All open questions of a node."""

    __slots__ = ("_active", "_due", "_open", "_rng", "_serial", "rtt")

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._open: dict[bytes, Transaction] = {}
        self._due: list[tuple[float, int, Transaction]] = []
        self._serial = 0
        self._active = 0
        self.rtt = RttEstimator()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def active(self) -> int:
        """How many are neither answered nor slow: the load that we put on the network right now."""
        return self._active

    @property
    def is_full(self) -> bool:
        """No more can be remembered; ``open`` must not be called."""
        return len(self._open) >= MAX_TRANSACTIONS

    def open(self, to: SocketAddr, expected: NodeInfo | None, purpose: object, now: float) -> Transaction:
        """Begin a question to ``to`` and give it an unguessable id."""
        while (tid := self._rng.getrandbits(8 * TID_BYTES).to_bytes(TID_BYTES, "big")) in self._open:
            pass
        transaction = self._open[tid] = Transaction(tid, to, expected, purpose, now)
        self._active += 1
        self._set(transaction, now + self.rtt.timeout_s)
        return transaction

    def take(self, tid: bytes, sender: SocketAddr, now: float) -> Transaction | None:
        """Return and close the question that this answers; None for an answer that nobody asked for."""
        transaction = self._open.get(tid)
        if transaction is None or transaction.to != sender:
            return None
        self._close(transaction)
        self.rtt.observe(now - transaction.sent_at)
        return transaction

    def deadline(self) -> float:
        """Return when the next question becomes slow or dead."""
        due = self._due
        while due and not due[0][2].is_open:
            heapq.heappop(due)
        return due[0][0] if due else inf

    def expire(self, now: float) -> list[tuple[Transaction, Fate]]:
        """Return whose time has come, in order; the dead are closed."""
        found = []
        while self.deadline() <= now:
            transaction = heapq.heappop(self._due)[2]
            if transaction.is_slow:
                self._close(transaction)
                found.append((transaction, Fate.DEAD))
            else:
                transaction.is_slow = True
                self._active -= 1
                self._set(transaction, max(now, transaction.sent_at + DEAD_S))
                found.append((transaction, Fate.SLOW))
        return found

    def stretch(self, lag_s: float) -> None:
        """We slept for ``lag_s``: answers may lie in the socket, so nobody is late yet."""
        self._due = [(at + lag_s, serial, transaction) for at, serial, transaction in self._due]

    def _set(self, transaction: Transaction, at: float) -> None:
        self._serial += 1
        heapq.heappush(self._due, (at, self._serial, transaction))

    def _close(self, transaction: Transaction) -> None:
        transaction.is_open = False
        self._active -= not transaction.is_slow
        del self._open[transaction.tid]
        if not self._open:
            self._open.clear()  # gives the memory of a busy moment back
            self._due.clear()
