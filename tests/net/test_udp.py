"""One socket: batches, full buffers, errors of the network, both families."""

from __future__ import annotations

import errno
import socket

import anyio
import pytest

from kukuri_sidecar.net.udp import BATCH, UdpCounters, UdpSocket, UdpSockets
from kukuri_sidecar.wire.addr import SocketAddr

V4, V6 = SocketAddr("127.0.0.1", 0), SocketAddr("::1", 0)

pytestmark = pytest.mark.anyio


class Refusing:
    """A socket whose calls fail with one error."""

    def __init__(self, error: OSError) -> None:
        self.error = error
        self.calls = 0

    def sendto(self, data: bytes, address: object) -> int:
        raise self.error

    def recvfrom(self, size: int) -> tuple[bytes, object]:
        self.calls += 1
        raise self.error

    def close(self) -> None: ...


@pytest.fixture
def counters() -> UdpCounters:
    return UdpCounters()


@pytest.mark.parametrize("bind", [V4, V6])
async def test_batches_arrive_in_order_and_are_bounded(bind: SocketAddr, counters: UdpCounters) -> None:
    one, two = UdpSocket(bind, counters), UdpSocket(bind, counters)
    batches: list[list] = []
    async with anyio.create_task_group() as group:
        await group.start(two.run, batches.append)
        for n in range(3 * BATCH):
            assert one.send(n.to_bytes(2, "big"), two.address) == 0
        with anyio.fail_after(5):
            while sum(map(len, batches)) < 3 * BATCH:  # noqa: ASYNC110  a plain callback
                await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    one.close(), two.close()
    assert [int.from_bytes(data, "big") for batch in batches for data, _ in batch] == list(range(3 * BATCH))
    assert {len(batch) <= BATCH for batch in batches} == {True}
    assert batches[0][0][1] == one.address
    assert (counters.sent, counters.received) == (3 * BATCH, 3 * BATCH)


@pytest.mark.parametrize(
    ("error", "counter"),
    [
        (BlockingIOError(errno.EAGAIN, "full"), "send_full"),
        (InterruptedError(errno.EINTR, "signal"), "send_full"),
        (OSError(errno.ENOBUFS, "no buffers"), "send_failed"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "nobody there"), "send_failed"),
        (PermissionError(errno.EPERM, "firewall"), "send_failed"),
        (OSError(errno.EMSGSIZE, "too long"), "send_failed"),
    ],
)
def test_a_send_that_fails_drops_and_counts(error: OSError, counter: str, counters: UdpCounters) -> None:
    udp = UdpSocket(V4, counters)
    udp.close()
    udp._socket = Refusing(error)
    assert udp.send(b"x", V4) == error.errno
    assert getattr(counters, counter) == 1
    assert counters.sent == 0


def test_errors_of_earlier_sends_do_not_stop_receiving(counters: UdpCounters) -> None:
    udp = UdpSocket(V4, counters)
    udp.close()
    udp._socket = refusing = Refusing(ConnectionRefusedError(errno.ECONNREFUSED, "nobody there"))
    assert udp.drain() == []
    assert refusing.calls == counters.receive_errors == BATCH, "it gives up for this wake-up, not for ever"


async def test_a_closed_port_answers_with_an_error_that_hurts_nobody() -> None:
    sockets = UdpSockets(V4, None)
    (udp,) = sockets.sockets
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = SocketAddr(*closed.getsockname())
    for _ in range(5):
        assert sockets.send([(b"x", nobody)]) == []
    sockets.send([(b"to myself", udp.address)])
    with anyio.fail_after(5):
        await anyio.wait_readable(udp._socket)
    assert udp.drain() == [(b"to myself", udp.address)]
    sockets.close()


def test_each_family_has_its_own_socket() -> None:
    sockets = UdpSockets(V4, V6)
    v4, v6 = sockets.sockets
    assert v6._socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    assert (v4.address.is_ipv6, v6.address.is_ipv6) == (False, True)
    sockets.send([(b"four", v4.address), (b"six", v6.address)])
    assert [data for data, _ in v4.drain()] == [b"four"]
    assert [data for data, _ in v6.drain()] == [b"six"]
    sockets.close()


def test_a_family_without_a_socket_is_unreachable() -> None:
    sockets = UdpSockets(V4, None)
    assert not sockets.reaches(V6)
    assert sockets.send([(b"x", V6)]) == [V6]
    sockets.close()


def test_no_route_is_told_apart_from_other_failures(counters: UdpCounters) -> None:
    sockets = UdpSockets(V4, None)
    sockets.close()
    (udp,) = sockets.sockets
    udp._socket = Refusing(OSError(errno.ENETUNREACH, "no route"))
    assert sockets.send([(b"x", V4)]) == [V4]
    udp._socket = Refusing(OSError(errno.ENOBUFS, "full"))
    assert sockets.send([(b"x", V4)]) == []


def test_a_taken_port_leaves_nothing_bound() -> None:
    first = UdpSockets(V4, V6)
    v4, v6 = (udp.address for udp in first.sockets)
    free = SocketAddr("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        UdpSockets(free, v6)
    with pytest.raises(OSError, match="in use"):
        UdpSockets(v4, None)
    first.close()
    UdpSockets(v4, v6).close()


def test_the_buffers_are_asked_to_be_large(counters: UdpCounters) -> None:
    udp = UdpSocket(V4, counters)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        assert udp._socket.getsockopt(socket.SOL_SOCKET, option) >= 200_000  # what the kernel allows
    udp.close()
