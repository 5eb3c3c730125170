"""QuicEndpoint on real loopback sockets: what the users of connections may rely on."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable

import anyio
import pytest

from kukuri_sidecar.errors import (
    DialTimeout,
    HandshakeFailed,
    IdentityMismatch,
    LimitReached,
    NoAddresses,
    Offline,
    Refused,
    ShuttingDown,
)
from kukuri_sidecar.net.quic import Connection, LossKind, QuicConfig, QuicEndpoint
from kukuri_sidecar.wire.addr import SocketAddr
from quic_users import ALPN, LOOPBACK_V4, Node, Recorder, running

pytestmark = pytest.mark.anyio

NOWHERE = SocketAddr("127.0.0.1", 9)  # the discard port: closed on test machines


async def test_dial_exchange_close() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        connection, user = await one.dial(two)
        theirs, their_user = await two.arrival()
        assert (connection.peer, connection.alpn, connection.inbound) == (two.id, ALPN, False)
        assert (theirs.peer, theirs.alpn, theirs.inbound) == (one.id, ALPN, True)
        assert connection.address == two.bound[0]
        assert theirs.address == one.bound[0]
        assert abs(connection.established_at - anyio.current_time()) < 5
        up = connection.open_uni()
        connection.send(up, b"hello", end=True)
        await their_user.until(lambda: up in their_user.ended)
        down = theirs.open_uni()
        theirs.send(down, b"hi", end=True)
        await user.until(lambda: down in user.ended)
        assert (their_user.data[up], user.data[down]) == (b"hello", b"hi")
        assert connection.rtt_s is not None
        connection.close(3, "done")
        assert connection.is_closed
        await user.until(lambda: user.lost is not None)
        await their_user.until(lambda: their_user.lost is not None)
        assert (user.lost.kind, their_user.lost.code, their_user.lost.reason) == (LossKind.LOCAL, 3, "done")
        assert not [*one.endpoint.connections, *two.endpoint.connections]


async def test_a_megabyte_with_backpressure() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        connection, user = await one.dial(two)
        _, theirs = await two.arrival()
        up, blob = connection.open_uni(), bytes(range(256)) * 4_096
        for at in range(0, len(blob), 16_384):
            connection.send(up, blob[at : at + 16_384], end=at + 16_384 >= len(blob))
            await user.until(lambda: connection.backlog(up) <= 64 * 1024)
        await theirs.until(lambda: up in theirs.ended)
        assert theirs.data[up] == blob
        await user.until(lambda: connection.backlog() == 0)
        assert connection.acked(up) == len(blob)


async def test_writes_of_one_pass_leave_in_few_packets() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        connection, _ = await one.dial(two)
        _, theirs = await two.arrival()
        up = connection.open_uni()
        await anyio.sleep(0.05)
        before = one.endpoint.counters.datagrams_out
        for _ in range(100):
            connection.send(up, b"0123456789")
        assert one.endpoint.counters.datagrams_out == before, "nothing leaves before the end of the pass"
        await theirs.until(lambda: len(theirs.data.get(up, b"")) == 1_000)
        assert one.endpoint.counters.datagrams_out - before <= 2


async def test_what_a_user_writes_while_called_leaves_together() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        connection, user = await one.dial(two)
        theirs, their_user = await two.arrival()
        echo = theirs.open_uni()

        def answer(connection: Connection, stream_id: int, data: bytes) -> None:
            for byte in data:
                connection.send(echo, bytes([byte]))

        their_user.on_data = answer
        await anyio.sleep(0.05)
        before = two.endpoint.counters.datagrams_out
        connection.send(connection.open_uni(), b"abcdefgh")
        await user.until(lambda: user.data.get(echo) == b"abcdefgh")
        assert two.endpoint.counters.datagrams_out - before <= 2


async def test_a_user_may_close_and_reset_while_called() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        connection, user = await one.dial(two)
        theirs, their_user = await two.arrival()
        theirs.send(theirs.open_uni(), b"something of mine")

        def slam(connection: Connection, stream_id: int, data: bytes) -> None:
            connection.stop_receiving(stream_id, 1)
            connection.reset(theirs.open_uni(), 2)
            connection.close(9, "enough")
            connection.close(10, "really")
            connection.send(stream_id, b"")
            connection.consume(stream_id, 1)

        their_user.on_data = slam
        connection.send(connection.open_uni(), bytes(10_000))
        await user.until(lambda: user.lost is not None)
        await their_user.until(lambda: their_user.lost is not None)
        assert (user.lost.code, their_user.lost.code) == (9, 9)
        assert [call for call in their_user.calls if call[0] == "closed"] == [("closed",)]
        assert their_user.calls[-1] == ("closed",), "nothing is called after closed"


async def test_the_user_can_be_replaced() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        connection, _ = await one.dial(two)
        theirs, first = await two.arrival()
        theirs.user = second = Recorder()
        connection.send(connection.open_uni(), b"x", end=True)
        await second.until(lambda: bool(second.ended))
        assert not first.data


# --- Failing dials --------------------------------------------------------------------------------------


async def test_nothing_to_dial() -> None:
    one = Node()
    async with running(one):
        for addresses in ([], [SocketAddr("::1", 9)]):  # no IPv6 socket is bound
            with pytest.raises(NoAddresses):
                await one.endpoint.dial(one.id, addresses, ALPN, lambda _: Recorder(), timeout_s=1)


async def test_nobody_answers() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        start = anyio.current_time()
        with pytest.raises(DialTimeout) as caught:
            await one.dial(two, NOWHERE, timeout_s=0.3)
        assert 0.29 <= anyio.current_time() - start < 1
        assert caught.value.details == {"tried": [NOWHERE]}
        assert not one.endpoint._dials
        assert not one.endpoint._core.connections


async def test_a_dead_and_a_right_address() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        connection, _ = await one.dial(two, NOWHERE, *two.bound)
        assert connection.address == two.bound[0]


async def test_a_foreign_and_a_right_address() -> None:
    one, two, foreign = Node(), Node(), Node()
    async with running(one, two, foreign):
        for _ in range(5):
            connection, _ = await one.dial(two, *foreign.bound, *two.bound)
            assert connection.address == two.bound[0]
        with pytest.raises(IdentityMismatch):
            await one.dial(two, *foreign.bound)
        assert not foreign.inbound


async def test_an_address_added_while_dialling() -> None:
    one, two = Node(), Node()
    async with running(one, two), anyio.create_task_group() as group:

        async def tell() -> None:
            await anyio.sleep(0.05)
            one.endpoint.add_addresses(two.id, two.bound)

        group.start_soon(tell)
        start = anyio.current_time()
        connection, _ = await one.dial(two, NOWHERE)
        assert anyio.current_time() - start < 0.5, "at once, not with the next retransmission"
        assert connection.address == two.bound[0]


async def test_refusals() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        two.wants = False
        with pytest.raises(Refused):
            await one.dial(two)
        with pytest.raises(HandshakeFailed):
            await one.dial(two, alpn="other/1")
        assert not two.inbound
        assert two.endpoint.counters.refused == 1


async def test_no_route_is_offline_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Node(), Node()
    async with running(one, two):
        (udp,) = one.endpoint._sockets.sockets
        monkeypatch.setattr(udp, "send", lambda _data, _address: errno.ENETUNREACH)
        start = anyio.current_time()
        with pytest.raises(Offline):
            await one.dial(two, *two.bound, NOWHERE)
        assert anyio.current_time() - start < 0.5


async def test_a_cancelled_dial_leaves_nothing() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        with anyio.move_on_after(0.1):
            await one.dial(two, NOWHERE)
        assert not one.endpoint._core.connections
        assert not one.endpoint._dials


async def test_a_dial_cancelled_at_the_last_moment_closes_what_it_got(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller is cancelled in the very pass in which the connection is established."""
    one, two = Node(), Node()
    async with running(one, two):
        user = Recorder()
        established = one.endpoint._established
        with anyio.CancelScope() as scope:

            def cancel_first(core: object) -> None:
                scope.cancel()
                established(core)

            monkeypatch.setattr(one.endpoint, "_established", cancel_first)
            await one.endpoint.dial(two.id, two.bound, ALPN, lambda _: user, timeout_s=5)
        assert scope.cancelled_caught
        await user.until(lambda: user.lost is not None)
        _, theirs = await two.arrival()
        await theirs.until(lambda: theirs.lost is not None)
        assert not list(one.endpoint.connections)


