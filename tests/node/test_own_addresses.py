from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.node.events import Online
from kukuri_sidecar.node.own_addresses import MAX_OWN_ADDRESSES, online, own_addresses
from kukuri_sidecar.wire.addr import SocketAddr

ANY_V4, ANY_V6 = SocketAddr("0.0.0.0", 41641), SocketAddr("::", 41642)


def found(bound: list[SocketAddr], interfaces: list[str], advertised: list[str] | None = None) -> list[str]:
    """Return the addresses as text, the advertised ones with a star."""
    pairs = own_addresses(bound, interfaces, advertised or [])
    return [f"{address}{'*' if source == 'advertised' else ''}" for address, source in pairs]


def test_a_socket_on_every_interface_is_reachable_at_each_address_of_its_family() -> None:
    interfaces = ["192.168.1.7", "10.0.0.2", "2001:db8::1"]
    assert found([ANY_V4, ANY_V6], interfaces) == [
        "192.168.1.7:41641",
        "10.0.0.2:41641",
        "[2001:db8::1]:41642",
    ]
    assert found([ANY_V4], interfaces) == ["192.168.1.7:41641", "10.0.0.2:41641"]
    assert found([ANY_V6], interfaces) == ["[2001:db8::1]:41642"]


def test_a_socket_on_one_address_is_reachable_there_only() -> None:
    assert found([SocketAddr("127.0.0.1", 5)], ["192.168.1.7"]) == ["127.0.0.1:5"]
    assert found([SocketAddr("10.0.0.9", 5), ANY_V6], ["192.168.1.7"]) == ["10.0.0.9:5"]


def test_a_machine_without_any_address_has_the_loopback() -> None:
    assert found([ANY_V4, ANY_V6], []) == ["127.0.0.1:41641", "[::1]:41642"]


@pytest.mark.parametrize(
    ("interface", "own"), [("192.168.1.7", "192.168.1.7:41641"), ("2001:db8::1", "[2001:db8::1]:41642")]
)
def test_a_family_without_an_address_does_not_send_others_to_their_own_loopback(
    interface: str, own: str
) -> None:
    """Most machines have no IPv6: [::1] in our record would name the reader's machine."""
    assert found([ANY_V4, ANY_V6], [interface]) == [own]


def test_advertised_addresses_come_first_and_keep_their_source() -> None:
    assert found([ANY_V4], ["203.0.113.9", "10.0.0.2"], ["203.0.113.9:41641", "[2001:db8::9]:5"]) == [
        "203.0.113.9:41641*",
        "[2001:db8::9]:5*",
        "10.0.0.2:41641",
    ]


def test_nothing_bound_is_nowhere() -> None:
    assert found([], ["192.168.1.7"]) == []
    assert found([], [], ["1.2.3.4:5"]) == ["1.2.3.4:5*"]


@pytest.mark.parametrize("count", [MAX_OWN_ADDRESSES - 1, MAX_OWN_ADDRESSES, MAX_OWN_ADDRESSES + 1])
def test_there_is_a_most(count: int) -> None:
    interfaces = [f"10.0.0.{number}" for number in range(1, count + 1)]
    assert found([ANY_V4], interfaces) == [f"{host}:41641" for host in interfaces[:MAX_OWN_ADDRESSES]]


@pytest.mark.parametrize(
    ("v4", "v6", "advertised", "kept_v4", "kept_v6"),
    [
        (12, 1, 0, 7, 1),
        (12, 12, 0, 4, 4),
        (1, 12, 0, 1, 7),
        (5, 3, 0, 5, 3),
        (12, 12, 3, 3, 2),
        (12, 12, 8, 0, 0),
    ],
)
def test_no_family_is_left_out_for_the_others_sake(
    v4: int, v6: int, advertised: int, kept_v4: int, kept_v6: int
) -> None:
    """A machine with a dozen container bridges still tells its only IPv6 address, the one without a NAT."""
    interfaces = [f"172.{16 + number}.0.1" for number in range(v4)] + [
        f"2001:db8::{number + 1}" for number in range(v6)
    ]
    addresses = found([ANY_V4, ANY_V6], interfaces, [f"1.2.3.4:{number + 1}" for number in range(advertised)])
    assert len(addresses) <= MAX_OWN_ADDRESSES
    assert sum(text.startswith("172.") for text in addresses) == kept_v4
    assert sum(text.startswith("[2001:") for text in addresses) == kept_v6
    assert sum(text.endswith("*") for text in addresses) == advertised


hosts = st.sampled_from(["10.0.0.1", "192.168.1.1", "2001:db8::1", "fd00::1", "127.0.0.1", "8.8.8.8"])
bounds = st.builds(SocketAddr, hosts | st.sampled_from(["0.0.0.0", "::"]), st.integers(1, 3))


@given(
    st.lists(bounds, max_size=4),
    st.lists(hosts, max_size=12, unique=True),
    st.lists(st.sampled_from(["10.0.0.1:1", "1.2.3.4:5", "[::2]:3"]), max_size=8),
)
def test_addresses_are_distinct_dialable_and_few(
    bound: list[SocketAddr], interfaces: list[str], advertised: list[str]
) -> None:
    pairs = own_addresses(bound, interfaces, advertised)
    addresses = [address for address, _ in pairs]
    assert len(set(addresses)) == len(addresses) <= MAX_OWN_ADDRESSES
    assert all(address.host not in ("0.0.0.0", "::") and address.port for address in addresses)
    sources = [source for _, source in pairs]
    assert sources == sorted(sources)  # advertised before interface
    assert set(advertised) == {str(address) for address, source in pairs if source == "advertised"}


# --- online --------------------------------------------------------------------------------------------

LAN = ["192.168.1.7"]


@pytest.mark.parametrize(
    ("interfaces", "connected", "verdict"),
    [
        ([], [], Online.OFFLINE),
        (LAN, [], Online.LOCAL_ONLY),  # an address proves no way out
        ([], ["127.0.0.1"], Online.OFFLINE),
        (LAN, ["192.168.1.8"], Online.LOCAL_ONLY),
        (LAN, ["fe80::1", "fd00::1", "100.64.0.1", "10.0.0.1"], Online.LOCAL_ONLY),
        (LAN, ["192.168.1.8", "8.8.8.8"], Online.ONLINE),
        ([], ["2606:4700::1111"], Online.ONLINE),  # seen before the interface was
    ],
)
def test_online_needs_a_live_connection_beyond_the_local_network(
    interfaces: list[str], connected: list[str], verdict: Online
) -> None:
    assert online(interfaces, [SocketAddr(host, 5) for host in connected]) is verdict
