"""The DHT core: ``Engine`` with datagrams instead of messages.

    core = DhtCore(is_v6=False, bootstrap=addrs, rng=rng)
    effects = core.on_deadline(now)                     # the first walk home
    effects = core.handle(GetMutable(LookupId(1), key), now)

Feed it datagrams, commands and the time; do what it returns, in order. Remote input never raises.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.proto.dht.counters import DhtStatus
from kukuri_sidecar.proto.dht.engine import Engine
from kukuri_sidecar.proto.dht.events import (
    AddNodes,
    Cancel,
    Datagram,
    DhtEffect,
    DhtInput,
    NetworkChanged,
    PublicAddressSeen,
    Reconfigure,
    SendDatagram,
)
from kukuri_sidecar.proto.dht.outbox import Outgoing, SendMessage
from kukuri_sidecar.proto.dht.saved import SavedNode
from kukuri_sidecar.proto.dht.storage import Storage
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.krpc_decode import decode
from kukuri_sidecar.wire.krpc_encode import encode


class DhtCore:
    """A node of the Mainline DHT for one address family: ``Core[DhtInput, DhtEffect]``.

    ``bootstrap`` lists addresses to ask when nobody else is known; an own list makes a network of one's own.
    ``storage`` may be shared by the cores of both families.
    """

    def __init__(
        self,
        *,
        is_v6: bool,
        rng: Rng,
        config: DhtConfig | None = None,
        bootstrap: Sequence[SocketAddr] = (),
        saved: SavedNode | None = None,
        storage: Storage | None = None,
    ) -> None:
        config = config or DhtConfig()
        self._engine = Engine(
            is_v6=is_v6,
            config=config,
            bootstrap=bootstrap,
            saved=saved,
            storage=storage or Storage(config),
            rng=rng,
        )

    def handle(self, event: DhtInput, now: float) -> list[DhtEffect]:
        """Take one event; return what must be done, in order."""
        match event:
            case Datagram(sender, data):
                try:
                    message = decode(data)
                except DecodeError:
                    self._engine.counters.malformed += 1
                    return []
                return _encoded(self._engine.receive(sender, message, len(data), now))
            case Cancel() | AddNodes() | PublicAddressSeen() | NetworkChanged() | Reconfigure():
                return _encoded(self._engine.control(event, now))
            case _:
                return _encoded(self._engine.command(event, now))

    def deadline(self) -> float:
        """Return the next time ``on_deadline`` wants to run; in the past for a new core."""
        return self._engine.deadline()

    def on_deadline(self, now: float) -> list[DhtEffect]:
        """Let time pass up to ``now``; return what must be done, in order."""
        return _encoded(self._engine.on_deadline(now))

    def saved(self, now: float) -> SavedNode:
        """Return what the next core should be given as ``saved``."""
        return self._engine.saved(now)

    def status(self, now: float) -> DhtStatus:
        """Return counters and fill levels."""
        engine = self._engine
        good = sum(contact.is_good(now) for contact in engine.table)
        return DhtStatus(
            counters=dataclasses.replace(engine.counters),
            node_id=engine.table.own_id,
            nodes_good=good,
            nodes_dubious=len(engine.table) - good,
            network_size=engine.network_size,
            is_serving=engine.is_serving,
            fill=engine.fill(),
        )


def _encoded(effects: list[Outgoing]) -> list[DhtEffect]:
    return [
        SendDatagram(effect.to, encode(effect.message)) if isinstance(effect, SendMessage) else effect
        for effect in effects
    ]
