"""The only DHT node of a private network, inside the test: it serves, and writes down who asks what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import NamedTuple

import anyio

from kukuri_sidecar.net.udp import Datagram, UdpCounters, UdpSocket
from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.node.dht import Dht
from kukuri_sidecar.node.dht_server import LOCAL
from kukuri_sidecar.proto.dht.events import AnnouncePeer as Announce
from kukuri_sidecar.proto.dht.events import LookupFinished, LookupId
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import Target
from kukuri_sidecar.wire.krpc import AnnouncePeer, Args, GetPeers, Query
from kukuri_sidecar.wire.krpc_decode import decode

HERE = SocketAddr("127.0.0.1", 0)


class Asked(NamedTuple):
    """One query."""

    port: int  # of whoever asked, on 127.0.0.1
    args: Args


class Tap:
    """What the node was asked so far, in order."""

    def __init__(self, udp: UdpSocket, dht: Dht) -> None:
        self.address = str(udp.address)
        self.asked: list[Asked] = []
        self._dht = dht
        self._changed = anyio.Event()

    def on_batch(self, batch: list[Datagram]) -> None:
        for data, address in batch:
            message = decode(data)
            if isinstance(message, Query):
                self.asked.append(Asked(address[1], message.args))
        self._dht.datagrams(batch)
        self._changed.set()

    def rounds(self, port: int, key: Target | None = None) -> int:
        """How often the sidecar at ``port`` has looked for members (of ``key``): a look-up asks us once."""
        return self._count(GetPeers, port, key)

    def announces(self, port: int, key: Target | None = None) -> int:
        """How often it announced itself."""
        return self._count(AnnouncePeer, port, key)

    def keys(self, port: int) -> set[Target]:
        """What it announced itself under."""
        return {
            asked.args.info_hash
            for asked in self.asked
            if asked.port == port and isinstance(asked.args, AnnouncePeer)
        }

    async def until(self, is_true: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait for queries until it is true."""
        with anyio.fail_after(timeout_s):
            while not is_true():
                await self._changed.wait()
                self._changed = anyio.Event()

    def _count(self, kind: type[GetPeers | AnnouncePeer], port: int, key: Target | None) -> int:
        return sum(
            asked.port == port and isinstance(asked.args, kind) and key in (None, asked.args.info_hash)
            for asked in self.asked
        )


@asynccontextmanager
async def dht_service(rng: Random, *bootstrap: str) -> AsyncIterator[tuple[UdpSocket, Dht, Callable]]:
    """Run a service on a socket of its own; the third value wants every received batch."""
    udp, agenda = UdpSocket(HERE, UdpCounters()), Agenda()

    def send(datagrams: list[Datagram]) -> None:
        for data, to in datagrams:
            udp.send(data, to)

    dht = Dht(
        config=LOCAL, bootstrap=bootstrap, agenda=agenda, rng=rng, send=send,
        on_public_address=lambda: None, saved={},
    )  # fmt: skip
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(agenda.run)
            await tasks.start(dht.run, [udp.address])
            yield udp, dht, partial(tasks.start, udp.run)
            tasks.cancel_scope.cancel()
    finally:
        udp.close()


@asynccontextmanager
async def tapped_dht(rng: Random) -> AsyncIterator[Tap]:
    """Run the node."""
    async with dht_service(rng) as (udp, dht, receive):
        tap = Tap(udp, dht)
        await receive(tap.on_batch)
        yield tap


async def announce_falsely(rng: Random, bootstrap: str, key: Target, ports: list[int]) -> None:
    """Announce every port as a member's, as anybody may."""
    async with dht_service(rng, bootstrap) as (_, dht, receive):
        await receive(dht.datagrams)
        for port in ports:
            async with dht.lookup(partial(_announce, key, port)) as findings:
                async for finding in findings:
                    if isinstance(finding, LookupFinished):
                        assert finding.report.write is not None
                        assert finding.report.write.stored == 1


def _announce(key: Target, port: int, lookup: LookupId) -> Announce:
    return Announce(lookup, key, port, implied_port=False)