async def test_too_many_dials_at_once() -> None:
    one, two = Node(max_dials=1), Node()
    async with running(one, two), anyio.create_task_group() as group:
        group.start_soon(lambda: one.dial(two, NOWHERE, timeout_s=0.2))
        await _wait(lambda: bool(one.endpoint._dials))
        with pytest.raises(LimitReached):
            await one.dial(two)
        group.cancel_scope.cancel()


# --- Families, sockets, life ----------------------------------------------------------------------------


@pytest.mark.parametrize("v4", [True, False])
async def test_ipv6(v4: bool) -> None:
    one, two = Node(v4=v4, v6=True), Node(v4=v4, v6=True)
    async with running(one, two):
        assert [address.is_ipv6 for address in one.bound] == ([False, True] if v4 else [True])
        connection, _ = await one.dial(two, two.bound[-1])
        assert connection.address == two.bound[-1]
        _, their_user = await two.arrival()
        up = connection.open_uni()
        connection.send(up, b"six", end=True)
        await their_user.until(lambda: their_user.data.get(up) == b"six")


async def test_other_datagrams_are_handed_over() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        connection, _ = await one.dial(two)
        query = b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"
        one.endpoint._sockets.send([(query, two.bound[0])])
        connection.send(connection.open_uni(), b"between", end=True)
        _, user = await two.arrival()
        await user.until(lambda: bool(user.ended))
        assert two.others == [(query, one.bound[0])]


