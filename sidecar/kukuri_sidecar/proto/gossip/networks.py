"""Which network a peer says it is in, for limits that one provider's addresses should not get around."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.peer_data import decode_peer_data

IPV4_PREFIX = 24  # trust.md S1 and E1: what one customer of a provider gets easily ...
IPV6_PREFIX = 48  # ... and what an ordinary site has
CACHED = 256  # peer data of the views of a few topics


@lru_cache(maxsize=CACHED)
def network_of(data: bytes) -> str | None:
    """Return the network of the first public address in peer data; None without one.

    Local addresses do not count: everybody at one table shares them.
    """
    try:
        addresses = decode_peer_data(data).addresses
    except DecodeError:
        return None
    for address in addresses:
        ip = ipaddress.ip_address(address.host)
        if ip.is_global:
            prefix = IPV4_PREFIX if ip.version == 4 else IPV6_PREFIX
            return str(ipaddress.ip_network((ip, prefix), strict=False))
    return None
