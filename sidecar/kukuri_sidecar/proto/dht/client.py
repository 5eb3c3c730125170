"""Asking: look-ups and their writes, pings, and what becomes of every question.

A look-up walks to the closest nodes (``lookup``), for some purpose (``tasks``), and may end with writes
(``writes``). All of them share the send limits and the 64 questions in flight.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.dht.closest_cache import ClosestCache
from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.proto.dht.counters import Counters
from kukuri_sidecar.proto.dht.distance import key_of
from kukuri_sidecar.proto.dht.events import Ending, LookupFinished, LookupId, LookupReport, WriteOutcome
from kukuri_sidecar.proto.dht.inflight import Fate, InFlight, Transaction
from kukuri_sidecar.proto.dht.limits import SendLimits
from kukuri_sidecar.proto.dht.lookup import Candidate, Goal, Lookup
from kukuri_sidecar.proto.dht.network_size import NetworkSize
from kukuri_sidecar.proto.dht.outbox import Outbox
from kukuri_sidecar.proto.dht.routing_table import RoutingTable
from kukuri_sidecar.proto.dht.tasks import Task
from kukuri_sidecar.proto.dht.writes import Write, WriteRound
from kukuri_sidecar.wire import krpc
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.compact import NodeInfo

MAX_LOOKUPS = 64  # of the owner, at once; each takes up to 100 kB
SEEDS = 16  # contacts that a look-up starts with; twice k, for some are dead


class Operation:
    """A look-up that runs."""

    __slots__ = ("first_at", "first_depth", "id", "is_over", "lookup", "started_at", "task", "writes")

    def __init__(self, id: LookupId, task: Task, lookup: Lookup, now: float) -> None:
        self.id = id
        self.task = task
        self.lookup = lookup
        self.writes: WriteRound | None = None
        self.started_at = now
        self.first_at: float | None = None
        self.first_depth: int | None = None
        self.is_over = False


@dataclass(slots=True)
class Asked:
    """Purpose of a question of a walk."""

    operation: Operation
    candidate: Candidate


@dataclass(slots=True)
class Wrote:
    """Purpose of a put or announce."""

    operation: Operation
    write: Write


class Client:
    """The asking half of a node."""

    def __init__(
        self, config: DhtConfig, table: RoutingTable, outbox: Outbox, counters: Counters, rng: Rng
    ) -> None:
        self.config = config
        self.is_read_only = True
        self.cache = ClosestCache()
        self.size = NetworkSize()
        self.limits = SendLimits(config)
        self.inflight = InFlight(rng)
        self._table = table
        self._outbox = outbox
        self._counters = counters
        self._operations: dict[LookupId, Operation] = {}
        self._is_starved = False  # somebody waits for a place among those in flight
        self._heard_at = -inf  # when anybody answered last

    @property
    def running(self) -> int:
        """How many look-ups run."""
        return len(self._operations)

    # --- what is asked of it ---------------------------------------------------------------------------

    def start(
        self,
        id: LookupId,
        task: Task,
        goal: Goal,
        now: float,
        *,
        seeds: Iterable[NodeInfo] = (),
        addresses: Iterable[SocketAddr] = (),
    ) -> None:
        """Begin a look-up from the nodes that we know, ``seeds`` and ``addresses``."""
        lookup = Lookup(task.target, self._table.own_id, goal, one_per_network=self.config.one_per_network)
        operation = Operation(id, task, lookup, now)
        if id in self._operations or (id >= 0 and self.running >= MAX_LOOKUPS):
            self._report(operation, Ending.BUSY, now)
            return
        for info in (*self.cache.get(task.target, now), *seeds):
            lookup.add(info)
        for contact in self._table.closest(key_of(task.target), SEEDS):
            lookup.add(contact.info)
        for addr in addresses:
            lookup.add_address(addr)
        self._operations[id] = operation
        self._advance(operation, now)

    def cancel(self, id: LookupId, now: float) -> None:
        """End a look-up, if it runs."""
        operation = self._operations.get(id)
        if operation is not None:
            self._finish(operation, Ending.CANCELLED, now)
            self._feed_starved(now)

    def ping(self, to: SocketAddr, expected: NodeInfo | None, purpose: object, now: float) -> bool:
        """Ask ``to`` for a sign of life, if the limits allow."""
        if self._query_at(to.host, now) > now:
            return False
        self._send(to, expected, krpc.Ping(), purpose, now)
        return True

    def deadline(self) -> float:
        """Return when ``on_deadline`` has something to do."""
        wakes = [self._wake_at(operation) for operation in self._operations.values()]
        return min(self.inflight.deadline(), self.limits.deadline(), *wakes)

    # --- what happens ----------------------------------------------------------------------------------

    def answered(self, transaction: Transaction, response: krpc.Response, now: float) -> None:
        """A question of ours, closed already, was answered."""
        self._counters.responses += 1
        self._heard_at = now
        expected = transaction.expected
        if expected is not None and expected.node_id == response.sender_id:
            info = expected
        else:
            info = NodeInfo(response.sender_id, transaction.to)
            if expected is not None:
                self._table.fail(expected, now)
        self._table.confirm(info, now, now - transaction.sent_at)
        match transaction.purpose:
            case Asked(operation, candidate) if not operation.is_over:
                self._take_answer(operation, candidate, info, response, now)
            case Wrote(operation, write) if not operation.is_over and operation.writes is not None:
                operation.writes.stored(write)
                self._advance(operation, now)
        self._feed_starved(now)

    def refused(self, transaction: Transaction, error: krpc.Error, now: float) -> None:
        """A question of ours, closed already, got an error."""
        self._counters.errors += 1
        self._heard_at = now
        match transaction.purpose:
            case Asked(operation, candidate) if not operation.is_over:
                operation.lookup.failed(candidate)
                self._advance(operation, now)
            case Wrote(operation, write) if not operation.is_over and operation.writes is not None:
                operation.writes.refused(write, error.code)
                self._advance(operation, now)
        self._feed_starved(now)

    def on_deadline(self, now: float) -> list[Transaction]:
        """Let time pass; return the questions that nobody answered, for whoever asked them."""
        dead = []
        for transaction, fate in self.inflight.expire(now):
            if fate is Fate.DEAD:
                dead.append(transaction)
                self._counters.timeouts += 1
                # With nobody answering the fault is ours: a table must survive a pulled cable.
                if transaction.expected is not None and self._heard_at > transaction.sent_at:
                    self._table.fail(transaction.expected, now)
            self._late(transaction, fate, now)
        for operation in list(self._operations.values()):
            if now >= self._wake_at(operation):
                self._advance(operation, now)
        self._feed_starved(now)
        if now >= self.limits.deadline():
            self.limits.sweep(now)
        return dead

    # --- inside: one operation -------------------------------------------------------------------------

    def _take_answer(
        self, operation: Operation, candidate: Candidate, info: NodeInfo, response: krpc.Response, now: float
    ) -> None:
        lookup, task = operation.lookup, operation.task
        candidate.token = response.token or candidate.token
        second = None if candidate.asked_again else task.second_question(candidate, response)
        notice = task.read(candidate, response)
        if notice is not None:
            if operation.first_at is None:
                operation.first_at, operation.first_depth = now, candidate.depth
            self._outbox.tell(notice)
        lookup.answered(candidate, info, (response.nodes or ()) + (response.nodes6 or ()))
        if task.is_satisfied:
            self._finish(operation, Ending.FIRST, now)
            return
        if second is not None and self._query_at(candidate.addr.host, now) <= now:
            lookup.reopen(candidate)
            self._send(candidate.addr, info, second, Asked(operation, candidate), now)
        if operation.writes is not None and candidate in lookup.chosen():
            self._add_write(operation, candidate)  # late, but nearer than others that store
        self._advance(operation, now)

    def _late(self, transaction: Transaction, fate: Fate, now: float) -> None:
        match transaction.purpose:
            case Asked(operation, candidate) if not operation.is_over:
                lost = fate is Fate.DEAD
                (operation.lookup.failed if lost else operation.lookup.slowed)(candidate)
                self._advance(operation, now)
            case Wrote(operation, write) if not operation.is_over and operation.writes is not None:
                lost = fate is Fate.DEAD
                (operation.writes.died if lost else operation.writes.slowed)(write)
                self._advance(operation, now)

    def _advance(self, operation: Operation, now: float) -> None:
        def query_at(host: str) -> float:
            return self._query_at(host, now)

        lookup = operation.lookup
        if operation.writes is None:
            room = self.config.max_in_flight - self.inflight.active
            alpha = min(self.config.alpha, lookup.asked + room)
            for candidate in lookup.advance(alpha, query_at, now):
                purpose = Asked(operation, candidate)
                self._send(candidate.addr, candidate.info, operation.task.question(), purpose, now)
            if not lookup.is_done:
                self._is_starved = self._is_starved or alpha < self.config.alpha
                return
            self._begin_writes(operation, now)
        writes = operation.writes
        if writes is None:
            return
        for write in writes.advance(query_at, now):
            candidate = write.candidate
            self._send(candidate.addr, candidate.info, write.args, Wrote(operation, write), now)
        if writes.is_done:
            self._finish(operation, Ending.COMPLETE, now)

    def _begin_writes(self, operation: Operation, now: float) -> None:
        """The walk is over: write, or be done."""
        lookup = operation.lookup
        if lookup.answers == 0:
            self._finish(operation, Ending.NO_NODES, now)
            return
        closest = lookup.closest(self.config.item_copies)
        if lookup.is_exhaustive:
            self.size.observe([candidate.distance for candidate in closest[: self.config.k]])
        if operation.id >= 0:
            nodes = tuple(candidate.info for candidate in closest if candidate.info is not None)
            self.cache.put(operation.task.target, nodes, now)
        operation.writes = WriteRound()
        if operation.task.is_writing:
            for candidate in lookup.chosen():
                self._add_write(operation, candidate)

    def _add_write(self, operation: Operation, candidate: Candidate) -> None:
        args = operation.task.write(candidate)
        if args is not None and operation.writes is not None:
            operation.writes.add(candidate, args)

    def _finish(self, operation: Operation, ending: Ending, now: float) -> None:
        operation.is_over = True
        self._operations.pop(operation.id, None)
        self._report(operation, ending, now)

    def _report(self, operation: Operation, ending: Ending, now: float) -> None:
        lookup = operation.lookup
        writes = operation.writes or WriteRound()
        write = writes.report() if operation.task.is_writing else None
        if write is not None:
            ok = write.outcome is WriteOutcome.STORED
            self._counters.publishes_ok += ok
            self._counters.publishes_failed += not ok
        closest = (candidate.info for candidate in lookup.closest(self.config.item_copies))
        first_at = operation.first_at
        report = LookupReport(
            target=operation.task.target,
            ending=ending,
            questions=lookup.questions,
            answers=lookup.answers,
            took_s=now - operation.started_at,
            first_s=None if first_at is None else first_at - operation.started_at,
            first_depth=operation.first_depth,
            closest=writes.keepers() or tuple(info for info in closest if info is not None),
            write=write,
        )
        self._outbox.tell(LookupFinished(operation.id, report))

    @staticmethod
    def _wake_at(operation: Operation) -> float:
        return operation.lookup.wake_at if operation.writes is None else operation.writes.wake_at

    # --- inside: one question --------------------------------------------------------------------------

    def _feed_starved(self, now: float) -> None:
        if self._is_starved and self.inflight.active < self.config.max_in_flight:
            self._is_starved = False
            for operation in list(self._operations.values()):
                self._advance(operation, now)

    def _query_at(self, host: str, now: float) -> float:
        if self.inflight.active >= self.config.max_in_flight or self.inflight.is_full:
            self._is_starved = True
            return inf
        return self.limits.query_at(host, now)

    def _send(
        self, to: SocketAddr, expected: NodeInfo | None, args: krpc.Args, purpose: object, now: float
    ) -> None:
        self.limits.count_query(to.host, now)
        self._counters.queries += 1
        transaction = self.inflight.open(to, expected, purpose, now)
        query = krpc.Query(transaction.tid, self._table.own_id, args, self.is_read_only)
        self._outbox.send(to, query)
