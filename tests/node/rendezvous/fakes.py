"""What rendezvous sees of the rest: a DHT that keeps records as long as real ones do, a pool, a topic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from kukuri_sidecar.errors import DialTimeout
from kukuri_sidecar.node.dht import Finding
from kukuri_sidecar.proto.dht.events import (
    AnnouncePeer,
    Command,
    Ending,
    LookupFinished,
    LookupId,
    LookupReport,
    PeersFound,
    WriteReport,
)
from kukuri_sidecar.proto.dht.storage import PEER_S
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId, Target, TopicId

LOOKUP_S = 0.6
DIAL_S = 3.0
TOPIC = TopicId(b"t" * 32)


class Network:
    """Where the records are: address by key, each for half an hour."""

    def __init__(self) -> None:
        self.is_reachable = True
        self.records: dict[Target, dict[SocketAddr, float]] = {}

    def holds(self, key: Target, address: SocketAddr) -> bool:
        return anyio.current_time() < self.records.get(key, {}).get(address, 0)


class FakeDht:
    """The DHT service as one member at ``address`` uses it."""

    def __init__(self, network: Network, address: SocketAddr) -> None:
        self.commands: list[Command] = []
        self.running = 0
        self._network, self._address = network, address

    @asynccontextmanager
    async def lookup(self, make: Callable[[LookupId], Command]) -> AsyncIterator[AsyncIterator[Finding]]:
        command = make(LookupId(1))
        self.commands.append(command)
        self.running += 1
        try:
            yield self._find(command)
        finally:
            self.running -= 1

    async def _find(self, command: Command) -> AsyncIterator[Finding]:
        network, now = self._network, anyio.current_time()
        assert hasattr(command, "info_hash")
        await anyio.sleep(LOOKUP_S if network.is_reachable else 0)
        is_announce, stored = isinstance(command, AnnouncePeer), 0
        if network.is_reachable:
            records = network.records.setdefault(command.info_hash, {})
            alive = tuple(address for address, until in records.items() if now < until)
            if alive:
                yield PeersFound(LookupId(1), alive, self._address)
            if is_announce:
                records[self._address] = anyio.current_time() + PEER_S
                stored = 8
        ending = Ending.COMPLETE if network.is_reachable else Ending.NO_NODES
        write = WriteReport(stored, 0, 0, 0, 0) if is_announce else None
        report = LookupReport(command.info_hash, ending, 8, 8, LOOKUP_S, None, None, (), write)
        yield LookupFinished(LookupId(1), report)


class FakePeers:
    """A pool: ``members`` answer a dial at once, everybody else never."""

    def __init__(self, members: dict[SocketAddr, EndpointId] | None = None) -> None:
        self.members = members or {}
        self.connected: dict[SocketAddr, EndpointId] = {}
        self.dialled: list[SocketAddr] = []
        self.dialling = self.most = 0

    async def meet(self, address: SocketAddr) -> EndpointId:
        self.dialled.append(address)
        self.dialling += 1
        self.most = max(self.most, self.dialling)
        try:
            if address not in self.members:
                await anyio.sleep(DIAL_S)
                raise DialTimeout("nobody there", tried=[str(address)])
            await anyio.sleep(0.1)
        finally:
            self.dialling -= 1
        self.connected[address] = self.members[address]
        return self.members[address]

    def peer_at(self, address: SocketAddr) -> EndpointId | None:
        return self.connected.get(address)


class FakeTopic:
    """What the topics service hears."""

    def __init__(self) -> None:
        self.members: list[EndpointId] = []
        self.neighbors: list[EndpointId] = []

    def met(self, topic_id: TopicId, peer: EndpointId) -> None:
        assert topic_id == TOPIC
        self.members.append(peer)

    def knows(self, topic_id: TopicId, peer: EndpointId) -> bool:
        return peer in self.neighbors
