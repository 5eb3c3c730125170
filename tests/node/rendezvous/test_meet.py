"""From candidates to members: who is dialled, how often, how many at once, and what must not wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import anyio
import pytest

from kukuri_sidecar.node.events import CandidateFound, NodeEvent
from kukuri_sidecar.node.rendezvous.meet import (
    ASK_AGAIN_S,
    MAX_REMEMBERED,
    MAX_WAITING,
    PARALLEL_DIALS,
    Meet,
)
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId
from node.rendezvous.fakes import DIAL_S, TOPIC, FakePeers, FakeTopic

pytestmark = pytest.mark.anyio

OWN = SocketAddr("203.0.113.1", 4000)
PLACE = SocketAddr("203.0.113.2", 4000)
PEER = EndpointId(b"p" * 32)


def places(count: int, first: int = 1) -> list[SocketAddr]:
    return [SocketAddr("198.51.100.7", port) for port in range(first, first + count)]


class Search:
    """One topic's `Meet`, fed by hand."""

    def __init__(self, peers: FakePeers) -> None:
        self.peers, self.topic = peers, FakeTopic()
        self.events: list[NodeEvent] = []
        self.taken = 0
        self._send, self._receive = anyio.create_memory_object_stream[SocketAddr](10_000)
        self.meet = Meet(
            TOPIC,
            peers,  # type: ignore[arg-type]  # a stand-in with the two methods that are used
            self.topic,
            lambda: (OWN,),
            self.events.append,
        )

    def offer(self, candidates: Iterable[SocketAddr]) -> None:
        for candidate in candidates:
            self._send.send_nowait(candidate)

    async def candidates(self) -> AsyncIterator[SocketAddr]:
        with self._send, self._receive:
            async for candidate in self._receive:
                self.taken += 1
                yield candidate


@asynccontextmanager
async def search() -> AsyncIterator[Search]:
    search = Search(FakePeers())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(search.meet.run, search.candidates())
        yield search
        tasks.cancel_scope.cancel()


async def test_whoever_answers_is_handed_to_the_topic() -> None:
    async with search() as found:
        found.peers.members[PLACE] = PEER
        found.offer([PLACE])
        await anyio.sleep(1)
        assert found.topic.members == [PEER]
        assert found.events == [CandidateFound(TOPIC, PLACE)]


async def test_the_dead_are_asked_again_after_a_while_only() -> None:
    async with search() as found:
        for _ in range(20):
            found.offer([PLACE])
            await anyio.sleep(ASK_AGAIN_S / 20 - 0.1)
        assert found.peers.dialled == [PLACE]
        await anyio.sleep(3)
        found.offer([PLACE])
        await anyio.sleep(1)
        assert found.peers.dialled == [PLACE, PLACE]
        assert found.topic.members == []


async def test_neither_ourselves_nor_a_neighbour_is_dialled() -> None:
    async with search() as found:
        found.peers.connected[PLACE] = PEER
        found.topic.neighbors.append(PEER)
        found.offer([OWN, PLACE])
        await anyio.sleep(1)
        assert found.peers.dialled == []
        assert found.events == []
        found.topic.neighbors.clear()  # connected for another topic's sake: here it is news
        found.peers.members[PLACE] = PEER
        found.offer([PLACE])
        await anyio.sleep(1)
        assert found.topic.members == [PEER]


async def test_the_dead_hold_up_neither_the_search_nor_the_announcing() -> None:
    """The next candidate was taken, and the next announce made, when a dial had timed out."""
    async with search() as found:
        found.offer(places(MAX_WAITING))
        await anyio.sleep(0.1)
        assert found.taken == MAX_WAITING
        assert found.peers.dialling == PARALLEL_DIALS
        await anyio.sleep(MAX_WAITING / PARALLEL_DIALS * DIAL_S)
        assert sorted(found.peers.dialled) == places(MAX_WAITING)
        assert found.peers.most == PARALLEL_DIALS


async def test_what_finds_no_room_is_taken_when_it_turns_up_again() -> None:
    async with search() as found:
        found.offer(places(MAX_WAITING + 50))
        await anyio.sleep(0.1)
        found.peers.members[places(1, MAX_WAITING + 50)[0]] = PEER
        await anyio.sleep((MAX_WAITING / PARALLEL_DIALS + 1) * DIAL_S)
        assert found.topic.members == []
        found.offer(places(MAX_WAITING + 50))
        await anyio.sleep((50 / PARALLEL_DIALS + 1) * DIAL_S)
        assert found.topic.members == [PEER]


async def test_what_is_remembered_is_bounded() -> None:
    async with search() as found:
        for begin in range(1, 4 * MAX_REMEMBERED, MAX_WAITING):
            found.offer(places(MAX_WAITING, begin))
            await anyio.sleep((MAX_WAITING / PARALLEL_DIALS + 1) * DIAL_S)
        assert len(found.meet._asked) <= MAX_REMEMBERED


# --- ids without an address (scheme tracker) -----------------------------------------------------------


async def every_second(*ids: EndpointId, seconds: int) -> AsyncIterator[EndpointId]:
    for _ in range(seconds):
        for candidate in ids:
            yield candidate
        await anyio.sleep(1)


async def test_an_id_goes_to_the_topic_once_in_five_minutes() -> None:
    async with search() as one:
        await one.meet.run(every_second(PEER, seconds=round(ASK_AGAIN_S)))
        assert one.topic.members == [PEER]
        await one.meet.run(every_second(PEER, seconds=1))
        assert one.topic.members == [PEER, PEER]
        assert one.events == [CandidateFound(TOPIC, endpoint_id=PEER)] * 2
        assert one.peers.dialled == []


async def test_the_id_of_a_neighbor_is_no_candidate() -> None:
    other = EndpointId(b"q" * 32)
    async with search() as one:
        one.topic.neighbors = [PEER]
        await one.meet.run(every_second(PEER, other, seconds=1))
        assert one.topic.members == [other]
