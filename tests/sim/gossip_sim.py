"""Many production ``GossipCore`` on simulated links: upstream's scenarios and statistics, and harder ones.

Connections are as in upstream's simulator (src/proto/sim.rs): a message implies one, closing tells
the other side one latency later, after everything sent before. A side that has been told nothing goes on
using it; a side that reconnected meanwhile is not told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf
from random import Random
from statistics import mean

from gossip_script import TOPIC, message_id, peer_id
from kukuri_sidecar.proto.gossip.config import GossipConfig
from kukuri_sidecar.proto.gossip.events import (
    Broadcast,
    ClosePeer,
    Delivered,
    GossipEffect,
    GossipInput,
    JoinTopic,
    PeerDisconnected,
    Received,
    Send,
)
from kukuri_sidecar.proto.gossip.state import GossipCore, TopicView
from kukuri_sidecar.wire.gossip_messages import Gossip, GossipMessage
from kukuri_sidecar.wire.ids import EndpointId, MessageId
from sim.kernel import Kernel, LinkConfig, Links

UPSTREAM_SEEDS = (0, 1, 212312388123, 123)  # iroh-gossip simulations/all.toml
BOOTSTRAP_TRIPS = 20  # sim.rs, BootstrapMode::Single
ROUND_TIMEOUT_S = 5.0  # sim.rs, gossip_round_timeout
AFTER_LAST_MESSAGE_S = 1e-6  # sim.rs, kill_connection


@dataclass(frozen=True, slots=True)
class RoundStats:
    """One round, in upstream's terms: RMR relative message redundancy, LDH last delivery hop."""

    rmr: float
    ldh: int
    missed: int
    duration_s: float


@dataclass(slots=True)
class SimNode:
    """One peer: its core and what the network knows of it."""

    number: int
    id: EndpointId
    core: GossipCore
    connections: dict[int, None] = field(default_factory=dict)
    wake_at: float = inf
    is_alive: bool = True


