"""Real iroh-gossip of the PyPI wheel iroh 0.35 (/iroh-gossip/0), and nodes that carry a test's bytes to it.

    python tests/peers/gossip_0_wheel.py     with PYTHONPATH at the wheel's folder; Linux only

One *oracle* node runs the wheel's own gossip. *Carriers* are nodes of the same wheel whose protocol
/iroh-gossip/0 is replaced: they know frames, not gossip. Everything lives in a network namespace of its own,
without any interface but the loopback: nothing can leave this machine. Driven by JSON lines on stdio.

Events out: started {oracle, carriers: [{id, addresses}]} · ok {id} · error {id, error} ·
frame {carrier, topic, body} from the oracle · opened {carrier, by} · closed {carrier} ·
heard {topic, type, peer | peers | content, from} of the oracle's subscription.
Commands in, each with an `id` that its answer carries:
    {"do": "start", "carriers": n}     new nodes instead of those before, which forget nothing
    {"do": "subscribe", "topic": hex, "bootstrap": [id]}
    {"do": "publish", "topic": hex, "content": hex, "scope": "swarm" | "neighbors"}
    {"do": "send", "carrier": n, "topic": hex, "body": hex}     dials when there is no connection
    {"do": "hang_up", "carrier": n}                 {"do": "shut_down"}     the oracle, with goodbyes
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
ALPN = b"/iroh-gossip/0"
LIMIT_S = 10
LENGTH_BYTES, TOPIC_BYTES = 4, 32


def isolate() -> None:
    """Enter a network namespace with nothing but the loopback; before any thread is started."""
    flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWNET | CLONE_NEWUSER
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "no network namespace of our own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


isolate()
import iroh  # noqa: E402 - it starts threads
from iroh.iroh_ffi import uniffi_set_event_loop  # noqa: E402


def emit(event: str, **fields: object) -> None:
    if fields.get("carrier", 0) is None:
        return  # a node of the test before
    print(json.dumps({"event": event, **fields}), flush=True)


async def start_node(protocols: dict | None = None):
    return await iroh.Iroh.memory_with_options(
        iroh.NodeOptions(
            node_discovery=iroh.NodeDiscoveryConfig.NONE,
            ipv4_addr="127.0.0.1:0",
            ipv6_addr="[::1]:0",
            protocols=protocols,
        )
    )


class Carrier:
    """Bytes to and from the oracle over a real connection; one stream, as /iroh-gossip/0 has it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sender = None
        self.connection = None
        self.dialling = asyncio.Lock()

    async def start(self, oracle_addr) -> dict:
        self.oracle_addr = oracle_addr
        self.node = await start_node({ALPN: self})
        addr = await self.node.net().node_addr()
        return {"id": await self.node.net().node_id(), "addresses": addr.direct_addresses()}

    def create(self, _endpoint):
        return self

    async def shutdown(self) -> None: ...

    async def accept(self, connection) -> None:
        stream = await connection.accept_bi()
        await self.read(connection, stream, "oracle")

    async def send(self, topic: str, body: str) -> None:
        async with self.dialling:
            if self.sender is None:
                endpoint = self.node.node().endpoint()
                connection = await asyncio.wait_for(endpoint.connect(self.oracle_addr, ALPN), LIMIT_S)
                stream = await connection.open_bi()
                self.sender, self.connection = stream.send(), connection
                spawn(self.read(connection, stream, "carrier"))
        content = bytes.fromhex(topic) + bytes.fromhex(body)
        await self.sender.write_all(len(content).to_bytes(LENGTH_BYTES, "big") + content)

    async def read(self, connection, stream, by: str) -> None:
        self.sender, self.connection = stream.send(), connection
        emit("opened", carrier=self.number, by=by)
        receiver = stream.recv()
        try:
            while True:
                size = int.from_bytes(await receiver.read_exact(LENGTH_BYTES), "big")
                content = await receiver.read_exact(size)
                topic, body = content[:TOPIC_BYTES].hex(), content[TOPIC_BYTES:].hex()
                emit("frame", carrier=self.number, topic=topic, body=body)
        except iroh.IrohError:
            pass
        if self.connection is connection:
            self.sender = self.connection = None
        emit("closed", carrier=self.number)

    def hang_up(self) -> None:
        if self.connection is not None:
            self.connection.close(0, b"")


class Subscription:
    """One topic of the oracle."""

    def __init__(self, topic: str) -> None:
        self.topic = topic

    async def on_message(self, message) -> None:
        match message.type():
            case iroh.MessageType.RECEIVED:
                received = message.as_received()
                fields = {"type": "received", "content": received.content.hex()}
                emit("heard", topic=self.topic, **fields, **{"from": received.delivered_from})
            case iroh.MessageType.NEIGHBOR_UP:
                emit("heard", topic=self.topic, type="neighbor_up", peer=message.as_neighbor_up())
            case iroh.MessageType.NEIGHBOR_DOWN:
                emit("heard", topic=self.topic, type="neighbor_down", peer=message.as_neighbor_down())
            case iroh.MessageType.JOINED:
                emit("heard", topic=self.topic, type="joined", peers=message.as_joined())
            case other:
                emit("heard", topic=self.topic, type=str(other))


class Host:
    """The nodes of this process and the commands."""

    def __init__(self) -> None:
        self.oracle = None
        self.carriers: list[Carrier] = []
        self.senders: dict[str, object] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            number = command.pop("id")
            try:
                await asyncio.wait_for(getattr(self, command.pop("do"))(**command), LIMIT_S)
                emit("ok", id=number)
            except (TimeoutError, iroh.IrohError) as error:
                emit("error", id=number, error=str(error) or type(error).__name__)

    async def start(self, carriers: int) -> None:
        for carrier in self.carriers:
            carrier.number = None
        for node in [self.oracle, *(carrier.node for carrier in self.carriers)]:
            if node is not None:
                spawn(node.node().shutdown())
        self.senders.clear()
        self.oracle = await start_node()
        address = await self.oracle.net().node_addr()
        self.carriers = [Carrier(number) for number in range(carriers)]
        started = [await carrier.start(address) for carrier in self.carriers]
        emit("started", oracle=await self.oracle.net().node_id(), carriers=started)

    async def subscribe(self, topic: str, bootstrap: list[str]) -> None:
        callback = Subscription(topic)
        gossip = self.oracle.gossip()
        self.senders[topic] = await gossip.subscribe(bytes.fromhex(topic), bootstrap, callback)

    async def publish(self, topic: str, content: str, scope: str) -> None:
        sender = self.senders[topic]
        send = sender.broadcast if scope == "swarm" else sender.broadcast_neighbors
        await send(bytes.fromhex(content))

    async def send(self, carrier: int, topic: str, body: str) -> None:
        await self.carriers[carrier].send(topic, body)

    async def hang_up(self, carrier: int) -> None:
        self.carriers[carrier].hang_up()

    async def shut_down(self) -> None:
        await self.oracle.node().shutdown()


tasks: set[asyncio.Task] = set()


def spawn(work) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def main() -> None:
    uniffi_set_event_loop(asyncio.get_running_loop())
    await Host().run()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    finally:
        sys.stdout.flush()
        os._exit(0)  # the readline thread and the wheel's own cannot be cancelled
