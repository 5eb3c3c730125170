"""JSON with our limits, and error answers that always have the same form."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from kukuri_sidecar.errors import NoNeighbors, ParseError
from kukuri_sidecar.rpc.framing import MAX_FRAME_BYTES, Fault
from kukuri_sidecar.rpc.messages import MAX_DEPTH, answer, classify, failure, id_of, parse
from kukuri_sidecar.wire.addr import SocketAddr


@pytest.mark.parametrize(
    ("frame", "offset"),
    [
        (b"", 0),
        (b"nope", 4),
        (b'{"a":1', 6),
        (b'{"a" 1}', 5),
        (b"1 2", 3),
        (b"[NaN]", 1),
        (b"[Infinity]", 1),
        (b"[-Infinity]", 2),
        (b'"ab\xff"', 3),
        (b'"\xc3"', 1),
        (b"[1e999]", 7),
        (Fault.OVERSIZE, MAX_FRAME_BYTES),
        (Fault.BROKEN, 0),
    ],
)
def test_bad_frames_are_parse_errors_with_an_offset(frame: bytes | Fault, offset: int) -> None:
    with pytest.raises(ParseError) as caught:
        parse(frame)
    assert caught.value.details == {"offset": offset}


@pytest.mark.parametrize(
    ("depth", "fits"), [(MAX_DEPTH - 1, True), (MAX_DEPTH, True), (MAX_DEPTH + 1, False)]
)
@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_at_the_limit(depth: int, fits: bool, left: bytes, right: bytes) -> None:
    frame = left * depth + b"1" + right * depth
    if fits:
        parse(frame)
    else:
        with pytest.raises(ParseError, match="nested deeper"):
            parse(frame)


def test_extreme_nesting_is_an_error_like_any_other() -> None:
    with pytest.raises(ParseError, match="nested deeper"):
        parse(b"[" * 500_000 + b"]" * 500_000)


@pytest.mark.parametrize("number", [-(2**63), 2**63, 2**64 - 1])
def test_integers_of_64_bits_are_read(number: int) -> None:
    assert parse(b'{"a":[%d]}' % number) == {"a": [number]}


@pytest.mark.parametrize("number", [-(2**63) - 1, 2**64, 10**400])
def test_larger_integers_are_refused(number: int) -> None:
    with pytest.raises(ParseError):
        parse(b'{"a":[%d]}' % number)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_a_parse_error(frame: bytes) -> None:
    with contextlib.suppress(ParseError):
        assert classify(parse(frame)) in ("request", "notification", "answer", "invalid")


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"jsonrpc": "2.0", "method": "a", "id": 1}, "request"),
        ({"jsonrpc": "2.0", "method": "a", "id": None}, "request"),
        ({"jsonrpc": "2.0", "method": "a", "id": 1.5}, "request"),
        ({"jsonrpc": "2.0", "method": "a", "id": "x", "params": []}, "request"),
        ({"jsonrpc": "2.0", "method": "a"}, "notification"),
        ({"jsonrpc": "2.0", "result": 1, "id": 1}, "answer"),
        ({"jsonrpc": "2.0", "error": {}, "id": 1}, "answer"),
        ({"jsonrpc": "2.0", "method": "a", "id": True}, "invalid"),
        ({"jsonrpc": "2.0", "method": "a", "id": []}, "invalid"),
        ({"jsonrpc": "2.0", "method": "a", "params": 1}, "invalid"),
        ({"jsonrpc": "2.0", "method": "a", "params": None}, "invalid"),
        ({"jsonrpc": "1.0", "method": "a", "id": 1}, "invalid"),
        ({"jsonrpc": "2.0", "id": 1}, "invalid"),
        ({"method": "a", "id": 1}, "invalid"),
        ([], "invalid"),
        (1, "invalid"),
    ],
)
def test_classification(message: object, kind: str) -> None:
    assert classify(message) == kind


@pytest.mark.parametrize(
    ("message", "found"),
    [({"id": 7}, 7), ({"id": "a"}, "a"), ({"id": []}, None), ({"id": True}, None), ({}, None), (3, None)],
)
def test_the_id_of_an_invalid_request(message: object, found: object) -> None:
    assert id_of(message) == found


def test_answers_keep_the_form_of_the_contract() -> None:
    assert answer("a", Raw(b"{}")) == b'{"jsonrpc":"2.0","id":"a","result":{}}'
    error = NoNeighbors("nobody", state="isolated", at=SocketAddr("::1", 5), next_attempt_at_ms=None)
    assert json.loads(failure(1.5, error)) == {
        "jsonrpc": "2.0",
        "id": 1.5,
        "error": {
            "code": 1303,
            "message": "nobody",
            "data": {
                "kind": "no_neighbors",
                "retryable": True,
                "details": {"state": "isolated", "at": "[::1]:5", "next_attempt_at_ms": None},
            },
        },
    }
