from __future__ import annotations

import ipaddress
from types import SimpleNamespace

import ifaddr
import pytest

from kukuri_sidecar.net.interfaces import local_addresses


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[str | tuple[str, int, int]]:
    """A machine with the addresses that the test puts into the list, each on an interface of its own."""
    addresses: list[str | tuple[str, int, int]] = []
    adapters = lambda: [SimpleNamespace(ips=[SimpleNamespace(ip=ip)]) for ip in addresses]  # noqa: E731
    monkeypatch.setattr(ifaddr, "get_adapters", adapters)
    return addresses


def test_usable_addresses_are_listed_ipv4_first_and_once(machine: list[object]) -> None:
    machine += [
        ("2001:db8::2", 0, 0),
        "192.168.1.7",
        "10.0.0.2",
        ("fd00::1", 0, 0),
        "10.0.0.2",
        ("2001:0db8:0::2", 0, 0),
    ]
    assert local_addresses() == ("10.0.0.2", "192.168.1.7", "2001:db8::2", "fd00::1")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.8.8", "169.254.3.4", "0.0.0.0", "224.0.0.1"]
    + [(text, 0, 2) for text in ("::1", "fe80::1", "fe80::1%eth0", "::", "ff02::1")],
)
def test_addresses_that_nobody_else_can_dial_are_left_out(machine: list[object], address: object) -> None:
    machine += [address, "10.0.0.2"]
    assert local_addresses() == ("10.0.0.2",)


def test_a_scope_is_not_part_of_an_address(machine: list[object]) -> None:
    machine.append(("2001:db8::1%eth0", 0, 2))
    assert local_addresses() == ("2001:db8::1",)


def test_a_machine_without_addresses_is_offline(machine: list[object]) -> None:
    assert local_addresses() == ()


def test_a_machine_that_will_not_say_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ifaddr, "get_adapters", refuse)
    assert local_addresses() == ()


def test_this_machine_answers_in_canonical_order() -> None:
    addresses = local_addresses()
    parsed = [ipaddress.ip_address(address) for address in addresses]
    assert [str(ip) for ip in parsed] == list(addresses)
    assert [(ip.version, ip.packed) for ip in parsed] == sorted((ip.version, ip.packed) for ip in parsed)
    assert not any(ip.is_loopback or ip.is_link_local for ip in parsed)
