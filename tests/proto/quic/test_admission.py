"""The valve in front of the connection table: limits and their neighbours; answers without state."""

from __future__ import annotations

import pytest

from kukuri_sidecar.proto.quic.admission import MAX_RESET_BYTES
from kukuri_sidecar.proto.quic.endpoint import EndpointCore
from kukuri_sidecar.proto.quic.limits import QuicLimits
from kukuri_sidecar.wire.addr import SocketAddr
from quic_net import QuicNet, secret
from quic_packets import PING, cids, client_initial, crypto

OPEN = {"retry_at_half_open": 10_000, "retry_at_initials_per_s": 1e9}  # no Retry: the limits behind it show


def initials(net: QuicNet, count: int) -> list[bytes]:
    """First flights of ``count`` different dials."""
    core = EndpointCore(secret(99), alpns=[], limits=QuicLimits(max_dials=count), rng=net.rng)
    flights = []
    for _ in range(count):
        core.dial(secret(2).endpoint_id, "/test/1", [("192.0.2.9", 1)], net.now, net.now + 60)
        ((data, _),) = core.transmit(net.now)
        flights.append(data)
    return flights


def address(n: int, *, host: str = "") -> SocketAddr:
    return SocketAddr(host or f"10.{n // 250}.{n % 250}.1", 1000 + n)


@pytest.mark.parametrize(("arrivals", "accepted"), [(31, 31), (32, 32), (33, 32)])
def test_half_open_handshakes_are_bounded(arrivals: int, accepted: int) -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(**OPEN))
    for n, data in enumerate(initials(net, arrivals)):
        server.core.receive([(data, address(n))], net.now)
    assert (server.core.half_open, len(server.core.connections)) == (accepted, accepted)
    assert server.core.counters.half_open_full == arrivals - accepted


@pytest.mark.parametrize(("arrivals", "accepted"), [(3, 3), (4, 4), (5, 4)])
def test_half_open_handshakes_of_one_ip_are_bounded(arrivals: int, accepted: int) -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(**OPEN))
    for n, data in enumerate(initials(net, arrivals)):
        server.core.receive([(data, address(n, host="203.0.113.1"))], net.now)
    assert server.core.half_open == accepted


def test_loopback_is_no_single_ip() -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(**OPEN))
    for n, data in enumerate(initials(net, 20)):
        server.core.receive([(data, address(n, host="127.0.0.1"))], net.now)
    assert server.core.half_open == 20


def test_an_unfinished_handshake_ends_at_its_deadline_however_much_the_client_talks() -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(**OPEN))
    (data,) = initials(net, 1)
    start, cid = net.now, cids(data)[0]
    server.core.receive([(data, address(1))], net.now)
    for n in range(1, 50):  # a valid packet every 100 ms renews aioquic's idle timer, not our deadline
        net.run(0.1)
        assert server.core.half_open == 1
        server.core.receive([(client_initial(bytes([PING]), cid=cid, number=n), address(1))], net.now)
        server.pump()
    assert net.run(1, lambda: server.core.half_open == 0)
    assert net.now == pytest.approx(start + 5.0, abs=1e-6)
    assert not server.core.connections
    assert server.core.counters.handshakes_failed == 1


@pytest.mark.parametrize(("half_open", "retries"), [(7, 0), (8, 1), (9, 2)])
def test_with_eight_half_open_an_initial_gets_a_retry(half_open: int, retries: int) -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(retry_at_initials_per_s=1e9))
    flights = initials(net, half_open + 1)
    for n, data in enumerate(flights):
        server.core.receive([(data, address(n))], net.now)
    assert server.core.counters.retries_sent == retries
    assert server.core.half_open == min(half_open + 1, 8)


@pytest.mark.parametrize(("arrivals", "retries"), [(19, 0), (20, 0), (21, 1)])
def test_more_than_twenty_initials_per_second_get_retries(arrivals: int, retries: int) -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(retry_at_half_open=10_000))
    for n, data in enumerate(initials(net, arrivals)):
        server.core.receive([(data, address(n))], net.now)
    assert server.core.counters.retries_sent == retries


def test_a_client_comes_through_a_retry() -> None:
    net = QuicNet()
    client, server = net.pair(retry_at_half_open=0)
    _, inbound = net.connect(client, server)
    assert inbound.peer == client.id
    assert server.core.counters.retries_sent == 1


def test_a_retry_token_is_good_for_its_address_its_cid_and_thirty_seconds() -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(retry_at_half_open=0))
    hello = crypto(0, b"\x01")
    server.core.receive([(client_initial(hello), address(1))], net.now)
    ((retry, _),) = server.core.transmit(net.now)
    assert server.core.half_open == 0
    cid = cids(retry)[1]
    token = retry[6 + retry[5] + 1 + len(cid) : -16]
    for spoilt, where, at in (
        (client_initial(hello, cid=cid, token=token), address(2), net.now),
        (client_initial(hello, cid=b"another1", token=token), address(1), net.now),
        (client_initial(hello, cid=cid, token=token[:-1] + bytes([token[-1] ^ 1])), address(1), net.now),
        (client_initial(hello, cid=cid, token=b"x"), address(1), net.now),
        (client_initial(hello, cid=cid, token=token), address(1), net.now + 30.1),
    ):
        server.core.receive([(spoilt, where)], at)
    assert (server.core.counters.bad_tokens, server.core.half_open) == (5, 0)
    server.core.receive([(client_initial(hello, cid=cid, token=token), address(1))], net.now + 29)
    assert server.core.half_open == 1


