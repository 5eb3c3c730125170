from __future__ import annotations

import pytest

from kukuri_sidecar.node.discovery.provider import MAX_ADDRESSES, Policy, select, worth_a_dial
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.endpoint_info import EndpointData

DIRECT = (SocketAddr("198.51.100.4", 1), SocketAddr("2001:db8::1", 2))
RELAY = ("https://relay.example.org/",)


@pytest.mark.parametrize(
    ("policy", "relays", "wanted"),
    [
        ("none", RELAY, EndpointData()),
        ("relay", RELAY, EndpointData((), RELAY)),
        ("relay", (), EndpointData()),
        ("direct", RELAY, EndpointData(DIRECT)),
        ("all", RELAY, EndpointData(DIRECT, RELAY)),
        ("auto", (), EndpointData(DIRECT)),
        ("auto", RELAY, EndpointData((), RELAY)),
    ],
)
def test_a_policy_decides_what_a_record_says(
    policy: Policy, relays: tuple[str, ...], wanted: EndpointData
) -> None:
    """R33; `auto` is iroh's own default while a relay is in use."""
    assert select(policy, DIRECT, relays) == wanted


@pytest.mark.parametrize(
    ("host", "own", "is_kept"),
    [
        ("1.2.3.4", "192.168.1.2", True),
        ("127.0.0.1", "192.168.1.2", False),
        ("127.0.0.1", "127.0.0.9", True),
        ("192.168.7.9", "192.168.1.2", True),
        ("192.168.7.9", "10.0.0.1", False),
        ("169.254.1.1", "10.0.0.1", False),
        ("224.0.0.1", "10.0.0.1", False),
        ("0.0.0.0", "10.0.0.1", False),
        ("100.99.1.1", "100.64.3.4", True),
        ("100.99.1.1", "10.0.0.1", False),
        ("2606:4700::1", "10.0.0.1", True),
        ("fd00:1:2:3::4", "fd00:1:2:3::9", True),
        ("fd00:1:2:3::4", "fd00:1:2:4::9", False),
        ("::1", "fd00:1:2:4::9", False),
    ],
)
def test_private_addresses_count_only_in_the_same_network(host: str, own: str, is_kept: bool) -> None:
    """trust.md E3: a public record must not make us send into somebody's inner network."""
    address = SocketAddr(host, 9)
    assert worth_a_dial([address], [SocketAddr(own, 1)]) == ((address,) if is_kept else ())


@pytest.mark.parametrize("count", [MAX_ADDRESSES - 1, MAX_ADDRESSES, MAX_ADDRESSES + 1])
def test_a_record_fills_a_dial_only_so_far(count: int) -> None:
    addresses = [SocketAddr("1.2.3.4", port) for port in range(1, count + 1)]
    kept = worth_a_dial([*addresses, addresses[0], SocketAddr("1.2.3.4", 0)], [])
    assert kept == tuple(addresses[:MAX_ADDRESSES])
