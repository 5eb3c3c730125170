"""Many deadlines, one task: whoever decides on the loop books a moment here and is called when it comes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import inf

import anyio
from anyio.abc import TaskStatus

from kukuri_sidecar.proto.core import Timers


class Agenda:
    """Keyed appointments in monotonic seconds; ``run`` calls them on the loop, in order, without awaiting."""

    def __init__(self) -> None:
        self._timers: Timers[Hashable] = Timers()
        self._actions: dict[Hashable, Callable[[float], None]] = {}
        self._armed = inf
        self._wake = anyio.Event()

    def set(self, key: Hashable, at: float, action: Callable[[float], None]) -> None:
        """Call ``action(now)`` at ``at``, replacing an earlier appointment of ``key``; ``inf`` cancels it."""
        if at == inf:
            self.cancel(key)
            return
        self._timers.set(key, at)
        self._actions[key] = action
        if at < self._armed:
            self._wake.set()

    def cancel(self, key: Hashable) -> None:
        """Drop the appointment of ``key``, if any."""
        self._timers.cancel(key)
        self._actions.pop(key, None)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the appointments until cancelled."""
        task_status.started()
        while True:
            self._armed = self._timers.deadline()
            with anyio.CancelScope(deadline=self._armed):
                await self._wake.wait()
            self._wake = anyio.Event()
            self._armed = -inf  # what is booked while we call out is looked at before we sleep again
            now = anyio.current_time()
            for _ in range(len(self._timers)):  # who books itself for now again comes after the other tasks
                if (key := self._timers.pop_due(now)) is None:
                    break
                self._actions.pop(key)(now)
