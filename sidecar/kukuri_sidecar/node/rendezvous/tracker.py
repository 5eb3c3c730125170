"""Scheme ``tracker``: members leave signed, encrypted records in a slot of the DHT that changes every minute.

What the Rust crate distributed-topic-tracker 0.3 does, so that plain iroh nodes that use it and sidecars find
each other. A record names its publisher and up to five neighbours, by id: where they are, something else must
know (bootstrap peers, gossip's peer data, earlier connections).

Differences: a slot that others hold counts as written (the crate tries again); an isolated topic polls every
1.5 s for a minute only; cas is not sent, for it could only fail.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf

import anyio

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.net.clock import WallMs
from kukuri_sidecar.node.dht import Dht
from kukuri_sidecar.proto.core import Rng, sample
from kukuri_sidecar.proto.dht.events import (
    GetMutable,
    ItemFound,
    LookupFinished,
    LookupId,
    PutMutable,
    WriteOutcome,
)
from kukuri_sidecar.wire.ids import EndpointId, TopicId
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.mutable_item import MutableItem
from kukuri_sidecar.wire.tracker_record import (
    SEAL_RANDOM_BYTES,
    SLOT_S,
    Slot,
    TrackerRecord,
    record_in,
    record_item,
    seal_record,
    sign_record,
    slot_at,
)

# All from the crate's src/config.rs, unless it says otherwise.
MAX_SLOT_RECORDS = 5  # with so many of others in the slot we add none
GET_TIMEOUT_S = PUT_TIMEOUT_S = 10.0
PUBLISH_INTERVAL_S, PUBLISH_JITTER_S = 10.0, 50.0
RETRIES = 3  # of a put that nobody took
RETRY_INTERVAL_S, RETRY_JITTER_S = 5.0, 10.0
POLL_INTERVAL_S = 1.5  # while isolated ...
LATER_POLL_INTERVAL_S = 8.0  # ... and after POLL_EAGERLY_S, ours: a record can be read for a minute or two
POLL_EAGERLY_S = 60.0
MAX_JOIN_PEERS = 4  # candidates of one round, ...
JOIN_SETTLE_S = 0.1  # ... one after the other: the first may be enough
ENOUGH_NEIGHBORS = 4  # bubble merge: with fewer, others are looked at
MAX_READ_RECORDS = 20  # of one slot; ours: the nodes closest to it


class Tracker:
    """Keeps one topic findable and yields who else is in it, until the iterator is closed."""

    def __init__(
        self,
        dht: Dht,
        topic_id: TopicId,
        secret: bytes | None,
        *,
        identity: SecretKey,
        neighbors: Callable[[], Sequence[EndpointId]],
        message_hashes: Callable[[], Sequence[bytes]],
        rng: Rng,
        wall_ms: WallMs,
    ) -> None:
        self._dht = dht
        self._topic_id = topic_id
        self._secret = secret
        self._identity = identity
        self._neighbors = neighbors
        self._message_hashes = message_hashes
        self._rng = rng
        self._wall_ms = wall_ms
        self._failures = 0  # puts in a row that nobody took

    async def meet(self) -> AsyncGenerator[EndpointId, None]:
        """Read and publish, again and again; yield every id that turns up, repeatedly."""
        started = anyio.current_time()
        publish_at = -inf
        while True:
            present, past = self._slots()
            records = await self._read_all([present, past])
            for candidate in self._choose(records):
                if len(self._neighbors()) >= ENOUGH_NEIGHBORS:
                    break
                yield candidate
                await anyio.sleep(JOIN_SETTLE_S)
            if anyio.current_time() >= publish_at:
                pause = PUBLISH_INTERVAL_S + PUBLISH_JITTER_S * self._rng.random()
                if len(records[present]) >= MAX_SLOT_RECORDS or await self._publish(self._slots()[0]):
                    self._failures = 0
                else:
                    pause = self._pause_of_retry(pause)
                publish_at = anyio.current_time() + pause
            now = anyio.current_time()
            poll = POLL_INTERVAL_S if now < started + POLL_EAGERLY_S else LATER_POLL_INTERVAL_S
            wake_at = publish_at if self._neighbors() else min(publish_at, now + poll)
            await anyio.sleep(max(0.0, wake_at - now))

    def _slots(self) -> tuple[Slot, Slot]:
        minute = int(self._wall_ms() // 1000 // SLOT_S)
        return (
            slot_at(self._topic_id, self._secret, minute),
            slot_at(self._topic_id, self._secret, minute - 1),
        )

    async def _read_all(self, slots: Sequence[Slot]) -> dict[Slot, dict[EndpointId, TrackerRecord]]:
        """Return what others left in each slot, by publisher."""
        found: dict[Slot, dict[EndpointId, TrackerRecord]] = {slot: {} for slot in slots}
        async with anyio.create_task_group() as tasks:
            for slot, records in found.items():
                tasks.start_soon(self._read, slot, records)
        return found

    async def _read(self, slot: Slot, records: dict[EndpointId, TrackerRecord]) -> None:
        """Collect what is there. Of items with one seq a look-up shows each that exceeds those before it."""
        command = partial(_get, slot)
        with anyio.move_on_after(GET_TIMEOUT_S):
            async with self._dht.lookup(command) as findings:
                async for finding in findings:
                    if not isinstance(finding, ItemFound) or len(records) >= MAX_READ_RECORDS:
                        continue
                    with suppress(DecodeError):  # anyone who knows the topic may write anything there
                        record = record_in(slot, finding.item)
                        if record.publisher != self._identity.endpoint_id:
                            records.setdefault(record.publisher, record)

    def _choose(self, found: dict[Slot, dict[EndpointId, TrackerRecord]]) -> list[EndpointId]:
        """Return a few of those named: publishers, who lived a minute ago, before their neighbours."""
        records = [record for by_publisher in found.values() for record in by_publisher.values()]
        near = {self._identity.endpoint_id, *self._neighbors()}
        publishers = dict.fromkeys(record.publisher for record in records if record.publisher not in near)
        others = dict.fromkeys(
            peer
            for record in records
            for peer in record.active_peers
            if peer not in near and peer not in publishers
        )
        chosen = sample(self._rng, list(publishers), MAX_JOIN_PEERS)
        return chosen + sample(self._rng, list(others), MAX_JOIN_PEERS - len(chosen))

    async def _publish(self, slot: Slot) -> bool:
        """Leave our record; False when no node took it, nor has another one."""
        record = sign_record(slot, self._identity, self._neighbors(), self._message_hashes())
        randomness = self._rng.getrandbits(8 * SEAL_RANDOM_BYTES).to_bytes(SEAL_RANDOM_BYTES, "big")
        command = partial(_put, record_item(slot, seal_record(slot, record, randomness)))
        is_there = False
        with anyio.move_on_after(PUT_TIMEOUT_S):
            async with self._dht.lookup(command) as findings:
                async for finding in findings:
                    if isinstance(finding, LookupFinished) and finding.report.write:
                        is_there |= finding.report.write.outcome is not WriteOutcome.FAILED
        return is_there

    def _pause_of_retry(self, otherwise: float) -> float:
        self._failures += 1
        if self._failures > RETRIES:
            self._failures = 0
            return otherwise
        return RETRY_INTERVAL_S + RETRY_JITTER_S * self._rng.random()


def _get(slot: Slot, lookup: LookupId) -> GetMutable:
    return GetMutable(lookup, slot.owner.endpoint_id, slot.salt)


def _put(item: MutableItem, lookup: LookupId) -> PutMutable:
    return PutMutable(lookup, item)
