"""Where peers were said to be. Hints only: a wrong one can waste a dial, never change who we talk to."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from kukuri_sidecar.wire.addr import HostPort, SocketAddr
from kukuri_sidecar.wire.ids import EndpointId

MAX_PEERS = 1024  # api.md section 6: persist_peers
MAX_ADDRESSES_PER_ORIGIN = 8  # trust.md E3: one lying source must not fill the dial
MAX_ORIGINS = 10  # api.md section 4.5 names ten
HOST_ORIGINS = ("bootstrap", "ticket")  # told by our own user: strangers must not push these out


@dataclass
class _Entry:
    by_origin: dict[str, tuple[HostPort, ...]] = field(default_factory=dict)
    proven: HostPort | None = None  # an authenticated connection stood here ...
    proven_ms: int = 0  # ... the last time at this Unix time

    @property
    def is_from_host(self) -> bool:
        return any(origin in self.by_origin for origin in HOST_ORIGINS)


class AddressBook:
    """At most ``MAX_PEERS`` peers, the least recently mentioned forgotten first.

    Peers that the host named are forgotten last: they are the way back into a swarm, and nobody repeats them.
    """

    def __init__(self) -> None:
        self._entries: dict[EndpointId, _Entry] = {}

    def learn(self, endpoint_id: EndpointId, hosts: Iterable[HostPort | SocketAddr], origin: str) -> None:
        """Replace what ``origin`` says about the peer; an empty list still records the origin.

        Places that no datagram to one peer can reach are left out.
        """
        entry = self._touch(endpoint_id)
        if origin in entry.by_origin or len(entry.by_origin) < MAX_ORIGINS:
            distinct = dict.fromkeys(
                host for host in (HostPort(*host) for host in hosts) if _is_dialable(host)
            )
            kept = tuple(distinct)[:MAX_ADDRESSES_PER_ORIGIN]
            entry.by_origin[origin] = kept or entry.by_origin.get(origin, ())

    def prove(self, endpoint_id: EndpointId, address: SocketAddr | HostPort, at_ms: int) -> None:
        """Note where the peer really answered, and when (Unix ms); it is tried first from now on."""
        entry = self._touch(endpoint_id)
        entry.proven = HostPort(*address)
        entry.proven_ms = at_ms

    def proven(self) -> list[tuple[EndpointId, HostPort, int]]:
        """Return every peer that answered somewhere: where, and the last time (Unix ms)."""
        return [
            (endpoint_id, entry.proven, entry.proven_ms)
            for endpoint_id, entry in self._entries.items()
            if entry.proven
        ]

    def hosts(self, endpoint_id: EndpointId) -> tuple[HostPort, ...]:
        """Return every known place, the proven one first, without duplicates."""
        entry = self._entries.get(endpoint_id)
        if entry is None:
            return ()
        places = dict.fromkeys([entry.proven] if entry.proven else [])
        for hosts in entry.by_origin.values():
            places |= dict.fromkeys(hosts)
        return tuple(places)

    def origins(self, endpoint_id: EndpointId) -> tuple[str, ...]:
        """Return who told us about the peer, in the order they did."""
        entry = self._entries.get(endpoint_id)
        return tuple(entry.by_origin) if entry else ()

    def known(self) -> tuple[EndpointId, ...]:
        """Return every peer, the least recently mentioned first."""
        return tuple(self._entries)

    def forget(self, endpoint_id: EndpointId) -> None:
        """Drop everything about the peer."""
        self._entries.pop(endpoint_id, None)

    def __contains__(self, endpoint_id: object) -> bool:
        return endpoint_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def _touch(self, endpoint_id: EndpointId) -> _Entry:
        entry = self._entries.pop(endpoint_id, None)
        if entry is None:
            entry = _Entry()
            if len(self._entries) >= MAX_PEERS:
                self._forget_one()
        self._entries[endpoint_id] = entry  # dicts keep insertion order: the last is the most recent
        return entry

    def _forget_one(self) -> None:
        oldest = next(iter(self._entries))
        hearsay = (peer for peer, entry in self._entries.items() if not entry.is_from_host)
        del self._entries[next(hearsay, oldest)]


def _is_dialable(host: HostPort) -> bool:
    """Say whether a datagram could reach one peer there; a name may always.

    Whether a private address is near enough is not known here.
    """
    if not host.port:
        return False
    try:
        ip = ipaddress.ip_address(host.host)
    except ValueError:
        return True
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is None:
            return not (ip.is_multicast or ip.is_unspecified or ip.is_link_local)  # no scope: which link?
        ip = ip.ipv4_mapped
    return not (ip.is_multicast or ip.is_unspecified or ip.is_reserved)  # reserved: 240/4 with the broadcast
