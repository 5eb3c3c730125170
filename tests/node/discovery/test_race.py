from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import anyio
import pytest

from kukuri_sidecar.errors import NoAddresses, Offline
from kukuri_sidecar.node.discovery.provider import Discovered
from kukuri_sidecar.node.discovery.race import Race
from kukuri_sidecar.node.discovery.service import Discovery
from kukuri_sidecar.node.events import EndpointFound, NodeEvent
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.endpoint_info import EndpointData
from kukuri_sidecar.wire.ids import EndpointId

pytestmark = pytest.mark.anyio

PEER = EndpointId(b"p" * 32)


def at(port: int) -> SocketAddr:
    return SocketAddr("198.51.100.4", port)


@dataclass(eq=False)
class Source:
    """Yields one find per (pause, port), then ends as told."""

    name: str
    finds: list[tuple[float, int]] = field(default_factory=list)
    end: Exception | None = None
    lasts_s: float = 0.0
    closed: bool = False

    async def resolve(self, endpoint_id: EndpointId) -> AsyncIterator[Discovered]:
        try:
            for pause, port in self.finds:
                await anyio.sleep(pause)
                yield Discovered(endpoint_id, (at(port),), (), self.name)
            await anyio.sleep(self.lasts_s)
            if self.end:
                raise self.end
        finally:
            self.closed = True

    async def publish(self, data: EndpointData) -> int:
        raise NotImplementedError


async def test_finds_are_merged_as_they_come_and_failures_hurt_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sources = [
        Source("slow", [(2, 1), (1, 2)]),
        Source("quick", [(1, 3)]),
        Source("down", end=Offline("no network")),
        Source("empty"),
        Source("buggy", end=RuntimeError("a bug")),
        Source("late", lasts_s=100),
    ]
    race = Race(PEER, sources)
    finds: list[tuple[float, str]] = []
    start = anyio.current_time()
    await race.run(lambda one: finds.append((anyio.current_time() - start, one.provenance)), timeout_s=10)
    assert finds == [(1, "quick"), (2, "slow"), (3, "slow")]
    assert race.latency_s == {"quick": 1, "slow": 2}
    assert race.errors == {
        "down": "offline",
        "empty": "no_addresses",
        "buggy": "internal_error",
        "late": "dial_timeout",
    }
    assert all(source.closed for source in sources)
    assert "buggy" in caplog.text


async def test_the_first_find_can_end_it() -> None:
    sources = [Source("slow", [(2, 1)]), Source("quick", [(1, 3)], lasts_s=50)]
    race = Race(PEER, sources)
    finds: list[str] = []
    start = anyio.current_time()
    await race.run(lambda one: finds.append(one.provenance), timeout_s=10, until_first=True)
    assert (finds, race.errors) == (["quick"], {})
    assert anyio.current_time() - start == 1
    assert all(source.closed for source in sources)


async def test_the_service_puts_together_who_named_what() -> None:
    events: list[NodeEvent] = []
    sources = [Source("dht", [(0, 1), (1, 2)]), Source("dns", [(0.5, 2)]), Source("pkarr")]
    service = Discovery(sources, [], events.append)
    resolved = await service.resolve(PEER, None, timeout_s=5, until_first=False, request_id=7)
    assert resolved.addresses == {at(2): ["dht", "dns"]}, "a later find replaces the source's earlier one"
    assert resolved.latency_s == {"dht": 0, "dns": 0.5}
    assert resolved.source_errors == {"pkarr": "no_addresses"}
    assert [(e.source, e.request_id) for e in events if isinstance(e, EndpointFound)] == [
        ("dht", 7),
        ("dns", 7),
        ("dht", 7),
    ]


async def test_only_the_chosen_sources_are_asked() -> None:
    dht, dns = Source("dht", [(0, 1)]), Source("dns", [(0, 2)])
    service = Discovery([dht, dns], [], lambda _: None)
    with pytest.raises(NoAddresses) as caught:
        await service.resolve(PEER, ["pkarr"], timeout_s=5, until_first=True, request_id=None)
    assert caught.value.details == {"source_errors": {"pkarr": "offline"}}
    assert not dht.closed
    assert not dns.closed
    resolved = await service.resolve(PEER, ["dns"], timeout_s=5, until_first=True, request_id=None)
    assert resolved.addresses == {at(2): ["dns"]}


async def test_a_sink_that_does_not_run_is_offline() -> None:
    service = Discovery([], [], lambda _: None)
    assert await service.publish(None) == []
    (one,) = await service.publish(["dht"])
    assert (one.sink, one.ok, one.error) == ("dht", False, "offline")
