"""Whether we serve: always, never, or once strangers have shown that they can reach us.

A node behind a NAT that calls itself a server makes the network slower for all. So ``auto`` begins read-only
(BEP 43) and serves when, after ten minutes, three networks that we never wrote to have asked us something.
"""

from __future__ import annotations

from kukuri_sidecar.proto.dht.config import Mode
from kukuri_sidecar.proto.dht.subnets import network_of

UP_S = 600.0
MIN_STRANGERS = 3
MAX_CONTACTED = 2_048  # networks; what leaves the list has not been written to for long


class ModeKeeper:
    """Decides and remembers; ``is_serving`` changes only in the methods that say so."""

    __slots__ = ("_contacted", "_mode", "_strangers", "_up_at", "is_serving")

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._up_at: float | None = None
        self._contacted: dict[str, None] = {}
        self._strangers: dict[str, None] = {}
        self.is_serving = mode == "server"

    def configure(self, mode: Mode, now: float) -> bool:
        """Take another mode; say whether ``is_serving`` changed."""
        if mode == self._mode:
            return False
        self._mode = mode
        return self.restart(now)

    def restart(self, now: float) -> bool:
        """Our address changed, what was learnt is void; say whether ``is_serving`` changed."""
        before, self.is_serving = self.is_serving, self._mode == "server"
        self._up_at = now
        self._contacted.clear()
        self._strangers.clear()
        return before != self.is_serving

    def contacted(self, host: str) -> None:
        """We write to ``host``: that it can reach us proves nothing from now on."""
        if self._mode == "auto" and not self.is_serving:
            network = network_of(host)
            self._contacted.pop(network, None)
            self._contacted[network] = None
            if len(self._contacted) > MAX_CONTACTED:
                del self._contacted[next(iter(self._contacted))]

    def asked_by(self, host: str, now: float) -> bool:
        """Somebody at ``host`` asked us; say whether ``is_serving`` changed."""
        if self._up_at is None:
            self._up_at = now
        if self._mode != "auto" or self.is_serving:
            return False
        network = network_of(host)
        if network not in self._contacted and len(self._strangers) < MIN_STRANGERS:
            self._strangers[network] = None
        if now >= self._up_at + UP_S and len(self._strangers) >= MIN_STRANGERS:
            self.is_serving = True
            self._contacted.clear()
        return self.is_serving
