"""One network does not fill the passive view, where peers say where they are."""

from __future__ import annotations

from random import Random

import pytest

from gossip_script import TOPIC, digest, peer_id
from kukuri_sidecar.proto.gossip.config import MembershipConfig
from kukuri_sidecar.proto.gossip.events import JoinTopic, Received
from kukuri_sidecar.proto.gossip.networks import network_of
from kukuri_sidecar.proto.gossip.state import GossipCore
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.gossip_messages import Neighbor, PeerInfo, Priority, ShuffleReply
from kukuri_sidecar.wire.peer_data import encode_peer_data

MOST = MembershipConfig().max_passive_per_network


def data(*hosts: str) -> bytes:
    return encode_peer_data(None, [SocketAddr(host, 4000) for host in hosts])


@pytest.mark.parametrize(
    ("hosts", "network"),
    [
        (("8.8.4.77",), "8.8.4.0/24"),
        (("192.168.1.5", "8.8.4.1"), "8.8.4.0/24"),
        (("192.168.1.5", "10.0.0.1", "127.0.0.1"), None),
        (("2606:4700:1:2::3",), "2606:4700:1::/48"),
        (("fe80::1",), None),
        ((), None),
    ],
)
def test_the_network_is_that_of_the_first_public_address(hosts: tuple[str, ...], network: str | None) -> None:
    assert network_of(data(*hosts)) == network


def test_what_is_no_peer_data_has_no_network() -> None:
    assert network_of(b"\xff\xff") is None


@pytest.mark.parametrize("count", [MOST - 1, MOST, MOST + 1])
def test_one_public_network_gets_so_many_places(count: int) -> None:
    assert passive_after([data(f"8.8.4.{n + 1}") for n in range(count)]) == min(count, MOST)


def test_local_and_unknown_addresses_are_exempt() -> None:
    assert passive_after([data(f"192.168.1.{n + 1}") for n in range(6)]) == 6
    assert passive_after([data() for _ in range(6)]) == 6


def passive_after(told: list[bytes]) -> int:
    """Return how many of the peers that a neighbor tells of are kept; nobody of them answers."""
    core = GossipCore(peer_id(0), Random(0), digest)
    core.handle(JoinTopic(TOPIC), 0.0)
    for number in range(1, 6):  # a full active view: nobody is asked
        core.handle(Received(peer_id(number), TOPIC, Neighbor(Priority.HIGH, None)), 0.0)
    nodes = tuple(PeerInfo(peer_id(100 + n), entry) for n, entry in enumerate(told))
    core.handle(Received(peer_id(1), TOPIC, ShuffleReply(nodes)), 0.0)
    view = core.view(TOPIC)
    assert view is not None
    return len(view.passive)
