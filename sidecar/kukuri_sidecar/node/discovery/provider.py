"""What a way to find endpoints is, and how much of what it finds is kept."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.endpoint_info import EndpointData
from kukuri_sidecar.wire.ids import EndpointId

MAX_ADDRESSES = 8  # trust.md E3: of one endpoint and source; one lying record must not fill a dial
MAX_RELAYS = 2  # the same

Policy = Literal["auto", "none", "relay", "direct", "all"]

_SHARED = ipaddress.IPv4Network("100.64.0.0/10")  # RFC 6598; overlay networks use all of it as one


@dataclass(frozen=True, slots=True)
class Discovered:
    """What one source says of one endpoint."""

    endpoint_id: EndpointId
    addresses: tuple[SocketAddr, ...]
    relay_urls: tuple[str, ...]
    provenance: str
    """Name of the provider."""
    updated_at_us: int | None = None
    """When the endpoint says it wrote this, Unix microseconds."""


class DiscoveryProvider(Protocol):
    """One way to find endpoints. Providers are raced; each may fail without hurting the others."""

    @property
    def name(self) -> str:
        """The source and sink in the host's eyes: ``dht``."""

    def resolve(self, endpoint_id: EndpointId) -> AsyncIterator[Discovered]:
        """Yield addresses as they are found, each find replacing the one before.

        Raises SidecarError when nobody could be asked; nothing found is an end without finds. Closing the
        iterator stops the work.
        """

    async def publish(self, data: EndpointData) -> int:
        """Store what we say of ourselves, once; return at how many places. Raises SidecarError.

        When to publish again is ``publisher.Publisher``'s business.
        """


def select(policy: Policy, addresses: Iterable[SocketAddr], relay_urls: Iterable[str] = ()) -> EndpointData:
    """Return what a record may say of us; ``auto`` names relays while one is in use, else addresses."""
    relays, direct = tuple(relay_urls), tuple(addresses)
    match policy:
        case "none":
            return EndpointData()
        case "relay":
            return EndpointData((), relays)
        case "direct":
            return EndpointData(direct)
        case "all":
            return EndpointData(direct, relays)
        case "auto":
            return EndpointData((), relays) if relays else EndpointData(direct)


def worth_a_dial(addresses: Iterable[SocketAddr], own: Iterable[SocketAddr]) -> tuple[SocketAddr, ...]:
    """Return up to ``MAX_ADDRESSES`` of a public record's addresses that can mean somebody to us.

    Addresses that are not global mean whoever has them in our own network: they are left out unless we have
    one of the same network, an IPv4 /16 or IPv6 /64 as long as nobody tells us the real mask (trust.md E3).
    """
    ours = {_network(address.host) for address in own}
    kept = (
        address
        for address in dict.fromkeys(addresses)
        if address.port and (_is_public(address.host) or _network(address.host) in ours)
    )
    return tuple(address for address, _ in zip(kept, range(MAX_ADDRESSES), strict=False))


def _is_public(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    return ip.is_global and not ip.is_multicast


def _network(host: str) -> str:
    ip = ipaddress.ip_address(host)
    if ip in _SHARED:
        return str(_SHARED)
    return str(ipaddress.ip_network((ip, 16 if ip.version == 4 else 64), strict=False))
