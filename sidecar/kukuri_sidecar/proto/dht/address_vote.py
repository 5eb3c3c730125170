"""Our public address, by the vote of the nodes that answer us (BEP 42 ``ip``).

Each network (/24, /64) has one vote, its last. An address wins with three votes and a majority, so neither
one liar nor a few in one network can move us.
"""

from __future__ import annotations

from collections import Counter

from kukuri_sidecar.proto.dht.subnets import network_of
from kukuri_sidecar.wire.addr import SocketAddr

MAX_VOTES = 16
MIN_VOTES = 3


class AddressVote:
    """Counts, and remembers the winner."""

    __slots__ = ("_votes", "host", "port")

    def __init__(self) -> None:
        self._votes: dict[str, SocketAddr] = {}
        self.host: str | None = None
        """The winning IP address."""
        self.port: int | None = None
        """The winning port; None when nodes see us at different ones (an address-dependent NAT)."""

    def __len__(self) -> int:
        return len(self._votes)

    def vote(self, voter: SocketAddr, seen: SocketAddr) -> bool:
        """Count that ``voter`` sees us at ``seen``; say whether the winner changed.

        Ask ``host`` and ``port`` then.
        """
        is_winner = seen == (self.host, self.port)
        if is_winner and len(self._votes) >= MAX_VOTES // 2:
            return False  # it needs no more
        network = network_of(voter.host)
        self._votes.pop(network, None)
        self._votes[network] = seen
        if len(self._votes) > MAX_VOTES:
            del self._votes[next(iter(self._votes))]
        if is_winner:
            return False
        before = (self.host, self.port)
        hosts = Counter(addr.host for addr in self._votes.values())
        host, votes = hosts.most_common(1)[0]
        if votes >= MIN_VOTES and 2 * votes > len(self._votes):
            ports = Counter(addr.port for addr in self._votes.values() if addr.host == host)
            port, agreeing = ports.most_common(1)[0]
            self.host, self.port = host, port if agreeing >= MIN_VOTES and 2 * agreeing > votes else None
        return before != (self.host, self.port)

    def settle(self, addr: SocketAddr) -> None:
        """Somebody knows for certain; votes can still overrule it when the address changes."""
        self._votes.clear()
        self.host, self.port = addr
