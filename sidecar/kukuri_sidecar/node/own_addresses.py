"""Where we can be reached, as far as this machine can know."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from kukuri_sidecar.node.events import Online
from kukuri_sidecar.wire.addr import SocketAddr

MAX_OWN_ADDRESSES = 8  # in records and peer data: more would be noise to whoever dials us


def own_addresses(
    bound: Iterable[SocketAddr], interfaces: Sequence[str], advertised: Iterable[str]
) -> tuple[tuple[SocketAddr, str], ...]:
    """Return (address, source) pairs, sources ``advertised`` and ``interface``, advertised ones first.

    A socket bound to every interface is reachable at each of its family's addresses; on a machine without
    any it is still reachable by its neighbours on loopback.
    """
    found: dict[SocketAddr, str] = {SocketAddr.parse(text): "advertised" for text in advertised}
    for address in bound:
        if not ipaddress.ip_address(address.host).is_unspecified:
            found.setdefault(address, "interface")
            continue
        hosts = [host for host in interfaces if (":" in host) is address.is_ipv6]
        for host in hosts or ["::1" if address.is_ipv6 else "127.0.0.1"]:
            found.setdefault(SocketAddr(host, address.port), "interface")
    return tuple(found.items())[:MAX_OWN_ADDRESSES]


def online(interfaces: Sequence[str], connected: Iterable[SocketAddr]) -> Online:
    """Say how far packets are known to get: ``online`` needs a live connection beyond the local network."""
    if any(ipaddress.ip_address(address.host).is_global for address in connected):
        return Online.ONLINE
    return Online.LOCAL_ONLY if interfaces else Online.OFFLINE
