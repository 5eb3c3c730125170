"""JSON-RPC 2.0 requests: split batches, limit, cancel, answer each exactly once.

The only user of jsonrpcserver. The library alone fails 7 of our 22 conformance cases and costs 83 ms to
import, so everything around the call of a method is ours, ``early`` methods never touch it, and it can be
replaced in ``_through_library``. Uses asyncio, not anyio: so does the library, and the first answer leaves
before anyio is imported.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import cache
from types import ModuleType
from typing import Any, Protocol

from msgspec import Raw

from kukuri_sidecar.errors import (
    Cancelled,
    InternalError,
    InvalidRequest,
    LimitReached,
    MethodNotFound,
    ParseError,
    SidecarError,
)
from kukuri_sidecar.rpc.framing import Frame
from kukuri_sidecar.rpc.messages import answer, classify, failure, id_of, parse
from kukuri_sidecar.rpc.registry import Call, Id, Params
from kukuri_sidecar.stand_ins import stand_ins

MAX_BATCH = 50  # api.md section 2
MAX_EXECUTING = 32  # api.md section 2
MAX_WAITING = 256  # api.md section 2
MAX_HELD_BYTES = 8 << 20  # ours: 288 requests of 1 MiB would be 300 MB; beyond it stdin is not read

_CANCEL = {"$/cancelRequest": "id", "notifications/cancelled": "requestId"}  # as in LSP, as in MCP

_log = logging.getLogger(__name__)


class Handler(Protocol):
    """A method: checks the params, returns encoded JSON or an awaitable of it."""

    @property
    def early(self) -> bool:
        """Say whether it is served at once and without the library."""
        ...

    def __call__(self, call: Call, params: Params) -> Raw | Awaitable[Raw]:
        """Perform one request; SidecarError is an answer, any other exception a bug."""
        ...


class Dispatcher:
    """Turns frames into answers.

    ``send`` takes an answer. ``wake`` is called whenever a request has ended, answer or not. ``may_start``
    says whether more answers may be produced. ``refuse`` says why a method is not served right now,
    ``on_error`` hears of the errors of known methods.
    """

    def __init__(
        self,
        methods: Mapping[str, Handler],
        make_call: Callable[[Id], Call],
        send: Callable[[bytes], None],
        *,
        wake: Callable[[], None] = lambda: None,
        may_start: Callable[[], bool] = lambda: True,
        refuse: Callable[[Handler], SidecarError | None] = lambda _handler: None,
        on_error: Callable[[str, SidecarError], None] = lambda _name, _error: None,
    ) -> None:
        self._methods = methods
        self._make_call = make_call
        self._send = send
        self._wake = wake
        self._may_start = may_start
        self._refuse = refuse
        self._on_error = on_error
        self._requests: set[_Request] = set()  # what executes or waits
        self._by_id: dict[tuple[type, Id], _Request] = {}
        self._waiting: deque[_Request] = deque()
        self._executing = 0
        self._held_bytes = 0
        self._is_pumping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.requests = 0
        self.errors = 0

    @property
    def has_room(self) -> bool:
        """Say whether another frame may be received."""
        return self._held_bytes < MAX_HELD_BYTES

    async def idle(self) -> None:
        """Wait until nothing executes or waits."""
        await self._idle.wait()

    def receive(self, frame: Frame) -> None:
        """Take one frame; what can be answered at once is sent before this returns."""
        try:
            message = parse(frame)
        except ParseError as exc:
            return self._send(self._failure(None, exc))
        size = len(frame) if isinstance(frame, bytes) else 0
        if not isinstance(message, list):
            self._one(message, self._reply, size)
        elif 1 <= len(message) <= MAX_BATCH:
            batch = _Batch(len(message), self._reply)
            for index, member in enumerate(message):
                self._one(member, batch.slot(index), size // len(message))
        else:
            reason = f"a batch has 1 to {MAX_BATCH} requests, not {len(message)}"
            self._send(self._failure(None, InvalidRequest(reason, reason=reason)))

    def pump(self) -> None:
        """Start waiting requests; call it when more answers may be produced."""
        if self._is_pumping:
            return  # a refused request ends inside the loop below; no recursion of 256 levels
        self._is_pumping = True
        while self._waiting and self._executing < MAX_EXECUTING and self._may_start():
            self._start(self._waiting.popleft())
        self._is_pumping = False

    def cancel_all(self, but: Call | None = None) -> None:
        """Cancel whatever executes or waits; all of it is answered."""
        for request in tuple(self._requests):
            if request.call is not but:
                self._cancel(request)

    # --- From message to request

    def _one(self, message: object, reply: _Reply, size: int) -> None:
        kind = classify(message)
        if kind == "answer":
            return reply(None)  # we never ask
        if kind == "invalid" or not isinstance(message, dict):
            reason = "not a JSON-RPC 2.0 request"
            return reply(self._failure(id_of(message), InvalidRequest(reason, reason=reason)))
        self.requests += 1
        name: str = message["method"]
        params: Params = message.get("params", {})
        if kind == "notification" and name in _CANCEL:
            self._cancel_by_id(params, _CANCEL[name])
            return reply(None)
        call = self._make_call(message.get("id"))
        request = _Request(name, params, call, reply, size, wants_answer=kind == "request")
        handler = self._methods.get(name)
        if handler is None:
            return self._finish(request, MethodNotFound(f"no method {name[:64]!r}"))
        if request.key in self._by_id:
            reason = "a request with this id is in flight"
            return self._finish(request, InvalidRequest(reason, reason=reason))
        error = self._refuse(handler)
        if error is not None:
            return self._finish(request, error)
        request.handler = handler
        if handler.early:
            self._perform_early(request)
        else:
            self._admit(request)

    def _perform_early(self, request: _Request) -> None:
        try:
            outcome = request.handler(request.call, request.params)
            if isinstance(outcome, Raw):
                return self._finish(request, outcome)
            if not inspect.isawaitable(outcome):
                raise TypeError(f"{request.name} returned {type(outcome).__name__}")
        except Exception as exc:  # the RPC boundary
            return self._finish(request, _as_error(exc, request.name))
        self._track(request)
        self._run(request, _await_early(request, outcome))

    def _admit(self, request: _Request) -> None:
        if self._executing < MAX_EXECUTING and not self._waiting and self._may_start():
            self._track(request)
            self._start(request)
        elif len(self._waiting) < MAX_WAITING:
            self._track(request)
            self._waiting.append(request)
        else:
            message = f"{MAX_WAITING} requests wait already"
            error = LimitReached(message, limit="requests_waiting", max=MAX_WAITING, retry_at_ms=None)
            self._finish(request, error)

    # --- From request to answer

    def _track(self, request: _Request) -> None:
        self._requests.add(request)
        self._idle.clear()
        self._held_bytes += request.size
        if request.key is not None:
            self._by_id[request.key] = request

    def _start(self, request: _Request) -> None:
        error = self._refuse(request.handler)  # again: the answer may have changed while it waited
        if error is not None:
            return self._finish(request, error)
        self._executing += 1
        request.is_executing = True
        self._run(request, _through_library(request))

    def _run(self, request: _Request, work: Coroutine[Any, Any, Raw | SidecarError]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda task: self._ended(request, task))
        request.task = task

    def _ended(self, request: _Request, task: asyncio.Task[Raw | SidecarError]) -> None:
        if task.cancelled():  # perhaps before its first step: nothing inside could answer
            return self._finish(request, Cancelled("request was cancelled"))
        exc = task.exception()
        self._finish(request, task.result() if exc is None else _as_error(exc, request.name))

    def _cancel_by_id(self, params: Params, key: str) -> None:
        wanted = params.get(key) if isinstance(params, dict) else None
        if isinstance(wanted, str | int | float):
            request = self._by_id.get((type(wanted), wanted))
            if request is not None:
                self._cancel(request)

    def _cancel(self, request: _Request) -> None:
        if request.task is not None:
            request.task.cancel()
        else:
            self._waiting.remove(request)
            self._finish(request, Cancelled("request was cancelled"))

    def _finish(self, request: _Request, outcome: Raw | SidecarError) -> None:
        if request in self._requests:
            self._requests.discard(request)
            self._held_bytes -= request.size
            self._executing -= request.is_executing
            if request.key is not None:
                del self._by_id[request.key]
            if not self._requests:
                self._idle.set()
        body: bytes | None = None
        if isinstance(outcome, SidecarError):
            self._on_error(request.name, outcome)
            failed = self._failure(request.call.request_id, outcome)
            body = failed if request.wants_answer else None
        elif request.wants_answer:
            body = answer(request.call.request_id, outcome)
        request.reply(body, request.call)
        self.pump()
        self._wake()

    def _reply(self, body: bytes | None, *calls: Call) -> None:
        if body is not None:
            self._send(body)
        for call in calls:
            call.answered()

    def _failure(self, request_id: Id, error: SidecarError) -> bytes:
        self.errors += 1
        return failure(request_id, error)


class _Reply(Protocol):
    """Takes the answer of a request, or None, and the calls that it concludes."""

    def __call__(self, body: bytes | None, *calls: Call) -> None: ...


class _Request:
    """One request or notification on its way."""

    __slots__ = (
        "call",
        "handler",
        "is_executing",
        "key",
        "name",
        "params",
        "reply",
        "size",
        "task",
        "wants_answer",
    )

    handler: Handler

    def __init__(
        self, name: str, params: Params, call: Call, reply: _Reply, size: int, *, wants_answer: bool
    ) -> None:
        self.name = name
        self.params = params
        self.call = call
        self.reply = reply
        self.size = size
        self.wants_answer = wants_answer
        # 1 and 1.0 are equal in Python and different ids in JSON; null names nothing
        self.key = None if call.request_id is None else (type(call.request_id), call.request_id)
        self.task: asyncio.Task[Any] | None = None  # Any: ours, later the library's
        self.is_executing = False


class _Batch:
    """Collects the answers of a batch in the order of its requests; sends one array, or nothing."""

    def __init__(self, size: int, reply: _Reply) -> None:
        self._bodies: list[bytes | None] = [None] * size
        self._calls: list[Call] = []
        self._left = size
        self._reply = reply

    def slot(self, index: int) -> _Reply:
        def take(body: bytes | None, *calls: Call) -> None:
            self._bodies[index] = body
            self._calls += calls
            self._left -= 1
            if not self._left:
                bodies = [body for body in self._bodies if body is not None]
                self._reply(b"[%b]" % b",".join(bodies) if bodies else None, *self._calls)

        return take


class _NoValidator:
    """Stands where jsonrpcserver makes a validator of JSON schemas: ours is ``messages.classify``."""

    def __init__(self, schema: object) -> None:
        pass

    @staticmethod
    def check_schema(schema: object) -> None:
        """Accept the library's own schema unread."""

    def validate(self, request: object) -> None:
        """Refuse to validate, so that nobody relies on it."""
        raise NotImplementedError("jsonrpcserver validates nothing here")


