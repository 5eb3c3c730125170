"""The node as one owned task: loads the heavy modules beside the loop, opens, runs, stops.

anyio appears here for the first time in the life of the process; everything before it is plain asyncio.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kukuri_sidecar.node.events import Emit
    from kukuri_sidecar.node.node import Node, NodeOptions, ShutdownReport

STOP_MARGIN_S = 0.5  # ours: how much a node may overrun its deadline before we give up on it

_log = logging.getLogger(__name__)


def load() -> None:
    """Do beside the loop whatever is not needed for the first answer, about 0.3 s.

    Plain import statements, so that a frozen build finds the modules.
    """
    import anyio.to_thread  # noqa: F401

    import kukuri_sidecar.node.node
    import kukuri_sidecar.rpc.events
    import kukuri_sidecar.wire.hashes
    import kukuri_sidecar.wire.ticket  # noqa: F401
    from kukuri_sidecar.rpc.dispatch import load_library
    from kukuri_sidecar.rpc.schema import openrpc_json

    load_library()
    openrpc_json()


class NodeTask:
    """At most one node. ``on_crash`` is called when it ends without having been asked to."""

    def __init__(self, on_crash: Callable[[], None]) -> None:
        self.node: Node | None = None
        self._on_crash = on_crash
        self._loop = asyncio.get_running_loop()
        self._loading: asyncio.Future[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[ShutdownReport | None] | None = None

    def start_loading(self) -> asyncio.Future[None]:
        """Begin to import in a thread, once; the result tells when it is done."""
        if self._loading is None:
            self._loading = self._loop.create_future()
            threading.Thread(target=self._load, args=(self._loading,), name="load", daemon=True).start()
        return self._loading

    async def open(self, options: NodeOptions, emit: Emit) -> Node:
        """Open the profile, start the node, return when its sockets are bound. On failure nothing is left."""
        from kukuri_sidecar.node.node import Node

        node = await Node.open(options, emit)
        is_bound: asyncio.Future[None] = self._loop.create_future()
        running = self._loop.create_task(self._run(node, is_bound))
        try:
            await asyncio.wait((is_bound, running), return_when=asyncio.FIRST_COMPLETED)
            if not is_bound.done():
                raise _cause(running.exception())
        except BaseException:
            running.cancel()
            await asyncio.wait((running,), timeout=STOP_MARGIN_S)
            await node.shutdown(0)
            raise
        self.node, self._running = node, running
        running.add_done_callback(self._on_end)
        return node

    def stop(self, deadline_s: float) -> asyncio.Task[ShutdownReport | None]:
        """Stop the node, once; the result is None when there was none or it did not stop in good order."""
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop(deadline_s))
        return self._stopping

    def _load(self, loading: asyncio.Future[None]) -> None:
        try:
            load()
        except Exception as exc:  # whoever waits for it gets it
            _log.exception("a module cannot be loaded")
            report = partial(loading.set_exception, exc)
        else:
            report = partial(loading.set_result, None)
        if not gc.isenabled():  # ``cli`` switched it off
            gc.freeze()  # modules live as long as the process: no collection looks at them again
            gc.enable()
        self._loop.call_soon_threadsafe(report)

    async def _run(self, node: Node, is_bound: asyncio.Future[None]) -> None:
        import anyio

        async with anyio.create_task_group() as tasks:
            await tasks.start(node.run)
            is_bound.set_result(None)

    def _on_end(self, running: asyncio.Task[None]) -> None:
        if self._stopping is None:
            exc = None if running.cancelled() else running.exception()
            _log.critical("the node ended by itself", exc_info=exc)
            self._on_crash()

    async def _stop(self, deadline_s: float) -> ShutdownReport | None:
        if self.node is None or self._running is None:
            return None
        report: ShutdownReport | None = None
        try:
            async with asyncio.timeout(deadline_s + STOP_MARGIN_S):
                report = await self.node.shutdown(deadline_s)
        except TimeoutError:
            _log.error("the node overran its deadline of %.1f s", deadline_s)
        except Exception:  # a supervisor: the process ends in any case
            _log.exception("the node failed to shut down")
        self._running.cancel()
        await asyncio.wait((self._running,), timeout=STOP_MARGIN_S)
        return report


def _cause(exc: BaseException | None) -> BaseException:
    """Unwrap the groups that task groups make of a single error."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc or RuntimeError("the node ended before its sockets were bound")
