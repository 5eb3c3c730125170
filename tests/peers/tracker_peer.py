"""Drive the crate distributed-topic-tracker (tests/peers/tracker-peer) from a test. Linux only.

async with tracker_dht(BOOTSTRAP), tracker_node(dht="127.9.8.7") as rust:
    await rust.command("track", topic="name", secret="secret")
    await rust.wait("neighbor_up")
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from peers.peer import RustPeer, binary


@asynccontextmanager
async def tracker_dht(bind: str, bootstrap: str | None = None) -> AsyncIterator[RustPeer]:
    """Run a DHT server of crate mainline at ``bind``."""
    more = [] if bootstrap is None else ["--bootstrap", bootstrap]
    async with _peer("dht", "--bind", bind, *more) as peer:
        yield peer


@asynccontextmanager
async def tracker_node(*, dht: str, rust_log: str = "warn") -> AsyncIterator[RustPeer]:
    """Run an iroh-gossip node whose DHT client takes the IP ``dht`` for every public bootstrap host."""
    async with _peer("node", "--dht", dht, rust_log=rust_log) as peer:
        yield peer


@asynccontextmanager
async def _peer(*arguments: str, rust_log: str = "warn") -> AsyncIterator[RustPeer]:
    program = binary().with_name("tracker-peer")
    if not program.exists():
        hint = "" if shutil.which("cargo") else " (cargo is missing too: install Rust from https://rustup.rs)"
        raise FileNotFoundError(f"{program}: build it with tests/peers/build_rust_peers.sh{hint}")
    process = await anyio.open_process([str(program), *arguments], env={**os.environ, "RUST_LOG": rust_log})
    peer = RustPeer(process)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer._read_events)
            tasks.start_soon(peer._read_log)
            peer.ready = await peer.wait("ready")
            yield peer
            await peer._end()
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:  # the test's own failure, not wrapped once per peer
            raise group.exceptions[0] from None
        raise
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.aclose()
