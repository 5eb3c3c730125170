"""Thousands of production DHT nodes on one virtual clock.

Two levels: ``Engine`` exchanging messages as objects, or ``DhtCore`` exchanging datagrams. Round-trip times
are log-normal with median 120 ms and sigma 0.6, as in mainline-dht.md section 5; the dead are
silent; datagrams can be lost. Same seed, same run.
"""

from __future__ import annotations

import gc
import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable
from math import inf, log
from random import Random

from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.proto.dht.distance import ID_BITS, key_of
from kukuri_sidecar.proto.dht.engine import Engine
from kukuri_sidecar.proto.dht.events import (
    Command,
    Datagram,
    DhtEffect,
    LookupFinished,
    LookupId,
    LookupReport,
    SendDatagram,
)
from kukuri_sidecar.proto.dht.node import DhtCore
from kukuri_sidecar.proto.dht.outbox import Outgoing, SendMessage
from kukuri_sidecar.proto.dht.routing_table import BUCKET_SIZE
from kukuri_sidecar.proto.dht.saved import SavedNode
from kukuri_sidecar.proto.dht.secure_id import make_node_id
from kukuri_sidecar.proto.dht.storage import Storage
from kukuri_sidecar.wire import krpc
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.ids import DhtNodeId

MEDIAN_RTT_S, SIGMA = 0.12, 0.6
QUERY_BYTES = 112  # of a get; what an object costs on the wire
CONFIG = DhtConfig(mode="server")

Effect = Outgoing | DhtEffect


class SimNode:
    """A node and where it stands."""

    __slots__ = ("addr", "core", "info", "is_alive", "wakes_at")

    def __init__(self, core: Engine | DhtCore, info: NodeInfo) -> None:
        self.core = core
        self.info = info
        self.addr = info.addr
        self.is_alive = True
        self.wakes_at = inf


