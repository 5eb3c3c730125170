"""A node without a network behind the facade that rpc uses; ``install`` puts it in the real one's place.

FAKE_NODE=<kind> makes ``open`` fail with that error kind, ``bind`` makes ``run`` fail, ``crash`` ends it a
little later, ``slow`` makes ``shutdown`` overrun every deadline.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import anyio
from anyio.abc import TaskStatus

from kukuri_sidecar import errors
from kukuri_sidecar.node.events import (
    Emit,
    EndpointFound,
    NeighborUp,
    NodeChanged,
    NodeInfo,
    Online,
    PeerState,
    RecordPublished,
    TopicChanged,
    TopicState,
)
from kukuri_sidecar.wire.addr import PeerHint, SocketAddr
from kukuri_sidecar.wire.hashes import message_id
from kukuri_sidecar.wire.ids import EndpointId, TopicId

OWN_ID = EndpointId(bytes(range(32)))
PEER_ID = EndpointId(bytes(32))
ADDRESS = SocketAddr("127.0.0.1", 4433)


@dataclass
class NodeOptions:
    data_dir: Any = None
    ephemeral: bool = False
    secret_key_seed: bytes | None = None
    config: dict[str, object] = field(default_factory=dict)


class JoinRequest(SimpleNamespace):
    """Whatever rpc asks for; mypy compares it with the real one."""


class Topics:
    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.joined: dict[TopicId, JoinRequest] = {}

    async def join(self, request: JoinRequest) -> Any:
        created = request.topic_id not in self.joined
        self.joined[request.topic_id] = request
        self.emit(TopicChanged(request.topic_id, TopicState.JOINED, 1, None, None))
        self.emit(NeighborUp(request.topic_id, PEER_ID))
        return SimpleNamespace(
            topic_id=request.topic_id,
            state=TopicState.JOINED,
            mode=request.mode or "auto",
            max_payload_bytes=4057,
            created=created,
        )

    async def leave(self, topic_id: TopicId) -> TopicState:
        if self.joined.pop(topic_id, None) is None:
            raise errors.UnknownTopic("this topic is not joined")
        self.emit(TopicChanged(topic_id, TopicState.LEFT, 0, None, None))
        return TopicState.LEFT

    def publish(self, topic_id: TopicId, payload: bytes, **options: Any) -> Any:
        if topic_id not in self.joined:
            raise errors.UnknownTopic("this topic is not joined")
        return SimpleNamespace(message_id=message_id(payload), state="accepted", neighbors=1)

    def list(self, topic_ids: Sequence[TopicId] | None) -> list[Any]:
        return [
            SimpleNamespace(
                topic_id=topic_id,
                name=request.name,
                state=TopicState.JOINED,
                mode="auto",
                path="direct",
                neighbors=(PEER_ID,),
                known_peers=1,
                missing_bootstrap=(),
                remember=False,
                max_payload_bytes=4057,
                join_attempts=1,
                next_attempt_at_ms=None,
                last_received_ms=None,
                messages_in=0,
                messages_out=0,
                invalid=0,
                last_error=None,
            )
            for topic_id, request in self.joined.items()
            if topic_ids is None or topic_id in topic_ids
        ]


class Peers:
    async def connect(self, hint: PeerHint, timeout_s: float) -> Any:
        if not hint.hosts:
            raise errors.NoAddresses("nothing dialable is known for this peer", source_errors={})
        return SimpleNamespace(endpoint_id=hint.endpoint_id, path="direct", address=ADDRESS, rtt_ms=1)

    async def disconnect(self, endpoint_id: EndpointId, *, forget: bool) -> bool:
        if endpoint_id != PEER_ID:
            raise errors.UnknownPeer("this endpoint id was never heard of")
        return True

    def list(self) -> list[Any]:
        return [
            SimpleNamespace(
                endpoint_id=EndpointId(bytes([index]) * 32),
                state=PeerState.CONNECTED if index % 2 else PeerState.DISCONNECTED,
                origins=("ticket",),
                path="direct" if index % 2 else None,
                address=ADDRESS,
                rtt_ms=1,
                topics=(),
                connected_ms=None,
                retry_at_ms=None,
                last_error=None,
                is_sidecar=False,
            )
            for index in (5, 3, 1, 2, 4)
        ]


class Discovery:
    """Knows one peer; asked for it, tells it as an event too."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit

    async def resolve(
        self,
        endpoint_id: EndpointId,
        sources: Sequence[str] | None,
        *,
        timeout_s: float,
        until_first: bool,
        request_id: str | int | None,
    ) -> Any:
        if endpoint_id != PEER_ID:
            raise errors.NoAddresses("nobody knows", source_errors={"dht": "no_addresses"})
        self.emit(EndpointFound(PEER_ID, "dht", (ADDRESS,), (), request_id))
        return SimpleNamespace(
            addresses={ADDRESS: ["dht"]}, relay_urls={}, latency_s={"dht": 0.64}, source_errors={}
        )

    async def publish(self, sinks: Sequence[str] | None) -> list[Any]:
        self.emit(RecordPublished("dht", True, None, 1_763_793_600_000))
        return [
            SimpleNamespace(sink=sink, ok=True, stored=20, error=None, next_at_ms=1_763_793_600_000)
            for sink in sinks or ["dht"]
        ]


