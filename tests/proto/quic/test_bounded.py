"""Memory follows what the application consumed: the regression tests of a security boundary.

``place`` makes an unmodified aioquic client send single bytes wherever its flow control allows: the attack of
aioquic issue #589, where eleven such frames cost 1 GiB.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest
from aioquic.buffer import encode_uint_var

from kukuri_sidecar.errors import LimitReached
from kukuri_sidecar.proto.quic.bounded import MAX_CRYPTO_BYTES, MAX_CRYPTO_RANGES, MAX_RANGES
from kukuri_sidecar.proto.quic.events import Closed, Progressed, StreamData
from kukuri_sidecar.proto.quic.limits import KIB, MIB, QuicLimits
from quic_net import QuicNet
from quic_packets import client_initial, crypto, sealed

WINDOW = QuicLimits().stream_window_bytes
CONNECTION_WINDOW = QuicLimits().connection_window_bytes


def resident_mib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB


def place(quic, stream, offset: int) -> None:
    """Make the next STREAM frame of ``stream`` one byte at ``offset``."""
    sender = stream.sender
    sender._buffer = bytearray(b"x")
    sender._buffer_start, sender._buffer_stop = offset, offset + 1
    sender._pending.__init__()
    sender._pending.add(offset, offset + 1)
    sender.buffer_is_empty = False
    sender.highest_offset = offset
    quic._remote_max_data_used = offset
    quic._loss._cc.bytes_in_flight = 0
    quic._loss._pacer.packet_time = None
    if stream not in quic._streams_queue:
        quic._streams_queue.append(stream)


def push(client, connection) -> None:
    client.core._table.dirty[connection] = None
    client.pump()


def buffered(connection) -> int:
    return sum(len(stream.receiver._buffer) for stream in connection._quic._streams.values())


def outstanding(connection) -> int:
    quic = connection._quic
    return quic._local_max_data.value - quic._consumed


def test_an_honest_transfer_arrives_and_credit_stays_within_the_window() -> None:
    net = QuicNet(latency_s=0.001)
    client, server = net.pair(max_stream_backlog_bytes=8 * MIB)
    dialled, inbound = net.connect(client, server)
    up = dialled.open_uni()
    dialled.send(up, bytes(3 * MIB), is_end=True)
    client.pump()
    most = 0
    while len(server.data(up)) < 3 * MIB:
        net.run(0.01)
        most = max(most, outstanding(inbound))
    assert most <= CONNECTION_WINDOW


def test_a_reader_that_stalls_blocks_the_sender_and_reading_on_unblocks_it() -> None:
    net = QuicNet()
    client, server = net.pair(max_stream_backlog_bytes=8 * MIB)
    dialled, inbound = net.connect(client, server)
    server.is_stalled = True
    up = dialled.open_uni()
    dialled.send(up, bytes(MIB), is_end=True)
    client.pump()
    net.run(20)
    assert len(server.data(up)) == WINDOW
    assert dialled.acked(up) == WINDOW
    assert dialled.backlog(up) == MIB - WINDOW
    assert buffered(inbound) == 0
    server.is_stalled = False
    inbound.consume(up, WINDOW)
    server.pump()
    assert net.run(20, lambda: len(server.data(up)) == MIB)


def test_half_a_window_is_the_step_of_credit() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    server.is_stalled = True
    up = dialled.open_uni()
    dialled.send(up, bytes(WINDOW), is_end=False)
    client.pump()
    net.run(5)
    stream = inbound._quic._streams[up]
    inbound.consume(up, WINDOW // 2 - 1)
    assert stream.max_stream_data_local == WINDOW
    inbound.consume(up, 1)
    assert stream.max_stream_data_local == WINDOW + WINDOW // 2
    inbound.consume(up, 10 * WINDOW)  # more than was read: only what is unread counts
    assert stream.max_stream_data_local == 2 * WINDOW
    assert outstanding(inbound) <= CONNECTION_WINDOW


def test_all_streams_together_share_the_connection_window() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    server.is_stalled = True
    streams = [dialled.open_uni() for _ in range(4)]
    for stream in streams:
        dialled.send(stream, bytes(WINDOW), is_end=False)
    client.pump()
    net.run(20)
    assert sum(len(server.data(stream)) for stream in streams) == CONNECTION_WINDOW
    for stream in streams:
        inbound.consume(stream, WINDOW)
    server.is_stalled = False
    server.pump()
    assert net.run(20, lambda: dialled.backlog(None) == 0)


def test_bytes_at_doubling_offsets_get_no_further_credit() -> None:
    """The attack of issue #589."""
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    up = dialled.open_uni()
    stream = dialled._quic._streams[up]
    before, offset = resident_mib(), -1
    for _ in range(40):
        limit = min(dialled._quic._remote_max_data, stream.max_stream_data_remote)
        if limit - 1 <= offset:
            break
        offset = limit - 1
        place(dialled._quic, stream, offset)
        push(client, dialled)
        net.run(0.5)
    assert offset == WINDOW - 1, "one frame at the end of the first window, and no credit after it"
    assert buffered(inbound) == WINDOW
    assert resident_mib() - before <= 1.0
    assert inbound in server.live


