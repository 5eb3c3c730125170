"""Endpoint records on the Mainline DHT, as iroh keeps them: pkarr packets as mutable items (BEP 44), no salt.

Source: iroh-mainline-address-lookup 0.6.1 src/lib.rs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial

import anyio

from kukuri_sidecar.errors import DecodeError, LimitReached, Offline, Refused
from kukuri_sidecar.net.clock import WallMs
from kukuri_sidecar.node.dht import Dht
from kukuri_sidecar.node.discovery.freshness import Freshness
from kukuri_sidecar.node.discovery.provider import MAX_RELAYS, Discovered, worth_a_dial
from kukuri_sidecar.proto.dht.client import MAX_LOOKUPS
from kukuri_sidecar.proto.dht.events import (
    Ending,
    GetMutable,
    ItemFound,
    LookupFinished,
    LookupId,
    LookupReport,
    PutMutable,
    WriteOutcome,
)
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.endpoint_info import EndpointData, parse_packet, sign_endpoint_data
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.mutable_item import MAX_SEQ, MutableItem
from kukuri_sidecar.wire.pkarr import SignedPacket, packet_from_item

BOOTSTRAP_PATIENCE_S = 3.0  # ours: right after the start nobody is known yet; so long is not a failure
BOOTSTRAP_PAUSE_S = 0.25


class DhtRecords:
    """Finds records of others and keeps ours; the same bytes again as long as they say the same."""

    def __init__(
        self,
        dht: Dht,
        secret: SecretKey,
        freshness: Freshness,
        own_addresses: Callable[[], tuple[SocketAddr, ...]],
        *,
        ttl_s: int,
        wall_ms: WallMs,
    ) -> None:
        self._dht = dht
        self._secret = secret
        self._freshness = freshness
        self._own_addresses = own_addresses
        self._ttl_s = ttl_s
        self._wall_ms = wall_ms
        self._record: tuple[EndpointData, SignedPacket] | None = None
        self._last_us = 0

    @property
    def name(self) -> str:
        """Name of the source and sink."""
        return "dht"

    async def resolve(self, endpoint_id: EndpointId) -> AsyncIterator[Discovered]:
        """Yield the newest record each time a newer one turns up, until the closest nodes have answered.

        Raises Offline when no node answers, LimitReached when too many look-ups run.
        """
        patient_until = anyio.current_time() + BOOTSTRAP_PATIENCE_S
        while True:
            reports: list[LookupReport] = []
            async with self._dht.lookup(partial(_get, endpoint_id)) as findings:
                async for finding in findings:
                    if isinstance(finding, LookupFinished):
                        reports.append(finding.report)
                    elif isinstance(finding, ItemFound) and (found := self._read(finding.item)):
                        yield found
            if _nobody_answered(reports) and anyio.current_time() < patient_until:
                await anyio.sleep(BOOTSTRAP_PAUSE_S)
                continue
            _check(reports)
            return

    async def publish(self, data: EndpointData) -> int:
        """Store the record at the closest nodes; return at how many.

        When somebody (our key on another machine, or we with another clock) left a newer one there, ours is
        signed anew above it, once. Raises Offline, LimitReached, and Refused when too few nodes took it.
        """
        stored, is_stored = await self._put(data)
        if not is_stored and self._record is None:
            stored, is_stored = await self._put(data)
        if not is_stored:
            raise Refused("the nodes closest to our key do not keep our record", reason="not stored")
        return stored

    async def _put(self, data: EndpointData) -> tuple[int, bool]:
        packet = self._packet(data)
        item = packet.to_item()
        reports: list[LookupReport] = []
        async with self._dht.lookup(partial(_put, item)) as findings:
            async for finding in findings:
                if isinstance(finding, LookupFinished):
                    reports.append(finding.report)
                elif isinstance(finding, ItemFound) and finding.item.is_newer_than(item):
                    self._last_us = max(self._last_us, finding.item.seq)
        _check(reports)
        writes = [report.write for report in reports if report.write]
        is_stored = any(write.outcome is WriteOutcome.STORED for write in writes)
        if not is_stored and any(write.conflicts or write.not_most_recent for write in writes):
            self._record = None  # whatever is there, it is not ours: sign above it
        return sum(write.stored for write in writes), is_stored

    def _packet(self, data: EndpointData) -> SignedPacket:
        if self._record is None or self._record[0] != data:
            self._last_us = min(max(self._wall_ms() * 1000, self._last_us + 1), MAX_SEQ)
            self._record = (
                data,
                sign_endpoint_data(self._secret, data, self._last_us, ttl_s=self._ttl_s),
            )
        return self._record[1]

    def _read(self, item: MutableItem) -> Discovered | None:
        """Return what a genuine item says; None when it is no record, or not a fresh one."""
        try:
            data = parse_packet(packet_from_item(item))
        except DecodeError:
            return None
        if not self._freshness.admit(item.public_key, item.seq):
            return None
        return Discovered(
            endpoint_id=item.public_key,
            addresses=worth_a_dial(data.addresses, self._own_addresses()),
            relay_urls=data.relay_urls[:MAX_RELAYS],
            provenance=self.name,
            updated_at_us=item.seq,
        )


def _get(endpoint_id: EndpointId, lookup: LookupId) -> GetMutable:
    return GetMutable(lookup, endpoint_id)


def _put(item: MutableItem, lookup: LookupId) -> PutMutable:
    return PutMutable(lookup, item)


def _nobody_answered(reports: Iterable[LookupReport]) -> bool:
    return all(report.ending is Ending.NO_NODES for report in reports)


def _check(reports: list[LookupReport]) -> None:
    if _nobody_answered(reports):
        raise Offline("no node of the DHT answers")
    if all(report.ending in (Ending.BUSY, Ending.NO_NODES) for report in reports):
        raise LimitReached(
            "too many look-ups run in the DHT", limit="dht_lookups", max=MAX_LOOKUPS, retry_at_ms=None
        )
