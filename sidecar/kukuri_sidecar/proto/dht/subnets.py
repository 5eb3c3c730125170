"""Where an address belongs, as far as it matters for trusting strangers: scope, network, region.

One operator has many ids for free, many addresses of one network for little, and many networks for a lot.
"""

from __future__ import annotations

import ipaddress

_LOCAL_PREFIXES = ("10.", "127.", "192.168.", "169.254.")  # BEP 42 exempts them, with 172.16/12
_PRIVATE_172 = range(16, 32)
_REGION_BITS = 2  # of the first octet: a /6, as pubky mainline counts


def is_local(host: str) -> bool:
    """Say whether ``host`` (a canonical literal) is private, link-local or loopback, as BEP 42 means it."""
    if ":" in host:
        ip = ipaddress.IPv6Address(host)
        return ip.is_private and not ip.is_unspecified
    return host.startswith(_LOCAL_PREFIXES) or (
        host.startswith("172.") and int(host.split(".", 2)[1]) in _PRIVATE_172
    )


def is_usable(host: str) -> bool:
    """Say whether one node can be at ``host``: unicast, and not "this host"."""
    if ":" in host:
        ip = ipaddress.IPv6Address(host)
        return not (ip.is_multicast or ip.is_unspecified or ip.ipv4_mapped)
    return 1 <= int(host.split(".", 1)[0]) < 224


def network_of(host: str) -> str:
    """Return the /24 or /64 of ``host``: what one customer usually controls."""
    if ":" in host:
        return ipaddress.IPv6Address(host).exploded[:19]
    return host.rpartition(".")[0]


def region_of(host: str) -> str:
    """Return the /6 (IPv4) or /32 (IPv6) of ``host``: what hardly anybody controls many of."""
    if ":" in host:
        return ipaddress.IPv6Address(host).exploded[:9]
    return str(int(host.split(".", 1)[0]) >> _REGION_BITS)
