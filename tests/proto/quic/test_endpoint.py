"""Two or more endpoint cores under a virtual clock: dial, accept, life and end of connections."""

from __future__ import annotations

import pytest
from aioquic.tls import Epoch

from kukuri_sidecar.errors import (
    DialTimeout,
    HandshakeFailed,
    IdentityMismatch,
    LimitReached,
    LocalProtocolError,
    Offline,
    Refused,
)
from kukuri_sidecar.proto.quic import connection as connection_module
from kukuri_sidecar.proto.quic.events import (
    Closed,
    DialFailed,
    Established,
    LossKind,
    StreamReset,
    StreamStopped,
)
from kukuri_sidecar.proto.quic.limits import QuicLimits
from kukuri_sidecar.wire.addr import SocketAddr
from quic_net import ALPN, QuicNet
from quic_packets import PING, cids, initial

DEAD = SocketAddr("203.0.113.9", 9)


def test_both_sides_know_the_proven_id_of_the_other() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    assert (dialled.peer, dialled.alpn, dialled.inbound) == (server.id, ALPN, False)
    assert (inbound.peer, inbound.alpn, inbound.inbound) == (client.id, ALPN, True)
    assert (dialled.address, inbound.address) == (server.address, client.address)
    assert net.now == pytest.approx(1000.0 + 4 * net.latency_s, abs=0.03)  # 2 RTT to HANDSHAKE_DONE
    assert dialled.rtt_s == pytest.approx(2 * net.latency_s, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
def test_stream_data_arrives_complete_in_both_directions(seed: int, loss: float) -> None:
    net = QuicNet(seed, loss=loss)
    client, server = net.pair()
    dialled = client.dial(server, timeout_s=30)
    assert net.run(30, lambda: bool(client.live and server.live))
    blob = net.rng.randbytes(100_000)
    up, down = dialled.open_uni(), server.live[0].open_uni()
    dialled.send(up, blob, is_end=True)
    server.live[0].send(down, blob[::-1], is_end=True)
    client.pump(), server.pump()
    assert net.run(120, lambda: len(server.data(up)) == len(client.data(down)) == len(blob))
    assert (server.data(up), client.data(down)) == (blob, blob[::-1])
    assert net.run(60, lambda: dialled.backlog(up) == 0)
    assert (dialled.backlog(None), dialled.acked(up)) == (0, len(blob))


def test_a_dial_is_established_by_handshake_done_only() -> None:
    """TLS 1.3: the client's handshake is complete before the server judged its key (iroh-wire.md 1.4)."""
    net = QuicNet()
    client, server = net.pair()
    # The server's first flight passes; afterwards nothing of its does.
    net.passes = lambda _data, source, _target: source != server.address or net.now < 1000.02
    dialled = client.dial(server, timeout_s=3)
    net.run(2.9)
    assert server.of(Established)
    assert dialled._quic.is_handshake_complete
    assert not client.of(Established)
    net.run(0.2)
    assert isinstance(client.of(DialFailed)[0].error, DialTimeout)


# --- Several addresses ------------------------------------------------------------------------------------


def test_the_first_flight_goes_to_every_candidate_and_the_responder_is_selected() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled = client.dial(server, DEAD, server.address)
    assert {target for _, _, target, _ in net.sent} == {DEAD, server.address}
    assert net.run(5, lambda: dialled in client.live)
    assert dialled.address == server.address
    net.sent.clear()
    net.run(20)
    assert {t for _, s, t, _ in net.sent if s == client.address} == {server.address}


def test_a_candidate_can_be_added_while_dialling() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled = client.dial(server, DEAD)
    net.run(0.1)
    client.core.add_candidates(dialled, [server.address, DEAD])
    client.pump()
    assert net.run(0.1, lambda: dialled in client.live), (
        "the first flight goes out at once, not at the next PTO"
    )


def test_somebody_else_at_one_address_does_not_spoil_the_dial() -> None:
    net = QuicNet()
    client, server = net.pair()
    stranger = net.host(3, host="203.0.113.3")
    # The stranger answers first: the right one is farther away.
    held: list = []
    net.passes = lambda data, source, target: (
        target != server.address or net.now > 1000.01 or held.append(data)
    )
    dialled = client.dial(server, stranger.address, server.address)
    assert net.run(5, lambda: dialled in client.live)
    assert dialled.address == server.address
    assert not stranger.live


def test_a_candidate_that_answers_and_falls_silent_is_dropped() -> None:
    """Who saw our Initial can answer it with a packet that decrypts, and take the handshake hostage."""
    net = QuicNet()
    client, server = net.pair(dial_stall_s=2.0)
    hostage_taker = SocketAddr("203.0.113.3", 3)
    net.passes = lambda _data, _source, target: target != server.address or net.now > 1000.02
    dialled = client.dial(server, hostage_taker, server.address)
    key_cid, source_cid = cids(net.sent[0][3])
    answer = initial(
        bytes([PING]), key_cid=key_cid, target_cid=source_cid, source_cid=b"hostage1", is_client=False
    )
    net.send(answer, hostage_taker, client.address)
    assert net.run(5, lambda: dialled in client.live)
    assert dialled.address == server.address
    assert 1002.0 <= dialled.established_at < 1002.2


def test_the_only_candidate_may_be_slow() -> None:
    net = QuicNet(latency_s=1.5)
    client, server = net.pair(dial_stall_s=2.0, handshake_deadline_s=20)
    dialled = client.dial(server, timeout_s=20)
    assert net.run(20, lambda: dialled in client.live)


def test_the_wrong_key_is_an_identity_mismatch_naming_both() -> None:
    net = QuicNet()
    client, server = net.pair()
    other = net.host(3, host="203.0.113.3")
    error = net.failure(client, client.dial(server, other.address))
    assert isinstance(error, IdentityMismatch)
    assert error.details == {"expected": server.id, "found": other.id}
    assert net.now < 1000.1
    assert not other.of(Established)


def test_an_unknown_alpn_is_a_failed_handshake() -> None:
    net = QuicNet()
    client, server = net.pair()
    error = net.failure(client, client.dial(server, alpn="/other/1"))
    assert isinstance(error, HandshakeFailed)
    assert error.details["code"] == 0x178
    assert net.now < 1000.1


def test_a_dial_ends_exactly_at_its_deadline() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled = client.dial(server, DEAD, timeout_s=5)
    error = net.failure(client, dialled)
    assert isinstance(error, DialTimeout)
    assert error.details == {"tried": [DEAD]}
    assert net.now == pytest.approx(1005.0, abs=1e-6)
    assert not client.core.connections


def test_no_route_to_any_candidate_is_offline() -> None:
    net = QuicNet()
    client, server = net.pair()
    client.dial(server, DEAD, server.address)
    client.core.unreachable(DEAD)
    client.pump()
    assert not client.of(DialFailed)
    client.core.unreachable(server.address)
    client.pump()
    assert isinstance(client.of(DialFailed)[0].error, Offline)


def test_a_given_up_dial_tells_the_server_and_leaves_nothing() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled = client.dial(server)
    net.run(0.015)
    assert server.core.half_open == 1
    dialled.close(0, "changed my mind")
    client.pump()
    net.run(0.1)
    assert not client.core.connections
    assert not server.core.connections
    assert server.core.counters.handshakes_failed == 1


def test_dials_are_bounded() -> None:
    net = QuicNet()
    client, server = net.pair(max_dials=2)
    client.dial(server, DEAD), client.dial(server, DEAD)
    with pytest.raises(LimitReached):
        client.dial(server, DEAD)


# --- How many ---------------------------------------------------------------------------------------------


def test_connections_are_refused_politely_from_the_limit_on() -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(max_connections=3), host="198.51.100.1")
    clients = [net.host(10 + n, host=f"203.0.113.{n}") for n in range(4)]
    for client in clients[:3]:
        net.connect(client, server)
    error = net.failure(clients[3], clients[3].dial(server))
    assert isinstance(error, Refused)
    assert (len(server.live), server.core.counters.refused, len(server.core.connections)) == (3, 1, 3)
    server.live[0].close(0, "make room")
    server.pump()
    net.run(0.1)
    net.connect(clients[3], server)


