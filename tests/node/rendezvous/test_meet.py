"""Candidates of rendezvous: ids go to the topic, each now and then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import anyio
import pytest

from kukuri_sidecar.node.events import CandidateFound, NodeEvent
from kukuri_sidecar.node.peers import Peers
from kukuri_sidecar.node.rendezvous.meet import ASK_AGAIN_S, Meet
from kukuri_sidecar.wire.ids import EndpointId, TopicId

pytestmark = pytest.mark.anyio

TOPIC = TopicId(b"t" * 32)
A, B = EndpointId(b"a" * 32), EndpointId(b"b" * 32)


@dataclass
class Topics:
    neighbors: set[EndpointId] = field(default_factory=set)
    seen: list[tuple[float, EndpointId]] = field(default_factory=list)

    def met(self, topic_id: TopicId, peer: EndpointId) -> None:
        assert topic_id == TOPIC
        self.seen.append((anyio.current_time(), peer))

    def knows(self, _: TopicId, peer: EndpointId) -> bool:
        return peer in self.neighbors


async def every_second(*candidates: EndpointId, seconds: int) -> AsyncIterator[EndpointId]:
    for _ in range(seconds):
        for candidate in candidates:
            yield candidate
        await anyio.sleep(1)


def meet(topics: Topics, events: list[NodeEvent]) -> Meet:
    nobody = cast("Peers", None)  # ids need no dial of ours
    return Meet(TOPIC, nobody, topics, lambda: (), events.append)


async def test_an_id_goes_to_the_topic_once_in_five_minutes() -> None:
    topics, events = Topics(), list[NodeEvent]()
    await meet(topics, events).run(every_second(A, seconds=round(ASK_AGAIN_S) + 1))
    assert [at - topics.seen[0][0] for at, _ in topics.seen] == [0, ASK_AGAIN_S]
    assert events == [CandidateFound(TOPIC, endpoint_id=A)] * 2


async def test_a_neighbor_is_no_candidate() -> None:
    topics, events = Topics(neighbors={A}), list[NodeEvent]()
    await meet(topics, events).run(every_second(A, B, seconds=1))
    assert [peer for _, peer in topics.seen] == [B]
    assert events == [CandidateFound(TOPIC, endpoint_id=B)]