@cache
def load_library() -> ModuleType:
    """Import jsonrpcserver, 15 ms; the first method that needs it would do so otherwise."""
    unused: dict[str, dict[str, object]] = {
        "http.server": {"BaseHTTPRequestHandler": object, "HTTPServer": object},
        "jsonschema": {},
        "jsonschema.validators": {"validator_for": lambda _schema: _NoValidator},
    }
    with stand_ins(unused), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 5.0.9 reads its schema in an outdated way
        import jsonrpcserver
    return jsonrpcserver


async def _await_early(request: _Request, outcome: Awaitable[Raw]) -> Raw | SidecarError:
    try:
        return _encoded(await outcome, request.name)
    except Exception as exc:  # the RPC boundary
        return _as_error(exc, request.name)


async def _through_library(request: _Request) -> Raw | SidecarError:
    """Call the method by way of jsonrpcserver, which hands our params, result and error through unchanged."""
    library = load_library()

    async def method(call: Call, /, *args: object, **kwargs: object) -> Any:  # Any: the library's Result
        # The library runs this as a task of its own. Cancelling that one, not the one around it, leaves the
        # last word to the method: it may still finish, or say outcome_unknown.
        request.task = asyncio.current_task()
        try:
            outcome = request.handler(call, list(args) if args else kwargs)
            result = _encoded(await outcome if inspect.isawaitable(outcome) else outcome, request.name)
        except Exception as exc:  # the RPC boundary
            error = _as_error(exc, request.name)
            return library.Error(error.code, error.message, error)
        return library.Success(result)

    response = await library.async_dispatch_to_serializable(
        {"jsonrpc": "2.0", "method": request.name, "params": request.params, "id": 0},
        methods={request.name: method},
        context=request.call,
        deserializer=_unchanged,
        validator=_unchanged,
    )
    if not isinstance(response, dict):
        raise TypeError(f"jsonrpcserver returned {type(response).__name__}")
    outcome = response.get("result") or response["error"]["data"]
    if not isinstance(outcome, Raw | SidecarError):
        raise TypeError(f"jsonrpcserver answered {request.name} itself")
    return outcome


def _encoded(result: object, name: str) -> Raw:
    if not isinstance(result, Raw):
        raise TypeError(f"{name} returned {type(result).__name__}")
    return result


def _unchanged(value: Any) -> Any:  # Any: the library's own signature
    return value


def _as_error(exc: BaseException, name: str) -> SidecarError:
    """Return what the host may see of an exception; unknown ones are logged, their text stays inside."""
    if isinstance(exc, SidecarError):
        return exc
    error_id = os.urandom(4).hex()
    _log.error("internal error %s in %s", error_id, name, exc_info=exc)
    return InternalError("internal error", error_id=error_id)
