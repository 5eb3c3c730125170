"""Nodes that only serve the DHT: one to bootstrap a closed network from, or a whole network for tests.

Each has a socket of its own; what they share is the loop. Knows nothing of identities, QUIC or topics.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest

import anyio
from anyio.abc import TaskGroup, TaskStatus

from kukuri_sidecar.errors import DecodeError, InvalidConfig
from kukuri_sidecar.net.udp import Datagram, UdpCounters, UdpSocket
from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.node.config import parse_bind
from kukuri_sidecar.node.dht import Dht
from kukuri_sidecar.proto.core import Rng, sample
from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.proto.dht.distance import key_of
from kukuri_sidecar.proto.dht.saved import SavedNode
from kukuri_sidecar.proto.dht.secure_id import make_node_id
from kukuri_sidecar.proto.dht.subnets import is_local
from kukuri_sidecar.wire.addr import HostPort, SocketAddr
from kukuri_sidecar.wire.compact import NodeInfo

MAX_NODES = 4_096  # ours: a process has so many descriptors, and 12 /24s too few addresses for more
MAX_DELAY_MS = 10_000
NAMED_NODES = 8  # of a network; enough to bootstrap from
PARALLEL_JOINS = 16  # ours: more make the network no sooner, one core is busy
FIRST_CONTACTS = 8  # near and far ones, of each so many, that a new node of a network begins with
SUBNETS = 250  # /24s of 127.1.0.0/16 that the nodes of a network are spread over
NETWORK_HOST = "127.0.0.1"  # the bind address that means "all of loopback" to a network

PUBLIC = DhtConfig(mode="server", serve_bytes_per_s=256_000.0)  # ours: 1,000 askers a second
# Everybody on a local network may share one address, and nobody there is protected from himself.
LOCAL = DhtConfig(
    mode="server",
    queries_per_s=20_000.0,
    host_per_s=1_000,
    host_per_10_s=10_000,
    serve_bytes_per_s=1e8,
    host_queries_per_10_s=100_000,
)


@dataclass(frozen=True, slots=True)
class DhtServerOptions:
    """``nodes`` > 1 makes a network; ``dead`` of them (a fraction) fall silent once it has formed.

    ``delay_s`` is how late every datagram of ours leaves.
    """

    bind: SocketAddr
    bootstrap: tuple[str, ...] = ()
    nodes: int = 1
    dead: float = 0.0
    delay_s: float = 0.0


def check_options(
    *, bind: str, bootstrap: Sequence[str], nodes: int, dead: float, delay_ms: int
) -> DhtServerOptions:
    """Return what a command line asks for; InvalidConfig with the name of the option that is wrong."""
    for index, text in enumerate(bootstrap):
        try:
            HostPort.parse(text)
        except DecodeError as exc:
            raise InvalidConfig(f"bootstrap: {text}: {exc.reason}", field="bootstrap", index=index) from None
    for name, value, most in (
        ("nodes", nodes - 1, MAX_NODES - 1),
        ("dead", dead, 0.9),
        ("delay_ms", delay_ms, MAX_DELAY_MS),
    ):
        if not 0 <= value <= most:
            raise InvalidConfig(f"{name}: out of range", field=name, index=None)
    return DhtServerOptions(parse_bind(bind, "bind"), tuple(bootstrap), nodes, dead, delay_ms / 1000)


class DhtServer:
    """Serves until cancelled. ``run`` reports up to eight addresses of living nodes when all have joined."""

    def __init__(self, options: DhtServerOptions, rng: Rng) -> None:
        self._options = options
        self._rng = rng
        self._agenda = Agenda()
        self._members: list[_Member] = []
        self._delay_s = 0.0  # until the network has formed
        self._late: deque[tuple[float, UdpSocket, Sequence[Datagram]]] = deque()

    def bind(self) -> None:
        """Bind every socket; OSError with the address as ``filename``, and nothing stays bound."""
        try:
            for index in range(self._options.nodes):
                self._members.append(_Member(UdpSocket(self._place(index), UdpCounters())))
        except OSError:
            self._close()
            raise

    async def run(
        self, *, task_status: TaskStatus[tuple[SocketAddr, ...]] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Join, then serve; ``bind`` comes first."""
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._agenda.run)
                await self._form(tasks)
                self._delay_s = self._options.delay_s
                dead = round(self._options.dead * len(self._members))
                for member in sample(self._rng, self._members[1:], dead):
                    member.is_dead = True
                living = [member.udp.address for member in self._members if not member.is_dead]
                task_status.started(tuple(living[:NAMED_NODES]))
        finally:
            self._close()

    async def _form(self, tasks: TaskGroup) -> None:
        """Let one after the other join, from some that are there already and those that will be nearest."""
        slots = anyio.CapacityLimiter(PARALLEL_JOINS)
        known: list[NodeInfo] = []
        async with anyio.create_task_group() as joins:
            for member in self._members:
                own = NodeInfo(make_node_id(None, self._rng), member.udp.address)
                key = key_of(own.node_id)
                nearest = nsmallest(FIRST_CONTACTS, known, key=lambda info: key_of(info.node_id) ^ key)
                contacts = nearest + sample(self._rng, known, FIRST_CONTACTS)
                await slots.acquire_on_behalf_of(member)
                await tasks.start(member.run, self._dht(member.udp, SavedNode(own.node_id, tuple(contacts))))
                joins.start_soon(member.join, min(FIRST_CONTACTS, len(known)), slots)
                known.append(own)

    def _close(self) -> None:
        for member in self._members:
            member.udp.close()

    def send(self, udp: UdpSocket, datagrams: Sequence[Datagram]) -> None:
        """Send from one of our sockets, now or after the delay."""
        if self._delay_s:
            self._late.append((anyio.current_time() + self._delay_s, udp, datagrams))
            if len(self._late) == 1:
                self._agenda.set(self, self._late[0][0], self._send_late)
        else:
            for data, to in datagrams:
                udp.send(data, to)

    def _send_late(self, now: float) -> None:
        while self._late and now >= self._late[0][0]:
            _, udp, datagrams = self._late.popleft()
            for data, to in datagrams:
                udp.send(data, to)
        if self._late:
            self._agenda.set(self, self._late[0][0], self._send_late)

    def _place(self, index: int) -> SocketAddr:
        """Return where a node binds: the first as told, others in many /24s where that is possible."""
        bind = self._options.bind
        if index == 0:
            return bind
        if bind.host == NETWORK_HOST and _has_all_of_loopback():
            return SocketAddr(f"127.1.{index % SUBNETS}.{1 + index // SUBNETS}", 0)
        return SocketAddr(bind.host, 0)

    def _dht(self, udp: UdpSocket, saved: SavedNode) -> Dht:
        address = ipaddress.ip_address(udp.address.host)
        is_public = address.is_unspecified or not is_local(udp.address.host)
        return Dht(
            config=PUBLIC if is_public else LOCAL,
            bootstrap=self._options.bootstrap,
            agenda=self._agenda,
            rng=self._rng,
            send=partial(self.send, udp),
            on_public_address=_ignore,
            saved={udp.address.is_ipv6: saved},
        )


