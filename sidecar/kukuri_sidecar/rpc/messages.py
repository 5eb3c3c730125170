"""JSON-RPC 2.0 messages as values: parse with our limits, classify, write answers. No state."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
from msgspec import Raw

from kukuri_sidecar.errors import ParseError, SidecarError
from kukuri_sidecar.rpc.framing import MAX_FRAME_BYTES, Fault, Frame
from kukuri_sidecar.rpc.registry import Id

MAX_DEPTH = 32  # api.md section 2
MIN_INTEGER, MAX_INTEGER = -(1 << 63), (1 << 64) - 1  # api.md section 2: "within 64 bits", signed or not

_ID_TYPES = (str, int, float)  # not bool, which is an int in Python
_encoder = msgspec.json.Encoder()
_OFFSET = re.compile(r"\(byte (\d+)\)")


def parse(frame: Frame) -> object:
    """Return the JSON value of a frame; ParseError with the byte offset where it went wrong."""
    if isinstance(frame, Fault):
        raise ParseError(frame.value, offset=MAX_FRAME_BYTES if frame is Fault.OVERSIZE else 0)
    try:
        value: object = msgspec.json.decode(frame)
    except UnicodeDecodeError:
        raise ParseError("invalid UTF-8", offset=_bad_utf8(frame)) from None
    except RecursionError:
        raise ParseError(f"nested deeper than {MAX_DEPTH}", offset=0) from None
    except msgspec.DecodeError as exc:
        found = _OFFSET.search(str(exc))
        raise ParseError(str(exc), offset=int(found[1]) if found else len(frame)) from None
    _check(value)
    return value


def classify(message: object) -> Literal["request", "notification", "answer", "invalid"]:
    """Say what a message is. Unknown members are tolerated; an id may be a string, a number or null."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return "invalid"
    if "method" not in message and ("result" in message or "error" in message):
        return "answer"
    if not isinstance(message.get("method"), str) or not isinstance(message.get("params", {}), dict | list):
        return "invalid"
    if "id" not in message:
        return "notification"
    return "request" if _is_id(message["id"]) else "invalid"


def id_of(message: object) -> Id:
    """Return the id to put into an error about an invalid message: its own if it has a usable one."""
    found = message.get("id") if isinstance(message, dict) else None
    return found if _is_id(found) else None


def answer(request_id: Id, result: Raw) -> bytes:
    """Write a result."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_encoder.encode(request_id), result)


def failure(request_id: Id, error: SidecarError) -> bytes:
    """Write an error with `kind`, `retryable` and `details`."""
    body = {
        "code": error.code,
        "message": error.message,
        "data": {"kind": error.kind, "retryable": error.retryable, "details": _plain(error.details)},
    }
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (_encoder.encode(request_id), _encoder.encode(body))


def _plain(value: object) -> object:
    """Turn ids and addresses inside ``details`` into their text; an address is a tuple, so not by a hook."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return [_plain(member) for member in value]
    return value.hex() if isinstance(value, bytes) else str(value)


def _is_id(value: object) -> bool:
    return value is None or type(value) in _ID_TYPES


def _check(value: object) -> None:
    """Refuse what msgspec lets through: deep nesting and huge integers. Level by level, 1 us if flat.

    Types are compared, not asked: msgspec makes plain ones only, and every byte of the host comes by here.
    """
    level: list[Any] = [value]  # Any: JSON, told apart by `kind`
    depth = 0
    while level:
        below: list[Any] = []
        for member in level:
            kind = type(member)
            if kind is str:
                continue
            if kind is dict:
                below.extend(member.values())
            elif kind is list:
                below.extend(member)
            elif kind is not int or MIN_INTEGER <= member <= MAX_INTEGER:
                continue
            else:
                raise ParseError("integer beyond 64 bits", offset=0)
            if depth >= MAX_DEPTH:
                raise ParseError(f"nested deeper than {MAX_DEPTH}", offset=0)
        level = below
        depth += 1


def _bad_utf8(frame: bytes) -> int:
    try:
        frame.decode()
    except UnicodeDecodeError as exc:
        return exc.start
    return 0
