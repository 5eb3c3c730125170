"""Nodes on the virtual clock: everything above the QUIC endpoint is the production code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import anyio

from kukuri_sidecar.node.address_book import AddressBook
from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.node.config import Config, resolve
from kukuri_sidecar.node.envelopes import Envelopes, Mode
from kukuri_sidecar.node.events import NodeEvent, TopicMessage, TopicState
from kukuri_sidecar.node.peers import Peers
from kukuri_sidecar.node.topics import JoinRequest, TopicInfo, Topics
from kukuri_sidecar.proto.gossip.config import GossipConfig
from kukuri_sidecar.proto.gossip.events import Send
from kukuri_sidecar.wire.addr import HostPort, PeerHint
from kukuri_sidecar.wire.gossip_messages import GossipMessage
from kukuri_sidecar.wire.ids import TopicId
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.peer_data import encode_peer_data
from sim.quic_net import SimEndpoint, SimNet

TOPIC = TopicId(b"t" * 32)


@dataclass(eq=False)
class Node:
    """One simulated node with everything above the QUIC endpoint."""

    net: SimNet
    secret: SecretKey
    rng: Random
    config: Config = field(default_factory=Config)
    events: list[NodeEvent] = field(default_factory=list)
    log: list[tuple[float, NodeEvent]] = field(default_factory=list)  # the same with their times
    clock_skew_ms: int = 0  # how far the wall clock is ahead

    def __post_init__(self) -> None:
        self.id = self.secret.endpoint_id
        self.agenda = Agenda()
        self.peers = Peers(
            own_id=self.id,
            alpn="/iroh-gossip/1",
            config=self.config,
            book=AddressBook(),
            emit=self._emit,
            rng=self.rng,
            wall_ms=self.wall_ms,
        )
        self.endpoint: SimEndpoint = self.net.endpoint(self.id, self.peers.accepted)
        self.topics = Topics(
            own_id=self.id,
            core_config=GossipConfig(),
            config=self.config,
            peers=self.peers,
            agenda=self.agenda,
            emit=self._emit,
            rng=self.rng,
            wall_ms=self.wall_ms,
            bootstrap=(),
            envelopes=Envelopes(self.secret, self.rng, self.wall_ms),
        )
        swarm = self.topics.swarm
        self.peers.wire(self.endpoint, swarm.user_for, swarm.unreachable, self.topics.topics_of)

    def _emit(self, event: NodeEvent) -> None:
        self.events.append(event)
        self.log.append((anyio.current_time(), event))

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + round(anyio.current_time() * 1000) + self.clock_skew_ms

    @property
    def hint(self) -> PeerHint:
        return PeerHint(self.id, (HostPort(*self.endpoint.address),))

    async def join(self, *bootstrap: PeerHint, mode: Mode | None = None, topic_id: TopicId = TOPIC) -> None:
        await self.topics.join(JoinRequest(topic_id, None, bootstrap, mode, None))

    def publish(
        self,
        payload: bytes,
        *,
        queue: bool = False,
        confirm: bool = False,
        ttl_s: float = 30.0,
        neighbors_only: bool = False,
        topic_id: TopicId = TOPIC,
    ) -> str:
        published = self.topics.publish(
            topic_id, payload, neighbors_only=neighbors_only, queue=queue, queue_ttl_s=ttl_s, confirm=confirm
        )
        return published.state

    def say(self, peer: Node, *messages: GossipMessage) -> None:
        """Send messages past the core to a connected peer, as only a program of its own would."""
        for message in messages:
            self.topics.swarm._perform(Send((peer.id,), TOPIC, message), anyio.current_time())
        self.topics.swarm._flush()

    @property
    def messages(self) -> list[TopicMessage]:
        return [event for event in self.events if isinstance(event, TopicMessage)]

    @property
    def received(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    @property
    def info(self) -> TopicInfo:
        (info,) = self.topics.list([TOPIC])
        return info

    @property
    def state(self) -> TopicState:
        return self.info.state

    def neighbors(self) -> int:
        return len(self.info.neighbors)


class World:
    """Makes nodes that run until the test ends."""

    def __init__(self, net: SimNet, tasks: anyio.abc.TaskGroup, rng: Random) -> None:
        self.net, self._tasks, self._rng = net, tasks, rng
        self._count = 0

    def chain(self, *nodes: Node) -> None:
        """Let each of the nodes reach those beside it and no other."""
        for i, a in enumerate(nodes):
            self.net.apart |= {frozenset((a.id, b.id)) for b in nodes[i + 2 :]}

    async def node(self, **config: object) -> Node:
        self._count += 1
        secret = SecretKey(self._count.to_bytes(32, "big"))
        node = Node(self.net, secret, Random(self._rng.random()), resolve({"host": config}).config)
        await self._tasks.start(node.agenda.run)
        await self._tasks.start(node.peers.run)
        node.topics.set_own_data(encode_peer_data(None, [node.endpoint.address]))
        return node


@asynccontextmanager
async def simulated_world(rng: Random) -> AsyncIterator[World]:
    """Run a network and the nodes that a test makes in it."""
    async with SimNet().running() as net, anyio.create_task_group() as tasks:
        yield World(net, tasks, rng)
        tasks.cancel_scope.cancel()


async def until(is_true: Callable[[], bool], limit_s: float = 120.0) -> float:
    """Let virtual time pass until the condition holds; return how long it took."""
    start = anyio.current_time()
    while not is_true():
        assert anyio.current_time() - start < limit_s, "it never came true"
        await anyio.sleep(0.005)
    return anyio.current_time() - start
