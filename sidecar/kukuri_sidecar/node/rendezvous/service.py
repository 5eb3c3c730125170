"""One rendezvous per topic that wants it, from join to leave."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint

from kukuri_sidecar.net.clock import WallMs
from kukuri_sidecar.node.dht import Dht
from kukuri_sidecar.node.events import Emit
from kukuri_sidecar.node.peers import Peers
from kukuri_sidecar.node.rendezvous.announce import Announce
from kukuri_sidecar.node.rendezvous.meet import Meet, Meeting
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import TopicId


class Rendezvous:
    """Starts and stops the search for members. Without a DHT every start is a no-op, and says so."""

    def __init__(
        self,
        *,
        dht: Dht | None,
        peers: Peers,
        own_addresses: Callable[[], tuple[SocketAddr, ...]],
        port: Callable[[], int],
        emit: Emit,
        rng: Rng,
        wall_ms: WallMs,
    ) -> None:
        self._dht = dht
        self._peers = peers
        self._own_addresses = own_addresses
        self._port = port
        self._emit = emit
        self._rng = rng
        self._wall_ms = wall_ms
        self._tasks: TaskGroup | None = None
        self._running: dict[TopicId, anyio.CancelScope] = {}
        self._wanted: dict[TopicId, tuple[bytes | None, Meeting, Callable[[], int]]] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own the searches until cancelled; those asked for before begin now."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for topic_id in self._wanted:
                self._begin(topic_id)
            task_status.started()
            await anyio.sleep_forever()

    def start(
        self, topic_id: TopicId, secret: bytes | None, topics: Meeting, neighbors: Callable[[], int]
    ) -> bool:
        """Search for members of the topic from now on; False when there is no DHT to search in."""
        if self._dht is None:
            return False
        self._wanted[topic_id] = (secret, topics, neighbors)
        self._begin(topic_id)
        return True

    def stop(self, topic_id: TopicId) -> None:
        """Stop announcing and looking; what DHT nodes keep lapses within 30 minutes."""
        self._wanted.pop(topic_id, None)
        if scope := self._running.pop(topic_id, None):
            scope.cancel()

    def _begin(self, topic_id: TopicId) -> None:
        """Start the search unless it runs; it can be stopped from now on, not from its first step on."""
        if self._tasks and topic_id not in self._running:
            scope = self._running[topic_id] = anyio.CancelScope()
            self._tasks.start_soon(self._search, topic_id, *self._wanted[topic_id], scope)

    async def _search(
        self,
        topic_id: TopicId,
        secret: bytes | None,
        topics: Meeting,
        neighbors: Callable[[], int],
        scope: anyio.CancelScope,
    ) -> None:
        assert self._dht is not None  # noqa: S101 - checked by start
        with scope:
            await checkpoint()  # ends here when the topic was left meanwhile
            announce = Announce(
                self._dht,
                topic_id,
                secret,
                port=self._port(),
                neighbors=neighbors,
                rng=self._rng,
                wall_ms=self._wall_ms,
            )
            meet = Meet(topic_id, self._peers, topics, self._own_addresses, self._emit)
            async with aclosing(announce.meet()) as candidates:  # a look-up under way ends with the search
                await meet.run(candidates)