class GossipSim:
    """A swarm of ``count`` peers in one topic. Build, ``bootstrap()``, then run rounds or a scenario."""

    def __init__(
        self,
        count: int,
        seed: int,
        config: GossipConfig | None = None,
        links: LinkConfig | None = None,
    ) -> None:
        self.rng = Random(seed)
        self.kernel = Kernel()
        self.links = Links(links or LinkConfig(), Random(self.rng.getrandbits(64)))
        self.config = config or GossipConfig()
        self.nodes: list[SimNode] = []
        self._number: dict[EndpointId, int] = {}
        self._message_ids: dict[bytes, MessageId] = {}
        self.on_delivered: Callable[[SimNode, Delivered], None] = lambda _node, _effect: None
        self.dial_timeout_s: float | None = None  # dials that fail are reported after this; upstream: never
        self.payloads = 0  # Gossip messages received
        self.controls = 0  # all other messages received
        for _ in range(count):
            self.add_node()

    # --- building ----------------------------------------------------------------------------------------

    def add_node(self, config: GossipConfig | None = None) -> SimNode:
        """Add a peer that is in no topic yet."""
        number = len(self.nodes)
        core = GossipCore(
            peer_id(number),
            Random(self.rng.getrandbits(64)),
            self._message_ids.__getitem__,
            config or self.config,
        )
        node = SimNode(number, peer_id(number), core)
        self.nodes.append(node)
        self._number[node.id] = number
        return node

    def join(self, number: int, bootstrap: Iterable[int] = ()) -> None:
        """Let a peer join the topic at ``bootstrap``."""
        self.handle(self.nodes[number], JoinTopic(TOPIC, tuple(peer_id(i) for i in bootstrap)))

    def bootstrap(self) -> None:
        """Let everybody join peer 0 at once, then wait as long as upstream does."""
        for node in self.nodes:
            self.join(node.number, [0] if node.number else [])
        self.run(BOOTSTRAP_TRIPS * self.links.config.latency_s[1])

    # --- acting ------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.kernel.run_until(self.kernel.now + seconds)

    def alive(self) -> list[SimNode]:
        """Return the peers that have not crashed."""
        return [node for node in self.nodes if node.is_alive]

    def broadcast(self, number: int, content: bytes) -> MessageId:
        """Let a peer publish."""
        content_id = self._message_ids[content] = message_id(content)
        self.handle(self.nodes[number], Broadcast(TOPIC, content, content_id))
        return content_id

    def crash(self, numbers: Iterable[int], notice_s: Callable[[], float] | None = None) -> None:
        """Stop peers without a word; the others notice after ``notice_s``, by default one latency."""
        numbers = list(numbers)
        for number in numbers:
            self.nodes[number].is_alive = False
        for number in numbers:
            for other in self.nodes[number].connections:
                delay = notice_s() if notice_s else self.links.latency(number, other)
                self.kernel.schedule(self.kernel.now + delay, self._notice, self.nodes[other], number)

    def cut(self, *parts: list[int], notice_s: Callable[[], float]) -> None:
        """Partition the network; connections across the cut die after ``notice_s`` if it lasts that long."""
        self.links.partition(*parts)
        for node in self.alive():
            for other in node.connections:
                if not self.links.connected(node.number, other):
                    self.kernel.schedule(self.kernel.now + notice_s(), self._time_out, node, other)

    # --- looking -----------------------------------------------------------------------------------------

    def number(self, peer: EndpointId) -> int:
        """Return the number of a peer."""
        return self._number[peer]

    def view(self, number: int) -> TopicView:
        """Return what a peer knows of the topic."""
        view = self.nodes[number].core.view(TOPIC)
        assert view is not None
        return view

    def active_histogram(self) -> dict[int, int]:
        """Return how many peers have how many neighbors."""
        return dict(sorted(Counter(len(self.view(n.number).neighbors) for n in self.alive()).items()))

    def mean_active(self) -> float:
        """Return the mean number of neighbors."""
        return mean(len(self.view(node.number).neighbors) for node in self.alive())

    def largest_component(self) -> int:
        """Return the size of the largest part connected by neighborship."""
        links = {n.number: [self._number[p] for p in self.view(n.number).neighbors] for n in self.alive()}
        for number, others in list(links.items()):
            for other in others:
                if other in links:
                    links[other].append(number)
        best, left = 0, set(links)
        while left:
            stack, size = [left.pop()], 0
            while stack:
                size += 1
                fresh = left.intersection(links[stack.pop()])
                left -= fresh
                stack.extend(fresh)
            best = max(best, size)
        return best

    def check_invariants(self) -> None:
        """Assert what must hold once nothing is under way."""
        neighbors = {n.id: self.view(n.number).neighbors for n in self.alive()}
        membership = self.config.membership
        for node in self.alive():
            view = self.view(node.number)
            assert len(view.neighbors) <= membership.active_view, node.number
            assert len(view.passive) <= membership.passive_view, node.number
            assert node.id not in (*view.neighbors, *view.passive, *view.pending), node.number
            assert not set(view.neighbors) & set(view.passive), node.number
            assert set(view.eager) | set(view.lazy) == set(view.neighbors), node.number
            assert not set(view.eager) & set(view.lazy), node.number
            for other in view.neighbors:
                assert node.id in neighbors.get(other, ()), f"{node.number} counts on {other}, not mutual"

    # --- upstream's rounds -------------------------------------------------------------------------------

    def round(self, messages: list[tuple[int, bytes]]) -> RoundStats:
        """Publish all ``messages`` at once; run until everybody has them, or for five seconds."""
        self.payloads = 0
        start = self.kernel.now
        expected = len(messages) * (len(self.alive()) - 1)
        wanted = {content for _, content in messages}
        got: set[tuple[int, bytes]] = set()
        hops = 0

        def delivered(node: SimNode, effect: Delivered) -> None:
            nonlocal hops
            if effect.content in wanted:
                assert (node.number, effect.content) not in got, "delivered twice"
                got.add((node.number, effect.content))
            hops = max(hops, effect.round or 0)

        self.on_delivered = delivered
        for number, content in messages:
            self.broadcast(number, content)
        self.kernel.run_until(start + ROUND_TIMEOUT_S, lambda: len(got) < expected)
        return RoundStats(
            rmr=self.payloads / (len(got) - 1) - 1 if len(got) > 1 else 0.0,
            ldh=hops,
            missed=expected - len(got),
            duration_s=self.kernel.now - start,
        )

    # --- the network -------------------------------------------------------------------------------------

    def handle(self, node: SimNode, event: GossipInput) -> None:
        """Give a core an event and do what it asks for."""
        self._perform(node, node.core.handle(event, self.kernel.now))

    def _perform(self, node: SimNode, effects: list[GossipEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                for peer in effect.to:
                    self._send(node, self._number[peer], effect.message)
            elif isinstance(effect, Delivered):
                self.on_delivered(node, effect)
        for effect in effects:
            if isinstance(effect, ClosePeer):
                self._close(node, self._number[effect.peer])
        due = node.core.deadline()
        if due < node.wake_at:
            node.wake_at = due
            self.kernel.schedule(due, self._wake, node, due)

    def _wake(self, node: SimNode, at: float) -> None:
        if node.is_alive and node.wake_at == at:
            node.wake_at = inf
            self._perform(node, node.core.on_deadline(self.kernel.now))

    def _send(self, node: SimNode, to: int, message: GossipMessage) -> None:
        other = self.nodes[to]
        when = self.links.arrival(node.number, to, self.kernel.now)
        is_reachable = other.is_alive and self.links.connected(node.number, to)
        if not is_reachable and to not in node.connections and self.dial_timeout_s is not None:
            self.kernel.schedule(self.kernel.now + self.dial_timeout_s, self._dial_failed, node, to)
        if when is None or not is_reachable:
            return
        if to not in node.connections:
            node.connections[to] = None
            other.connections[node.number] = None
        self.kernel.schedule(when, self._arrive, other, node.id, message)

    def _arrive(self, node: SimNode, sender: EndpointId, message: GossipMessage) -> None:
        if not node.is_alive:
            return
        if isinstance(message, Gossip):
            self.payloads += 1
        else:
            self.controls += 1
        self._perform(node, node.core.handle(Received(sender, TOPIC, message), self.kernel.now))

    def _close(self, node: SimNode, to: int) -> None:
        if to in node.connections:
            del node.connections[to]
            when = self.links.arrival(node.number, to, self.kernel.now)
            if when is not None:
                self.kernel.schedule(when + AFTER_LAST_MESSAGE_S, self._notice, self.nodes[to], node.number)

    def _notice(self, node: SimNode, other: int) -> None:
        """``other`` closed or died: tell ``node``, unless they have reconnected."""
        is_gone = not self.nodes[other].is_alive or node.number not in self.nodes[other].connections
        if node.is_alive and other in node.connections and is_gone:
            del node.connections[other]
            self.handle(node, PeerDisconnected(peer_id(other)))

    def _dial_failed(self, node: SimNode, to: int) -> None:
        if node.is_alive and to not in node.connections:
            self.handle(node, PeerDisconnected(peer_id(to)))

    def _time_out(self, node: SimNode, other: int) -> None:
        if node.is_alive and other in node.connections and not self.links.connected(node.number, other):
            del node.connections[other]
            self.handle(node, PeerDisconnected(peer_id(other)))


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the rounds of one run, and the views after bootstrap."""

    scenario: str
    count: int
    rmr: float
    ldh: float
    missed: float
    duration_s: float
    isolated: int
    mean_active: float
    active: dict[int, int]


def run_scenario(
    scenario: str,
    count: int,
    seed: int,
    config: GossipConfig | None = None,
    rounds: int = 30,
    links: LinkConfig | None = None,
) -> tuple[GossipSim, Figures]:
    """Run one of upstream's scenarios: ``single``, ``multi`` or ``all``."""
    sim = GossipSim(count, seed, config, links)
    sim.bootstrap()
    active = sim.active_histogram()
    mean_active = sim.mean_active()
    sender = sim.rng.randrange(count)
    stats = []
    for i in range(rounds):
        if scenario == "all":
            messages = [(node.number, b"%d:0.%d" % (i, node.number)) for node in sim.alive()]
        else:
            if scenario == "multi":
                sender = sim.rng.randrange(count)
            messages = [(sender, b"m%d" % i)]
        stats.append(sim.round(messages))
    return sim, Figures(
        scenario=scenario,
        count=count,
        rmr=mean(s.rmr for s in stats),
        ldh=mean(s.ldh for s in stats),
        missed=mean(s.missed for s in stats),
        duration_s=mean(s.duration_s for s in stats),
        isolated=active.get(0, 0),
        mean_active=mean_active,
        active=active,
    )
