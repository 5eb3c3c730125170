"""What upstream's simulator does not play: mass failure, partition, churn. Each returns its figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gossip_script import TOPIC
from kukuri_sidecar.proto.gossip.config import GossipConfig
from kukuri_sidecar.proto.gossip.events import Delivered, Received
from kukuri_sidecar.wire.gossip_messages import Join, Neighbor, Priority
from sim.gossip_sim import GossipSim, SimNode

QUIET_S = 180.0  # before the failure, as the spec's figures
IDLE_TIMEOUT_S = (15.0, 30.0)  # QUIC notices a death in this time
DIAL_TIMEOUT_S = 5.0  # our handshake deadline
COUNTED_FOR_S = 5.0  # a message counts where it arrived in this time; upstream's round timeout


class Tracker:
    """Counts who got which message in time."""

    def __init__(self, sim: GossipSim) -> None:
        self.sim = sim
        self._sent: dict[bytes, tuple[float, set[int]]] = {}  # content -> (when, who got it in time)
        self._serial = 0
        sim.on_delivered = self._delivered

    def publish(self, number: int) -> bytes:
        """Let a peer publish a new message; return its content."""
        content = b"t%d" % self._serial
        self._serial += 1
        self._sent[content] = (self.sim.kernel.now, {number})
        self.sim.broadcast(number, content)
        return content

    def ratio(self, content: bytes, members: set[int]) -> float:
        """Return the part of ``members`` that got ``content`` in time, the sender not counted."""
        got = self._sent[content][1]
        return (len(got & members) - 1) / (len(members) - 1)

    def has(self, content: bytes, number: int) -> bool:
        """Say whether one peer got ``content`` in time."""
        return number in self._sent[content][1]

    def _delivered(self, node: SimNode, effect: Delivered) -> None:
        when, got = self._sent[effect.content]
        if self.sim.kernel.now <= when + COUNTED_FOR_S:
            got.add(node.number)


@dataclass(frozen=True, slots=True)
class Failure:
    """Delivery of single messages sent so many seconds after the failure, and the overlay at the end."""

    delivery: dict[float, float]
    largest_part: float
    mean_active: float


def mass_failure(
    count: int,
    killed: float,
    seed: int,
    config: GossipConfig | None = None,
    times: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 10.0, 30.0),
    notice_s: Callable[[], float] | None = None,
    quiet_s: float = QUIET_S,
) -> Failure:
    """Kill a part of a settled swarm at once; neighbors notice after one latency unless told otherwise."""
    sim = GossipSim(count, seed, config)
    sim.bootstrap()
    sim.run(quiet_s)
    numbers = list(range(count))
    sim.rng.shuffle(numbers)
    sim.crash(numbers[: round(count * killed)], notice_s)
    alive = [node.number for node in sim.alive()]
    tracker = Tracker(sim)
    start = sim.kernel.now
    sent = {}
    for at in times:
        sim.kernel.run_until(start + at)
        sent[at] = tracker.publish(sim.rng.choice(alive))
    sim.run(COUNTED_FOR_S)
    return Failure(
        delivery={at: tracker.ratio(content, set(alive)) for at, content in sent.items()},
        largest_part=sim.largest_component() / len(alive),
        mean_active=sim.mean_active(),
    )


@dataclass(frozen=True, slots=True)
class Healing:
    """How a split swarm grew together: seconds until a message reached everybody, and what it cost."""

    before: float  # delivery while split
    healed_after_s: float | None  # None: not within the time given
    joins: int
    probes: int
    delivery: tuple[tuple[float, float], ...]  # (seconds after the heal, part that heard what was sent then)


def partition(
    count: int,
    split_s: float,
    seed: int,
    config: GossipConfig | None = None,
    *,
    limit_s: float = 300.0,
    every_s: float = 1.0,
    plain: float = 0.0,
    plain_config: GossipConfig | None = None,
) -> Healing:
    """Split a swarm in halves for ``split_s``, heal the network, publish every second until all hear of it.

    ``plain`` is the part of the peers that runs ``plain_config`` instead.
    """
    sim = GossipSim(0, seed, config)
    sim.dial_timeout_s = DIAL_TIMEOUT_S
    for number in range(count):
        sim.add_node(plain_config if number < count * plain else config)
    sim.bootstrap()
    tracker = Tracker(sim)
    everybody = set(range(count))
    for _ in range(30):  # a minute of ordinary life
        tracker.publish(sim.rng.randrange(count))
        sim.run(2.0)
    halves = list(range(count))
    sim.rng.shuffle(halves)
    sim.cut(halves[: count // 2], halves[count // 2 :], notice_s=lambda: sim.rng.uniform(*IDLE_TIMEOUT_S))
    end = sim.kernel.now + split_s
    last = b""
    while sim.kernel.now < end:
        last = tracker.publish(sim.rng.randrange(count))
        sim.run(10.0)
    before = tracker.ratio(last, everybody)
    sim.links.heal()
    joined = _sum(sim, "joins")
    probed = _sum(sim, "probes")
    start = sim.kernel.now
    healed_after = None
    sent = []
    while sim.kernel.now < start + limit_s:
        sent.append((sim.kernel.now, tracker.publish(sim.rng.randrange(count))))
        sim.run(every_s)
        whole = [at for at, content in sent if tracker.ratio(content, everybody) == 1.0]
        if whole:
            healed_after = whole[0] - start
            break
    return Healing(
        before=before,
        healed_after_s=healed_after,
        joins=_sum(sim, "joins") - joined,
        probes=_sum(sim, "probes") - probed,
        delivery=tuple((at - start, tracker.ratio(content, everybody)) for at, content in sent),
    )


@dataclass(frozen=True, slots=True)
class Churn:
    """Delivery to those who were there from ten seconds before a message to five seconds after it."""

    worst: float
    mean: float
    mean_active: float
    isolated: int


def churn(
    count: int, per_minute: float, minutes: float, seed: int, config: GossipConfig | None = None
) -> Churn:
    """Crash and add peers at a steady rate; deaths are noticed by QUIC's idle timeout only."""
    sim = GossipSim(count, seed, config)
    sim.dial_timeout_s = DIAL_TIMEOUT_S
    sim.bootstrap()
    sim.run(30.0)
    tracker = Tracker(sim)
    born = dict.fromkeys(range(count), 0.0)
    dead: dict[int, float] = {}
    end = sim.kernel.now + 60.0 * minutes
    pause = 60.0 / (count * per_minute)
    next_change, next_message = sim.kernel.now, sim.kernel.now
    sent: list[tuple[float, int, bytes]] = []
    while sim.kernel.now < end:
        sim.kernel.run_until(min(next_change, next_message))
        now = sim.kernel.now
        alive = [node.number for node in sim.alive()]
        if now >= next_message:
            sender = sim.rng.choice(alive)
            sent.append((now, sender, tracker.publish(sender)))
            next_message = now + 2.0
        if now >= next_change:
            victim = sim.rng.choice(alive)
            dead[victim] = now
            sim.crash([victim], lambda: sim.rng.uniform(*IDLE_TIMEOUT_S))
            born[sim.add_node().number] = now
            sim.join(len(sim.nodes) - 1, [sim.rng.choice([n for n in alive if n != victim])])
            next_change = now + pause
    sim.run(COUNTED_FOR_S)
    ratios = []
    for at, sender, content in sent:
        there = {
            number
            for number, since in born.items()
            if since <= at - 10.0 and dead.get(number, end + 60.0) >= at + COUNTED_FOR_S
        }
        ratios.append(tracker.ratio(content, there | {sender}))
    isolated = sum(not sim.view(node.number).neighbors for node in sim.alive())
    return Churn(min(ratios), sum(ratios) / len(ratios), sim.mean_active(), isolated)


