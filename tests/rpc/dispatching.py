"""A dispatcher over a handful of toy methods, driven by bytes."""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
from msgspec import Raw

from kukuri_sidecar.errors import InvalidParams
from kukuri_sidecar.rpc.dispatch import Dispatcher
from kukuri_sidecar.rpc.framing import Fault
from kukuri_sidecar.rpc.registry import Call

Json = Any  # what JSON holds


class Toy:
    """A plain function as a method: positional params too, whatever it returns becomes JSON."""

    def __init__(self, function: Callable[..., Any], *, early: bool = False) -> None:
        self.function = function
        self.early = early

    def __call__(self, call: Call, params: Json) -> Raw | Awaitable[Raw]:
        args, kwargs = (params, {}) if isinstance(params, list) else ([], params)
        try:
            inspect.signature(self.function).bind(*args, **kwargs)
        except TypeError as exc:
            raise InvalidParams("params do not fit", path="", reason=str(exc)) from None
        outcome = self.function(*args, **kwargs)
        return self._finish(outcome) if inspect.isawaitable(outcome) else self._encode(outcome)

    async def _finish(self, outcome: Awaitable[object]) -> Raw:
        return self._encode(await outcome)

    def _encode(self, value: object) -> Raw:
        return Raw(msgspec.json.encode(value))


class Careless(Toy):
    """Forgets to encode its result."""

    def _encode(self, value: object) -> Raw:
        return value  # type: ignore[return-value]


class Desk:
    """A dispatcher and the answers it has given."""

    def __init__(self, methods: dict[str, Toy], **options: Any) -> None:
        self.answers: list[Json] = []
        self.calls: list[Call] = []
        self.dispatcher = Dispatcher(methods, self._call, self._take, **options)

    def _call(self, request_id: Any) -> Call:
        self.calls.append(Call(None, request_id))  # type: ignore[arg-type]
        return self.calls[-1]

    def _take(self, body: bytes) -> None:
        self.answers.append(json.loads(body))

    def send(self, *messages: Json) -> None:
        for message in messages:
            is_frame = isinstance(message, bytes | Fault)
            self.dispatcher.receive(message if is_frame else json.dumps(message).encode())

    async def turns(self, count: int = 10) -> None:
        """Let the loop turn, for what must not happen meanwhile."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def settle(self) -> list[Json]:
        """Wait until nothing executes or waits; return the answers since the last time."""
        async with asyncio.timeout(5):
            await self.dispatcher.idle()
        answers, self.answers = self.answers, []
        return answers

    async def talk(self, *messages: Json) -> list[Json]:
        self.send(*messages)
        return await self.settle()


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def request(request_id: Json, method: str, params: Json = None) -> Json:
    message = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return message if params is None else {**message, "params": params}


def kinds(answers: list[Json]) -> list[str]:
    return [answer["error"]["data"]["kind"] if "error" in answer else "ok" for answer in answers]