def test_holes_in_every_stream_stay_within_the_connection_window() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    for _ in range(100):
        up = dialled.open_uni()
        place(dialled._quic, dialled._quic._streams[up], WINDOW - 1)
        dialled._quic._remote_max_data_used = 0  # an attacker does not count
        push(client, dialled)
        net.run(0.05)
        if server.of(Closed):
            break
        assert buffered(inbound) <= CONNECTION_WINDOW
    assert server.of(Closed)[0].lost.code == 0x3  # FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    ("fragments", "survives"), [(MAX_RANGES - 1, True), (MAX_RANGES, True), (MAX_RANGES + 1, False)]
)
def test_a_stream_of_holes_ends_the_connection(fragments: int, survives: bool) -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, _ = net.connect(client, server)
    up = dialled.open_uni()
    for n in range(fragments):
        place(dialled._quic, dialled._quic._streams[up], 2 * n + 1)
        push(client, dialled)
    net.run(0.2)
    assert bool(server.live) is survives


def test_a_stream_of_holes_costs_little_cpu() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, _ = net.connect(client, server)
    stream = dialled._quic._streams[dialled.open_uni()]
    datagrams = []
    server_pass, net.passes = net.passes, lambda data, _s, _t: datagrams.append(data) is not None
    for n in range(2_000):
        place(dialled._quic, stream, 2 * n + 1)
        push(client, dialled)
    net.passes = server_pass
    cpu = time.process_time()
    for data in datagrams:
        server.core.receive([(data, client.address)], net.now)
        server.core.transmit(net.now)
    assert not server.core.connections
    assert time.process_time() - cpu < 0.2  # 256 of 2,000 are looked at; all of them would cost a second


# --- The handshake, before anybody is authenticated --------------------------------------------------------


def test_handshake_data_is_bounded_before_authentication() -> None:
    """aioquic 1.7.2 collects a TLS message of up to 16 MiB, copying it again with every packet."""
    net = QuicNet()
    server = net.host(2, limits=QuicLimits(handshake_deadline_s=60))
    message = b"\x01\xff\xff\xff" + bytes(MIB)  # a ClientHello that says it has 16 MiB
    fed = 0
    for n in range(200):
        piece = message[fed : fed + 1_000]
        server.core.receive([(client_initial(crypto(fed, piece), number=n), client_address())], net.now)
        server.core.transmit(net.now)
        fed += len(piece)
        if not server.core.connections:
            break
    assert MAX_CRYPTO_BYTES < fed <= MAX_CRYPTO_BYTES + 1_000


@pytest.mark.parametrize(
    ("offset", "survives"), [(MAX_CRYPTO_BYTES - 1, True), (MAX_CRYPTO_BYTES, False), (2**40, False)]
)
def test_a_hole_in_the_handshake_is_bounded(offset: int, survives: bool) -> None:
    net = QuicNet()
    server = net.host(2)
    server.core.receive([(client_initial(crypto(offset, b"x")), client_address())], net.now)
    server.core.transmit(net.now)
    assert bool(server.core.connections) is survives


@pytest.mark.parametrize(("holes", "survives"), [(MAX_CRYPTO_RANGES, True), (MAX_CRYPTO_RANGES + 1, False)])
def test_holes_in_the_handshake_are_counted(holes: int, survives: bool) -> None:
    net = QuicNet()
    server = net.host(2)
    frames = b"".join(crypto(2 * n + 1, b"x") for n in range(holes))
    server.core.receive([(client_initial(frames), client_address())], net.now)
    server.core.transmit(net.now)
    assert bool(server.core.connections) is survives


def client_address() -> tuple[str, int]:
    return ("203.0.113.5", 5)


# --- Credit of streams that end early ---------------------------------------------------------------------


@pytest.mark.parametrize("way", ["reset", "stop", "end"])
def test_connection_credit_returns_whatever_the_end_of_a_stream(way: str) -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    server.is_stalled = True
    for _ in range(12):  # 12 * 100 kB would fill the window twice
        up = dialled.open_uni()
        dialled.send(up, bytes(100_000), is_end=way == "end")
        client.pump()
        assert net.run(20, lambda up=up: len(server.data(up)) == 100_000)
        if way == "reset":
            dialled.reset(up, 1)
        elif way == "stop":
            inbound.stop_receiving(up, 1)
        else:
            inbound.consume(up, 60_000)
            inbound.consume(up, 60_000)  # 20,000 too many
        client.pump(), server.pump()
        net.run(1)
    assert inbound._quic._consumed == inbound._quic._local_max_data.used == 1_200_000
    assert not inbound._quic._readings
    assert not inbound._quic._ended