class SmallRng:
    """SplitMix64: a tenth of the memory of ``random.Random``, which every node would have for itself."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & 0xFFFFFFFFFFFFFFFF

    def getrandbits(self, k: int) -> int:
        value = 0
        for shift in range(0, k, 64):
            self._state = z = (self._state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
            z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
            z = (z ^ z >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
            value |= (z ^ z >> 31) << shift
        return value & (1 << k) - 1

    def random(self) -> float:
        return self.getrandbits(53) / (1 << 53)

    def randrange(self, stop: int) -> int:
        return self.getrandbits(64) % stop


class DhtSim:
    """The network. Add nodes, let them ``run``, ask with ``lookup`` and ``wait``."""

    def __init__(
        self, seed: int, *, is_byte_level: bool = False, loss: float = 0.0, config: DhtConfig = CONFIG
    ) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.is_byte_level = is_byte_level
        self.loss = loss
        self.config = config
        self.nodes: list[SimNode] = []
        self.by_addr: dict[SocketAddr, SimNode] = {}
        self.datagrams = 0
        self.on_effect: Callable[[SimNode, Effect], None] | None = None
        self._heap: list[tuple[float, int, SimNode, SocketAddr | None, object, float]] = []
        self._serial = 0
        self._lookups = 0
        self._reports: dict[int, LookupReport] = {}

    # --- building --------------------------------------------------------------------------------------

    def add(
        self,
        bootstrap: Iterable[SimNode] = (),
        *,
        addr: SocketAddr | None = None,
        node_id: DhtNodeId | None = None,
        config: DhtConfig | None = None,
        saved: tuple[NodeInfo, ...] = (),
    ) -> SimNode:
        """Start a node at a public address of its own, with a BEP 42 id; it knows the addresses given."""
        addr = addr or self._free_addr()
        rng = SmallRng(self.rng.getrandbits(64))
        node_id = node_id or make_node_id(addr.host, rng)
        config = config or self.config
        addrs, saved_node = [node.addr for node in bootstrap], SavedNode(node_id, saved)
        core: Engine | DhtCore
        if self.is_byte_level:
            core = DhtCore(is_v6=False, rng=rng, config=config, bootstrap=addrs, saved=saved_node)
        else:
            core = Engine(
                is_v6=False,
                config=config,
                bootstrap=addrs,
                saved=saved_node,
                storage=Storage(config),
                rng=rng,
            )
        node = SimNode(core, NodeInfo(node_id, addr))
        self.nodes.append(node)
        self.by_addr[addr] = node
        self._wake(node, self.now)
        return node

    def join(self, count: int, *, every_s: float = 0.05, settle_s: float = 15.0) -> None:
        """Let ``count`` nodes join one after the other, each through three of those before it."""
        gc.disable()  # nothing here is cyclic garbage, and a collection looks at a million objects
        for _ in range(count):
            alive = self.nodes[-2_000:]
            self.add(self.rng.sample(alive, min(3, len(alive))))
            self.run(every_s)
        self.run(settle_s)
        gc.enable()

    def settle(self, count: int, per_bucket: int = BUCKET_SIZE) -> None:
        """Add ``count`` nodes that have run for long: ``per_bucket`` random contacts in each bucket.

        What would take minutes of joining; no message is sent. The tables are filled by the production code,
        and nobody looks after them from now on: nothing but look-ups is measured.
        """
        keys_and_nodes = sorted(
            ((key_of(node.info.node_id), node) for node in [self._settled() for _ in range(count)]),
            key=lambda pair: pair[0],
        )
        keys = [key for key, _ in keys_and_nodes]
        nodes = [node for _, node in keys_and_nodes]
        for own_key, node in keys_and_nodes:
            table = self.engine(node).table
            for index in range(ID_BITS):
                size = ID_BITS - 1 - index
                low = (own_key >> size ^ 1) << size
                first, end = bisect_left(keys, low), bisect_left(keys, low + (1 << size))
                for i in self.rng.sample(range(first, end), min(per_bucket, end - first)):
                    table.confirm(nodes[i].info, self.now, MEDIAN_RTT_S)
                if bisect_left(keys, own_key + 1) - bisect_left(keys, own_key >> size << size) == 1 and (
                    bisect_left(keys, ((own_key >> size) + 1) << size) - bisect_left(keys, own_key) == 1
                ):
                    break  # alone in what is left

    def _settled(self) -> SimNode:
        node = self.add()
        upkeep = self.engine(node)._upkeep
        upkeep._home_at = upkeep._into_at = upkeep._check_at = inf
        upkeep._warm_walks = 0
        node.wakes_at = inf
        self._wake(node, node.core.deadline())
        return node

    @staticmethod
    def engine(node: SimNode) -> Engine:
        """Return what is inside, at either level."""
        return node.core if isinstance(node.core, Engine) else node.core._engine

    def kill(self, fraction: float, keep: Iterable[SimNode] = ()) -> None:
        """Silence a part of the network at once; no table notices by itself."""
        kept = {id(node) for node in keep}
        for node in self.rng.sample(self.nodes, int(len(self.nodes) * fraction)):
            if id(node) not in kept:
                node.is_alive = False

    @property
    def alive(self) -> list[SimNode]:
        """Who still lives."""
        return [node for node in self.nodes if node.is_alive]

    # --- asking ----------------------------------------------------------------------------------------

    def next_id(self) -> LookupId:
        """Return a fresh look-up id."""
        self._lookups += 1
        return LookupId(self._lookups)

    def start(self, node: SimNode, command: Command) -> None:
        """Have ``node`` begin a look-up."""
        core = node.core
        effects = (
            core.command(command, self.now) if isinstance(core, Engine) else core.handle(command, self.now)
        )
        self._perform(node, effects, None, 0.0)

    def wait(self, lookup: LookupId) -> LookupReport:
        """Let time pass until the look-up is over."""
        while lookup not in self._reports:
            assert self._step(inf), "the network fell asleep"
        return self._reports.pop(lookup)

    def do(self, node: SimNode, command: Command) -> LookupReport:
        """Start a look-up and wait for its end."""
        self.start(node, command)
        return self.wait(command.lookup)

    def closest(self, target: bytes, count: int) -> list[SimNode]:
        """Return the living nodes that are truly closest: the oracle."""
        key = key_of(target)
        return heapq.nsmallest(count, self.alive, key=lambda node: key_of(node.info.node_id) ^ key)

    # --- time ------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        until = self.now + seconds
        while self._step(until):
            pass
        self.now = until

    def _step(self, until: float) -> bool:
        if not self._heap or self._heap[0][0] > until:
            return False
        self.now, _, node, sender, message, half_s = heapq.heappop(self._heap)
        if not node.is_alive:
            return True
        core = node.core
        if sender is None:
            if self.now >= node.wakes_at:
                node.wakes_at = inf
                self._perform(node, core.on_deadline(self.now), None, 0.0)
        elif isinstance(core, Engine):
            effects = core.receive(sender, message, QUERY_BYTES, self.now)  # type: ignore[arg-type]
            self._perform(node, effects, sender, half_s)
        else:
            self._perform(node, core.handle(Datagram(sender, message), self.now), sender, half_s)  # type: ignore[arg-type]
        return True

    def _perform(
        self, node: SimNode, effects: Iterable[Effect], asker: SocketAddr | None, half_s: float
    ) -> None:
        for effect in effects:
            if isinstance(effect, SendMessage):
                is_answer = type(effect.message) is not krpc.Query
                self._send(
                    node, effect.to, effect.message, half_s if is_answer and effect.to == asker else 0.0
                )
            elif isinstance(effect, SendDatagram):
                self._send(node, effect.to, effect.data, half_s if effect.to == asker else 0.0)
            elif isinstance(effect, LookupFinished):
                self._reports[effect.lookup] = effect.report
            if self.on_effect is not None:
                self.on_effect(node, effect)
        self._wake(node, node.core.deadline())

    def _send(self, node: SimNode, to: SocketAddr, message: object, half_s: float) -> None:
        self.datagrams += 1
        target = self.by_addr.get(to)
        if target is None or not target.is_alive or (self.loss and self.rng.random() < self.loss):
            return
        if not half_s:
            half_s = self.rng.lognormvariate(log(MEDIAN_RTT_S), SIGMA) / 2
        self._serial += 1
        heapq.heappush(self._heap, (self.now + half_s, self._serial, target, node.addr, message, half_s))

    def _wake(self, node: SimNode, at: float) -> None:
        if at < node.wakes_at:
            node.wakes_at = max(at, self.now)
            self._serial += 1
            heapq.heappush(self._heap, (node.wakes_at, self._serial, node, None, None, 0.0))

    def _free_addr(self) -> SocketAddr:
        while True:
            octets = self.rng.getrandbits(32).to_bytes(4, "big")
            addr = SocketAddr(".".join(map(str, octets)), 6881)
            if 11 <= octets[0] <= 126 and addr not in self.by_addr:
                return addr
