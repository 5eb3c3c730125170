"""Delivery times over a lossy bottleneck of 20 Mbit/s, 50 ms, under a virtual clock (trust.md section 0.10).

Flows that compete share one queue. Everything is deterministic but key material.
"""

from __future__ import annotations

import struct
from math import inf

import pytest

from kukuri_sidecar.proto.quic.congestion import NAME
from kukuri_sidecar.proto.quic.limits import MIB, QuicLimits
from quic_net import Host, QuicNet

MESSAGE_BYTES = 512


def bottleneck(*, loss: float = 0.0, queue_s: float = 0.1, seed: int = 1) -> QuicNet:
    net = QuicNet(seed, latency_s=0.025, loss=loss, bandwidth_bps=20e6, queue_s=queue_s)
    net.is_recording = False
    return net


def delivery_times(controller: str, *, loss: float, rate: int, seconds: int, seed: int = 1) -> list[float]:
    """Seconds from `send` to arrival of every message, sorted; missing ones count as infinite."""
    net = bottleneck(loss=loss, seed=seed)
    limits = QuicLimits(congestion_control=controller, max_stream_backlog_bytes=16 * MIB)
    client, server = net.host(1, limits=limits), net.host(2, limits=limits, host="198.51.100.1")
    dialled = client.dial(server, timeout_s=20)
    assert net.run(20, lambda: dialled in client.live)
    up, start, sent, total = dialled.open_uni(), net.now, 0, rate * seconds
    times: list[float] = []
    while len(times) < total and net.now < start + seconds + 5:
        while sent < total and net.now >= start + sent / rate:
            dialled.send(up, struct.pack("!d", net.now) + bytes(MESSAGE_BYTES - 8), is_end=False)
            sent += 1
        client.pump()
        next_message = start + sent / rate if sent < total else inf
        net.run(max(1e-6, min(next_message, net.next_time()) - net.now))
        for data in server.received.values():
            while len(data) >= MESSAGE_BYTES:
                times.append(net.now - struct.unpack("!d", data[:8])[0])
                del data[:MESSAGE_BYTES]
    return sorted(times) + [inf] * (total - len(times))


def rates(*controllers: str, queue_s: float = 0.1, loss: float = 0.0) -> tuple[list[float], float]:
    """Mbit/s of bulk flows over one bottleneck for three seconds, and the share of packets dropped."""
    net = bottleneck(queue_s=queue_s, loss=loss)
    server = net.host(9, host="198.51.100.1")
    flows = []
    for n, controller in enumerate(controllers):
        limits = QuicLimits(congestion_control=controller)
        client = net.host(n + 1, limits=limits, host=f"192.0.2.{n + 1}")
        dialled = client.dial(server, timeout_s=20)
        assert net.run(20, lambda client=client, dialled=dialled: dialled in client.live)
        flows.append((client, dialled, dialled.open_uni()))
    start, packets = net.now, sum(client.core.counters.datagrams_out for client, _, _ in flows)
    while net.now < start + 3:
        for client, dialled, up in flows:
            _fill(client, dialled, up)
        net.run(0.02)
        for data in server.received.values():
            data.clear()
    packets = sum(client.core.counters.datagrams_out for client, _, _ in flows) - packets
    return [dialled.acked(up) * 8 / 3e6 for _, dialled, up in flows], net.queue_drops / packets


def _fill(client: Host, dialled, up: int) -> None:
    free = MIB - dialled.backlog(up)
    if free > 65_536:
        dialled.send(up, bytes(free), is_end=False)
        client.pump()


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("loss", "rate", "limit_s"), [(0.01, 1_000, 0.25), (0.05, 1_000, 0.5), (0.2, 100, 0.5), (0.3, 100, 1.0)]
)
def test_messages_arrive_in_time_over_a_lossy_path(loss: float, rate: int, limit_s: float, seed: int) -> None:
    times = delivery_times(NAME, loss=loss, rate=rate, seconds=5 if rate == 100 else 2, seed=seed)
    assert times[int(0.99 * len(times))] <= limit_s


def test_what_stock_would_do() -> None:
    """Why there is a controller of our own: Reno at 5 % loss."""
    times = delivery_times("reno", loss=0.05, rate=1_000, seconds=3)
    assert times[len(times) // 2] > 0.5


def test_a_clean_path_is_filled_without_loss() -> None:
    (rate,), dropped = rates(NAME)
    assert rate > 18
    assert dropped == 0


def test_a_shallow_queue_is_not_overrun() -> None:
    (rate,), dropped = rates(NAME, queue_s=0.02)
    assert rate > 12
    assert dropped < 0.12


def test_chance_loss_costs_little_rate() -> None:
    (rate,), _ = rates(NAME, loss=0.05)
    assert rate > 8  # Reno: below 2


def test_equal_flows_share() -> None:
    """The first one keeps a head start of up to two to one for a while: there is no probing of the RTT."""
    shares, dropped = rates(NAME, NAME)
    assert min(shares) > 0.4 * max(shares)
    assert dropped < 0.05


def test_cubic_keeps_its_share_of_an_ordinary_queue() -> None:
    (ours, cubic), _ = rates(NAME, "cubic")
    assert cubic > 0.5 * ours
