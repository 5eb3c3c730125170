"""What we keep for others: items (BEP 44) for two hours, announced peers (BEP 5) for half an hour.

Both stores are full at a fixed number; then what is farthest from our id goes, for others keep that too.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from kukuri_sidecar.proto.core import Rng, sample
from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.proto.dht.distance import key_of
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.bencode import Encoded
from kukuri_sidecar.wire.ids import DhtNodeId, Target
from kukuri_sidecar.wire.krpc import ErrorCode
from kukuri_sidecar.wire.mutable_item import MutableItem

ITEM_S = 7_200.0  # BEP 44: items may expire after two hours
PEER_S = 1_800.0  # as others do; clients announce every 15 to 30 minutes
SWEEP_S = 60.0


class StoredItem(NamedTuple):
    """A value, with its signed item when it is mutable."""

    value: Encoded
    item: MutableItem | None
    expires_at: float


class ItemStore:
    """Items by target."""

    __slots__ = ("_items", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: dict[Target, StoredItem] = {}

    def __len__(self) -> int:
        return len(self._items)

    def get(self, target: Target, now: float) -> StoredItem | None:
        """Return what is kept at ``target``."""
        stored = self._items.get(target)
        return stored if stored is not None and now < stored.expires_at else None

    def put_mutable(
        self, item: MutableItem, cas: int | None, own_id: DhtNodeId, now: float
    ) -> ErrorCode | None:
        """Keep a genuine item, or return why not. The same item again only lives longer.

        ``cas`` is checked before the seq, as everybody does; it means nothing where nothing is kept.
        """
        target = item.target
        stored = self.get(target, now)
        old = None if stored is None else stored.item
        if old is not None:
            if cas is not None and cas != old.seq:
                return ErrorCode.CAS_MISMATCH
            if item.seq < old.seq or (item.seq == old.seq and item.value != old.value):
                return ErrorCode.SEQ_TOO_OLD
        return self._keep(target, StoredItem(item.value, item, now + ITEM_S), own_id)

    def put_immutable(
        self, target: Target, value: Encoded, own_id: DhtNodeId, now: float
    ) -> ErrorCode | None:
        """Keep a value under its hash, or return why not."""
        return self._keep(target, StoredItem(value, None, now + ITEM_S), own_id)

    def sweep(self, now: float) -> None:
        """Forget what has expired."""
        self._items = {target: stored for target, stored in self._items.items() if now < stored.expires_at}

    def shrink(self, limit: int, own_id: DhtNodeId) -> None:
        """Take another limit; the farthest go."""
        self.limit = limit
        while len(self._items) > limit:
            del self._items[_farthest(self._items, own_id)]

    def _keep(self, target: Target, stored: StoredItem, own_id: DhtNodeId) -> ErrorCode | None:
        if target not in self._items and len(self._items) >= self.limit:
            if not self._items:
                return ErrorCode.SERVER
            farthest = _farthest(self._items, own_id)
            if not _is_nearer(target, farthest, own_id):
                return ErrorCode.SERVER
            del self._items[farthest]
        self._items[target] = stored
        return None


class PeerStore:
    """Announced peers by infohash."""

    __slots__ = ("_peers", "_total", "max_infohashes", "max_peers", "max_peers_per_infohash")

    def __init__(self, max_infohashes: int, max_peers_per_infohash: int, max_peers: int) -> None:
        self.max_infohashes = max_infohashes
        self.max_peers_per_infohash = max_peers_per_infohash
        self.max_peers = max_peers
        self._peers: dict[Target, dict[SocketAddr, float]] = {}
        self._total = 0

    def __len__(self) -> int:
        """How many infohashes."""
        return len(self._peers)

    @property
    def total(self) -> int:
        """How many peers of all infohashes together."""
        return self._total

    def announce(
        self, info_hash: Target, peer: SocketAddr, own_id: DhtNodeId, now: float
    ) -> ErrorCode | None:
        """Keep ``peer``, or return why not. A full infohash loses its oldest announcement."""
        if info_hash not in self._peers:
            while len(self._peers) >= self.max_infohashes or self._total >= self.max_peers:
                if not self._peers or not self._lose_farthest(info_hash, own_id):
                    return ErrorCode.SERVER
        peers = self._peers.setdefault(info_hash, {})
        self._total -= len(peers)
        peers.pop(peer, None)
        if len(peers) >= self.max_peers_per_infohash or (
            peers and self._total + len(peers) >= self.max_peers
        ):
            del peers[next(iter(peers))]
        peers[peer] = now + PEER_S
        self._total += len(peers)
        return None

    def peers(self, info_hash: Target, count: int, rng: Rng, now: float) -> list[SocketAddr]:
        """Return up to ``count`` random peers."""
        peers = self._peers.get(info_hash)
        if not peers:
            return []
        return sample(rng, [peer for peer, expires_at in peers.items() if now < expires_at], count)

    def infohashes(self, count: int, rng: Rng) -> list[Target]:
        """Return up to ``count`` random infohashes (BEP 51)."""
        return sample(rng, list(self._peers), count) if self._peers else []

    def sweep(self, now: float) -> None:
        """Forget what has expired."""
        for info_hash, peers in list(self._peers.items()):
            alive = {peer: expires_at for peer, expires_at in peers.items() if now < expires_at}
            if alive:
                self._peers[info_hash] = alive
            else:
                del self._peers[info_hash]
        self._total = sum(map(len, self._peers.values()))

    def shrink(
        self, max_infohashes: int, max_peers_per_infohash: int, max_peers: int, own_id: DhtNodeId
    ) -> None:
        """Take other limits; the farthest infohashes and the oldest peers go."""
        self.max_infohashes = max_infohashes
        self.max_peers_per_infohash = max_peers_per_infohash
        self.max_peers = max_peers
        for peers in self._peers.values():
            while len(peers) > max_peers_per_infohash:
                del peers[next(iter(peers))]
        self._total = sum(map(len, self._peers.values()))
        while len(self._peers) > max_infohashes or self._total > max_peers:
            self._total -= len(self._peers.pop(_farthest(self._peers, own_id)))

    def _lose_farthest(self, newcomer: Target, own_id: DhtNodeId) -> bool:
        farthest = _farthest(self._peers, own_id)
        if not _is_nearer(newcomer, farthest, own_id):
            return False
        self._total -= len(self._peers.pop(farthest))
        return True


class Storage:
    """Both stores and their sweep. The cores of both address families may share one."""

    __slots__ = ("_sweep_at", "items", "peers")

    def __init__(self, config: DhtConfig) -> None:
        self.items = ItemStore(config.max_items)
        self.peers = PeerStore(config.max_infohashes, config.max_peers_per_infohash, config.max_peers)
        self._sweep_at = inf

    def touched(self, now: float) -> None:
        """Something was stored."""
        self._sweep_at = min(self._sweep_at, now + SWEEP_S)

    def configure(self, config: DhtConfig, own_id: DhtNodeId) -> None:
        """Take new limits."""
        self.items.shrink(config.max_items, own_id)
        self.peers.shrink(config.max_infohashes, config.max_peers_per_infohash, config.max_peers, own_id)

    def deadline(self) -> float:
        """Return when to ``sweep``."""
        return self._sweep_at

    def sweep(self, now: float) -> None:
        """Forget what has expired."""
        self.items.sweep(now)
        self.peers.sweep(now)
        self._sweep_at = now + SWEEP_S if self.items or self.peers else inf


def _farthest(entries: Iterable[Target], own_id: DhtNodeId) -> Target:
    own_key = key_of(own_id)
    return max(entries, key=lambda target: key_of(target) ^ own_key)


def _is_nearer(a: Target, b: Target, own_id: DhtNodeId) -> bool:
    own_key = key_of(own_id)
    return key_of(a) ^ own_key < key_of(b) ^ own_key
