"""Drive the real sidecar process from a test, as a host does: JSON lines on its stdin and stdout.

    async with sidecar() as a:
        await a.initialize(ephemeral=True)
        await a.call("topic.join", topic="demo")
        await a.wait("topic.state", state="isolated")

Every event is kept in `events`; `wait` takes the first fitting one that nobody has taken yet. By default the
unfrozen program runs; KUKURI_SIDECAR_BIN or `frozen=True` chooses the binary.
"""

import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process

ROOT = Path(__file__).parents[2]
BINARY = ROOT / "dist" / "kukuri-sidecar" / "kukuri-sidecar"
DEADLINE_S = 10.0
LOOPBACK = {"net": {"bind_v4": "127.0.0.1:0", "bind_v6": None}}

Json = dict[str, Any]  # what JSON holds


class RpcError(Exception):
    """An error answer; `kind` is what hosts switch on."""

    def __init__(self, error: Json) -> None:
        super().__init__(f"{error['code']} {error['message']} {error.get('data')}")
        self.code: int = error["code"]
        self.kind: str = error["data"]["kind"]
        self.is_retryable: bool = error["data"]["retryable"]
        self.details: Json = error["data"]["details"]


def command(frozen: bool = False) -> list[str]:
    """How to start the sidecar; a missing binary is a failure, never a skip."""
    if chosen := os.environ.get("KUKURI_SIDECAR_BIN"):
        return [chosen]
    if frozen:
        if not BINARY.exists():
            raise FileNotFoundError("the frozen binary is missing: run make binary")
        return [str(BINARY)]
    return [sys.executable, "-m", "kukuri_sidecar"]


