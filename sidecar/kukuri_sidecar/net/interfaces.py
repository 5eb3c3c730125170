"""Which IP addresses this machine has right now."""

from __future__ import annotations

import ipaddress


def local_addresses() -> tuple[str, ...]:
    """Return our usable unicast addresses, IPv4 first, without loopback and link-local ones.

    Costs well under a millisecond (getifaddrs). Empty when the machine is offline or will not say.
    """
    import ifaddr  # not needed before the node runs

    try:
        adapters = list(ifaddr.get_adapters())
    except OSError:  # some sandboxes forbid it
        return ()
    found = set()
    for adapter in adapters:
        for address in adapter.ips:
            text = address.ip if isinstance(address.ip, str) else address.ip[0]
            ip = ipaddress.ip_address(text.partition("%")[0])
            if not (ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast):
                found.add(ip)
    return tuple(str(ip) for ip in sorted(found, key=lambda ip: (ip.version, ip.packed)))
