"""Host names to addresses, by the system's resolver, in a thread."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

import anyio

from kukuri_sidecar.wire.addr import HostPort, SocketAddr

RESOLVE_TIMEOUT_S = 3.0  # api.md: dns.timeout_ms
MAX_ADDRESSES_PER_NAME = 8


async def resolve_host(host: HostPort) -> tuple[SocketAddr, ...]:
    """Return the addresses of a name or IP literal; empty when it does not resolve in time.

    Link-local IPv6 addresses are left out: a SocketAddr has no scope to dial them with.
    """
    with suppress(ValueError):
        return (SocketAddr(str(ipaddress.ip_address(host.host)), host.port),)
    answers: dict[SocketAddr, None] = {}
    with anyio.move_on_after(RESOLVE_TIMEOUT_S), suppress(OSError, ValueError):
        for *_, sockaddr in await anyio.getaddrinfo(host.host, host.port, type=socket.SOCK_DGRAM):
            ip = str(sockaddr[0])
            if "%" not in ip and not ip.startswith("fe80:"):
                answers[SocketAddr(ip, host.port)] = None
    return tuple(answers)[:MAX_ADDRESSES_PER_NAME]