class _Member:
    """One node."""

    def __init__(self, udp: UdpSocket) -> None:
        self.udp = udp
        self.is_dead = False
        self._dht: Dht | None = None
        self._heard = anyio.Event()

    async def run(self, dht: Dht, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        self._dht = dht
        async with anyio.create_task_group() as tasks:
            await tasks.start(self.udp.run, self._on_batch)
            await tasks.start(dht.run, [self.udp.address])
            task_status.started()

    async def join(self, contacts: int, slots: anyio.CapacityLimiter) -> None:
        """Wait until so many nodes have answered."""
        assert self._dht is not None  # noqa: S101 - run() comes first
        while sum(status.nodes_good for status in self._dht.status().values()) < contacts:
            self._heard = anyio.Event()
            await self._heard.wait()
        slots.release_on_behalf_of(self)

    def _on_batch(self, batch: list[Datagram]) -> None:
        if not self.is_dead and self._dht:
            self._dht.datagrams(batch)
            self._heard.set()


def _has_all_of_loopback() -> bool:
    """Say whether 127.0.0.0/8 can be bound; macOS has 127.0.0.1 only."""
    try:
        UdpSocket(SocketAddr("127.1.0.1", 0), UdpCounters()).close()
    except OSError:
        return False
    return True


def _ignore() -> None: ...
