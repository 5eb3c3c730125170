"""One process, one profile, one host: the life of the sidecar from the first byte to the exit code.

uninitialized -> running -> shutting down. Every end is one path (host-and-packaging.md section 5): short
answers still go out, the rest is answered `cancelled`, the network closes, the lanes are flushed, and
``EndWatch`` bounds all of it. Uses asyncio like ``rpc.stdio``; the node runs on anyio, in its own task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING

from kukuri_sidecar.errors import (
    AlreadyInitialized,
    IdentityCorrupt,
    InternalError,
    InvalidConfig,
    InvalidParams,
    NotInitialized,
    ProfileInUse,
    ProtocolMismatch,
    ShuttingDown,
    SidecarError,
    StorageError,
)
from kukuri_sidecar.net.clock import wall_ms
from kukuri_sidecar.rpc import api
from kukuri_sidecar.rpc.dispatch import Dispatcher, Handler
from kukuri_sidecar.rpc.feed import Feed
from kukuri_sidecar.rpc.framing import Framer, Framing
from kukuri_sidecar.rpc.lifetime import EXIT_INTERNAL_ERROR, HANG_UP, EndWatch
from kukuri_sidecar.rpc.logs import LogHandler, LogRing
from kukuri_sidecar.rpc.node_task import NodeTask
from kukuri_sidecar.rpc.outbox import Outbox
from kukuri_sidecar.rpc.registry import Call, Id
from kukuri_sidecar.rpc.stdio import Link

if TYPE_CHECKING:
    from kukuri_sidecar.node.events import NodeEvent
    from kukuri_sidecar.node.node import Node, NodeOptions, ShutdownReport

# Shares of the 1.5 s between a trigger and the end (host-and-packaging.md section 5); 0.1 s stay unused.
GRACE_S = 0.3  # short answers still go out
CANCEL_S = 0.1  # cancelled requests answer
NETWORK_S = 0.7
FLUSH_S = 0.3

LAG_PERIOD_S = 1.0  # ours: one wake-up per second costs nothing measurable
LAG_SAMPLES = 5

EXIT_CODES: dict[type[SidecarError], int] = {  # api.md section 3: stdin ended after a failed `initialize`
    InvalidParams: 2,
    ProtocolMismatch: 2,
    InvalidConfig: 2,
    StorageError: 2,
    ProfileInUse: 3,
    IdentityCorrupt: 4,
    InternalError: EXIT_INTERNAL_ERROR,
}

_log = logging.getLogger(__name__)


class State(Enum):
    """What is served."""

    UNINITIALIZED = "early methods"
    INITIALIZING = "early methods, no second initialize"
    RUNNING = "everything"
    SHUTTING_DOWN = "ping"


class Server:
    """Everything the methods see of the process, and the loop that ends it."""

    def __init__(
        self,
        methods: Mapping[str, Handler],
        end: EndWatch,
        logs: LogHandler,
        *,
        framing: Framing | None,
        started_at: float,
    ) -> None:
        self._methods = methods
        self._end = end
        self._logs = logs
        self._loop = asyncio.get_running_loop()
        self._started_at = started_at
        self._has_answered = False
        self._state = State.UNINITIALIZED
        self._exit_code = 0
        self._is_leaving = asyncio.Event()
        self._feed_timer: asyncio.TimerHandle | None = None
        self._lags: deque[float] = deque(maxlen=LAG_SAMPLES)
        self._nodes = NodeTask(self._on_crash)

        framer = Framer(framing)
        self.feed = Feed(self._wake)
        self._outbox = Outbox(self.feed, framer.wrap, self._wake)
        self._dispatcher = Dispatcher(
            methods,
            self._make_call,
            self._outbox.answer,
            wake=self._wake,
            may_start=lambda: self._outbox.has_room,
            refuse=self._refuse,
            on_error=self._on_error,
        )
        self._link = Link(
            framer,
            receive=self._dispatcher.receive,
            has_room=lambda: self._outbox.has_room and self._dispatcher.has_room,
            take=self._outbox.take,
            on_end=self._on_link_end,
            on_stuck=self._on_stuck,
            on_write=self._on_write,
        )

    async def run(self, stdin_fd: int, stdout_fd: int) -> int:
        """Serve until some reason to end; returns the exit code. What is still open then may be abandoned."""
        self._end.on_end(lambda: _threadsafe(self._loop, self._on_end))
        self._logs.on_line = self._on_log_line
        await self._link.start(stdin_fd, stdout_fd)
        await self._is_leaving.wait()
        _log.info("ending: %s", self._end.reason)
        self._link.close_input()
        await self._until(self._settled(), GRACE_S)
        self._state = State.SHUTTING_DOWN
        self._dispatcher.cancel_all()
        await self._until(self._dispatcher.idle(), CANCEL_S)
        await asyncio.wait((self._nodes.stop(NETWORK_S),), timeout=NETWORK_S)
        await self._until(self._link.flushed.wait(), FLUSH_S)
        return self._exit_code

    # --- What methods use

    @property
    def node(self) -> Node:
        """The running node."""
        if self._nodes.node is None:
            raise NotInitialized("call initialize first")
        return self._nodes.node

    @property
    def has_node(self) -> bool:
        """Say whether ``initialize`` has succeeded."""
        return self._nodes.node is not None

    @property
    def logs(self) -> LogRing:
        """The last log lines."""
        return self._logs.ring

    @property
    def openrpc(self) -> bytes:
        """The OpenRPC document."""
        from kukuri_sidecar.rpc.schema import openrpc_json

        return openrpc_json()

    @property
    def schema_hash(self) -> str:
        """The short name of the document."""
        from kukuri_sidecar.rpc.schema import schema_hash

        return schema_hash(self.openrpc)

    def uptime_ms(self) -> int:
        """Return how long this process serves."""
        return int((time.monotonic() - self._started_at) * 1000)

    def loop_lag_ms(self) -> int:
        """Return the worst recent delay of the loop."""
        return int(max(self._lags, default=0.0) * 1000)

    async def initialize(self, make_options: Callable[[], NodeOptions]) -> Node:
        """Load the heavy modules, then open the profile and start the node. After an error all is as before.

        ``make_options`` runs when the node's modules may be imported.
        """
        if self._state is State.SHUTTING_DOWN:
            raise ShuttingDown("the process is on its way out")
        if self._state is not State.UNINITIALIZED:
            raise AlreadyInitialized("the node runs already")
        self._state = State.INITIALIZING
        try:
            await asyncio.shield(self._nodes.start_loading())
            node = await self._nodes.open(make_options(), self.emit)
        except BaseException:
            if self._state is State.INITIALIZING:
                self._state = State.UNINITIALIZED
            raise
        if self._state is State.INITIALIZING:
            self._state = State.RUNNING
        self._exit_code = 0
        self._sample_lag(self._loop.time())
        self._logs.follow(node.config.log.level, node.config.log.format)
        _log.info("node %s runs", node.endpoint_id.short())
        return node

    def shutdown(self, deadline_s: float, caller: Call) -> Awaitable[ShutdownReport | None]:
        """Refuse new work and cancel what is in flight, at once; then stop the node.

        None: there was no report of it. Call ``leave`` when the answer is queued.
        """
        self._state = State.SHUTTING_DOWN
        self._dispatcher.cancel_all(but=caller)
        return asyncio.shield(self._nodes.stop(deadline_s))

    def leave(self) -> None:
        """End the process once the lanes are flushed."""
        self._exit_code = 0
        self._end.end("shutdown")

    # --- What the node calls

    def emit(self, event: NodeEvent) -> None:
        """Pass a node event on to the subscribers."""
        if self.feed.is_idle:
            return
        from kukuri_sidecar.rpc.events import translate

        self._publish(translate(event))

    # --- Inside

    def _make_call(self, request_id: Id) -> Call:
        return Call(self, request_id)

    def _refuse(self, handler: Handler) -> SidecarError | None:
        if self._state is State.SHUTTING_DOWN:
            is_ping = handler is self._methods.get("ping")
            return None if is_ping else ShuttingDown("the process is on its way out")
        if handler.early or self._state is State.RUNNING:
            return None
        return NotInitialized("call initialize first")

    def _on_error(self, name: str, error: SidecarError) -> None:
        if name == "initialize":
            self._exit_code = EXIT_CODES.get(type(error), self._exit_code)

    def _wake(self) -> None:
        self._link.wake()

    def _on_write(self) -> None:
        if not self._has_answered:  # the host has its first answer: now there is time to import the rest
            self._has_answered = True
            self._nodes.start_loading()

    def _publish(self, event: api.Event) -> None:
        self.feed.publish(event, self._loop.time(), wall_ms())
        self._arm_feed()

    def _arm_feed(self) -> None:
        deadline = self.feed.deadline()
        if self._feed_timer is None and deadline != math.inf:
            self._feed_timer = self._loop.call_at(deadline, self._on_feed_deadline)

    def _on_feed_deadline(self) -> None:
        self._feed_timer = None
        self.feed.on_deadline(self._loop.time())
        self._arm_feed()

    def _on_log_line(self, line: api.LogLine) -> None:
        """Any thread."""
        if not self.feed.is_idle:
            event = api.LogEvent(
                level=line.level, module=line.module, message=line.message, repeated=line.repeated
            )
            _threadsafe(self._loop, lambda: self._publish(event))

    def _sample_lag(self, due: float) -> None:
        now = self._loop.time()
        self._lags.append(max(0.0, now - due))
        self._loop.call_at(now + LAG_PERIOD_S, self._sample_lag, now + LAG_PERIOD_S)

    def _on_crash(self) -> None:
        self._exit_code = EXIT_INTERNAL_ERROR
        self._end.end("the node ended by itself")

    def _on_end(self) -> None:
        """A reason to end was noticed by some thread. After a hang-up, what the host wrote is read first."""
        if self._end.reason != HANG_UP or self._link.is_stuck:
            self._is_leaving.set()

    def _on_link_end(self, reason: str) -> None:
        self._end.end(reason)
        self._is_leaving.set()

    def _on_stuck(self) -> None:
        if self._end.reason is not None:
            self._is_leaving.set()

    async def _settled(self) -> None:
        """Wait until everything that was read is answered."""
        await self._link.caught_up.wait()
        await self._dispatcher.idle()

    async def _until(self, work: Awaitable[object], seconds: float) -> None:
        """Wait for ``work``, at most so long, and not at all for a host that does not read any more."""
        waits = {asyncio.ensure_future(work), asyncio.ensure_future(self._link.broken.wait())}
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


def _threadsafe(loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the process is about to end
        loop.call_soon_threadsafe(action)
