"""Drive a real iroh-gossip node (tests/peers/iroh-peer) from a test.

    async with rust_peer() as a, rust_peer() as b:
        await a.join(TOPIC)
        await b.join(TOPIC, [a.address])
        await b.wait("neighbor_up")
        await a.publish(TOPIC, b"hello")
        assert await b.received(TOPIC) == b"hello"

Every line the peer prints is kept in `events`. `wait` takes the first fitting event that nobody has taken
yet: the order of waits is free and nothing is missed between two of them. Works on asyncio and on trio.
"""

import base64
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
from anyio.abc import ByteReceiveStream, Process
from blake3 import blake3

DEADLINE_S = 10.0  # loopback answers in milliseconds; two loaded cores need the rest
CLOSE_S = 10.0  # the peer itself gives up closing after 9 s
EOF_S = 5.0  # after EOF it is gone within 0.5 s

Event = dict[str, Any]  # one JSON line; its shape is documented in iroh-peer/src
Scope = Literal["swarm", "neighbors"]


class PeerError(Exception):
    """The peer answered a command with `error`; the text is its message."""


class PeerTimeout(AssertionError):
    """Nothing fitting came in time; the text shows what came instead."""


def binary() -> Path:
    """Where tests/peers/build_rust_peers.sh puts the program; KUKURI_RUST_PEER names another one."""
    if chosen := os.environ.get("KUKURI_RUST_PEER"):
        return Path(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = Path(os.environ.get("CARGO_TARGET_DIR") or cache / "kukuri-sidecar" / "cargo-target")
    return target / "debug" / ("iroh-peer.exe" if os.name == "nt" else "iroh-peer")


def payload(seed: int, index: int, size: int) -> bytes:
    """Payload number `index` of `publish_many(seed=seed)`, the same bytes as iroh-peer/src/payload.rs."""
    return blake3(seed.to_bytes(8, "little") + index.to_bytes(8, "little")).digest(length=size)


def payloads(seed: int, count: int, size: int) -> list[bytes]:
    """All payloads of one `publish_many`, in the order they are sent."""
    return [payload(seed, index, size) for index in range(count)]


@asynccontextmanager
async def rust_peer(
    *,
    bind: str = "127.0.0.1:0",
    secret_hex: str | None = None,
    max_message_size: int | None = None,
    dht: Sequence[str] = (),
    rust_log: str = "warn",
) -> AsyncIterator["RustPeer"]:
    """Start a peer and wait until it is bound; at the end close its stdin, then kill it by its own handle."""
    program = binary()
    if not program.exists():
        hint = "" if shutil.which("cargo") else " (cargo is missing too: install Rust from https://rustup.rs)"
        raise FileNotFoundError(f"{program}: build it with tests/peers/build_rust_peers.sh{hint}")
    command = [str(program), "--bind", bind]
    if secret_hex is not None:
        command += ["--secret-hex", secret_hex]
    if max_message_size is not None:
        command += ["--max-message-size", str(max_message_size)]
    if dht:
        command += ["--dht", ",".join(dht)]
    process = await anyio.open_process(command, env={**os.environ, "RUST_LOG": rust_log})
    peer = RustPeer(process)
    try:
        async with anyio.create_task_group() as tg:
            tg.start_soon(peer._read_events)
            tg.start_soon(peer._read_log)
            peer.ready = await peer.wait("ready")
            yield peer
            await peer._end()
            tg.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:  # the test's own failure, not wrapped once per peer
            raise group.exceptions[0] from None
        raise
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()


@dataclass(slots=True, eq=False)
class RustPeer:
    """One running peer. Commands wait for their answer and raise PeerError when it is an error."""

    process: Process
    ready: Event = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    _untaken: list[Event] = field(default_factory=list)
    _changed: anyio.Event = field(default_factory=anyio.Event)
    _last_id: int = 0

    @property
    def endpoint_id(self) -> str:
        """64 hex digits."""
        return str(self.ready["endpoint_id"])

    @property
    def ticket(self) -> str:
        """`endpoint…`, with the loopback address in it."""
        return str(self.ready["ticket"])

    @property
    def address(self) -> str:
        """`<endpoint id>@127.0.0.1:<port>`: what `bootstrap` lists and the sidecar take."""
        return f"{self.endpoint_id}@{self.ready['addresses'][0]}"

    @property
    def port(self) -> int:
        """The UDP port of the first socket."""
        return int(str(self.ready["addresses"][0]).rpartition(":")[2])

    # Commands

    async def join(self, topic_id: str, bootstrap: Sequence[str] = ()) -> bool:
        """Join, or send Join to more peers; true when the topic is new. Does not wait for a neighbour."""
        answer = await self.command("join", topic_id=topic_id, bootstrap=list(bootstrap))
        return bool(answer["created"])

    async def leave(self, topic_id: str) -> None:
        """Say goodbye to the topic."""
        await self.command("leave", topic_id=topic_id)

    async def publish(self, topic_id: str, content: bytes, scope: Scope = "swarm") -> None:
        """Hand one message to gossip. Upstream calls this a success even when nobody can get it."""
        text = base64.b64encode(content).decode()
        await self.command("publish", topic_id=topic_id, payload_b64=text, scope=scope)

    async def publish_many(
        self, topic_id: str, count: int, size: int, *, seed: int = 1, rate_per_s: float | None = None
    ) -> list[bytes]:
        """Publish `count` generated messages and return them; takes count / rate_per_s seconds."""
        more_s = count / rate_per_s if rate_per_s else 0.0
        fields = {"count": count, "size": size, "seed": seed, "rate_per_s": rate_per_s}
        await self.command("publish_many", within_s=DEADLINE_S + more_s, topic_id=topic_id, **fields)
        return payloads(seed, count, size)

    async def add_address(self, peer: str) -> None:
        """Teach it addresses of a peer (`id@host:port` or a ticket) without dialling."""
        await self.command("add_address", peer=peer)

    async def neighbors(self, topic_id: str) -> list[str]:
        """The ids of the present neighbours, sorted."""
        answer = await self.command("neighbors", topic_id=topic_id)
        return [str(peer) for peer in answer["neighbors"]]

    async def connect_probe(
        self, peer: str, alpn: str = "/iroh-gossip/1", *, timeout_s: float = 5.0, hold_s: float = 0.0
    ) -> Event:
        """Dial at endpoint level and hang up after `hold_s`. PeerError carries the QUIC or TLS reason."""
        fields = {"timeout_ms": round(timeout_s * 1000), "hold_ms": round(hold_s * 1000)}
        return await self.command("connect_probe", within_s=timeout_s + 1, peer=peer, alpn=alpn, **fields)

    async def stats(self) -> Event:
        """`connections {opened, closed, live}`, `topics`, the non-zero `gossip` and `endpoint` counters."""
        return await self.command("stats")

    async def close(self) -> None:
        """Leave all topics and close the endpoint; the process stays."""
        await self.command("close", within_s=CLOSE_S)

    def kill(self) -> None:
        """Vanish without a goodbye, as in a crash."""
        self.process.kill()

    async def command(self, name: str, *, within_s: float = DEADLINE_S, **fields: object) -> Event:
        """Send one command and return its `ok`; for commands that have no method here."""
        self._last_id += 1
        command_id = self._last_id
        await self.send({"id": command_id, "command": name, **fields})
        answer = await self.take(
            lambda event: event["event"] in ("ok", "error") and event.get("id") == command_id,
            f"the answer to {name}",
            within_s,
        )
        if answer["event"] == "error":
            raise PeerError(str(answer["message"]))
        return answer

    async def send(self, line: Event | str) -> None:
        """Write one line to stdin without waiting for anything."""
        assert self.process.stdin is not None
        text = line if isinstance(line, str) else json.dumps(line)
        await self.process.stdin.send(text.encode() + b"\n")

    # Waiting

    async def wait(self, name: str, *, within_s: float = DEADLINE_S, **fields: object) -> Event:
        """Take the next event of this name whose fields have these values."""

        def fits(event: Event) -> bool:
            return event["event"] == name and all(event.get(key) == value for key, value in fields.items())

        return await self.take(fits, f"{name} {fields or ''}", within_s)

    async def received(self, topic_id: str, *, within_s: float = DEADLINE_S) -> bytes:
        """Take the next message of a topic."""
        return content(await self.wait("received", within_s=within_s, topic_id=topic_id))

    async def received_many(self, topic_id: str, count: int, *, within_s: float = DEADLINE_S) -> list[bytes]:
        """Take `count` messages of a topic, in the order of delivery."""
        with anyio.move_on_after(within_s):
            while len(self._messages(topic_id)) < count:
                await self._changed.wait()
        taken = self._messages(topic_id)[:count]
        if len(taken) < count:
            raise PeerTimeout(self._story(f"{count} messages, got {len(taken)}"))
        ids = {id(event) for event in taken}
        self._untaken = [event for event in self._untaken if id(event) not in ids]
        return [content(event) for event in taken]

    async def take(self, fits: Callable[[Event], bool], what: str, within_s: float = DEADLINE_S) -> Event:
        """Take the first untaken event that fits."""
        start = 0
        with anyio.move_on_after(within_s):
            while True:
                for index in range(start, len(self._untaken)):
                    if fits(self._untaken[index]):
                        return self._untaken.pop(index)
                start = 0 if self._ended else len(self._untaken)
                if self._ended:
                    raise PeerTimeout(self._story(f"{what}: the peer has ended"))
                await self._changed.wait()
        raise PeerTimeout(self._story(f"{what} within {within_s} s"))

    async def wait_log(self, text: str, *, within_s: float = DEADLINE_S) -> str:
        """The first stderr line that contains `text`; start the peer with a fitting `rust_log`."""
        with anyio.move_on_after(within_s):
            while True:
                for line in self.log:
                    if text in line:
                        return line
                await self._changed.wait()
        raise PeerTimeout(self._story(f"log line with {text!r} within {within_s} s"))

    def seen(self, name: str, **fields: object) -> list[Event]:
        """All events so far of this name with these values, taken or not."""
        return [
            event
            for event in self.events
            if event["event"] == name and all(event.get(key) == value for key, value in fields.items())
        ]

    @property
    def _ended(self) -> bool:
        return bool(self.events) and self.events[-1]["event"] == "ended"

    def _messages(self, topic_id: str) -> list[Event]:
        return [e for e in self._untaken if e["event"] == "received" and e["topic_id"] == topic_id]

    def _story(self, missing: str) -> str:
        lines = [f"missing: {missing}", *(json.dumps(event)[:300] for event in self.events[-10:])]
        return "\n  ".join([*lines, *self.log[-10:]])

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _read_events(self) -> None:
        assert self.process.stdout is not None
        async for line in _lines(self.process.stdout):
            self._add(json.loads(line))
        self._add({"event": "ended"})

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in _lines(self.process.stderr):
            self.log.append(line.decode(errors="replace"))
            self._wake()

    def _add(self, event: Event) -> None:
        self.events.append(event)
        self._untaken.append(event)
        self._wake()

    async def _end(self) -> None:
        """EOF on stdin is the polite end; the caller kills what is left."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with anyio.move_on_after(EOF_S):
            await self.process.wait()


def content(event: Event) -> bytes:
    """The payload of a `received` event."""
    return base64.b64decode(event["payload_b64"])


async def _lines(stream: ByteReceiveStream) -> AsyncIterator[bytes]:
    parts: list[bytes] = []
    async for chunk in stream:
        *complete, rest = chunk.split(b"\n")
        for line in complete:
            yield b"".join([*parts, line])
            parts = []
        parts.append(rest)
