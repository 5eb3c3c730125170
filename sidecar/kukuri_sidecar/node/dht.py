"""Our nodes of the Mainline DHT: one core per address family, on the sockets that QUIC uses too.

Starts look-ups and streams what they find; knows nothing of topics or records.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.streams.memory import MemoryObjectSendStream

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.net.hosts import resolve_host
from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.proto.dht.counters import DhtStatus
from kukuri_sidecar.proto.dht.events import (
    AddNodes,
    BootstrapWanted,
    Cancel,
    Command,
    Datagram,
    DhtEffect,
    DhtInput,
    ItemFound,
    LookupFinished,
    LookupId,
    OtherFamilyHeard,
    PeersFound,
    PublicAddressVoted,
    SendDatagram,
    ValueFound,
)
from kukuri_sidecar.proto.dht.node import DhtCore
from kukuri_sidecar.proto.dht.saved import SavedNode
from kukuri_sidecar.proto.dht.storage import Storage
from kukuri_sidecar.wire.addr import HostPort, SocketAddr

MAX_FINDS_WAITING = 256  # of one look-up; a reader that is slower loses the oldest news of a flood

RawDatagram = tuple[bytes, tuple[str, int]]
Find = ItemFound | ValueFound | PeersFound
Finding = Find | LookupFinished


class Dht:
    """The DHT service. ``start`` needs the bound sockets; everything is called on the loop."""

    def __init__(
        self,
        *,
        config: DhtConfig,
        bootstrap: Sequence[str],
        agenda: Agenda,
        rng: Rng,
        send: Callable[[Sequence[RawDatagram]], None],
        on_public_address: Callable[[], None],
        saved: Mapping[bool, SavedNode],
    ) -> None:
        self._config = config
        self._bootstrap = bootstrap
        self._agenda = agenda
        self._rng = rng
        self._send = send
        self._on_public_address = on_public_address
        self._saved = saved
        self._cores: dict[bool, DhtCore] = {}  # is_v6 -> core
        self._public: dict[bool, tuple[str, int | None]] = {}
        self._readers: dict[LookupId, MemoryObjectSendStream[Finding]] = {}
        self._next_lookup = 1
        self._tasks: TaskGroup | None = None
        self._hosts: tuple[HostPort, ...] = ()

    async def run(
        self, bound: Sequence[SocketAddr], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Join the DHT from the ``bound`` sockets and stay in it until cancelled."""
        storage = Storage(self._config)
        self._hosts = _reachable(self._bootstrap, bound)
        literals = tuple(SocketAddr(*host) for host in self._hosts if _is_literal(host))
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for address in bound:
                is_v6 = address.is_ipv6
                self._cores[is_v6] = DhtCore(
                    is_v6=is_v6,
                    rng=self._rng,
                    config=self._config,
                    bootstrap=[address for address in literals if address.is_ipv6 is is_v6],
                    saved=self._saved.get(is_v6),
                    storage=storage,
                )
            for is_v6 in self._cores:
                self._on_deadline(is_v6, anyio.current_time())
            task_status.started()
            await anyio.sleep_forever()

    def datagrams(self, batch: Iterable[RawDatagram]) -> None:
        """Take what is KRPC of a receive batch."""
        now = anyio.current_time()
        for data, address in batch:
            sender = SocketAddr(*address)
            core = self._cores.get(sender.is_ipv6)
            if core:
                self._perform(sender.is_ipv6, core.handle(Datagram(sender, data), now))
        self._arm_all()

    @asynccontextmanager
    async def lookup(self, make: Callable[[LookupId], Command]) -> AsyncIterator[AsyncIterator[Finding]]:
        """Run a command in every address family; leaving the block cancels what still runs.

        The iterator yields finds as they come, one LookupFinished per family, and then ends.
        """
        send, receive = anyio.create_memory_object_stream[Finding](MAX_FINDS_WAITING)
        running: dict[LookupId, bool] = {}
        with send, receive:
            for is_v6 in list(self._cores):
                lookup = LookupId(self._next_lookup)
                self._next_lookup += 1
                running[lookup] = is_v6
                self._readers[lookup] = send
            for lookup, is_v6 in running.items():
                self._feed(is_v6, make(lookup))
            try:
                yield _until_finished(receive, len(running))
            finally:
                for lookup, is_v6 in running.items():
                    if self._readers.pop(lookup, None):
                        self._feed(is_v6, Cancel(lookup))

    def status(self) -> dict[bool, DhtStatus]:
        """Return each family's counters and fill levels."""
        now = anyio.current_time()
        return {is_v6: core.status(now) for is_v6, core in self._cores.items()}

    def saved(self) -> dict[bool, SavedNode]:
        """Return what the next run should be given."""
        now = anyio.current_time()
        return {is_v6: core.saved(now) for is_v6, core in self._cores.items()}

    @property
    def public_addresses(self) -> tuple[SocketAddr, ...]:
        """Our addresses as several DHT nodes of different networks see them; dialable when ports agree."""
        return tuple(SocketAddr(host, port) for host, port in self._public.values() if port is not None)

    def _feed(self, is_v6: bool, event: DhtInput) -> None:
        self._perform(is_v6, self._cores[is_v6].handle(event, anyio.current_time()))
        self._arm(is_v6)

    def _on_deadline(self, is_v6: bool, now: float) -> None:
        self._perform(is_v6, self._cores[is_v6].on_deadline(now))
        self._arm(is_v6)

    def _arm(self, is_v6: bool) -> None:
        self._agenda.set((self, is_v6), self._cores[is_v6].deadline(), partial(self._on_deadline, is_v6))

    def _arm_all(self) -> None:
        for is_v6 in self._cores:
            self._arm(is_v6)

    def _perform(self, is_v6: bool, effects: Iterable[DhtEffect]) -> None:
        out: list[RawDatagram] = []
        for effect in effects:
            match effect:
                case SendDatagram(to, data):
                    out.append((data, to))
                case ItemFound() | ValueFound() | PeersFound():
                    self._tell(effect.lookup, effect)
                case LookupFinished():
                    self._tell(effect.lookup, effect)
                    self._readers.pop(effect.lookup, None)
                case PublicAddressVoted(host, port):
                    self._public[is_v6] = (host, port)
                    self._on_public_address()
                case BootstrapWanted() if self._tasks:
                    self._tasks.start_soon(self._resolve_bootstrap, is_v6)
                case OtherFamilyHeard(addrs) if (not is_v6) in self._cores:
                    self._feed(not is_v6, AddNodes(addrs))
                case _:
                    pass  # mode and id show in status()
        if out:
            self._send(out)

    def _tell(self, lookup: LookupId, finding: Finding) -> None:
        reader = self._readers.get(lookup)
        if reader:
            # A reader that is so slow has plenty to do with what it has.
            with suppress(anyio.WouldBlock, anyio.BrokenResourceError):
                reader.send_nowait(finding)

    async def _resolve_bootstrap(self, is_v6: bool) -> None:
        """Give the core what the hosts' names say, each as soon as it is known: a dead name delays nobody."""
        found: dict[SocketAddr, None] = {}

        async def resolve(host: HostPort) -> None:
            fresh = dict.fromkeys(a for a in await resolve_host(host) if a.is_ipv6 is is_v6)
            if fresh.keys() - found.keys():
                found.update(fresh)
                self._feed(is_v6, AddNodes(tuple(found), are_bootstrap=True))

        async with anyio.create_task_group() as tasks:
            for host in self._hosts:
                tasks.start_soon(resolve, host)


def _reachable(bootstrap: Sequence[str], bound: Sequence[SocketAddr]) -> tuple[HostPort, ...]:
    """Return the bootstrap hosts that our sockets may reach: from loopback only loopback."""
    is_local = all(ipaddress.ip_address(address.host).is_loopback for address in bound)
    hosts = []
    for text in bootstrap:
        with suppress(DecodeError):  # the configuration was checked; nothing else can be here
            hosts.append(HostPort.parse(text))
    return tuple(host for host in hosts if not is_local or _is_loopback(host))


def _is_literal(host: HostPort) -> bool:
    try:
        ipaddress.ip_address(host.host)
    except ValueError:
        return False
    return True


def _is_loopback(host: HostPort) -> bool:
    return ipaddress.ip_address(host.host).is_loopback if _is_literal(host) else host.host == "localhost"


async def _until_finished(receive: AsyncIterator[Finding], count: int) -> AsyncIterator[Finding]:
    while count:
        finding = await anext(receive)
        count -= isinstance(finding, LookupFinished)
        yield finding
