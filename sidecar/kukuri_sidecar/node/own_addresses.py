"""Where we can be reached, as far as this machine can know."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from kukuri_sidecar.node.events import Online
from kukuri_sidecar.wire.addr import SocketAddr

MAX_OWN_ADDRESSES = 8  # in records and peer data: more would be noise to whoever dials us


def own_addresses(
    bound: Iterable[SocketAddr],
    interfaces: Sequence[str],
    advertised: Iterable[str],
    seen_by_dht: Iterable[SocketAddr] = (),
) -> tuple[tuple[SocketAddr, str], ...]:
    """Return (address, source) pairs: ``advertised``, ``dht_vote`` (how others see us), ``interface``.

    A socket bound to every interface is reachable at each of its family's addresses; on a machine without any
    address at all it is still reachable by its neighbours on loopback. When there are too many, no family is
    left out for the other's sake.
    """
    found = {SocketAddr.parse(text): "advertised" for text in advertised}
    for address in seen_by_dht:
        found.setdefault(address, "dht_vote")
    own: dict[SocketAddr, None] = {}
    for address in bound:
        hosts: Sequence[str] = [address.host]
        if ipaddress.ip_address(address.host).is_unspecified:
            reachable = interfaces or ["127.0.0.1", "::1"]
            hosts = [host for host in reachable if (":" in host) is address.is_ipv6]
        own |= dict.fromkeys(SocketAddr(host, address.port) for host in hosts)
    v4 = [address for address in own if not address.is_ipv6 and address not in found]
    v6 = [address for address in own if address.is_ipv6 and address not in found]
    room = max(0, MAX_OWN_ADDRESSES - len(found))
    kept = v4[: max(room - len(v6), (room + 1) // 2)]
    kept += v6[: room - len(kept)]
    found |= dict.fromkeys(kept, "interface")
    return tuple(found.items())[:MAX_OWN_ADDRESSES]


def online(interfaces: Sequence[str], connected: Iterable[SocketAddr]) -> Online:
    """Say how far packets are known to get: ``online`` needs a live connection beyond the local network."""
    if any(ipaddress.ip_address(address.host).is_global for address in connected):
        return Online.ONLINE
    return Online.LOCAL_ONLY if interfaces else Online.OFFLINE
