"""Stand-in for node/node.py, only for the type checker: what rpc expects of the facade. Delete on merge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from anyio.abc import TaskStatus

from kukuri_sidecar.node.events import Emit, NodeInfo, PeerState, TopicState
from kukuri_sidecar.wire.addr import PeerHint, SocketAddr
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId

class Mode(StrEnum):
    RAW = "raw"
    AUTO = "auto"
    SIGNED = "signed"

@dataclass(frozen=True, slots=True)
class NodeOptions:
    data_dir: Path | None
    ephemeral: bool
    secret_key_seed: bytes | None
    config: Mapping[str, object]

@dataclass(frozen=True, slots=True)
class Opened:
    identity: Literal["loaded", "created", "host", "ephemeral"]
    locked: tuple[str, ...]
    warnings: tuple[str, ...]
    restored_topics: int

@dataclass(frozen=True, slots=True)
class ShutdownReport:
    graceful: bool
    left_topics: int
    closed_connections: int
    unsent_messages: int

@dataclass(frozen=True, slots=True)
class JoinRequest:
    topic_id: TopicId
    name: str | None
    bootstrap: tuple[PeerHint, ...]
    mode: Mode | None
    max_message_bytes: int | None

@dataclass(frozen=True, slots=True)
class Joined:
    topic_id: TopicId
    state: TopicState
    mode: Mode
    max_payload_bytes: int
    created: bool

@dataclass(frozen=True, slots=True)
class Published:
    message_id: MessageId
    state: Literal["accepted", "queued"]
    neighbors: int

@dataclass(frozen=True, slots=True)
class TopicInfo:
    topic_id: TopicId
    name: str | None
    state: TopicState
    mode: Mode
    path: str | None
    neighbors: tuple[EndpointId, ...]
    known_peers: int
    missing_bootstrap: tuple[EndpointId, ...]
    remember: bool
    max_payload_bytes: int
    join_attempts: int
    next_attempt_at_ms: int | None
    last_received_ms: int | None
    messages_in: int
    messages_out: int
    invalid: int
    last_error: str | None

@dataclass(frozen=True, slots=True)
class PeerInfo:
    endpoint_id: EndpointId
    state: PeerState
    origins: tuple[str, ...]
    path: str | None
    address: SocketAddr | None
    rtt_ms: int | None
    topics: tuple[TopicId, ...]
    connected_ms: int | None
    retry_at_ms: int | None
    last_error: str | None

@dataclass(frozen=True, slots=True)
class ConnectedPeer:
    endpoint_id: EndpointId
    path: str
    address: SocketAddr | None
    rtt_ms: int | None

class Topics:
    async def join(self, request: JoinRequest) -> Joined: ...
    async def leave(self, topic_id: TopicId) -> TopicState: ...
    def publish(
        self,
        topic_id: TopicId,
        payload: bytes,
        *,
        neighbors_only: bool,
        queue: bool,
        queue_ttl_s: float,
        confirm: bool,
    ) -> Published: ...
    def list(self, topic_ids: Sequence[TopicId] | None) -> list[TopicInfo]: ...

class Peers:
    async def connect(self, hint: PeerHint, timeout_s: float) -> ConnectedPeer: ...
    async def disconnect(self, endpoint_id: EndpointId, forget: bool) -> bool: ...
    def list(self) -> list[PeerInfo]: ...

class Node:
    opened: Opened
    endpoint_id: EndpointId
    topics: Topics
    peers: Peers
    @classmethod
    async def open(cls, options: NodeOptions, emit: Emit) -> Node: ...
    async def run(self, *, task_status: TaskStatus[None]) -> None: ...
    def info(self) -> NodeInfo: ...
    def ticket(
        self, kind: Literal["iroh", "address"], include: Literal["all", "direct", "relay"]
    ) -> tuple[str | None, str | None]: ...
    async def shutdown(self, deadline_s: float) -> ShutdownReport: ...
