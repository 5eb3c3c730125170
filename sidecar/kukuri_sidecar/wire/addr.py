"""Where an endpoint can be reached: socket addresses, host names, and what a *peer* string may say."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.ids import EndpointId

MAX_PORT = 65535


class SocketAddr(NamedTuple):
    """A canonical IP literal (no brackets, no scope) and a UDP port. Sorts and hashes as a pair of values."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> SocketAddr:
        """Parse ``1.2.3.4:5`` or ``[::1]:5``; DecodeError otherwise (host names too)."""
        host, port = split_host_port(text)
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            raise DecodeError("address", 0, "not an IP address") from None
        if getattr(ip, "scope_id", None):
            raise DecodeError("address", 0, "scoped addresses mean nothing to another host")
        return cls(str(ip), port)

    @property
    def is_ipv6(self) -> bool:
        """Say which socket family can reach this address."""
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.is_ipv6 else f"{self.host}:{self.port}"


class HostPort(NamedTuple):
    """A host name or IP literal that a user typed, and a port; resolved when dialled."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class EndpointAddr(NamedTuple):
    """An endpoint and where it can be reached."""

    endpoint_id: EndpointId
    direct: tuple[SocketAddr, ...] = ()
    relay_urls: tuple[str, ...] = ()


class PeerHint(NamedTuple):
    """What a *peer* string (id, ``id@host:port`` or ticket) says. Only the id is certain."""

    endpoint_id: EndpointId
    hosts: tuple[HostPort, ...] = ()
    relay_urls: tuple[str, ...] = ()


def split_host_port(text: str) -> tuple[str, int]:
    """Split ``host:port``; IPv6 literals stand in brackets. DecodeError on anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise DecodeError("address", 0, "host:port expected")
    if host.startswith("["):
        if not host.endswith("]"):
            raise DecodeError("address", 0, "unclosed bracket")
        host = host[1:-1]
    elif ":" in host:
        raise DecodeError("address", 0, "IPv6 addresses stand in brackets")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= MAX_PORT):
        raise DecodeError("address", len(text) - len(port), "port 1-65535 expected")
    return host, int(port)
