"""Finding peers by id and being found: every provider of the node, raced, and a publisher for each sink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskStatus

from kukuri_sidecar.errors import NoAddresses, Offline
from kukuri_sidecar.node.discovery.provider import Discovered, DiscoveryProvider
from kukuri_sidecar.node.discovery.publisher import Publication, Publisher
from kukuri_sidecar.node.discovery.race import Race
from kukuri_sidecar.node.events import Emit, EndpointFound
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId

RequestId = str | int | None


@dataclass(slots=True)
class Resolved:
    """What the sources say together; each address with those that named it."""

    addresses: dict[SocketAddr, list[str]] = field(default_factory=dict)
    relay_urls: dict[str, None] = field(default_factory=dict)
    latency_s: dict[str, float] = field(default_factory=dict)
    source_errors: dict[str, str] = field(default_factory=dict)


class Discovery:
    """``run`` keeps our records alive; everything else may be called before."""

    def __init__(
        self, providers: Sequence[DiscoveryProvider], publishers: Sequence[Publisher], emit: Emit
    ) -> None:
        self._providers = providers
        self._publishers = publishers
        self._emit = emit

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Publish until cancelled."""
        async with anyio.create_task_group() as tasks:
            for publisher in self._publishers:
                tasks.start_soon(publisher.run)
            task_status.started()
            await anyio.sleep_forever()

    @property
    def can_find(self) -> bool:
        """Say whether there is anybody to ask."""
        return bool(self._providers)

    def addresses_changed(self) -> None:
        """Publish soon where our record says something else now."""
        for publisher in self._publishers:
            publisher.changed()

    async def find(
        self, endpoint_id: EndpointId, found: Callable[[Discovered], None], timeout_s: float
    ) -> dict[str, str]:
        """Tell ``found`` what turns up, until every source is through; return the kinds of those that failed.

        Cancelling stops the search.
        """
        race = Race(endpoint_id, self._providers)
        await race.run(self._telling(found, None), timeout_s=timeout_s)
        return race.errors

    async def resolve(
        self,
        endpoint_id: EndpointId,
        sources: Sequence[str] | None,
        *,
        timeout_s: float,
        until_first: bool,
        request_id: RequestId,
    ) -> Resolved:
        """Ask the ``sources`` (None: all). NoAddresses when none of them found anything.

        Sources that do not run here are among the ``source_errors``.
        """
        chosen = [one for one in self._providers if sources is None or one.name in sources]
        race = Race(endpoint_id, chosen)
        latest: dict[str, Discovered] = {}

        def keep(discovered: Discovered) -> None:
            latest[discovered.provenance] = discovered

        await race.run(self._telling(keep, request_id), timeout_s=timeout_s, until_first=until_first)
        absent = [name for name in sources or () if name not in {one.name for one in chosen}]
        errors = race.errors | dict.fromkeys(absent, Offline.kind)
        if not latest:
            raise NoAddresses("no source knows where this endpoint is", source_errors=errors)
        resolved = Resolved(latency_s=race.latency_s, source_errors=errors)
        for source, discovered in latest.items():
            for address in discovered.addresses:
                resolved.addresses.setdefault(address, []).append(source)
            resolved.relay_urls |= dict.fromkeys(discovered.relay_urls)
        return resolved

    async def publish(self, sinks: Sequence[str] | None) -> list[Publication]:
        """Publish our record now in the ``sinks`` (None: all); those that do not run here are ``offline``."""
        chosen = [one for one in self._publishers if sinks is None or one.name in sinks]
        results: dict[str, Publication] = {}

        async def publish(publisher: Publisher) -> None:
            results[publisher.name] = await publisher.publish()

        async with anyio.create_task_group() as tasks:
            for publisher in chosen:
                tasks.start_soon(publish, publisher)
        names = dict.fromkeys(sinks if sinks is not None else [one.name for one in chosen])
        absent = {name: Publication(name, False, 0, Offline.kind, None) for name in names}
        return [results.get(name, absent[name]) for name in names]

    def _telling(
        self, found: Callable[[Discovered], None], request_id: RequestId
    ) -> Callable[[Discovered], None]:
        def tell(discovered: Discovered) -> None:
            self._emit(
                EndpointFound(
                    discovered.endpoint_id,
                    discovered.provenance,
                    discovered.addresses,
                    discovered.relay_urls,
                    request_id,
                )
            )
            found(discovered)

        return tell
