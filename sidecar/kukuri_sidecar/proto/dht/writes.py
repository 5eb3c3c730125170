"""The second half of a put or an announce: every chosen node is told, up to three times.

Unlike in the walk, where another node is as good, a lost datagram costs a copy here: so writes are repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from math import inf

from kukuri_sidecar.proto.dht.events import WriteReport
from kukuri_sidecar.proto.dht.lookup import Candidate
from kukuri_sidecar.wire import krpc
from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.krpc import ErrorCode

MAX_SENDS = 3  # mainline-dht.md 2.7: at most two repetitions


class Verdict(Enum):
    """What one node said."""

    STORED = auto()
    CONFLICT = auto()
    NOT_MOST_RECENT = auto()
    REFUSED = auto()
    UNANSWERED = auto()


class Write:
    """One node that is to store."""

    __slots__ = ("args", "candidate", "is_due", "open", "sends", "verdict")

    def __init__(self, candidate: Candidate, args: krpc.Args) -> None:
        self.candidate = candidate
        self.args = args
        self.is_due = True
        """To be sent, again or for the first time."""
        self.sends = 0
        self.open = 0
        """Sent, and neither answered nor dead."""
        self.verdict: Verdict | None = None


class WriteRound:
    """All writes of one look-up. Call ``advance`` after every change, then ask ``is_done``, ``wake_at``."""

    __slots__ = ("_writes", "wake_at")

    def __init__(self) -> None:
        self._writes: list[Write] = []
        self.wake_at = inf
        """When one that had to wait for a send limit may be sent."""

    def __len__(self) -> int:
        return len(self._writes)

    def add(self, candidate: Candidate, args: krpc.Args) -> None:
        """Have ``candidate`` store."""
        self._writes.append(Write(candidate, args))

    @property
    def is_done(self) -> bool:
        """Everybody has spoken, or will not."""
        return all(write.verdict is not None for write in self._writes)

    def advance(self, query_at: Callable[[str], float], now: float) -> list[Write]:
        """Return what to send now; the caller sends at once."""
        chosen = []
        self.wake_at = inf
        for write in self._writes:
            if not write.is_due:
                continue
            if (at := query_at(write.candidate.addr.host)) > now:
                self.wake_at = min(self.wake_at, at)
                continue
            write.is_due = False
            write.sends += 1
            write.open += 1
            chosen.append(write)
        return chosen

    def stored(self, write: Write) -> None:
        """The node said yes."""
        write.open -= 1
        write.verdict = Verdict.STORED
        write.is_due = False

    def refused(self, write: Write, code: int) -> None:
        """The node said no."""
        args, candidate = write.args, write.candidate
        same_seq = isinstance(args, krpc.PutMutable) and candidate.item_seq == args.item.seq
        write.open -= 1
        write.is_due = False
        if write.verdict is Verdict.STORED:
            return  # a repetition, refused because the first was taken
        if code == ErrorCode.SEQ_TOO_OLD and candidate.keeps_ours:
            write.verdict = Verdict.STORED  # bittorrent-dht says so to the very item that it keeps
        elif code == ErrorCode.CAS_MISMATCH or (code == ErrorCode.SEQ_TOO_OLD and same_seq):
            write.verdict = Verdict.CONFLICT
        elif code == ErrorCode.SEQ_TOO_OLD:
            write.verdict = Verdict.NOT_MOST_RECENT
        else:
            write.verdict = Verdict.REFUSED

    def slowed(self, write: Write) -> None:
        """No answer in time: send it again, up to three times in all."""
        write.is_due = write.verdict is None and write.sends < MAX_SENDS

    def died(self, write: Write) -> None:
        """No answer to one sending, for good."""
        write.open -= 1
        if write.verdict is None and not write.open and not write.is_due:
            write.verdict = Verdict.UNANSWERED

    def report(self) -> WriteReport:
        """Count what was said."""
        verdicts = [write.verdict for write in self._writes]
        return WriteReport(
            stored=verdicts.count(Verdict.STORED),
            conflicts=verdicts.count(Verdict.CONFLICT),
            not_most_recent=verdicts.count(Verdict.NOT_MOST_RECENT),
            refused=verdicts.count(Verdict.REFUSED),
            unanswered=verdicts.count(Verdict.UNANSWERED) + verdicts.count(None),
        )

    def keepers(self) -> tuple[NodeInfo, ...]:
        """Return the nodes that stored."""
        return tuple(
            write.candidate.info
            for write in self._writes
            if write.verdict is Verdict.STORED and write.candidate.info is not None
        )