def test_the_limit_holds_when_handshakes_overlap() -> None:
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(max_connections=3), host="198.51.100.1")
    clients = [net.host(10 + n, host=f"203.{n}.113.1") for n in range(6)]
    for client in clients:
        client.dial(server)
    net.run(2)
    assert len(server.live) == 3
    assert sorted(bool(c.live) for c in clients) == [False] * 3 + [True] * 3
    assert all(isinstance(c.of(DialFailed)[0].error, Refused) for c in clients if not c.live)


def test_a_connection_that_nobody_wants_is_refused() -> None:
    net = QuicNet()
    client, server = net.pair()
    server.is_refusing = True
    error = net.failure(client, client.dial(server))
    assert isinstance(error, Refused)
    assert not server.core.connections


def test_without_alpns_everybody_is_refused() -> None:
    net = QuicNet()
    client = net.host(1)
    server = net.host(2, alpns=(), host="198.51.100.1")
    assert isinstance(net.failure(client, client.dial(server)), Refused)
    net.connect(server, client)


# --- Streams ----------------------------------------------------------------------------------------------


def test_reset_and_stop_reach_the_other_side() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    first, second = dialled.open_uni(), dialled.open_uni()
    dialled.send(first, b"one", is_end=False), dialled.send(second, b"two", is_end=False)
    client.pump()
    net.run(0.1)
    dialled.reset(first, 7)
    inbound.stop_receiving(second, 9)
    client.pump(), server.pump()
    net.run(0.1)
    assert [(e.stream_id, e.code) for e in server.of(StreamReset)] == [(first, 7)]
    assert [(e.stream_id, e.code) for e in client.of(StreamStopped)] == [(second, 9)]
    dialled.send(first, b"late", is_end=False), dialled.send(second, b"late", is_end=False)
    assert client.core.counters.dropped_writes == 2
    assert dialled.backlog(None) == 0