def test_data_after_stop_receiving_is_dropped_and_credited() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    up = dialled.open_uni()
    dialled.send(up, b"first", is_end=False)
    client.pump()
    net.run(0.1)
    inbound.stop_receiving(up, 1)
    dialled.send(up, bytes(10_000), is_end=False)
    client.pump()  # crosses the STOP_SENDING
    server.pump()
    net.run(0.1)
    assert server.data(up) == b"first"
    assert len(server.of(StreamData)) == 1
    assert inbound._quic._consumed == 10_005


@pytest.mark.parametrize(("streams", "survives"), [(8, True), (9, False)])
def test_ended_streams_that_nobody_reads_are_bounded(streams: int, survives: bool) -> None:
    net = QuicNet()
    client, server = net.pair(max_unread_streams=8)
    dialled, _ = net.connect(client, server)
    server.is_stalled = True
    for _ in range(streams):
        dialled.send(dialled.open_uni(), b"x", is_end=True)
        client.pump()
        net.run(0.1)
    assert bool(server.live) is survives


@pytest.mark.parametrize("way", ["uni", "bidi"])
def test_streams_beyond_the_limit_end_the_connection(way: str) -> None:
    net = QuicNet()
    client, server = net.pair(streams_uni=3, streams_bidi=3)
    dialled, _ = net.connect(client, server)
    quic = dialled._quic
    quic._remote_max_streams_uni = quic._remote_max_streams_bidi = 100  # an attacker does not care
    for n in range(4):
        assert server.live, n
        stream = quic.get_next_available_stream_id(is_unidirectional=way == "uni")
        quic.send_stream_data(stream, b"x")
        push(client, dialled)
        net.run(0.1)
    assert server.of(Closed)[0].lost.code == 0x4  # STREAM_LIMIT_ERROR


def test_a_flood_of_short_streams_leaves_nothing_behind() -> None:
    net = QuicNet(latency_s=0.001)
    client, server = net.pair(streams_uni=8)
    dialled, inbound = net.connect(client, server)
    for n in range(500):
        up = dialled.open_uni()
        dialled.send(up, b"x" * (n % 5), is_end=n % 3 > 0)
        if n % 3 == 0:
            dialled.reset(up, 1)
        client.pump()
        net.run(0.05)
    for connection in (dialled, inbound):
        quic = connection._quic
        assert (len(quic._streams), len(quic._readings), len(quic._ended)) == (0, 0, 0)
        assert len(quic._sizes) <= 64
        assert len(quic._freed) <= 2


# --- The sending side -------------------------------------------------------------------------------------


def test_backlog_and_acked_follow_the_acknowledgements() -> None:
    net = QuicNet(latency_s=0.05)
    client, server = net.pair()
    dialled, _ = net.connect(client, server)
    net.run(1)
    one, two = dialled.open_uni(), dialled.open_uni()
    dialled.send(one, bytes(3_000), is_end=False), dialled.send(two, bytes(2_000), is_end=True)
    assert (dialled.backlog(one), dialled.backlog(two), dialled.backlog(None)) == (3_000, 2_000, 5_000)
    client.events.clear()
    client.pump()
    net.run(0.09)
    assert dialled.backlog(None) == 5_000
    assert not client.of(Progressed)
    net.run(0.1)
    assert dialled.backlog(None) == 0
    assert client.of(Progressed)
    assert (dialled.acked(one), dialled.acked(two)) == (3_000, 2_000)
    dialled.send(one, bytes(10), is_end=False)
    assert (dialled.backlog(one), dialled.acked(one)) == (10, 3_000)


@pytest.mark.parametrize(("size", "fits"), [(64 * KIB - 1, True), (64 * KIB, True), (64 * KIB + 1, False)])
def test_a_stream_takes_no_more_than_its_backlog(size: int, fits: bool) -> None:
    net = QuicNet()
    client, server = net.pair(max_stream_backlog_bytes=64 * KIB)
    dialled, _ = net.connect(client, server)
    up = dialled.open_uni()
    if not fits:
        with pytest.raises(LimitReached):
            dialled.send(up, bytes(size), is_end=False)
        assert dialled.backlog(up) == 0
    else:
        dialled.send(up, bytes(size), is_end=False)


@pytest.mark.parametrize(("ahead", "survives"), [(-1, True), (0, False), (1_000, False)])
def test_acknowledging_what_was_never_sent_ends_the_connection(ahead: int, survives: bool) -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    net.run(1)
    largest = inbound._quic.packets_sent + ahead
    ack = b"\x02" + encode_uint_var(largest) + bytes(3)
    server.core.receive([(sealed(dialled, ack), client.address)], net.now)
    server.pump()
    assert bool(server.live) is survives


def test_what_breaks_in_the_library_ends_one_connection_only() -> None:
    net = QuicNet()
    client, server = net.pair()
    other = net.host(3, host="203.0.113.3")
    dialled, inbound = net.connect(client, server)
    net.connect(other, server)
    inbound._quic._payload_received = None  # whatever breaks in the library
    dialled.send(dialled.open_uni(), b"x", is_end=True)
    client.pump()
    net.run(1)
    assert server.core.counters.library_errors == 1
    assert [c.peer for c in server.live] == [other.id]