def _sum(sim: GossipSim, counter: str) -> int:
    return sum(getattr(sim.view(node.number).counters, counter) for node in sim.alive())


@dataclass(frozen=True, slots=True)
class Flood:
    """What a flood of joining strangers left of one peer's neighborhood."""

    worst_honest: int  # honest neighbors in the worst second
    mean_honest: float
    delivery: float  # of honest messages to the peer under attack


def join_flood(
    count: int, strangers: int, seconds: float, seed: int, config: GossipConfig | None = None
) -> Flood:
    """Let ``strangers`` that forward nothing join one honest peer, twenty a second, each again and again."""
    sim = GossipSim(count + strangers, seed, config)
    honest = set(range(count))
    for number in honest:
        sim.join(number, [0] if number else [])
    sim.run(10.0)
    for node in sim.nodes[count:]:
        node.is_alive = False  # it hears nothing; what it says is made up here
    tracker = Tracker(sim)
    target = sim.nodes[sim.rng.randrange(1, count)]
    end = sim.kernel.now + seconds
    attack_at = sim.kernel.now
    counts, sent = [], []
    while sim.kernel.now < end:
        second = sim.kernel.now + 1.0
        sent.append(tracker.publish(sim.rng.choice(sorted(honest - {target.number}))))
        while attack_at < second:
            sim.kernel.run_until(attack_at)
            stranger = sim.nodes[count + sim.rng.randrange(strangers)]
            message = sim.rng.choice([Join(None), Neighbor(Priority.HIGH, None)])
            sim.handle(target, Received(stranger.id, TOPIC, message))
            attack_at += 0.05
        sim.kernel.run_until(second)
        counts.append(sum(sim.number(peer) in honest for peer in sim.view(target.number).neighbors))
    sim.run(COUNTED_FOR_S)
    got = [tracker.has(content, target.number) for content in sent]
    return Flood(min(counts), sum(counts) / len(counts), sum(got) / len(got))
