"""What can be set at a DHT node, also while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["auto", "server", "client"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DhtConfig:
    """Defaults fit the public network; names say the unit."""

    mode: Mode = "auto"
    """``client`` asks read-only (BEP 43) and answers nobody; ``auto`` serves when strangers reach us."""

    # How look-ups go (mainline-dht.md section 5; pinned by tests/sim).
    alpha: int = 8
    """Questions of one look-up under way at once."""
    k: int = 8
    """Closest nodes that must have answered to end a look-up; nodes in an answer (BEP 5: K = 8)."""
    item_copies: int = 20
    """Nodes that get a put: what mainline does, and what keeps an item alive when 60 % are dead."""
    announce_copies: int = 8
    """Nodes that get an announce: what libtorrent does."""
    spread_regions: int = 12
    """Distinct /6 networks among the nodes that store an item (trust.md E2)."""
    max_copies: int = 32
    """Where writing stops however close the Sybils sit."""
    one_per_network: bool = True
    """One node per public /24 or /64 in a look-up, as libtorrent does; local addresses are exempt."""
    contacts_per_host: int = 8
    """Compliant (BEP 42) nodes of one IP address in the routing table; of others, one (pubky mainline)."""

    # What we send (trust.md 2.6; libtorrent bans for 5 minutes above 50 datagrams in 10 s).
    max_in_flight: int = 64
    queries_per_s: float = 100.0
    host_per_s: int = 5
    host_per_10_s: int = 40

    # What we serve (trust.md D4).
    serve_bytes_per_s: float = 8_000.0
    host_queries_per_10_s: int = 50
    block_s: float = 300.0
    amplification: float = 3.0
    """An answer has at most so many times the bytes of the question, before the asker's address is proven."""
    max_datagram_bytes: int = 1_200

    # What we keep for others (mainline-dht.md 2.7; 2 MiB when full).
    max_items: int = 1_000
    max_infohashes: int = 2_000
    max_peers_per_infohash: int = 200
    max_peers: int = 5_000
