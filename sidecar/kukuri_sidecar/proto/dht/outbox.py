"""Where the parts of a node put what must happen: messages to send and notices for whoever owns the node."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from kukuri_sidecar.proto.dht.events import Notice
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.krpc import Error, Query, Response


class SendMessage(NamedTuple):
    """A message for the codec and then the socket."""

    to: SocketAddr
    message: Query | Response | Error


Outgoing: TypeAlias = SendMessage | Notice


class Outbox:
    """Effects in the order in which they were decided."""

    __slots__ = ("_effects",)

    def __init__(self) -> None:
        self._effects: list[Outgoing] = []

    def send(self, to: SocketAddr, message: Query | Response | Error) -> None:
        """Have ``message`` sent."""
        self._effects.append(SendMessage(to, message))

    def tell(self, notice: Notice) -> None:
        """Have the owner told."""
        self._effects.append(notice)

    def drain(self) -> list[Outgoing]:
        """Hand everything over."""
        effects, self._effects = self._effects, []
        return effects
