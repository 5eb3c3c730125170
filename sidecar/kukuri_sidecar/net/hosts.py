"""Host names to addresses, by the system's resolver, in a thread."""

from __future__ import annotations

import ipaddress
import socket

import anyio

from kukuri_sidecar.wire.addr import HostPort, SocketAddr

RESOLVE_TIMEOUT_S = 3.0  # api.md: dns.timeout_ms
MAX_ADDRESSES_PER_NAME = 8


async def resolve_host(host: HostPort) -> tuple[SocketAddr, ...]:
    """Return the addresses of a name or IP literal; empty when it does not resolve in time."""
    try:
        return (SocketAddr(str(ipaddress.ip_address(host.host)), host.port),)
    except ValueError:
        pass
    answers: list[SocketAddr] = []
    with anyio.move_on_after(RESOLVE_TIMEOUT_S):
        try:
            found = await anyio.getaddrinfo(host.host, host.port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError):
            return ()
        answers = [SocketAddr(str(sockaddr[0]).partition("%")[0], host.port) for *_, sockaddr in found]
    return tuple(dict.fromkeys(answers))[:MAX_ADDRESSES_PER_NAME]
