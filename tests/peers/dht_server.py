"""Run `kukuri-sidecar serve dht` beside a test: a private DHT on loopback.

async with dht_server("--nodes", "20") as dht:
    config = dht.config
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import Process

from peers.sidecar import DEADLINE_S, LOOPBACK, ROOT, Json, command

FORMING_S = 120.0  # 500 nodes take 15 s of one core, and the machine is shared


@dataclass(frozen=True, slots=True)
class RunningDht:
    """A bootstrap node, or a network of them."""

    process: Process
    addresses: list[str]

    @property
    def config(self) -> Json:
        """What a sidecar needs to be in this DHT and no other."""
        return private_dht(*self.addresses)


def private_dht(*addresses: str) -> Json:
    """Return the configuration of a sidecar on loopback that knows these bootstrap nodes."""
    return {**LOOPBACK, "dht": {"bootstrap_nodes": list(addresses)}}


@asynccontextmanager
async def dht_server(*arguments: str) -> AsyncIterator[RunningDht]:
    """Start it, wait until it has formed; at the end close its stdin and see it leave by itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "sidecar")}
    process = await anyio.open_process([*command(), "serve", "dht", *arguments], env=environment, stderr=None)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = b""
        with anyio.fail_after(FORMING_S):
            while not line.endswith(b"\n"):
                line += await process.stdout.receive()
        yield RunningDht(process, json.loads(line)["addresses"])
        await process.stdin.aclose()
        with anyio.fail_after(DEADLINE_S):
            assert await process.wait() in (0, -15)
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()
