"""All providers at once, unstaggered, results merged as they come (iroh-wire.md 3.6)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

import anyio

from kukuri_sidecar.errors import DialTimeout, InternalError, NoAddresses, SidecarError
from kukuri_sidecar.node.discovery.provider import Discovered, DiscoveryProvider
from kukuri_sidecar.wire.ids import EndpointId

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_log = logging.getLogger(__name__)


class Race:
    """One question to several providers. What it has learnt so far can be read at any time.

    ``latency_s`` is when a provider's first usable find came; ``errors`` names the error kind of every
    provider that came to an end without one.
    """

    def __init__(self, endpoint_id: EndpointId, providers: Sequence[DiscoveryProvider]) -> None:
        self._endpoint_id = endpoint_id
        self._providers = providers
        self._started_at = 0.0
        self.latency_s: dict[str, float] = {}
        self.errors: dict[str, str] = {}

    async def run(
        self, found: Callable[[Discovered], None], *, timeout_s: float, until_first: bool = False
    ) -> None:
        """Tell ``found`` everything, until all providers are through, or one has found something.

        A provider that is not through in time has the error ``dial_timeout``; one whose work is cut short
        by another's find has none.
        """
        self._started_at = anyio.current_time()
        with anyio.move_on_after(timeout_s) as limit:
            async with anyio.create_task_group() as tasks:
                for provider in self._providers:
                    tasks.start_soon(self._ask, provider, found, tasks.cancel_scope if until_first else None)
        if limit.cancelled_caught:
            for provider in self._providers:
                if provider.name not in self.latency_s:
                    self.errors.setdefault(provider.name, DialTimeout.kind)

    async def _ask(
        self,
        provider: DiscoveryProvider,
        found: Callable[[Discovered], None],
        end: anyio.CancelScope | None,
    ) -> None:
        name = provider.name
        try:
            finds = cast("AsyncGenerator[Discovered]", provider.resolve(self._endpoint_id))
            async with aclosing(finds):
                async for discovered in finds:
                    if not (discovered.addresses or discovered.relay_urls):
                        continue
                    self.latency_s.setdefault(name, anyio.current_time() - self._started_at)
                    found(discovered)
                    if end:
                        end.cancel()
        except SidecarError as exc:
            if name not in self.latency_s:
                self.errors[name] = exc.kind
        except Exception:  # a supervisor: one provider's bug must not end the others
            _log.exception("discovery provider %s failed", name)
            self.errors[name] = InternalError.kind
        else:
            if name not in self.latency_s:
                self.errors[name] = NoAddresses.kind
