"""One rendezvous per topic that wants it, from join to leave."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint

from kukuri_sidecar.net.clock import WallMs
from kukuri_sidecar.node.config import Scheme
from kukuri_sidecar.node.dht import Dht
from kukuri_sidecar.node.events import Emit
from kukuri_sidecar.node.peers import Peers
from kukuri_sidecar.node.rendezvous.announce import Announce
from kukuri_sidecar.node.rendezvous.meet import Meet, Meeting
from kukuri_sidecar.node.rendezvous.tracker import Tracker
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId, TopicId
from kukuri_sidecar.wire.keys import SecretKey

Candidates: TypeAlias = AsyncGenerator[SocketAddr, None] | AsyncGenerator[EndpointId, None]


@dataclass(frozen=True, slots=True)
class Search:
    """A topic that looks for members, and what it lets them know."""

    topic_id: TopicId
    schemes: tuple[Scheme, ...]
    secret: bytes | None = field(repr=False)
    topics: Meeting
    neighbors: Callable[[], Sequence[EndpointId]]
    message_hashes: Callable[[], Sequence[bytes]]  # of the latest messages; scheme tracker shows them


class Rendezvous:
    """Starts and stops the search for members. Without a DHT every start is a no-op, and says so."""

    def __init__(
        self,
        *,
        identity: SecretKey,
        dht: Dht | None,
        peers: Peers,
        own_addresses: Callable[[], tuple[SocketAddr, ...]],
        port: Callable[[], int],
        emit: Emit,
        rng: Rng,
        wall_ms: WallMs,
    ) -> None:
        self._identity = identity
        self._dht = dht
        self._peers = peers
        self._own_addresses = own_addresses
        self._port = port
        self._emit = emit
        self._rng = rng
        self._wall_ms = wall_ms
        self._tasks: TaskGroup | None = None
        self._running: dict[TopicId, anyio.CancelScope] = {}
        self._wanted: dict[TopicId, Search] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own the searches until cancelled; those asked for before begin now."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for search in self._wanted.values():
                self._begin(search)
            task_status.started()
            await anyio.sleep_forever()

    def start(self, search: Search) -> bool:
        """Search for members of the topic from now on; False when there is no DHT to search in."""
        if self._dht is None:
            return False
        self._wanted[search.topic_id] = search
        self._begin(search)
        return True

    def stop(self, topic_id: TopicId) -> None:
        """Stop announcing and looking; what DHT nodes keep lapses within 30 minutes."""
        self._wanted.pop(topic_id, None)
        if scope := self._running.pop(topic_id, None):
            scope.cancel()

    def _begin(self, search: Search) -> None:
        """Start the search unless it runs; it can be stopped from now on, not from its first step on."""
        if self._tasks and search.topic_id not in self._running:
            scope = self._running[search.topic_id] = anyio.CancelScope()
            self._tasks.start_soon(self._run_search, search, scope)

    async def _run_search(self, search: Search, scope: anyio.CancelScope) -> None:
        assert self._dht is not None  # noqa: S101 - checked by start
        meet = Meet(search.topic_id, self._peers, search.topics, self._own_addresses, self._emit)
        with scope:
            await checkpoint()  # ends here when the topic was left meanwhile
            async with anyio.create_task_group() as tasks:
                for scheme in dict.fromkeys(search.schemes):
                    tasks.start_soon(_run, meet, self._candidates(scheme, search, self._dht))

    def _candidates(self, scheme: Scheme, search: Search, dht: Dht) -> Candidates:
        if scheme == "tracker":
            return Tracker(
                dht,
                search.topic_id,
                search.secret,
                identity=self._identity,
                neighbors=search.neighbors,
                message_hashes=search.message_hashes,
                rng=self._rng,
                wall_ms=self._wall_ms,
            ).meet()
        return Announce(
            dht,
            search.topic_id,
            search.secret,
            port=self._port(),
            neighbors=lambda: len(search.neighbors()),
            rng=self._rng,
            wall_ms=self._wall_ms,
        ).meet()


async def _run(meet: Meet, candidates: Candidates) -> None:
    async with aclosing(candidates):  # a look-up under way ends with the search
        await meet.run(candidates)