class Node:
    def __init__(self, options: NodeOptions, emit: Emit) -> None:
        self.options = options
        self.emit = emit
        self.endpoint_id = OWN_ID
        self.config = SimpleNamespace(
            log=SimpleNamespace(level="info", format="json"), rendezvous=SimpleNamespace(schemes=["announce"])
        )
        self.opened = SimpleNamespace(identity="ephemeral", locked=(), warnings=(), restored_topics=0)
        self.topics = Topics(emit)
        self.peers = Peers()
        self.discovery = Discovery(emit)

    @classmethod
    async def open(cls, options: NodeOptions, emit: Emit) -> "Node":
        kind = os.environ.get("FAKE_NODE")
        for error in vars(errors).values():
            if isinstance(error, type) and issubclass(error, errors.SidecarError) and error.kind == kind:
                raise error("as asked", pid=1, field="net", index=None, operation="open")
        if kind == "bug":
            raise RuntimeError("secret text")
        if "bad" in options.config:
            raise errors.InvalidConfig("bad: unknown field", field="bad", index=None)
        return cls(options, emit)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        fault = os.environ.get("FAKE_NODE")
        if fault == "bind":
            raise errors.InvalidConfig("net.bind_v4: in use", field="net.bind_v4", index=None)
        task_status.started()
        self.emit(NodeChanged(self.info()))
        if fault == "crash":
            await anyio.sleep(0.05)
            raise RuntimeError("a bug of the node")
        await anyio.sleep_forever()

    def info(self) -> NodeInfo:
        return NodeInfo(
            OWN_ID, Online.LOCAL_ONLY, (ADDRESS,), ((ADDRESS, "interface"),), None, "unknown", ("a",)
        )

    def ticket(self, kind: str, include: str) -> tuple[str | None, str | None]:
        return (None, "no relay is in use") if include == "relay" else (f"{OWN_ID.hex()}@{ADDRESS}", None)

    async def shutdown(self, deadline_s: float) -> Any:
        if os.environ.get("FAKE_NODE") == "slow":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)
        left = len(self.topics.joined)
        return SimpleNamespace(graceful=True, left_topics=left, closed_connections=1, unsent_messages=0)


def install() -> None:
    """Replace the real modules before anything imports them."""
    for name, contents in (("node", (Node, NodeOptions)), ("topics", (JoinRequest,))):
        module = ModuleType(f"kukuri_sidecar.node.{name}")
        for content in contents:
            setattr(module, content.__name__, content)
        sys.modules[module.__name__] = module
