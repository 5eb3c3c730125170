"""Whose address is proven: who answered us or used a token of ours, receives what is sent there.

Others might be the victims of somebody who forges their address, and get no more than three times the bytes
of the question (trust.md D4).
"""

from __future__ import annotations

from kukuri_sidecar.wire.addr import SocketAddr

MAX_PROVEN = 512
PROVEN_S = 600.0  # as long as a token


class Proofs:
    """Addresses that have proven themselves of late, beside those in the routing table."""

    __slots__ = ("_proven",)

    def __init__(self) -> None:
        self._proven: dict[SocketAddr, float] = {}

    def __len__(self) -> int:
        return len(self._proven)

    def add(self, addr: SocketAddr, now: float) -> None:
        """``addr`` has proven itself."""
        self._proven.pop(addr, None)
        self._proven[addr] = now + PROVEN_S
        if len(self._proven) > MAX_PROVEN:
            del self._proven[next(iter(self._proven))]

    def holds(self, addr: SocketAddr, now: float) -> bool:
        """Say whether ``addr`` has proven itself in the last ten minutes."""
        expires_at = self._proven.get(addr)
        return expires_at is not None and now < expires_at
