"""Where an endpoint can be reached: socket addresses, host names, relay URLs; what a *peer* string says."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.ids import EndpointId

MAX_PORT = 65535
MAX_HOST_NAME_CHARS = 253  # RFC 1035 section 3.1: 255 bytes on the wire
MAX_RELAY_URL_CHARS = 512  # ours: twice a maximal host name; real ones have 40 characters

_IPV4_BYTES = 4
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII | re.IGNORECASE)
_RELAY_URL = re.compile(r"https?://[!-.0-~][!-~]*", re.ASCII)  # printable, no blank, some authority


class SocketAddr(NamedTuple):
    """A canonical IP literal (no brackets, no scope) and a UDP port. Sorts and hashes as a pair of values.

    Port 0 can come from the wire and is kept; nobody can dial it.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> SocketAddr:
        """Parse ``1.2.3.4:5`` or ``[::1]:5``; DecodeError otherwise (host names too)."""
        host, port = split_host_port(text)
        return cls(_canonical_ip(host), port)

    @classmethod
    def from_packed(cls, ip: bytes, port: int) -> SocketAddr:
        """Build from 4 or 16 address bytes in network order and a port 0-65535."""
        if len(ip) == _IPV4_BYTES:
            return cls(f"{ip[0]}.{ip[1]}.{ip[2]}.{ip[3]}", port)  # a third of the cost of ipaddress
        return cls(str(ipaddress.IPv6Address(ip)), port)

    @property
    def packed(self) -> bytes:
        """The address in network order: 4 or 16 bytes."""
        return ipaddress.ip_address(self.host).packed

    @property
    def wire_order(self) -> tuple[int, bytes, int]:
        """Sort key of Rust's ``BTreeSet<SocketAddr>``: IPv4 first, then octets, then port."""
        packed = self.packed
        return len(packed), packed, self.port

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

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Parse ``name:5``, ``1.2.3.4:5`` or ``[::1]:5``; DecodeError otherwise.

        IP literals become canonical. Names are ASCII (international names in their ``xn--`` form). A name
        that ends in a number is refused: resolvers read ``1.2.3`` or ``0x7f.1`` as an address (WHATWG URL
        standard, "ends in a number").
        """
        host, port = split_host_port(text)
        labels = host.removesuffix(".").split(".")
        if ":" in host or _NUMBER.fullmatch(labels[-1]):
            return cls(_canonical_ip(host), port)
        if len(host) > MAX_HOST_NAME_CHARS or not all(map(_LABEL.fullmatch, labels)):
            raise DecodeError("address", 0, "neither a host name nor an IP address")
        return cls(host, port)

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
    """Split ``host:port``; IPv6 literals, and only they, stand in brackets. DecodeError on anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise DecodeError("address", 0, "host:port expected")
    if host.startswith("["):
        if not host.endswith("]"):
            raise DecodeError("address", 0, "unclosed bracket")
        host = host[1:-1]
        if ":" not in host:
            raise DecodeError("address", 0, "only IPv6 addresses stand in brackets")
    elif ":" in host:
        raise DecodeError("address", 0, "IPv6 addresses stand in brackets")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= MAX_PORT):
        raise DecodeError("address", len(text) - len(port), "port 1-65535 expected")
    return host, int(port)


def is_relay_url(text: str) -> bool:
    """Say whether ``text`` can name a relay: http or https, printable ASCII, at most 512 characters.

    iroh takes any URL here (``data:x`` included, seen with its 1.2.0 wheel); nobody can use those, so callers
    drop them. Not a URL parser: the relay driver still has to refuse what it cannot dial.
    """
    return len(text) <= MAX_RELAY_URL_CHARS and _RELAY_URL.fullmatch(text) is not None


def _canonical_ip(host: str) -> str:
    if "%" in host:
        raise DecodeError("address", 0, "scoped addresses mean nothing to another host")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise DecodeError("address", 0, "not an IP address") from None
