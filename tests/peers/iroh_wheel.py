"""A real iroh endpoint of the PyPI wheel, driven by JSON lines on stdio. Loopback only.

    python tests/peers/iroh_wheel.py ALPN        with PYTHONPATH at the wheel's folder

Events out: ready {id, addr} · accepted {peer, alpn} · uni {size, sha256} · reset {code} · closed {reason} ·
connected {peer, ms} · refused {error} · sent {size} · done. Commands in, one JSON object per line:
    {"do": "connect", "id": hex, "addr": "127.0.0.1:1", "alpn": "x"}    later commands use this connection
    {"do": "send_uni", "size": n, "seed": n}     {"do": "close", "code": n, "reason": "x"}
    {"do": "policy", "next": "accept" | "refuse" | "retry" | "ignore"}   for inbound connections
    {"do": "quit"}
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
import time

import iroh

MAX_BYTES = 1 << 24


def emit(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


class Peer:
    def __init__(self, alpn: str) -> None:
        self.alpn = alpn
        self.policy = "accept"
        self.connection: iroh.Connection | None = None
        self.tasks: set[asyncio.Task] = set()

    def spawn(self, work) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self) -> None:
        self.endpoint = await iroh.Endpoint.bind(
            iroh.EndpointOptions(
                preset=iroh.preset_minimal(),
                bind_addr="127.0.0.1:0",
                alpns=[self.alpn.encode()],
                relay_mode=iroh.RelayMode.disabled(),
            )
        )
        addr = self.endpoint.bound_sockets()[0]
        emit("ready", id=self.endpoint.id().to_bytes().hex(), addr=addr, wheel=iroh.__file__)
        self.spawn(self.accept())
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            action = command.pop("do")
            if action == "quit":
                break
            if action == "policy":
                self.policy = command["next"]
                emit("done")
            else:
                self.spawn(getattr(self, action)(**command))
        await self.endpoint.close()

    async def accept(self) -> None:
        while (incoming := await self.endpoint.accept_next()) is not None:
            if self.policy == "retry" and not await _value(incoming.remote_addr_validated()):
                await _value(incoming.retry())
                continue
            if self.policy in ("refuse", "ignore"):
                await _value(getattr(incoming, self.policy)())
                continue
            self.spawn(self.finish_accept(incoming))

    async def finish_accept(self, incoming) -> None:
        try:
            connection = await (await incoming.accept()).connect()
        except iroh.IrohError as error:
            emit("refused", error=error.message())
            return
        emit("accepted", peer=_id(connection), alpn=(await _value(connection.alpn())).decode())
        self.follow(connection)

    async def connect(self, id: str, addr: str, alpn: str) -> None:
        target = iroh.EndpointAddr(iroh.EndpointId.from_bytes(bytes.fromhex(id)), None, [addr])
        start = time.perf_counter()
        try:
            connection = await self.endpoint.connect(target, alpn.encode())
        except iroh.IrohError as error:
            emit("refused", error=error.message())
            return
        emit("connected", peer=_id(connection), ms=(time.perf_counter() - start) * 1e3)
        self.follow(connection)

    def follow(self, connection) -> None:
        self.connection = connection
        self.spawn(self.read_streams(connection))
        self.spawn(self.watch_close(connection))

    async def watch_close(self, connection) -> None:
        emit("closed", reason=str(await connection.closed()))

    async def read_streams(self, connection) -> None:
        while True:
            try:
                stream = await connection.accept_uni()
            except iroh.IrohError:
                return
            self.spawn(self.read(stream))

    async def read(self, stream) -> None:
        try:
            data = await stream.read_to_end(MAX_BYTES)
        except iroh.IrohError as error:
            emit("reset", error=error.message())
            return
        emit("uni", size=len(data), sha256=hashlib.sha256(data).hexdigest())

    async def send_uni(self, size: int, seed: int) -> None:
        stream = await self.connection.open_uni()
        await stream.write_all(random.Random(seed).randbytes(size))
        await stream.finish()
        emit("sent", size=size)

    async def close(self, code: int, reason: str) -> None:
        self.connection.close(code, reason.encode())
        emit("done")


async def _value(maybe_awaitable):
    """The wheels differ in what is async."""
    return await maybe_awaitable if asyncio.iscoroutine(maybe_awaitable) else maybe_awaitable


def _id(connection) -> str:
    return connection.remote_id().to_bytes().hex()


if __name__ == "__main__":
    try:
        asyncio.run(Peer(sys.argv[1]).run())
    finally:
        sys.stdout.flush()
        os._exit(0)  # the readline thread cannot be cancelled
