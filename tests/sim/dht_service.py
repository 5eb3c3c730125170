"""A stand-in for `node.dht.Dht` on the virtual clock: one store with the expiry of real nodes, no network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from kukuri_sidecar.node.dht import Finding
from kukuri_sidecar.proto.dht.events import (
    Command,
    Ending,
    GetMutable,
    ItemFound,
    LookupFinished,
    LookupId,
    LookupReport,
    PutMutable,
    WriteReport,
)
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import Target
from kukuri_sidecar.wire.mutable_item import MutableItem

ITEM_S = 7_200.0  # BEP 44: items may expire after two hours
LATENCY_S = 0.5
NODES = 20
SENDER = SocketAddr("192.0.2.1", 6881)


@dataclass(eq=False)
class SimDht:
    """``puts`` is what was stored when. ``is_up`` False: nobody answers."""

    is_up: bool = True
    puts: list[tuple[float, MutableItem]] = field(default_factory=list)
    attempts: list[float] = field(default_factory=list)
    replays: list[MutableItem] = field(default_factory=list)  # what liars answer with, before anybody else
    cancelled: int = 0
    _kept: dict[Target, tuple[MutableItem, float]] = field(default_factory=dict)

    def item(self, target: Target) -> MutableItem | None:
        kept = self._kept.get(target)
        return kept[0] if kept and anyio.current_time() < kept[1] else None

    def store(self, item: MutableItem) -> None:
        self._kept[item.target] = (item, anyio.current_time() + ITEM_S)

    @asynccontextmanager
    async def lookup(self, make: Callable[[LookupId], Command]) -> AsyncIterator[AsyncIterator[Finding]]:
        findings = self._findings(make(LookupId(1)))
        try:
            yield findings
        finally:
            await findings.aclose()

    async def _findings(self, command: Command) -> AsyncIterator[Finding]:
        try:
            await anyio.sleep(LATENCY_S)
        except BaseException:
            self.cancelled += 1
            raise
        if not self.is_up:
            if isinstance(command, PutMutable):
                self.attempts.append(anyio.current_time())
            yield _finished(command, Ending.NO_NODES, None)
            return
        if isinstance(command, PutMutable):
            self.attempts.append(anyio.current_time())
            kept = self.item(command.item.target)
            if kept and kept.is_newer_than(command.item):
                yield ItemFound(command.lookup, kept, SENDER)
                yield _finished(command, Ending.COMPLETE, WriteReport(0, 0, NODES, 0, 0))
                return
            self.store(command.item)
            self.puts.append((anyio.current_time(), command.item))
            yield _finished(command, Ending.COMPLETE, WriteReport(NODES, 0, 0, 0, 0))
            return
        assert isinstance(command, GetMutable)
        for item in self.replays:
            yield ItemFound(command.lookup, item, SENDER)
        kept = self.item(MutableItem(command.public_key, 0, b"", b"").target)  # type: ignore[arg-type]
        if kept:
            yield ItemFound(command.lookup, kept, SENDER)
        yield _finished(command, Ending.COMPLETE, None)


def _finished(command: Command, ending: Ending, write: WriteReport | None) -> LookupFinished:
    report = LookupReport(
        target=Target(bytes(20)),
        ending=ending,
        questions=NODES,
        answers=NODES,
        took_s=LATENCY_S,
        first_s=None,
        first_depth=None,
        closest=(),
        write=write,
    )
    return LookupFinished(command.lookup, report)