@asynccontextmanager
async def sidecar(
    *arguments: str, frozen: bool = False, env: dict[str, str] | None = None
) -> AsyncIterator["Sidecar"]:
    """Start a sidecar; at the end close its stdin and see it leave by itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "sidecar"), **(env or {})}
    process = await anyio.open_process([*command(frozen), *arguments], env=environment)
    host = Sidecar(process)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host._read_stdout)
            tasks.start_soon(host._read_stderr)
            yield host
            if process.returncode is None:
                assert process.stdin is not None
                await process.stdin.aclose()
                with anyio.fail_after(DEADLINE_S):
                    await process.wait()
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


@asynccontextmanager
async def node(
    *, frozen: bool = False, config: Json | None = None, **options: Any
) -> AsyncIterator["Sidecar"]:
    """Start a sidecar with all events subscribed and an ephemeral node on loopback."""
    async with sidecar(frozen=frozen) as host:
        await host.initialize(config=config, **options)
        yield host


@dataclass(slots=True, eq=False)
class Sidecar:
    """One running sidecar."""

    process: Process
    info: Json = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    last_seq: int = 0
    _untaken: list[Json] = field(default_factory=list)
    _answers: dict[int | None, Json] = field(default_factory=dict)
    _changed: anyio.Event = field(default_factory=anyio.Event)
    _may_read: anyio.Event = field(default_factory=anyio.Event)
    _last_id: int = 0

    def __post_init__(self) -> None:
        self._may_read.set()

    @property
    def endpoint_id(self) -> str:
        return str(self.info["endpoint_id"])

    @property
    def address(self) -> str:
        """`<endpoint id>@127.0.0.1:<port>`."""
        return f"{self.endpoint_id}@{self.info['addresses'][0]['address']}"

    async def initialize(self, *, config: Json | None = None, **options: Any) -> Json:
        """Subscribe to everything, then open a node on loopback; ephemeral unless a data_dir is given."""
        await self.call("events.subscribe")
        if "data_dir" not in options:
            options.setdefault("ephemeral", True)
        merged = {**LOOPBACK, **(config or {})}
        answer = await self.call("initialize", api_version=1, config=merged, **options)
        self.info = await self.call("node.info")
        return answer

    async def call(self, method: str, **params: Any) -> Json:
        """Send a request and return its result; RpcError when the answer is an error."""
        return await self.answer(await self.send(method, **params))

    async def send(self, method: str, **params: Any) -> int:
        """Send a request without waiting; `answer` takes its id."""
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        await self.send_raw(json.dumps(request).encode() + b"\n")
        return self._last_id

    async def send_raw(self, data: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send(data)

    async def answer(self, request_id: int | None, timeout_s: float = DEADLINE_S) -> Json:
        await self._until(lambda: request_id in self._answers, f"answer to {request_id}", timeout_s)
        answer = self._answers.pop(request_id)
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    def stop_reading(self) -> None:
        """Leave what the sidecar writes in its pipe, as a host does that hangs."""
        self._may_read = anyio.Event()

    def read_on(self) -> None:
        """Read again."""
        self._may_read.set()

    async def join(self, topic_id: str, *bootstrap: str, **more: Any) -> Json:
        return await self.call("topic.join", topic_id=topic_id, bootstrap=list(bootstrap), **more)

    async def publish(self, topic_id: str, payload: bytes, **more: Any) -> Json:
        return await self.call(
            "topic.publish", topic_id=topic_id, payload_b64=base64.b64encode(payload).decode(), **more
        )

    async def publish_batch(self, topic_id: str, payloads: list[bytes], **more: Any) -> list[Json]:
        """Publish up to 50 messages in one JSON-RPC batch."""
        requests = []
        for payload in payloads:
            self._last_id += 1
            params = {"topic_id": topic_id, "payload_b64": base64.b64encode(payload).decode(), **more}
            requests.append(
                {"jsonrpc": "2.0", "id": self._last_id, "method": "topic.publish", "params": params}
            )
        await self.send_raw(json.dumps(requests).encode() + b"\n")
        return [await self.answer(request["id"]) for request in requests]

    async def wait(self, type_: str, timeout_s: float = DEADLINE_S, **fields: Any) -> Json:
        """Take the first fitting event that nobody has taken yet."""

        def find() -> Json | None:
            for event in self._untaken:
                if event["type"] == type_ and all(event.get(key) == value for key, value in fields.items()):
                    return event
            return None

        await self._until(lambda: find() is not None, f"{type_} {fields}", timeout_s)
        event = find()
        assert event is not None
        self._untaken.remove(event)
        return event

    def messages(self, topic_id: str) -> list[bytes]:
        """Every payload delivered in the topic so far, in order."""
        return [
            base64.b64decode(event["payload_b64"])
            for event in self.events
            if event["type"] == "topic.message" and event["topic_id"] == topic_id
        ]

    async def wait_messages(self, topic_id: str, count: int, timeout_s: float = 30.0) -> list[bytes]:
        """Wait until `count` messages of the topic are there; the error says how many came."""
        with anyio.move_on_after(timeout_s):
            while len(self.messages(topic_id)) < count:
                await self._changed.wait()
            return self.messages(topic_id)
        raise AssertionError(f"{len(self.messages(topic_id))} of {count} messages within {timeout_s} s")

    async def _until(self, is_true: Callable[[], bool], what: str, timeout_s: float) -> None:
        with anyio.move_on_after(timeout_s):
            while not is_true():
                if self.process.returncode is not None:
                    break
                await self._changed.wait()
            if is_true():
                return
        if not is_true():
            seen = "\n".join(json.dumps(event) for event in self._untaken[-12:])
            log = "\n".join(self.log[-12:])
            raise AssertionError(f"no {what} within {timeout_s} s; untaken events:\n{seen}\nlog:\n{log}")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        buffer = b""
        async for chunk in self.process.stdout:
            await self._may_read.wait()
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                for part in message if isinstance(message, list) else [message]:
                    self._take(part)
            self._wake()
        self._wake()

    def _take(self, message: Json) -> None:
        if message.get("method") == "event":
            event = message["params"]
            self.last_seq = event["seq"]
            self.events.append(event)
            self._untaken.append(event)
        else:
            self._answers[message.get("id")] = message

    async def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            self.log += chunk.decode(errors="replace").splitlines()
