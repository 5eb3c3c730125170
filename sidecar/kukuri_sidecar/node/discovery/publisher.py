"""Keeps our record alive in one sink: on change, on schedule, and again soon when it failed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import anyio

from kukuri_sidecar.errors import DialTimeout, NoAddresses, SidecarError
from kukuri_sidecar.net.clock import Instants
from kukuri_sidecar.node.discovery.provider import DiscoveryProvider
from kukuri_sidecar.node.events import Emit, RecordPublished
from kukuri_sidecar.proto.backoff import backoff
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.wire.endpoint_info import EndpointData

DEBOUNCE_MIN_S = 0.5  # requirements.md 3.4: addresses change in bursts ...
DEBOUNCE_MAX_S = 1.0
JITTER = 0.1  # requirements.md 3.4: so that nodes that started together part
RETRY_MIN_S = 1.0  # at the start the DHT is not there yet
RETRY_MAX_S = 600.0
PUBLISH_TIMEOUT_S = 60.0  # ours: a put on the public DHT takes 2 to 10 s

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of publishing once. ``error`` is a kind; ``next_at_ms`` None: nothing is planned."""

    sink: str
    ok: bool
    stored: int
    error: str | None
    next_at_ms: int | None


class Publisher:
    """One sink's schedule. ``data`` says what may be published there right now; empty means nothing."""

    def __init__(
        self,
        sink: DiscoveryProvider,
        data: Callable[[], EndpointData],
        *,
        interval_s: float,
        emit: Emit,
        rng: Rng,
        instants: Instants,
    ) -> None:
        self._sink = sink
        self._data = data
        self._interval_s = interval_s
        self._emit = emit
        self._rng = rng
        self._instants = instants
        self._published: EndpointData | None = None  # what the sink was last told, successfully or not
        self._failures = 0
        self._due = inf
        self._earlier = anyio.Event()
        self._asked: list[anyio.Event] = []
        self._last: Publication | None = None

    @property
    def name(self) -> str:
        """The sink's name."""
        return self._sink.name

    async def run(self) -> None:
        """Publish whenever it is due, until cancelled."""
        while True:
            while anyio.current_time() < self._due:
                self._earlier = anyio.Event()
                with anyio.CancelScope(deadline=self._due):
                    await self._earlier.wait()
            asked, self._asked = self._asked, []
            self._due = inf
            self._last = await self._publish()
            for event in asked:
                event.set()

    def changed(self) -> None:
        """Publish within a second if there is something else to say: that withdraws the old addresses."""
        data = self._data()
        if data != (self._published or EndpointData()):
            pause = DEBOUNCE_MIN_S + (DEBOUNCE_MAX_S - DEBOUNCE_MIN_S) * self._rng.random()
            self._advance(anyio.current_time() + pause)

    async def publish(self) -> Publication:
        """Publish now and say what came of it."""
        done = anyio.Event()
        self._asked.append(done)
        self._advance(anyio.current_time())
        await done.wait()
        assert self._last is not None  # noqa: S101 - set before the event
        return self._last

    def _advance(self, due: float) -> None:
        if due < self._due:
            self._due = due
            self._earlier.set()

    async def _publish(self) -> Publication:
        self._published = data = self._data()
        if data == EndpointData():
            self._failures = 0
            return Publication(self.name, False, 0, NoAddresses.kind, None)
        stored, error = 0, None
        try:
            with anyio.fail_after(PUBLISH_TIMEOUT_S):
                stored = await self._sink.publish(data)
        except SidecarError as exc:
            error = exc.kind
            _log.info("our record was not published (%s): %s", self.name, exc.message)
        except TimeoutError:
            error = DialTimeout.kind
        now = anyio.current_time()
        if error is None:
            self._failures = 0
            pause = self._interval_s * (1 + JITTER * (2 * self._rng.random() - 1))
        else:
            self._failures += 1
            most_s = min(RETRY_MAX_S, self._interval_s)
            pause = backoff(self._failures, self._rng, least_s=RETRY_MIN_S, most_s=most_s)
        self._due = min(self._due, now + pause)  # it may have been asked for meanwhile
        publication = Publication(self.name, not error, stored, error, self._instants.at_ms(self._due, now))
        self._emit(RecordPublished(self.name, publication.ok, error, publication.next_at_ms))
        return publication
