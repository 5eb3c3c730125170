"""A whole node, on messages: both halves, its table, its upkeep, its place in the network.

``node.DhtCore`` puts bytes around it; simulations of many nodes drive it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.dht.address_vote import MAX_VOTES, AddressVote
from kukuri_sidecar.proto.dht.client import MAX_LOOKUPS, Client
from kukuri_sidecar.proto.dht.closest_cache import MAX_TARGETS
from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.proto.dht.counters import Counters
from kukuri_sidecar.proto.dht.distance import ID_BITS, key_of, node_id_of
from kukuri_sidecar.proto.dht.events import (
    AddNodes,
    AnnouncePeer,
    BootstrapWanted,
    Cancel,
    Command,
    Control,
    Ending,
    FindNode,
    GetImmutable,
    GetMutable,
    GetPeers,
    LookupFinished,
    LookupId,
    LookupReport,
    ModeChanged,
    NetworkChanged,
    NodeIdChanged,
    OtherFamilyHeard,
    PublicAddressSeen,
    PublicAddressVoted,
    PutImmutable,
    PutMutable,
    Reconfigure,
)
from kukuri_sidecar.proto.dht.inflight import MAX_TRANSACTIONS
from kukuri_sidecar.proto.dht.limits import MAX_BLOCKED, MAX_HOSTS, MAX_SOURCES, ServeLimits
from kukuri_sidecar.proto.dht.lookup import Goal
from kukuri_sidecar.proto.dht.mode import ModeKeeper
from kukuri_sidecar.proto.dht.outbox import Outbox, Outgoing, SendMessage
from kukuri_sidecar.proto.dht.proofs import MAX_PROVEN, Proofs
from kukuri_sidecar.proto.dht.routing_table import RoutingTable
from kukuri_sidecar.proto.dht.saved import MAX_SAVED_NODES, SavedNode
from kukuri_sidecar.proto.dht.secure_id import is_secure, make_node_id
from kukuri_sidecar.proto.dht.server import Answer, Server, refuse
from kukuri_sidecar.proto.dht.storage import Storage
from kukuri_sidecar.proto.dht.tasks import ItemTask, PeersTask, Task, ValueTask, WalkTask
from kukuri_sidecar.proto.dht.upkeep import Check, Try, Upkeep, WalkHome, WalkInto
from kukuri_sidecar.wire import krpc
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.ids import Target

MAX_BOOTSTRAP_ADDRS = 32
MAX_HELD = 64  # queries whose askers prove their addresses first
MAX_VERIFYING = 16  # askers that we ask back, for the table
PARTIAL_WALK_QUESTIONS = 16  # of a walk that only wants to meet somebody
FEW_CONTACTS = 8  # with fewer, bootstrap nodes are asked too
STALL_S = 0.2  # we were late ourselves (architecture.md section 7)

_HOME = LookupId(-1)
_INTO = LookupId(-2)


@dataclass(slots=True)
class _Held:
    """Purpose of a ping: who answers it gets the answer that was too large for a stranger."""

    query: krpc.Query


@dataclass(slots=True)
class _Verify:
    """Purpose of a ping: who answers it may be a contact."""

    addr: SocketAddr


class Engine:
    """One node of one address family. ``now`` is monotonic seconds, never decreasing."""

    def __init__(
        self,
        *,
        is_v6: bool,
        config: DhtConfig,
        bootstrap: Sequence[SocketAddr],
        saved: SavedNode | None,
        storage: Storage,
        rng: Rng,
    ) -> None:
        self._is_v6 = is_v6
        self._config = config
        self._rng = rng
        self._bootstrap = tuple(bootstrap)[:MAX_BOOTSTRAP_ADDRS]
        self._saved = saved.nodes[:MAX_SAVED_NODES] if saved is not None else ()
        node_id = saved.node_id if saved is not None else make_node_id(None, rng)
        self.counters = Counters()
        self.table = RoutingTable(node_id, config.contacts_per_host)
        self.storage = storage
        self._outbox = Outbox()
        self._client = Client(config, self.table, self._outbox, self.counters, rng)
        self._server = Server(config, self.table, storage, is_v6, rng)
        self._serve_limits = ServeLimits(config)
        self._proofs = Proofs()
        self._held = 0
        self._verifying: dict[SocketAddr, None] = {}
        self._vote = AddressVote()
        self._mode = ModeKeeper(config.mode)
        self._client.is_read_only = not self._mode.is_serving
        self._upkeep = Upkeep(rng)
        self._extra: tuple[SocketAddr, ...] = ()
        self._public_host: str | None = None

    # --- inputs ----------------------------------------------------------------------------------------

    def receive(self, sender: SocketAddr, message: krpc.Message, size: int, now: float) -> list[Outgoing]:
        """A message of ``size`` bytes arrived."""
        match message:
            case krpc.Query():
                self._on_query(sender, message, size, now)
            case krpc.BadQuery(tid, code, text):
                if self._hears(sender, now):
                    self._send_answer(sender, refuse(tid, code, text, sender), now)
            case krpc.Response() | krpc.Error():
                self._on_answer(sender, message, now)
            case _:
                assert_never(message)
        return self._drain(now)

    def command(self, command: Command, now: float) -> list[Outgoing]:
        """Start a look-up."""
        task: Task
        goal = Goal(self._config.k)
        match command:
            case GetMutable():
                task = ItemTask(command)
            case GetImmutable():
                task = ValueTask(command)
            case PutMutable():
                task, goal = ItemTask(command), self._storing_goal()
            case PutImmutable():
                task, goal = ValueTask(command), self._storing_goal()
            case GetPeers():
                task = PeersTask(command)
            case AnnouncePeer():
                task, goal = PeersTask(command), Goal(max(self._config.k, self._config.announce_copies))
            case FindNode():
                task, goal = WalkTask(command.target), Goal(self._config.item_copies)
            case _:
                assert_never(command)
        addresses = self._bootstrap if len(self.table) < FEW_CONTACTS else ()
        self._client.start(command.lookup, task, goal, now, addresses=addresses)
        return self._drain(now)

    def control(self, event: Control, now: float) -> list[Outgoing]:
        """Take news from the owner."""
        match event:
            case Cancel(lookup):
                self._client.cancel(lookup, now)
            case AddNodes(addrs, are_bootstrap):
                self._add_nodes(addrs, are_bootstrap, now)
            case PublicAddressSeen(addr):
                self._vote.settle(addr)
                self._moved(now)
            case NetworkChanged():
                self._network_changed(now)
            case Reconfigure(config):
                self._reconfigure(config, now)
            case _:
                assert_never(event)
        return self._drain(now)

    def deadline(self) -> float:
        """Return when ``on_deadline`` wants to run."""
        return min(
            self._client.deadline(),
            self._upkeep.deadline(),
            self._serve_limits.deadline(),
            self.storage.deadline(),
        )

    def on_deadline(self, now: float) -> list[Outgoing]:
        """Let time pass."""
        lag_s = now - self._client.inflight.deadline()
        if lag_s > STALL_S:
            self._client.inflight.stretch(lag_s + STALL_S)
        for transaction in self._client.on_deadline(now):
            self._upkeep.hurry(now)
            self._ended(transaction.purpose)
        while (chore := self._upkeep.due(self.table, now)) is not None:
            match chore:
                case WalkHome():
                    self._walk_home(now)
                case WalkInto(index):
                    self._walk_into(index, now)
                case Check(contact):
                    self._client.ping(contact.info.addr, contact.info, None, now)
                case Try(info):
                    self._client.ping(info.addr, info, None, now)
                case _:
                    assert_never(chore)
        if now >= self._serve_limits.deadline():
            self._serve_limits.sweep()
        if now >= self.storage.deadline():
            self.storage.sweep(now)
        return self._drain(now)

    # --- what can be seen from outside -----------------------------------------------------------------

    @property
    def is_serving(self) -> bool:
        """Whether others get answers."""
        return self._mode.is_serving

    @property
    def network_size(self) -> int | None:
        """How many nodes the network seems to have."""
        return self._client.size.nodes

    def saved(self, now: float) -> SavedNode:
        """Return what the next core should begin with: good nodes, longest known first."""
        good = [contact.info for contact in self.table if contact.is_good(now)]
        return SavedNode(self.table.own_id, tuple(good[:MAX_SAVED_NODES]))

    def fill(self) -> dict[str, tuple[int, int]]:
        """Return the bounds of this node: name -> (used, limit)."""
        config, client = self._config, self._client
        sources, blocked = self._serve_limits.fill()
        return {
            "in_flight": (client.inflight.active, config.max_in_flight),
            "transactions": (len(client.inflight), MAX_TRANSACTIONS),
            "lookups": (client.running, MAX_LOOKUPS),
            "cached_targets": (len(client.cache), MAX_TARGETS),
            "destinations": (len(client.limits), MAX_HOSTS),
            "sources": (sources, MAX_SOURCES),
            "blocked": (blocked, MAX_BLOCKED),
            "proven": (len(self._proofs), MAX_PROVEN),
            "held": (self._held, MAX_HELD),
            "verifying": (len(self._verifying), MAX_VERIFYING),
            "votes": (len(self._vote), MAX_VOTES),
            "items": (len(self.storage.items), config.max_items),
            "infohashes": (len(self.storage.peers), config.max_infohashes),
            "peers": (self.storage.peers.total, config.max_peers),
        }

    # --- answers to us ---------------------------------------------------------------------------------

    def _on_answer(self, sender: SocketAddr, message: krpc.Response | krpc.Error, now: float) -> None:
        transaction = self._client.inflight.take(message.tid, sender, now)
        if transaction is None:
            self.counters.unmatched += 1
            return
        if (
            message.ip is not None
            and message.ip.is_ipv6 is self._is_v6
            and self._vote.vote(sender, message.ip)
        ):
            self._moved(now)
        if isinstance(message, krpc.Error):
            self._client.refused(transaction, message, now)
        else:
            self._client.answered(transaction, message, now)
            other = message.nodes if self._is_v6 else message.nodes6
            if other and len(self.table) < FEW_CONTACTS:
                self._outbox.tell(OtherFamilyHeard(tuple(node.addr for node in other)))
        purpose = transaction.purpose
        if isinstance(purpose, _Held):
            self._proofs.add(sender, now)
            budget = self._config.max_datagram_bytes
            self._send_answer(sender, self._server.answer(purpose.query, sender, budget, False, now), now)
        self._ended(purpose)

    def _ended(self, purpose: object) -> None:
        """A ping of ours is over, one way or the other."""
        match purpose:
            case _Held():
                self._held -= 1
            case _Verify(addr):
                self._verifying.pop(addr, None)

    # --- queries ---------------------------------------------------------------------------------------

    def _on_query(self, sender: SocketAddr, query: krpc.Query, size: int, now: float) -> None:
        self._mode_changed(self._mode.asked_by(sender.host, now))
        if not self._hears(sender, now):
            return
        info = NodeInfo(query.sender_id, sender)
        has_token = self._server.proves(query.args, sender.host, now)
        if has_token:
            self._proofs.add(sender, now)
        is_contact = self.table.find(info) is not None
        if has_token or is_contact or self._proofs.holds(sender, now):
            budget = self._config.max_datagram_bytes
        else:
            budget = min(self._config.max_datagram_bytes, int(self._config.amplification * size))
        self._answer(sender, query, budget, has_token, now)
        self._consider(sender, query, info, is_contact, now)

    def _consider(
        self, sender: SocketAddr, query: krpc.Query, info: NodeInfo, is_contact: bool, now: float
    ) -> None:
        """Perhaps ask the asker back: who answers may be a contact (never one that is read-only, BEP 43)."""
        if not query.read_only and not is_contact and sender not in self._verifying and self.table.hear(info):
            if len(self._verifying) < MAX_VERIFYING and self._client.ping(sender, info, _Verify(sender), now):
                self._verifying[sender] = None
            else:
                self._upkeep.hurry(now)

    def _hears(self, sender: SocketAddr, now: float) -> bool:
        """Say whether a query from ``sender`` is answered at all."""
        self.counters.requests += 1
        if not self._mode.is_serving:
            return False
        if not self._serve_limits.take_query(sender.host, now):
            self.counters.requests_limited += 1
            return False
        return True

    def _answer(
        self, sender: SocketAddr, query: krpc.Query, budget: int, has_token: bool, now: float
    ) -> None:
        answer = self._server.answer(query, sender, budget, has_token, now)
        if answer.is_withheld and not query.read_only and self._held < MAX_HELD:
            # It may receive more once it has shown that it receives anything. Who is read-only cannot answer
            # a ping; if it is one of ours it comes back with the token.
            expected = NodeInfo(query.sender_id, sender)
            if self._client.ping(sender, expected, _Held(query), now):
                self._held += 1
                return
        self._send_answer(sender, answer, now)

    def _send_answer(self, sender: SocketAddr, answer: Answer, now: float) -> None:
        if self._serve_limits.take_bytes(answer.size, now) and self._client.limits.take_answer(
            sender.host, now
        ):
            self.counters.requests_served += 1
            self._outbox.send(sender, answer.message)
        else:
            self.counters.requests_limited += 1

    # --- upkeep ----------------------------------------------------------------------------------------

    def _walk_home(self, now: float) -> None:
        is_small = len(self.table) < FEW_CONTACTS
        want = krpc.Want.NODES | krpc.Want.NODES6 if is_small else krpc.Want.NOTHING
        saved, self._saved = self._saved, ()
        extra, self._extra = self._extra, ()
        self._client.start(
            _HOME,
            WalkTask(Target(self.table.own_id), want),
            Goal(self._config.k),
            now,
            seeds=saved,
            addresses=extra + (self._bootstrap if is_small else ()),
        )

    def _walk_into(self, index: int, now: float) -> None:
        tail = ID_BITS - 1 - index
        key = (key_of(self.table.own_id) >> tail ^ 1) << tail
        if tail:
            key |= self._rng.getrandbits(tail)
        goal = Goal(self._config.k, max_questions=PARTIAL_WALK_QUESTIONS)
        self._client.start(_INTO, WalkTask(Target(node_id_of(key))), goal, now)

    def _storing_goal(self) -> Goal:
        """Write to 20 nodes, to more if they sit suspiciously close or in few networks (trust.md E2)."""
        config = self._config
        return Goal(
            config.item_copies,
            max_k=config.max_copies,
            beyond=self._client.size.expected_distance(config.item_copies),
            regions=config.spread_regions,
        )

    def _walked(self, id: LookupId, report: LookupReport, now: float) -> None:
        if id == _HOME and report.ending is not Ending.BUSY and self._upkeep.walked_home(report.answers, now):
            self._outbox.tell(BootstrapWanted())

    def _drain(self, now: float) -> list[Outgoing]:
        effects: list[Outgoing] = []
        for effect in self._outbox.drain():
            if type(effect) is SendMessage:
                self._mode.contacted(effect.to.host)
            elif type(effect) is LookupFinished and effect.lookup < 0:
                self._walked(effect.lookup, effect.report, now)
                continue
            effects.append(effect)
        return effects + self._outbox.drain()

    # --- news ------------------------------------------------------------------------------------------

    def _add_nodes(self, addrs: tuple[SocketAddr, ...], are_bootstrap: bool, now: float) -> None:
        usable = tuple(addr for addr in addrs if addr.is_ipv6 is self._is_v6 and addr.port)
        usable = usable[:MAX_BOOTSTRAP_ADDRS]
        if are_bootstrap:
            self._bootstrap = usable
        else:
            self._extra = usable
        if usable and len(self.table) < FEW_CONTACTS:
            self._upkeep.restart(now)

    def _moved(self, now: float) -> None:
        """The vote has another winner: our id follows (BEP 42), and our reachability is open again."""
        host, before = self._vote.host, self._public_host
        if host is None:
            return
        self._outbox.tell(PublicAddressVoted(host, self._vote.port))
        if host == before:
            return
        self._public_host = host
        if not is_secure(self.table.own_id, host):
            self.table.move(make_node_id(host, self._rng), now)
            self._outbox.tell(NodeIdChanged(self.table.own_id))
            self._upkeep.restart(now)
        if before is not None:
            self._mode_changed(self._mode.restart(now))

    def _network_changed(self, now: float) -> None:
        self._vote = AddressVote()
        self._client.inflight.rtt.reset()
        self._client.cache.clear()
        self._upkeep.restart(now)
        self._mode_changed(self._mode.restart(now))

    def _reconfigure(self, config: DhtConfig, now: float) -> None:
        self._config = self._client.config = self._server.config = config
        self._client.limits.configure(config)
        self._serve_limits.configure(config)
        self.storage.configure(config, self.table.own_id)
        self._mode_changed(self._mode.configure(config.mode, now))

    def _mode_changed(self, has_changed: bool) -> None:
        if has_changed:
            self._client.is_read_only = not self._mode.is_serving
            self._outbox.tell(ModeChanged(self._mode.is_serving))
