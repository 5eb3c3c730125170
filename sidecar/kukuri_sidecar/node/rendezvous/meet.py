"""From candidates to members: dials addresses that rendezvous found, hands whoever answers to the topic.

Ids go to the topic as they are: its join supervisor dials them where the address book knows them to be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeAlias

import anyio

from kukuri_sidecar.errors import SidecarError
from kukuri_sidecar.node.events import CandidateFound, Emit
from kukuri_sidecar.node.peers import Peers
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId, TopicId

Candidate: TypeAlias = SocketAddr | EndpointId
"""Where a member should be, or who should be one."""

MAX_REMEMBERED = 512  # candidates per topic; a DHT answer may hold hundreds of false ones
ASK_AGAIN_S = 300.0  # one that did not help is left alone so long
MAX_WAITING = 64  # more than can be dialled until the next look-up finds them again
PARALLEL_DIALS = 4  # per topic; the pool has a limit of its own over all


class Meeting(Protocol):
    """What the topics service does with a member."""

    def met(self, topic_id: TopicId, peer: EndpointId) -> None:
        """Somebody answered where a member of the topic should be, or is said to be one."""

    def knows(self, topic_id: TopicId, peer: EndpointId) -> bool:
        """Say whether the peer is our neighbour in the topic."""


class Meet:
    """One topic's rendezvous; at most ``PARALLEL_DIALS`` strangers at once, each candidate now and then."""

    def __init__(
        self,
        topic_id: TopicId,
        peers: Peers,
        topics: Meeting,
        own_addresses: Callable[[], tuple[SocketAddr, ...]],
        emit: Emit,
    ) -> None:
        self._topic_id = topic_id
        self._peers = peers
        self._topics = topics
        self._own_addresses = own_addresses
        self._emit = emit
        self._asked: dict[Candidate, float] = {}  # candidate -> when it may be asked again
        self._waiting: dict[SocketAddr, None] = {}
        self._dialling = 0

    async def run(self, candidates: AsyncIterator[Candidate]) -> None:
        """Try every candidate that is worth it, until cancelled; several sources may run at once."""
        async with anyio.create_task_group() as tasks:
            async for candidate in candidates:
                if not self._is_worth_a_try(candidate):
                    continue
                if isinstance(candidate, EndpointId):
                    self._emit(CandidateFound(self._topic_id, endpoint_id=candidate))
                    self._topics.met(self._topic_id, candidate)
                    continue
                self._emit(CandidateFound(self._topic_id, candidate))
                self._waiting[candidate] = None
                if self._dialling < PARALLEL_DIALS:
                    self._dialling += 1
                    tasks.start_soon(self._dial_waiting)

    def _is_worth_a_try(self, candidate: Candidate) -> bool:
        now = anyio.current_time()
        if not isinstance(candidate, EndpointId) and len(self._waiting) >= MAX_WAITING:
            return False
        if candidate in self._own_addresses() or now < self._asked.get(candidate, now):
            return False
        known = candidate if isinstance(candidate, EndpointId) else self._peers.peer_at(candidate)
        if known and self._topics.knows(self._topic_id, known):
            return False
        self._asked.pop(candidate, None)
        if len(self._asked) >= MAX_REMEMBERED:
            del self._asked[next(iter(self._asked))]
        self._asked[candidate] = now + ASK_AGAIN_S
        return True

    async def _dial_waiting(self) -> None:
        """Dial one after the other; the search for more, and the announcing, must not wait for the dead."""
        try:
            while self._waiting:
                address = next(iter(self._waiting))
                del self._waiting[address]
                await self._dial(address)
        finally:
            self._dialling -= 1

    async def _dial(self, address: SocketAddr) -> None:
        try:
            peer = await self._peers.meet(address)
        except SidecarError:
            return  # nobody there, or nobody of ours: most announces of a public DHT are stale
        self._topics.met(self._topic_id, peer)