@pytest.mark.parametrize(("arrivals", "accepted"), [(79, 79), (80, 80), (81, 80)])
def test_handshakes_per_second_are_bounded(arrivals: int, accepted: int) -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(max_half_open=1_000, **OPEN))
    for n in range(arrivals):
        data = client_initial(crypto(0, b"\x01"), cid=n.to_bytes(8, "big"))
        server.core.receive([(data, address(n))], net.now)
    assert server.core.half_open == accepted
    assert server.core.counters.rate_limited == arrivals - accepted


@pytest.mark.parametrize(
    ("hosts", "accepted"),
    [
        ([f"203.0.113.{n}" for n in range(8)], 8),
        ([f"203.0.113.{n}" for n in range(9)], 8),
        ([f"2001:db8:1:{n}::1" for n in range(9)], 8),
        ([f"203.0.{n}.1" for n in range(9)], 9),
    ],
)
def test_one_network_cannot_use_up_the_handshakes_of_all(hosts: list[str], accepted: int) -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(**OPEN))
    for n, host in enumerate(hosts):
        data = client_initial(crypto(0, b"\x01"), cid=n.to_bytes(8, "big"))
        server.core.receive([(data, SocketAddr(host, 1))], net.now)
    assert server.core.half_open == accepted


@pytest.mark.parametrize("spoil", ["payload", "short", "cid", "type", "truncated"])
def test_what_cannot_open_a_connection_costs_no_state(spoil: str) -> None:
    net = QuicNet()
    server = net.host(2)
    data = bytearray(client_initial(crypto(0, b"\x01"), cid=b"short" if spoil == "cid" else b"choice01"))
    match spoil:
        case "payload":
            data[600] ^= 1
        case "short":
            data = data[:1199]
        case "type":
            data[0] |= 0x20  # Handshake
        case "truncated":
            data = data[:100] + bytes(1100)
    server.core.receive([(bytes(data), address(1))], net.now)
    assert not server.core.connections
    assert server.core.transmit(net.now) == []
    assert server.core.counters.malformed + server.core.counters.strays == 1


def test_other_versions_are_told_ours_ten_times_a_second() -> None:
    net = QuicNet()
    server = net.host(2)
    data = bytearray(client_initial(crypto(0, b"\x01")))
    data[1:5] = bytes.fromhex("6b3343cf")  # version 2, RFC 9369
    server.core.receive([(bytes(data), address(n)) for n in range(20)], net.now)
    answers = server.core.transmit(net.now)
    assert len(answers) == 10
    assert all(
        len(answer) < 40 and answer[1:5] == bytes(4) and answer[-4:] == bytes([0, 0, 0, 1])
        for answer, _ in answers
    )
    data[1:5] = bytes(4)  # a Version Negotiation packet is never answered
    server.core.receive([(bytes(data), address(1))], net.now + 10)
    server.core.receive([(bytes(data[:500]), address(1))], net.now + 10)
    assert server.core.transmit(net.now + 10) == []


@pytest.mark.parametrize(
    ("size", "answer"), [(21, 0), (22, 21), (43, MAX_RESET_BYTES), (1200, MAX_RESET_BYTES)]
)
def test_a_packet_of_an_unknown_connection_gets_a_shorter_reset(size: int, answer: int) -> None:
    net = QuicNet()
    server = net.host(2)
    server.core.receive([(b"\x40" + bytes(size - 1), address(1))], net.now)
    assert [len(data) for data, _ in server.core.transmit(net.now)] == ([answer] if answer else [])


def test_resets_are_rare_and_two_endpoints_do_not_reset_each_other_for_ever() -> None:
    net = QuicNet()
    one, two = net.host(1), net.host(2)
    two.core.receive([(b"\x40" + bytes(1199), one.address) for _ in range(50)], net.now)
    assert two.core.counters.resets_sent == 10
    two.pump()
    net.run(10)
    assert one.core.counters.resets_sent == 10
    assert one.core.counters.resets_sent + two.core.counters.resets_sent <= 40


def test_a_spoofed_initial_gets_at_most_three_times_its_bytes() -> None:
    net = QuicNet()
    server = net.host(2)
    (data,) = initials(net, 1)
    server.core.receive([(data, address(1))], net.now)
    server.pump()
    net.run(10)
    assert 0 < server.bytes_out <= 3 * len(data)
    assert not server.core.connections


def test_a_flood_of_spoofed_initials_is_answered_with_less_than_it_cost() -> None:
    net = QuicNet()
    server = net.host(2)
    sent = 0
    for n in range(2_000):
        data = client_initial(crypto(0, b"\x01"), cid=n.to_bytes(8, "big"))
        sent += len(data)
        server.core.receive([(data, address(n))], net.now)
        server.pump()
        net.run(0.001)
    assert server.core.half_open <= 8
    assert server.bytes_out < 0.2 * sent


def test_unknown_datagrams_have_a_budget_that_known_connections_do_not_use() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, _ = net.connect(client, server)
    server.core.receive([(b"\x40" + bytes(30), address(1))] * 10_005, net.now)
    assert server.core.counters.strangers_dropped >= 5
    up = dialled.open_uni()
    dialled.send(up, b"still here", is_end=True)
    client.pump()
    assert net.run(1, lambda: server.data(up) == b"still here")
