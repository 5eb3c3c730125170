"""What the endpoint core tells its owner. Every event names its connection."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kukuri_sidecar.errors import SidecarError

if TYPE_CHECKING:
    from kukuri_sidecar.proto.quic.connection import ConnectionCore


class LossKind(StrEnum):
    """Why a connection ended."""

    IDLE = "idle"  # nothing arrived for the idle time, or no path was left
    CLOSED = "closed"  # a close by the peer, or by our library because the peer broke the protocol
    RESET = "reset"  # the peer lost its state (stateless reset)
    LOCAL = "local"  # we closed it


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """How a connection ended. ``code`` is an application code unless ``is_transport``."""

    code: int
    reason: str
    by_peer: bool
    kind: LossKind
    is_transport: bool = False


@dataclass(frozen=True, slots=True)
class Established:
    """The connection lives and its peer is proven: a dial came through, or an inbound handshake is done."""

    connection: ConnectionCore


@dataclass(frozen=True, slots=True)
class DialFailed:
    """The dial is over without a connection; ``error`` is what the caller gets."""

    connection: ConnectionCore
    error: SidecarError


@dataclass(slots=True)
class StreamData:
    """Bytes in order; ``end`` when the stream is complete. Give ``len(data)`` back with ``consume``."""

    connection: ConnectionCore
    stream_id: int
    data: bytes
    end: bool


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer abandoned its sending side; its credit is already returned."""

    connection: ConnectionCore
    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class StreamStopped:
    """The peer does not want our data (STOP_SENDING); our sending side is over."""

    connection: ConnectionCore
    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """Acknowledgements arrived: backlogs may have fallen."""

    connection: ConnectionCore


@dataclass(frozen=True, slots=True)
class Closed:
    """An established connection ended; its last event."""

    connection: ConnectionCore
    lost: ConnectionLost


QuicEvent = Established | DialFailed | StreamData | StreamReset | StreamStopped | Progressed | Closed
