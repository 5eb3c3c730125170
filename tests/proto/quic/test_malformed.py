"""Whatever arrives, ``receive`` never raises, and what breaks is one connection at most."""

from __future__ import annotations

import pytest
from aioquic.buffer import encode_uint_var
from hypothesis import given, settings
from hypothesis import strategies as st

from kukuri_sidecar.proto.quic.bounded import BoundedConnection
from kukuri_sidecar.proto.quic.events import Established
from kukuri_sidecar.wire.addr import SocketAddr
from quic_net import QuicNet
from quic_packets import client_initial, crypto, sealed

STRANGER = SocketAddr("203.0.113.5", 5)

long_header = st.builds(
    lambda first, version, dcid, scid, rest, pad: (
        bytes([first]) + version + bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid + rest
    ).ljust(pad, b"\0"),
    st.integers(0x80, 0xFF),
    st.sampled_from([bytes([0, 0, 0, 1]), bytes(4), b"\x6b\x33\x43\xcf"]) | st.binary(min_size=4, max_size=4),
    st.binary(max_size=22),
    st.binary(max_size=22),
    st.binary(max_size=60),
    st.sampled_from([0, 1200, 1500]),
)
datagrams = st.lists(st.binary(max_size=1500) | long_header, max_size=8)

varint = st.integers(0, 2**62 - 1) | st.integers(0, 300)
frame = st.builds(
    lambda kind, numbers, tail: encode_uint_var(kind) + b"".join(map(encode_uint_var, numbers)) + tail,
    st.integers(0, 0x31) | varint,
    st.lists(varint, max_size=5),
    st.binary(max_size=30),
)


@settings(deadline=None)
@given(datagrams)
def test_bytes_of_strangers_never_raise(batch: list[bytes]) -> None:
    net = QuicNet()
    client, server = net.pair()
    net.connect(client, server)
    server.core.receive([(data, STRANGER) for data in batch], net.now)
    server.pump()
    net.run(1)
    assert len(server.live) == 1
    assert server.core.counters.library_errors == 0


@settings(deadline=None)
@given(st.data())
def test_damaged_datagrams_never_raise(data: st.DataObject) -> None:
    """Flip, cut, double and delay anything, from the first Initial on; what gets through is intact."""
    net = QuicNet(data.draw(st.integers(0, 2**16)))
    client, server = net.pair()

    def damage(datagram: bytes, source: SocketAddr, target: SocketAddr) -> bool:
        chance = net.rng.random()
        if chance < 0.7:
            return True
        spoilt = bytearray(datagram)
        spoilt[net.rng.randrange(len(spoilt))] ^= 1 << net.rng.randrange(8)
        if chance < 0.8:
            spoilt = spoilt[: net.rng.randrange(len(spoilt))]
        net.hosts[target].core.receive([(bytes(spoilt), source)] * 2, net.now)
        return chance < 0.95

    net.passes = damage
    dialled = client.dial(server, timeout_s=20)
    net.run(20, lambda: dialled in client.live)
    if dialled in client.live:
        up = dialled.open_uni()
        dialled.send(up, b"intact" * 1_000, is_end=True)
        client.pump()
        net.run(20, lambda: len(server.data(up)) == 6_000)
        assert (b"intact" * 1_000).startswith(server.data(up))
    assert client.core.counters.library_errors == server.core.counters.library_errors == 0


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200) | st.lists(frame, max_size=6).map(b"".join), min_size=1, max_size=5))
def test_any_frames_of_an_authenticated_peer_never_raise(payloads: list[bytes]) -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    sender, receiver, side = (client, server, dialled)
    if len(payloads) % 2:
        sender, receiver, side = (server, client, inbound)
    for payload in payloads:
        receiver.core.receive([(sealed(side, payload), sender.address)], net.now)
        receiver.pump()
        net.run(0.05)
    assert receiver.core.counters.library_errors == 0
    for connection in receiver.core.connections:
        held = sum(len(s.receiver._buffer) for s in connection._quic._streams.values())
        assert held <= receiver.limits.connection_window_bytes


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=400), st.booleans())
def test_any_hello_never_raises(message: bytes, has_length: bool) -> None:
    net = QuicNet()
    server = net.host(2)
    if has_length:
        message = b"\x01" + len(message).to_bytes(3, "big") + message
    server.core.receive([(client_initial(crypto(0, message)), STRANGER)], net.now)
    server.pump()
    net.run(6)
    assert not server.of(Established)
    assert not server.core.connections
    assert server.core.counters.library_errors == 0


@settings(deadline=None)
@given(st.binary(max_size=80) | frame, st.booleans())
def test_any_transport_parameters_never_raise(parameters: bytes, is_client: bool) -> None:
    """quinn died of these twice (trust.md section 1)."""
    net = QuicNet()
    client, server = net.pair()
    original = BoundedConnection._serialize_transport_parameters

    def spoilt(quic: BoundedConnection) -> bytes:
        return parameters + original(quic) if quic._is_client is is_client else original(quic)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BoundedConnection, "_serialize_transport_parameters", spoilt)
        client.dial(server, timeout_s=3)
        net.run(8)
    assert server.core.counters.library_errors == client.core.counters.library_errors == 0
    assert server.core.half_open == 0
