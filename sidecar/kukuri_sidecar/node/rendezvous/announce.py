"""Scheme ``announce``: members announce a topic-derived infohash from the QUIC socket's own port (BEP 5).

The DHT's answer is then a dialable QUIC address. Anyone may announce any address: a candidate proves itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial

import anyio

from kukuri_sidecar.net.clock import WallMs
from kukuri_sidecar.node.dht import Dht
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.dht.events import AnnouncePeer, GetPeers, LookupFinished, LookupId, PeersFound
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import Target, TopicId
from kukuri_sidecar.wire.rendezvous_key import EPOCH_S, announce_key

ANNOUNCE_INTERVAL_S = 15 * 60.0  # DHT nodes forget an announce after 30 minutes
FIRST_PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # after a join: the other side may have come a moment later
EAGER_INTERVAL_S = 8.0  # between look-ups while the topic has few neighbours ...
CALM_INTERVAL_S = 45.0  # ... and later: clusters that grew apart must merge within a minute
CALM_NEIGHBORS = 3
EPOCH_OVERLAP_S = 3600.0  # this close to a border both epochs count: clocks differ
JITTER = 0.2


class Announce:
    """Keeps one topic findable and yields who else is, until the iterator is closed."""

    def __init__(
        self,
        dht: Dht,
        topic_id: TopicId,
        secret: bytes | None,
        *,
        port: int,
        neighbors: Callable[[], int],
        rng: Rng,
        wall_ms: WallMs,
    ) -> None:
        self._dht = dht
        self._topic_id = topic_id
        self._secret = secret
        self._port = port
        self._neighbors = neighbors
        self._rng = rng
        self._wall_ms = wall_ms

    async def meet(self) -> AsyncGenerator[SocketAddr, None]:
        """Announce and look up, again and again; yield every address that turns up, repeatedly."""
        announced: dict[Target, float] = {}
        first_pauses = iter(FIRST_PAUSES_S)
        while True:
            now = anyio.current_time()
            keys = self._keys()
            for key in keys:
                due = now >= announced.get(key, -ANNOUNCE_INTERVAL_S) + ANNOUNCE_INTERVAL_S
                command = partial(self._announce, key) if due else partial(_get, key)
                is_stored = False
                async with self._dht.lookup(command) as findings:
                    async for finding in findings:
                        match finding:
                            case PeersFound(_, peers):
                                for peer in peers:
                                    yield peer
                            case LookupFinished(_, report):
                                is_stored |= report.write is not None and report.write.stored > 0
                if is_stored:  # else nobody can find us: the next look-up announces again
                    announced[key] = now - ANNOUNCE_INTERVAL_S * JITTER * self._rng.random()
            announced = {key: at for key, at in announced.items() if key in keys}
            if self._neighbors() >= CALM_NEIGHBORS:
                pause = CALM_INTERVAL_S
            else:
                pause = next(first_pauses, EAGER_INTERVAL_S)
            await anyio.sleep(pause * (1 + JITTER * (self._rng.random() - 0.5)))

    def _announce(self, key: Target, lookup: LookupId) -> AnnouncePeer:
        return AnnouncePeer(lookup, key, self._port)

    def _keys(self) -> list[Target]:
        """Return the infohashes that count now, the current epoch's first."""
        seconds = self._wall_ms() / 1000
        epoch = int(seconds // EPOCH_S)
        epochs = [epoch]
        if seconds - epoch * EPOCH_S < EPOCH_OVERLAP_S:
            epochs.append(epoch - 1)
        if (epoch + 1) * EPOCH_S - seconds < EPOCH_OVERLAP_S:
            epochs.append(epoch + 1)
        return [announce_key(self._topic_id, self._secret, e) for e in epochs]


def _get(key: Target, lookup: LookupId) -> GetPeers:
    return GetPeers(lookup, key)