async def test_a_full_socket_never_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Node(), Node()
    async with running(one, two):
        connection, _ = await one.dial(two)
        _, theirs = await two.arrival()
        (udp,) = one.endpoint._sockets.sockets
        genuine = udp._socket
        up = connection.open_uni()
        udp._socket = _Full(genuine)
        start = time.perf_counter()
        connection.send(up, bytes(100_000), end=True)
        await anyio.sleep(0.05)
        assert time.perf_counter() - start < 0.5
        assert one.endpoint.udp_counters.send_full > 0
        udp._socket = genuine
        await theirs.until(lambda: up in theirs.ended)
        assert len(theirs.data[up]) == 100_000


class _Full:
    """A socket whose sending buffer is full."""

    def __init__(self, genuine: socket.socket) -> None:
        self.fileno, self.recvfrom = genuine.fileno, genuine.recvfrom

    def sendto(self, data: bytes, address: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "full")


async def test_a_cancelled_endpoint_says_goodbye() -> None:
    one, two = Node(), Node()
    async with running(two):
        async with running(one):
            _, user = await one.dial(two)
        assert user.lost is not None
        assert user.lost.kind is LossKind.LOCAL
        _, theirs = await two.arrival()
        await theirs.until(lambda: theirs.lost is not None)
        assert (theirs.lost.code, theirs.lost.reason, theirs.lost.by_peer) == (0, "shutting down", True)
        with pytest.raises(ShuttingDown):
            await one.dial(two)


async def test_a_dial_under_way_ends_with_its_endpoint() -> None:
    one, two = Node(), Node()
    async with running(two), anyio.create_task_group() as group:
        failures: list[Exception] = []

        async def dial() -> None:
            try:
                await one.dial(two, NOWHERE)
            except ShuttingDown as exc:
                failures.append(exc)

        async with running(one):
            group.start_soon(dial)
            await _wait(lambda: bool(one.endpoint._dials))
        await _wait(lambda: bool(failures))


async def test_close_all() -> None:
    one, two, three = Node(), Node(), Node()
    async with running(one, two, three):
        for other in (two, three):
            await one.dial(other)
            await other.arrival()
        await one.endpoint.close_all(5, "moving", grace_s=2)
        assert not list(one.endpoint.connections)
        for other in (two, three):
            _, user = other.inbound[0]
            await user.until(lambda user=user: user.lost is not None)
            assert (user.lost.code, user.lost.reason) == (5, "moving")
        await one.dial(two)  # it goes on living


async def test_a_taken_port_is_an_os_error() -> None:
    one = Node()
    async with running(one):
        config = QuicConfig(bind_v4=one.bound[0])
        other = QuicEndpoint(
            one.secret, config, alpns=[], accept=lambda _: None, rng=one.endpoint._core._table.rng
        )
        with pytest.raises(OSError, match="in use"):
            await other.run()


async def test_an_idle_endpoint_sleeps() -> None:
    one, two = Node(), Node()
    async with running(one, two):
        await one.dial(two)
        await anyio.sleep(0.2)
        before, cpu = one.endpoint.counters.datagrams_out, time.process_time()
        await anyio.sleep(0.5)
        assert time.process_time() - cpu < 0.1
        assert one.endpoint.counters.datagrams_out - before <= 1


async def test_after_a_stall_of_our_own_peers_are_heard_before_they_are_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits in the socket renews the idle timer, even when the timer is already late."""
    one, two = Node(idle_s=0.6, keep_alive_s=0.2), Node(idle_s=0.6, keep_alive_s=0.2)
    async with running(one, two):
        connection, user = await one.dial(two)
        theirs, _ = await two.arrival()
        await anyio.sleep(0.3)
        theirs.send(theirs.open_uni(), b"still here")
        two.endpoint._pump(anyio.current_time())
        time.sleep(0.9)  # noqa: ASYNC251  both stall, longer than the idle time
        one.endpoint._on_time(anyio.current_time())  # the timer comes before the reader
        assert user.lost is None
        assert not connection.is_closed


async def test_many_connections() -> None:
    one = Node(max_connections=30)
    others = [Node() for _ in range(10)]
    async with running(one, *others), anyio.create_task_group() as group:
        for other in others:
            group.start_soon(lambda other=other: one.dial(other))
            group.start_soon(lambda other=other: other.dial(one))
        await _wait(lambda: len(list(one.endpoint.connections)) == 20)
    assert one.endpoint.counters.library_errors == 0


async def _wait(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)  # on a real clock: what we wait for sends no event


def test_an_endpoint_that_does_not_run_says_so() -> None:
    node = Node()
    assert node.bound == ()
    assert list(node.endpoint.connections) == []
    assert node.endpoint.udp_counters.sent == 0
    assert LOOPBACK_V4.port == 0