def test_sending_after_the_end_is_our_bug() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, _ = net.connect(client, server)
    stream = dialled.open_uni()
    dialled.send(stream, b"x", is_end=True)
    with pytest.raises(LocalProtocolError):
        dialled.send(stream, b"y", is_end=False)
    with pytest.raises(LocalProtocolError):
        dialled.send(stream + 4, b"y", is_end=False)


@pytest.mark.parametrize("streams_uni", [1, 3])
def test_the_peer_limits_our_streams_and_lets_more_in_as_they_end(streams_uni: int) -> None:
    net = QuicNet()
    client, server = net.pair(streams_uni=streams_uni)
    dialled, _ = net.connect(client, server)
    streams = [dialled.open_uni() for _ in range(streams_uni)]
    with pytest.raises(LimitReached):
        dialled.open_uni()
    for stream in streams:
        dialled.send(stream, b"bye", is_end=True)
    client.pump()
    net.run(1)
    for _ in range(streams_uni):
        dialled.open_uni()


# --- Life and end -----------------------------------------------------------------------------------------


def test_close_code_and_reason_arrive() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, _ = net.connect(client, server)
    dialled.close(42, "bye")
    assert dialled.is_closed
    client.pump()
    net.run(0.1)
    mine, theirs = client.of(Closed)[0].lost, server.of(Closed)[0].lost
    assert (mine.code, mine.reason, mine.by_peer, mine.kind) == (42, "bye", False, LossKind.LOCAL)
    assert (theirs.code, theirs.reason, theirs.by_peer, theirs.kind) == (42, "bye", True, LossKind.CLOSED)
    assert not client.core.connections
    assert not server.core.connections


