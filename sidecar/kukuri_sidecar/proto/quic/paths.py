"""Where the datagrams of one dial go: to every candidate at first, then to the one that proved itself.

aioquic drops server packets from an address that it did not dial and knows one path only, so it is given one
virtual address; this class owns the real ones, as iroh's socket layer does for its QUIC stack. A real iroh
server answers the first copy of an Initial and ignores the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Address = tuple[str, int]
Datagram = tuple[bytes, Address]

VIRTUAL: Address = ("virtual", 0)


class DialPaths:
    """Candidates of one dial, in the order in which they came."""

    __slots__ = ("_bound", "_last_flight", "candidates", "selected", "tried")

    def __init__(self, candidates: Iterable[Address], bound: int) -> None:
        self._bound = bound
        self._last_flight: Sequence[bytes] = ()
        self.candidates: list[Address] = []
        self.tried: list[Address] = []
        self.selected: Address | None = None
        self.add(candidates)

    def add(self, candidates: Iterable[Address]) -> list[Datagram]:
        """Add new candidates; return copies of the last flight for them. Known and failed ones stay out."""
        if self.selected is not None:
            return []
        fresh = [a for a in dict.fromkeys(candidates) if a not in self.tried][: self._bound - len(self.tried)]
        self.candidates += fresh
        self.tried += fresh
        return [(data, address) for address in fresh for data in self._last_flight]

    def drop(self, address: Address) -> bool:
        """Give up on a candidate; True while others are left."""
        if address in self.candidates:
            self.candidates.remove(address)
        return bool(self.candidates)

    def accepts(self, address: Address) -> bool:
        """Say whether a datagram from ``address`` may be for this dial."""
        return address == self.selected or address in self.candidates

    def route(self, flight: Sequence[tuple[bytes, Address]]) -> list[Datagram]:
        """Return the datagrams of ``flight`` with real addresses."""
        if self.selected is not None:
            selected = self.selected
            return [(data, selected) for data, _ in flight]
        if flight:
            self._last_flight = [data for data, _ in flight]
        return [(data, address) for data, _ in flight for address in self.candidates]
