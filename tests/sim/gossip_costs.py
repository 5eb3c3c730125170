"""What gossip costs one node: memory under a flood of false announcements, CPU for a message passed on."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import dataclass
from random import Random

from gossip_script import TOPIC, digest, message_id, peer_id, sent_to
from kukuri_sidecar.proto.gossip.config import GossipConfig
from kukuri_sidecar.proto.gossip.events import Delivered, JoinTopic, Received, Send
from kukuri_sidecar.proto.gossip.state import GossipCore
from kukuri_sidecar.wire.gossip_messages import Gossip, IHave, Neighbor, Priority, decode, encode, frame
from kukuri_sidecar.wire.ids import MessageId

IDS_PER_FRAME = 116  # as many as a frame of 4,096 bytes holds; what Rust sends
FLOOD_S = 60.0
HONEST_EVERY = 1_000  # false announcements between two honest messages
LIAR, FRIEND = 1, 2


@dataclass(frozen=True, slots=True)
class IHaveFlood:
    """What a million false promises left behind."""

    grown_bytes: int  # the most that was allocated at once, over what was there before
    delivered: float  # part of the honest messages
    asked: int  # Grafts that the liar could make us send


def ihave_flood(ids: int, config: GossipConfig | None = None) -> IHaveFlood:
    """Let one neighbor announce ``ids`` messages that do not exist, in a minute, beside an honest one."""
    core = _core_with_neighbors(2, config)
    rng = Random(0)
    tracemalloc.start()
    start, _ = tracemalloc.get_traced_memory()
    delivered = honest = asked = 0
    now = 1.0
    for first in range(0, ids, IDS_PER_FRAME):
        now += FLOOD_S * IDS_PER_FRAME / ids
        items = tuple((MessageId(rng.randbytes(32)), 1) for _ in range(IDS_PER_FRAME))
        effects = list(core.handle(Received(peer_id(LIAR), TOPIC, IHave(items)), now))
        if first // IDS_PER_FRAME % (HONEST_EVERY // IDS_PER_FRAME) == 0:
            honest += 1
            content = b"honest %d" % honest
            message = Gossip(message_id(content), content, 0)
            effects += core.handle(Received(peer_id(FRIEND), TOPIC, message), now)
        while core.deadline() <= now:
            effects += core.on_deadline(now)
        delivered += sum(isinstance(effect, Delivered) for effect in effects)
        asked += len(sent_to(effects, LIAR))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return IHaveFlood(peak - start, delivered / honest, asked)


def cpu_per_message_us(size: int, fan_out: int, count: int = 20_000) -> float:
    """Return µs of CPU to receive a message, check it and hand it on: decode, hash, core, encode once."""
    core = _core_with_neighbors(fan_out + 1)
    rng = Random(0)
    contents = [rng.randbytes(size) for _ in range(count)]
    bodies = [encode(Gossip(message_id(content), content, 0)) for content in contents]
    sender = peer_id(1)
    started = time.process_time()
    now = 1.0
    for body in bodies:
        now += 0.001
        for effect in core.handle(Received(sender, TOPIC, decode(body)), now):
            if isinstance(effect, Send):
                frame(encode(effect.message), 4_096)
    return (time.process_time() - started) / count * 1e6


def _core_with_neighbors(count: int, config: GossipConfig | None = None) -> GossipCore:
    core = GossipCore(peer_id(0), Random(0), digest, config)
    core.handle(JoinTopic(TOPIC), 0.0)
    for number in range(1, count + 1):
        core.handle(Received(peer_id(number), TOPIC, Neighbor(Priority.HIGH, None)), 0.0)
    assert len(core.neighbors(TOPIC)) == count
    return core
