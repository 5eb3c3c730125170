"""Our UDP sockets: one per address family, shared by all protocols. Nothing in here blocks or raises.

A batch of at most 64 datagrams is drained per wake-up: 117,000 datagrams/s, against 15,000 for a datagram
protocol that takes one per loop pass (architecture.md section 10).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from kukuri_sidecar.wire.addr import SocketAddr

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

Address = tuple[str, int]
Datagram = tuple[bytes, Address]

BATCH = 64
BUFFER_BYTES = 2 << 20  # both directions; the kernel may grant less (net.core.rmem_max)
MAX_DATAGRAM_BYTES = 65_535
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN})


@dataclass(slots=True)
class UdpCounters:
    """Since the sockets were bound."""

    received: int = 0
    sent: int = 0
    send_full: int = 0  # dropped: the socket's buffer was full
    send_failed: int = 0  # dropped: the operating system refused
    receive_errors: int = 0  # ICMP errors of earlier sends, reported by the next receive


class UdpSocket:
    """One bound socket."""

    def __init__(self, bind: SocketAddr, counters: UdpCounters) -> None:
        """Bind at once; OSError with the address as ``filename`` when it is taken or not ours."""
        self._counters = counters
        self._socket = socket.socket(socket.AF_INET6 if bind.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            if bind.is_ipv6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
            self._socket.bind((bind.host, bind.port))
        except OSError as exc:
            self._socket.close()
            raise OSError(exc.errno, exc.strerror, str(bind)) from exc
        host, port = self._socket.getsockname()[:2]
        self.address = SocketAddr(host, port)

    def close(self) -> None:
        """Close the descriptor; a running ``run`` must have been cancelled before."""
        self._socket.close()

    async def run(
        self,
        on_batch: Callable[[list[Datagram]], None],
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Hand every batch to ``on_batch``, until cancelled."""
        task_status.started()
        while True:
            await anyio.wait_readable(self._socket)
            while batch := self.drain():
                on_batch(batch)
                if len(batch) < BATCH:
                    break
                await checkpoint()  # more is waiting; let the others run first

    def drain(self) -> list[Datagram]:
        """Return what is there, at most a batch."""
        batch: list[Datagram] = []
        receive = self._socket.recvfrom
        errors = 0
        while len(batch) < BATCH and errors < BATCH:
            try:
                data, address = receive(MAX_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                errors += 1  # ECONNREFUSED and the like: about a datagram that we sent, the socket is fine
                continue
            batch.append((data, address if len(address) == 2 else address[:2]))
        self._counters.received += len(batch)
        self._counters.receive_errors += errors
        return batch

    def send(self, data: bytes, address: Address) -> int:
        """Send one datagram; return 0, or the error number. A full buffer drops, as UDP may."""
        try:
            self._socket.sendto(data, address)
        except (BlockingIOError, InterruptedError) as exc:
            self._counters.send_full += 1
            return exc.errno or errno.EAGAIN
        except OSError as exc:
            self._counters.send_failed += 1
            return exc.errno or errno.EIO
        self._counters.sent += 1
        return 0


class UdpSockets:
    """The sockets of both families behind one ``send``."""

    def __init__(self, v4: SocketAddr | None, v6: SocketAddr | None) -> None:
        """Bind what is given; OSError when an address is taken or not ours, and nothing stays bound."""
        self.counters = UdpCounters()
        self._v4 = UdpSocket(v4, self.counters) if v4 is not None else None
        try:
            self._v6 = UdpSocket(v6, self.counters) if v6 is not None else None
        except OSError:
            if self._v4 is not None:
                self._v4.close()
            raise

    @property
    def sockets(self) -> tuple[UdpSocket, ...]:
        """The bound sockets, IPv4 first."""
        return tuple(s for s in (self._v4, self._v6) if s is not None)

    def reaches(self, address: Address) -> bool:
        """Say whether a socket of the address's family is bound."""
        return (self._v6 if ":" in address[0] else self._v4) is not None

    def send(self, datagrams: Iterable[Datagram]) -> list[Address]:
        """Send in order; return the addresses that the operating system has no route to."""
        unreachable: list[Address] = []
        v4, v6 = self._v4, self._v6
        for data, address in datagrams:
            udp = v6 if ":" in address[0] else v4
            if udp is None or udp.send(data, address) in _NO_ROUTE:
                unreachable.append(address)
        return unreachable

    def close(self) -> None:
        """Close both."""
        for udp in self.sockets:
            udp.close()