def test_an_endless_reason_is_cut_and_still_closes() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, _ = net.connect(client, server)
    dialled.close(1, "ä" * 5_000)
    client.pump()
    net.run(0.1)
    assert server.of(Closed)[0].lost.reason == "ä" * 100


def test_a_lost_close_is_repeated_when_the_peer_talks_on() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    net.passes = lambda *_: False
    dialled.close(42, "bye")
    client.pump()
    net.passes = lambda *_: True
    inbound.send(inbound.open_uni(), b"are you there", is_end=False)
    server.pump()
    net.run(0.1)
    assert server.of(Closed)[0].lost.code == 42


def test_after_the_farewell_a_late_packet_gets_a_reset() -> None:
    """To a client only: a client's first connection id has no token, so servers wait for the idle time."""
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    net.passes = lambda *_: False
    inbound.close(42, "bye")
    server.pump()
    net.run(1.5)
    net.passes = lambda *_: True
    dialled.send(dialled.open_uni(), bytes(100), is_end=False)
    client.pump()
    net.run(0.1)
    assert client.of(Closed)[0].lost.kind is LossKind.RESET
    assert not server.core.our_cids


def test_an_idle_connection_is_kept_alive() -> None:
    net = QuicNet()
    client, server = net.pair()
    net.connect(client, server)
    net.run(1)
    net.sent.clear()
    net.run(300)
    assert client.live
    assert server.live
    pings = [at for at, source, _, _ in net.sent]
    assert len(pings) <= 2 * 300 / 4  # one ping and one acknowledgement per 4-6 s


def test_a_dead_peer_is_noticed_within_sixteen_seconds() -> None:
    """Three heartbeats without an answer (trust.md G23), long before the negotiated idle time."""
    net = QuicNet()
    client, server = net.pair()
    net.connect(client, server)
    net.run(10)
    start = net.now
    net.passes = lambda *_: False
    assert net.run(100, lambda: bool(client.of(Closed) and server.of(Closed)))
    assert {e.lost.kind for e in client.of(Closed) + server.of(Closed)} == {LossKind.IDLE}
    assert 9 <= net.now - start <= 16  # counted from the last datagram, at most a heartbeat before the cut
    assert client.core.counters.idle_timeouts == 1


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_path_that_works_one_way_only_ends_too(way: str) -> None:
    """The deaf side gives up first and says so; the other heard its heartbeats until then."""
    net = QuicNet()
    client, server = net.pair()
    net.connect(client, server)
    net.run(10)
    start = net.now
    blocked, deaf = (client, server) if way == "up" else (server, client)
    net.passes = lambda _data, source, _target: source != blocked.address
    assert net.run(100, lambda: bool(deaf.of(Closed)))
    assert net.now - start <= 16
    assert net.run(100, lambda: bool(blocked.of(Closed)))
    assert net.now - start <= 17


def test_a_restarted_peer_resets_the_old_connection_at_once() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, _ = net.connect(client, server)
    net.run(1)
    server.restart()
    dialled.send(dialled.open_uni(), bytes(100), is_end=False)
    client.pump()
    assert net.run(0.1, lambda: bool(client.of(Closed)))
    assert client.of(Closed)[0].lost.kind is LossKind.RESET
    assert (server.core.counters.resets_sent, client.core.counters.resets_received) == (1, 1)


def test_a_reset_with_a_wrong_token_changes_nothing() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, _ = net.connect(client, server)
    client.core.receive([(b"\x40" + bytes(60), server.address)], net.now)
    client.pump()
    net.run(1)
    assert dialled in client.live


