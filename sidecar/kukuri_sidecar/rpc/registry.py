"""What a method is: ``@rpc`` turns a function into a ``Method`` whose signature is the schema.

The JSON-RPC rules are ``rpc.dispatch``'s business; here are ours: params by name only, unknown keys are
errors, the result is the declared struct and nothing else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from kukuri_sidecar.errors import InvalidParams, SidecarError
from kukuri_sidecar.rpc.api import NoParams

if TYPE_CHECKING:
    from kukuri_sidecar.rpc.server import Server

Id = str | int | float | None
Params = Mapping[str, object] | list[object]

_encoder = msgspec.json.Encoder()
_FIELD = re.compile(r"^Object (?:missing required|contains unknown) field `([^`]*)`")


class Call:
    """One request under way: who serves it, its id, and what has to wait until its answer is queued."""

    __slots__ = ("_after", "request_id", "server")

    def __init__(self, server: Server, request_id: Id) -> None:
        self.server = server
        self.request_id = request_id
        self._after: list[Callable[[], None]] = []

    def after_answer(self, action: Callable[[], None]) -> None:
        """Run ``action`` as soon as the answer is in the output lane, before anything else can follow it."""
        self._after.append(action)

    def answered(self) -> None:
        """Run the actions; the dispatcher calls this exactly once."""
        actions, self._after = self._after, []
        for action in actions:
            action()


class Method:
    """One method of the contract; call it with the parsed ``params`` of a request."""

    __slots__ = ("_takes_params", "doc", "early", "errors", "handler", "name", "params", "result")

    def __init__(
        self, name: str, handler: Callable[..., object], errors: tuple[type[SidecarError], ...], early: bool
    ) -> None:
        signature = inspect.signature(handler, eval_str=True)
        after_call = list(signature.parameters.values())[1:]
        self.name = name
        self.handler = handler
        self.errors = errors
        self.early = early
        self.params: type[Struct] = after_call[0].annotation if after_call else NoParams
        result: Any = signature.return_annotation  # Any: a Struct type, or Raw for JSON made elsewhere
        self.result = get_args(result)[0] if get_origin(result) is Awaitable else result
        self.doc = inspect.cleandoc(handler.__doc__ or "")
        self._takes_params = bool(after_call)

    def __call__(self, call: Call, params: Params) -> Raw | Awaitable[Raw]:
        """Check the params, run the handler, return the encoded result or an awaitable of it.

        Raises what the handler raises, InvalidParams with the path, TypeError when the result is not the
        declared one.
        """
        struct = self._decode(params)
        outcome = self.handler(call, struct) if self._takes_params else self.handler(call)
        if not isinstance(outcome, self.result) and inspect.isawaitable(outcome):
            return self._finish(outcome)
        return self._encode(outcome)

    async def _finish(self, outcome: Awaitable[object]) -> Raw:
        return self._encode(await outcome)

    def _encode(self, result: object) -> Raw:
        if not isinstance(result, self.result):
            raise TypeError(f"{self.name} returned {type(result).__name__}")
        return result if isinstance(result, Raw) else Raw(_encoder.encode(result))

    def _decode(self, params: Params) -> Struct:
        if isinstance(params, list):
            raise InvalidParams("params are passed by name", path="", reason="an object is expected")
        if "node_id" in params and "endpoint_id" in self.params.__struct_fields__:
            params = _renamed(params)
        try:
            return msgspec.convert(params, self.params)
        except msgspec.ValidationError as exc:
            path, reason = locate(str(exc))
            raise InvalidParams(f"{path}: {reason}" if path else reason, path=path, reason=reason) from None


def rpc(
    name: str, *, errors: Iterable[type[SidecarError]] = (), early: bool = False
) -> Callable[[Callable[..., object]], Method]:
    """Declare a method: ``(call, params: SomeParams) -> SomeResult``, plain or async; params may be left out.

    A plain function that returns an ``Awaitable[SomeResult]`` acts before the next request is looked at.
    ``errors`` are the kinds beyond those that any method may answer. ``early`` methods are served before
    ``initialize``, at once and without the JSON-RPC library; an early plain function never waits for others.
    """

    def declare(handler: Callable[..., object]) -> Method:
        return Method(name, handler, tuple(errors), early)

    return declare


def table(*methods: Method) -> dict[str, Method]:
    """Index the methods by name."""
    out = {method.name: method for method in methods}
    if len(out) != len(methods):
        raise ValueError("a method is declared twice")
    return out


def locate(message: str) -> tuple[str, str]:
    """Split a msgspec message into the field's path (``bootstrap[0]``; empty: the whole) and the reason."""
    reason, _, where = message.partition(" - at `")
    path = where.removesuffix("`").removeprefix("$").removeprefix(".")
    field = _FIELD.match(reason)
    if field:
        path = f"{path}.{field[1]}" if path else field[1]
    return path, reason


def _renamed(params: Mapping[str, object]) -> Mapping[str, object]:
    """Accept ``node_id`` for ``endpoint_id`` (api.md section 1)."""
    if "endpoint_id" in params:
        raise InvalidParams("node_id: the same as endpoint_id", path="node_id", reason="given twice")
    return {("endpoint_id" if key == "node_id" else key): value for key, value in params.items()}
