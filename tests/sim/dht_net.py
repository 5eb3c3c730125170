"""DHT services on the virtual clock: the production `Dht` in a network that writes its datagrams down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup

from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.node.dht import Dht, RawDatagram
from kukuri_sidecar.node.dht_server import LOCAL
from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.krpc import Message
from kukuri_sidecar.wire.krpc_decode import decode

LATENCY_S = 0.02


class Carried(NamedTuple):
    """One datagram that was sent."""

    at: float
    sender: SocketAddr
    to: SocketAddr
    message: Message


class DhtNet:
    """Carries datagrams between services; what goes to nobody is lost, and everything is in ``carried``."""

    def __init__(self, tasks: TaskGroup, agenda: Agenda, rng: Random) -> None:
        self.carried: list[Carried] = []
        self.is_up = True
        self._tasks, self._agenda, self._rng = tasks, agenda, rng
        self._services: dict[SocketAddr, Dht] = {}

    async def service(
        self,
        host: str,
        *,
        bootstrap: Sequence[str] = (),
        config: DhtConfig = LOCAL,
        also: Sequence[SocketAddr] = (),
    ) -> Dht:
        """Start a service that is bound to port 4000 of ``host`` and to ``also``."""
        bound = [SocketAddr(host, 4000), *also]
        dht = Dht(
            config=config,
            bootstrap=bootstrap,
            agenda=self._agenda,
            rng=self._rng,
            send=partial(self._send, bound),
            on_public_address=lambda: None,
            saved={},
        )
        await self._tasks.start(dht.run, bound)
        self._services |= dict.fromkeys(bound, dht)
        return dht

    def _send(self, bound: Sequence[SocketAddr], datagrams: Sequence[RawDatagram]) -> None:
        for data, address in datagrams:
            to = SocketAddr(*address)
            sender = next(own for own in bound if own.is_ipv6 is to.is_ipv6)
            self.carried.append(Carried(anyio.current_time(), sender, to, decode(data)))
            if self.is_up and to in self._services:
                at = anyio.current_time() + LATENCY_S
                self._agenda.set(object(), at, partial(self._deliver, data, sender, to))

    def _deliver(self, data: bytes, sender: SocketAddr, to: SocketAddr, now: float) -> None:
        self._services[to].datagrams([(data, sender)])


@asynccontextmanager
async def dht_net(rng: Random) -> AsyncIterator[DhtNet]:
    """Run a network and the services that a test makes in it."""
    agenda = Agenda()
    async with anyio.create_task_group() as tasks:
        await tasks.start(agenda.run)
        yield DhtNet(tasks, agenda, rng)
        tasks.cancel_scope.cancel()
