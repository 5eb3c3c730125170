"""A network of QUIC endpoint cores under a virtual clock: latency, loss, filters; nothing real.

Key material comes from the operating system, so two runs differ in ciphertext, never in sizes or times.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from math import inf

from kukuri_sidecar.proto.quic.connection import ConnectionCore
from kukuri_sidecar.proto.quic.endpoint import EndpointCore
from kukuri_sidecar.proto.quic.events import Closed, DialFailed, Established, QuicEvent, StreamData
from kukuri_sidecar.proto.quic.limits import QuicLimits
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.keys import SecretKey

ALPN = "/test/1"
Filter = Callable[[bytes, SocketAddr, SocketAddr], bool]


def secret(n: int) -> SecretKey:
    return SecretKey(n.to_bytes(32, "big"))


class Host:
    """An endpoint core at one address; consumes what arrives unless told to stall."""

    def __init__(
        self, net: QuicNet, n: int, *, limits: QuicLimits, alpns: tuple[str, ...], host: str
    ) -> None:
        self.net = net
        self.secret = secret(n)
        self.limits = limits
        self.alpns = alpns
        self.address = SocketAddr(host, 7000 + n)
        self.is_stalled = False
        self.is_refusing = False
        self.restart()

    def restart(self) -> None:
        """Lose all state, keep the key and the address."""
        self.core = EndpointCore(
            self.secret, alpns=self.alpns, limits=self.limits, rng=random.Random(self.net.rng.random())
        )
        self.events: list[QuicEvent] = []
        self.received: dict[tuple[ConnectionCore, int], bytearray] = {}
        self.bytes_in = self.bytes_out = 0

    @property
    def id(self):
        return self.secret.endpoint_id

    @property
    def live(self) -> list[ConnectionCore]:
        return list(self.core.live)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def dial(
        self, other: Host, *addresses: SocketAddr, timeout_s: float = 10.0, alpn: str = ALPN
    ) -> ConnectionCore:
        now = self.net.now
        connection = self.core.dial(other.id, alpn, addresses or (other.address,), now, now + timeout_s)
        self.pump()
        return connection

    def data(self, stream_id: int) -> bytes:
        """What arrived on a stream id, whichever connection it was."""
        return b"".join(bytes(data) for (_, sid), data in self.received.items() if sid == stream_id)

    def pump(self) -> None:
        while self.core.needs_transmit:
            for event in self.core.take_events():
                self.events.append(event)
                if isinstance(event, StreamData):
                    key = (event.connection, event.stream_id)
                    self.received.setdefault(key, bytearray()).extend(event.data)
                    if not self.is_stalled:
                        event.connection.consume(event.stream_id, len(event.data))
                elif isinstance(event, Established) and event.connection.inbound and self.is_refusing:
                    event.connection.refuse("no")
            for data, address in self.core.transmit(self.net.now):
                self.bytes_out += len(data)
                self.net.send(data, self.address, SocketAddr(*address))

    def step(self) -> None:
        if self.net.now >= self.core.deadline():
            self.core.on_deadline(self.net.now)
        self.pump()


class QuicNet:
    """The wire and the clock."""

    def __init__(
        self,
        seed: int = 0,
        *,
        latency_s: float = 0.01,
        loss: float = 0.0,
        bandwidth_bps: float = inf,
        queue_s: float = 0.1,
    ) -> None:
        """``bandwidth_bps`` is one bottleneck per direction (towards 192.0.2/24, or away); tail drop."""
        self.rng = random.Random(seed)
        self.latency_s = latency_s
        self.loss = loss
        self.bandwidth_bps = bandwidth_bps
        self.queue_s = queue_s
        self.queue_drops = 0
        self._free = {False: 0.0, True: 0.0}
        self.now = 1000.0
        self.steps = 0
        self.hosts: dict[SocketAddr, Host] = {}
        self.passes: Filter = lambda _data, _source, _target: True
        self.is_recording = True
        self.sent: list[tuple[float, SocketAddr, SocketAddr, bytes]] = []
        self._wire: list[tuple[float, int, bytes, SocketAddr, SocketAddr]] = []
        self._serial = 0

    def host(
        self,
        n: int,
        *,
        limits: QuicLimits | None = None,
        alpns: tuple[str, ...] = (ALPN,),
        host: str = "192.0.2.1",
    ) -> Host:
        made = Host(self, n, limits=limits or QuicLimits(), alpns=alpns, host=host)
        self.hosts[made.address] = made
        return made

    def pair(self, **limits: object) -> tuple[Host, Host]:
        """Two hosts: client, server."""
        bounds = QuicLimits(**limits)
        return self.host(1, limits=bounds), self.host(2, limits=bounds, host="198.51.100.1")

    def send(self, data: bytes, source: SocketAddr, target: SocketAddr) -> None:
        if self.is_recording:
            self.sent.append((self.now, source, target, data))
        if self.rng.random() < self.loss or not self.passes(data, source, target):
            return
        left = self.now
        if self.bandwidth_bps != inf:
            way = target.host.startswith("192.0.2.")
            start = max(self.now, self._free[way])
            if start - self.now > self.queue_s:
                self.queue_drops += 1
                return
            left = self._free[way] = start + len(data) * 8 / self.bandwidth_bps
        self._serial += 1
        heapq.heappush(self._wire, (left + self.latency_s, self._serial, data, source, target))

    def next_time(self) -> float:
        timers = min((host.core.deadline() for host in self.hosts.values()), default=inf)
        return min(timers, self._wire[0][0] if self._wire else inf)

    def run(
        self, seconds: float = inf, until: Callable[[], bool] = lambda: False, max_steps: int = 200_000
    ) -> bool:
        """Let time pass, event by event, until ``until()`` holds (True) or ``seconds`` are over."""
        end = self.now + seconds
        while not until():
            at = self.next_time()
            if at > end or at == inf:
                self.now = max(self.now, end) if end != inf else self.now
                return until()
            self.now = max(self.now, at)
            self.steps += 1
            assert self.steps < max_steps, "the clock does not move"
            batches: dict[SocketAddr, list[tuple[bytes, SocketAddr]]] = {}
            while self._wire and self._wire[0][0] <= self.now:
                _, _, data, source, target = heapq.heappop(self._wire)
                batches.setdefault(target, []).append((data, source))
            for target, batch in batches.items():
                if target in self.hosts:
                    host = self.hosts[target]
                    host.bytes_in += sum(len(data) for data, _ in batch)
                    host.core.receive(batch, self.now)
            for host in self.hosts.values():
                host.step()
        return True

    def connect(self, client: Host, server: Host, **options: object) -> tuple[ConnectionCore, ConnectionCore]:
        """Dial and return both ends."""
        dialled = client.dial(server, **options)
        assert self.run(10, lambda: bool(dialled in client.live and server.live)), client.events
        inbound = next(c for c in server.live if c.peer == client.id)
        return dialled, inbound

    def failure(self, client: Host, dialled: ConnectionCore, seconds: float = 30):
        """Run until the dial failed and return its error."""
        assert self.run(
            seconds, lambda: bool(client.of(DialFailed) or client.of(Closed) or dialled in client.live)
        )
        return client.of(DialFailed)[-1].error