def test_keys_are_updated_and_the_stream_goes_on() -> None:
    net = QuicNet()
    client, server = net.pair(key_update_packets=40)
    dialled, inbound = net.connect(client, server)
    up, blob = dialled.open_uni(), net.rng.randbytes(1_000)
    keys = set()
    for n in range(300):
        dialled.send(up, blob, is_end=n == 299)
        client.pump()
        net.run(0.03)
        keys.add(inbound._quic._cryptos[Epoch.ONE_RTT].recv.secret)
    assert server.data(up) == blob * 300
    assert len(keys) >= 7
    assert client.core.counters.library_errors == server.core.counters.library_errors == 0


def test_the_peer_may_move_to_another_address() -> None:
    """NAT rebinding of a client: the server follows."""
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    net.run(1)
    moved = SocketAddr("192.0.2.77", 4242)
    del net.hosts[client.address]
    client.address = moved
    net.hosts[moved] = client
    up = dialled.open_uni()
    dialled.send(up, b"hello from elsewhere", is_end=True)
    client.pump()
    assert net.run(5, lambda: inbound.address == moved)
    assert server.data(up) == b"hello from elsewhere"
    down = inbound.open_uni()
    inbound.send(down, b"found you", is_end=True)
    server.pump()
    assert net.run(5, lambda: client.data(down) == b"found you")


def test_pure_acknowledgements_do_not_pile_up() -> None:
    """A receiver keeps every ACK packet on record until something of its own is acknowledged."""
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    up = dialled.open_uni()
    most = 0
    for _ in range(1_000):
        dialled.send(up, b"drip", is_end=False)
        client.pump()
        net.run(0.02)
        most = max(most, inbound._quic.pure_acks)
    assert most < 150


def test_a_peer_that_acknowledges_nothing_is_not_acknowledged_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "MAX_PURE_ACKS", 200)
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    net.run(1)
    dialled._quic._write_ack_frame = lambda **_: setattr(dialled._quic._spaces[Epoch.ONE_RTT], "ack_at", None)
    up, most = dialled.open_uni(), 0
    for _ in range(1_000):
        dialled.send(up, b"drip", is_end=False)
        client.pump()
        net.run(0.02)
        most = max(most, inbound._quic.pure_acks)
        if server.of(Closed):
            break
    assert server.of(Closed)[0].lost.reason == "nothing is acknowledged"
    assert 200 < most <= 205


# --- The clock --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_after_a_deadline_the_next_one_is_later(seed: int) -> None:
    """aioquic's loss timer does nothing at its exact deadline (1.7.2): without the nudge this never ends."""
    net = QuicNet(seed, loss=0.2)
    client, server = net.pair()
    dialled = client.dial(server, timeout_s=30)
    net.run(30, lambda: dialled in client.live)
    up = dialled.open_uni()
    dialled.send(up, bytes(200_000), is_end=True)
    client.pump()
    end = net.now + 60
    while net.now < end and len(server.data(up)) < 200_000:
        net.run(max(0.0, net.next_time() - net.now))
        for host in (client, server):
            if net.now >= host.core.deadline():
                host.core.on_deadline(net.now)
                host.core.transmit(net.now)
            assert host.core.deadline() > net.now
    assert client.core.counters.timer_spins == server.core.counters.timer_spins == 0


def test_a_ping_pong_never_waits_for_a_timer() -> None:
    """Neither the pacer nor a delayed acknowledgement holds a small message back."""
    net = QuicNet(latency_s=0.0001)
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    net.run(1)
    up, down = dialled.open_uni(), inbound.open_uni()
    for n in range(1, 500):
        start = net.now
        dialled.send(up, bytes(64), is_end=False)
        client.pump()
        assert net.run(1, lambda size=64 * n: len(server.data(up)) == size)
        inbound.send(down, bytes(64), is_end=False)
        server.pump()
        assert net.run(1, lambda size=64 * n: len(client.data(down)) == size)
        assert net.now - start == pytest.approx(0.0002, abs=1e-6)
