"""What the end-to-end tests share: several nodes at once, refusals, reads repeated until they are true."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
import pytest

from kukuri_sidecar.rpc import schema
from peers.sidecar import DEADLINE_S, Json, RpcError, Sidecar, sidecar

POLL_S = 0.02  # reads have no side effects (api.md section 1); only where no event tells
DOCUMENTED = {error.kind: (error.code, error.retryable) for error in schema.error_kinds()}


@asynccontextmanager
async def nodes(count: int, **options: Any) -> AsyncIterator[list[Sidecar]]:
    """Start ephemeral nodes on loopback side by side, all events subscribed."""
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(sidecar()) for _ in range(count)]
        async with anyio.create_task_group() as tasks:
            for host in hosts:
                tasks.start_soon(partial(host.initialize, **options))
        yield hosts


async def refused(host: Sidecar, kind: str, method: str, /, **params: Any) -> Json:
    """Expect the error `kind`; return its details."""
    return await refusal(host, kind, await host.send(method, **params))


async def refusal(host: Sidecar, kind: str, request_id: int | None) -> Json:
    """The same for a request under way; code and `retryable` must be the documented ones."""
    with pytest.raises(RpcError) as caught:
        await host.answer(request_id)
    error = caught.value
    assert error.kind == kind, error
    assert (error.code, error.is_retryable) == DOCUMENTED[kind]
    return error.details


async def until(read: Callable[[], Awaitable[Any]], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """Call `read` until it returns something true; return that."""
    found = None
    with anyio.move_on_after(timeout_s):
        while not (found := await read()):  # noqa: ASYNC110 - the event would have to cross a pipe
            await anyio.sleep(POLL_S)
    assert found, f"no {what} within {timeout_s} s"
    return found


async def topic_info(host: Sidecar, topic_id: str) -> Json:
    """The row of one topic."""
    (row,) = (await host.call("topic.list", topic_ids=[topic_id]))["topics"]
    return row


async def peer_info(host: Sidecar, endpoint_id: str) -> Json | None:
    """The row of one peer, None when it is not listed."""
    rows = (await host.call("peer.list", endpoint_id=endpoint_id))["peers"]
    return rows[0] if rows else None


async def close_stdin(host: Sidecar) -> int:
    """Hang up as a host does; return the exit code."""
    assert host.process.stdin is not None
    await host.process.stdin.aclose()
    return await ended(host)


async def ended(host: Sidecar) -> int:
    """Wait for the end of the process; return the exit code."""
    with anyio.fail_after(DEADLINE_S):
        return await host.process.wait()


@contextmanager
def black_hole() -> Iterator[str]:
    """Give an address that swallows every packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole:
        hole.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{hole.getsockname()[1]}"
