"""The gossip connections of each peer: one is written, the others are only read until they are closed.

A new connection usually means that the peer has lost the old one, so the newest is written. Two peers that
dial each other at the same time are the exception: they would choose different ones (defect #1376 of kukuri),
so both take the connection that the lesser endpoint id dialled.
"""

from __future__ import annotations

from kukuri_sidecar.node.gossip_link import GossipLink
from kukuri_sidecar.wire.ids import EndpointId

SIMULTANEOUS_S = 5.0  # D2: a handshake may take so long, so dials that began together end within it


class Links:
    """All links of one node. Closes nothing."""

    def __init__(self, own_id: EndpointId) -> None:
        self._own_id = own_id
        self._written: dict[EndpointId, GossipLink] = {}
        self._spares: dict[EndpointId, list[GossipLink]] = {}  # oldest first

    @property
    def peers(self) -> tuple[EndpointId, ...]:
        """Everybody with a link."""
        return tuple(self._written)

    @property
    def written(self) -> tuple[GossipLink, ...]:
        """The links to send on, one per peer."""
        return tuple(self._written.values())

    def get(self, peer: EndpointId) -> GossipLink | None:
        """Return the link to send on."""
        return self._written.get(peer)

    def spares(self, peer: EndpointId) -> tuple[GossipLink, ...]:
        """Return the links that are only read."""
        return tuple(self._spares.get(peer, ()))

    def is_spare(self, link: GossipLink) -> bool:
        """Say whether the link is only read."""
        return link in self._spares.get(link.peer, ())

    def add(self, link: GossipLink) -> GossipLink | None:
        """Take a new link; return the one that became a spare by it, perhaps the new one itself."""
        older = self._written.get(link.peer)
        if older is None:
            self._written[link.peer] = link
            return None
        loser = older if self._replaces(link, older) else link
        self._written[link.peer] = link if loser is older else older
        self._spares.setdefault(link.peer, []).append(loser)
        return loser

    def remove(self, link: GossipLink) -> bool:
        """Forget a closed link; say whether it was written. Then the newest open spare takes its place."""
        spares = self._spares.get(link.peer, [])
        if link in spares:
            spares.remove(link)
        was_written = self._written.get(link.peer) is link
        if was_written:
            del self._written[link.peer]
            heirs = [spare for spare in spares if not spare.connection.is_closed]
            if heirs:
                spares.remove(heirs[-1])
                heirs[-1].is_finishing = False
                self._written[link.peer] = heirs[-1]
        if not spares:
            self._spares.pop(link.peer, None)
        return was_written

    def _replaces(self, new: GossipLink, old: GossipLink) -> bool:
        later, earlier = new.connection, old.connection
        if earlier.is_closed or old.is_finishing or later.inbound == earlier.inbound:
            return True
        if later.established_at > earlier.established_at + SIMULTANEOUS_S:
            return True
        return later.inbound == (new.peer < self._own_id)
