"""JSON-RPC 2.0 through our dispatcher: 22 conformance cases, limits, cancellation, one answer each."""

import asyncio
import json
import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kukuri_sidecar.errors import NotInitialized, OutcomeUnknown, ShuttingDown
from kukuri_sidecar.rpc.dispatch import MAX_BATCH, MAX_EXECUTING, MAX_HELD_BYTES, MAX_WAITING
from kukuri_sidecar.rpc.framing import Fault
from rpc.dispatching import Careless, Desk, Toy, kinds, request, run

Json = Any  # what JSON holds

PARSE, INVALID, METHOD, PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603


async def subtract(minuend: int, subtrahend: int) -> int:
    return minuend - subtrahend


async def total(*numbers: int) -> int:
    return sum(numbers)


def get_data() -> Json:
    return ["hello", 5]


async def update(*_: int) -> None:
    pass


async def boom() -> None:
    raise RuntimeError("secret text")


async def unserialisable() -> object:
    return object()


METHODS = {
    "subtract": Toy(subtract),
    "sum": Toy(total),
    "get_data": Toy(get_data),
    "update": Toy(update),
    "notify_hello": Toy(update),
    "notify_sum": Toy(update),
    "boom": Toy(boom),
    "unserialisable": Toy(unserialisable),
    "careless": Careless(get_data),
}


def ok(result: Json, request_id: Json) -> Json:
    return {"jsonrpc": "2.0", "result": result, "id": request_id}


def bad(code: int, request_id: Json = None) -> Json:
    return {"jsonrpc": "2.0", "error": {"code": code}, "id": request_id}


# host-and-packaging.md section 8; the first twelve are the examples of the JSON-RPC 2.0 specification
CONFORMANCE: list[tuple[str, bytes, Json]] = [
    ("positional params", b'{"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":1}', ok(19, 1)),
    (
        "named params",
        b'{"jsonrpc":"2.0","method":"subtract","params":{"subtrahend":23,"minuend":42},"id":3}',
        ok(19, 3),
    ),
    ("notification", b'{"jsonrpc":"2.0","method":"update","params":[1,2,3,4,5]}', None),
    ("unknown notification", b'{"jsonrpc":"2.0","method":"foobar"}', None),
    ("unknown method", b'{"jsonrpc":"2.0","method":"foobar","id":"1"}', bad(METHOD, "1")),
    ("broken JSON", b'{"jsonrpc":"2.0","method":"foobar,"params":"bar","baz]', bad(PARSE)),
    ("method is a number", b'{"jsonrpc":"2.0","method":1,"params":"bar"}', bad(INVALID)),
    ("empty batch", b"[]", bad(INVALID)),
    ("batch of one invalid", b"[1]", [bad(INVALID)]),
    ("batch of three invalid", b"[1,2,3]", [bad(INVALID)] * 3),
    (
        "mixed batch",
        b'[{"jsonrpc":"2.0","method":"sum","params":[1,2,4],"id":"1"},'
        b'{"jsonrpc":"2.0","method":"notify_hello","params":[7]},'
        b'{"jsonrpc":"2.0","method":"subtract","params":[42,23],"id":"2"},{"foo":"boo"},'
        b'{"jsonrpc":"2.0","method":"foo.get","params":{"name":"myself"},"id":"5"},'
        b'{"jsonrpc":"2.0","method":"get_data","id":"9"}]',
        [ok(7, "1"), ok(19, "2"), bad(INVALID), bad(METHOD, "5"), ok(["hello", 5], "9")],
    ),
    (
        "batch of notifications",
        b'[{"jsonrpc":"2.0","method":"notify_sum","params":[1,2,4]},'
        b'{"jsonrpc":"2.0","method":"notify_hello","params":[7]}]',
        None,
    ),
    ("wrong number of params", b'{"jsonrpc":"2.0","method":"subtract","params":[1],"id":7}', bad(PARAMS, 7)),
    ("exception in a method", b'{"jsonrpc":"2.0","method":"boom","id":8}', bad(INTERNAL, 8)),
    ("id null", b'{"jsonrpc":"2.0","method":"get_data","id":null}', ok(["hello", 5], None)),
    ("id 1.5", b'{"jsonrpc":"2.0","method":"get_data","id":1.5}', ok(["hello", 5], 1.5)),
    ("invalid method keeps its id", b'{"jsonrpc":"2.0","method":1,"id":9}', bad(INVALID, 9)),
    ("unknown member", b'{"jsonrpc":"2.0","method":"get_data","id":10,"extra":1}', ok(["hello", 5], 10)),
    ("an answer from the host", b'{"jsonrpc":"2.0","result":5,"id":3}', None),
    ("result of the wrong type", b'{"jsonrpc":"2.0","method":"careless","id":11}', bad(INTERNAL, 11)),
    ("unserialisable result", b'{"jsonrpc":"2.0","method":"unserialisable","id":12}', bad(INTERNAL, 12)),
    ("trailing newline", b'{"jsonrpc":"2.0","method":"get_data","id":13}\r\n', ok(["hello", 5], 13)),
]


def fits(got: Json, wanted: Json) -> bool:
    if isinstance(wanted, list):
        return isinstance(got, list) and len(got) == len(wanted) and all(map(fits, got, wanted))
    if "error" in wanted:
        return got["id"] == wanted["id"] and got["error"]["code"] == wanted["error"]["code"]
    return got == wanted


@pytest.mark.parametrize(
    ("frame", "wanted"), [case[1:] for case in CONFORMANCE], ids=[case[0] for case in CONFORMANCE]
)
@pytest.mark.parametrize("early", [False, True], ids=["library", "early"])
def test_conformance(frame: bytes, wanted: Json, early: bool) -> None:
    """All 22 cases, through jsonrpcserver and beside it."""

    async def main() -> None:
        methods = {name: type(toy)(toy.function, early=early) for name, toy in METHODS.items()}
        answers = await Desk(methods).talk(frame)
        if wanted is None:
            assert answers == []
        else:
            assert len(answers) == 1
            assert fits(answers[0], wanted), answers[0]
            assert "secret text" not in json.dumps(answers)

    run(main())


def test_there_are_22_cases() -> None:
    assert len(CONFORMANCE) == 22


@pytest.mark.parametrize("early", [False, True])
def test_every_error_carries_its_kind(early: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        methods = {"boom": Toy(boom, early=early), "subtract": Toy(subtract, early=early)}
        desk = Desk(methods)
        answers = await desk.talk(
            b"{",
            Fault.OVERSIZE,
            {"jsonrpc": "2.0"},
            request(1, "nope"),
            request(2, "subtract", {"minuend": 1}),
            request(3, "boom"),
        )
        data = [answer["error"]["data"] for answer in answers]
        assert [one["kind"] for one in data] == [
            "parse_error",
            "parse_error",
            "invalid_request",
            "method_not_found",
            "invalid_params",
            "internal_error",
        ]
        assert [sorted(one["details"]) for one in data] == [
            ["offset"],
            ["offset"],
            ["reason"],
            [],
            ["path", "reason"],
            ["error_id"],
        ]
        assert all(one["retryable"] is False for one in data)
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert data[5]["details"]["error_id"] in record.getMessage()
        assert record.exc_info is not None
        assert desk.dispatcher.errors == 6

    run(main())


# --- batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "is_taken"), [(1, True), (MAX_BATCH, True), (MAX_BATCH + 1, False)])
def test_batch_at_the_limit(size: int, is_taken: bool) -> None:
    async def main() -> None:
        (answer,) = await Desk(METHODS).talk([request(index, "get_data") for index in range(size)])
        if is_taken:
            assert [one["id"] for one in answer] == list(range(size))
        else:
            assert (answer["id"], answer["error"]["data"]["kind"]) == (None, "invalid_request")

    run(main())


def test_a_batch_is_answered_in_the_order_of_its_requests() -> None:
    async def main() -> None:
        gates = [asyncio.Event() for _ in range(3)]

        async def wait(index: int) -> int:
            await gates[index].wait()
            return index

        desk = Desk({"wait": Toy(wait)})
        desk.send([request(index, "wait", [index]) for index in range(3)], request(9, "nope"))
        for gate in reversed(gates):
            gate.set()
            await asyncio.sleep(0)
        answers = await desk.settle()
        assert [answer["id"] for answer in answers[1]] == [0, 1, 2]
        assert answers[0]["id"] == 9, "a batch waits, others do not"

    run(main())


def test_what_waits_for_an_answer_runs_after_the_whole_batch() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        seen: list[int] = []
        desk: Desk

        def early() -> int:
            desk.calls[-1].after_answer(lambda: seen.append(len(desk.answers)))
            return 1

        desk = Desk({"early": Toy(early, early=True), "wait": Toy(gate.wait)})
        desk.send(request(1, "early"))
        assert seen == [1], "after its answer is queued"
        desk.send([request(2, "early"), request(3, "wait")])
        assert seen == [1]
        gate.set()
        await desk.settle()
        assert seen == [1, 2]
        desk.send({"jsonrpc": "2.0", "method": "early"})
        assert seen == [1, 2, 0], "a notification has no answer to wait for"

    run(main())


# --- limits --------------------------------------------------------------------------------------------


def test_executing_and_waiting_at_their_limits() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        running: list[int] = []

        async def wait(index: int) -> int:
            running.append(index)
            await gate.wait()
            return index

        desk = Desk({"wait": Toy(wait), "ping": Toy(lambda: 0, early=True)})
        full = MAX_EXECUTING + MAX_WAITING
        desk.send(*(request(index, "wait", [index]) for index in range(full)))
        assert desk.answers == []
        desk.send(
            request("over", "wait", [-1]),
            request("ping", "ping"),
            {"jsonrpc": "2.0", "method": "wait", "params": [-2]},
        )
        assert [(answer["id"], "error" in answer) for answer in desk.answers] == [
            ("over", True),
            ("ping", False),
        ]
        data = desk.answers[0]["error"]["data"]
        assert data["kind"] == "limit_reached"
        assert data["details"] == {"limit": "requests_waiting", "max": MAX_WAITING, "retry_at_ms": None}
        await desk.turns(20)
        assert running == list(range(MAX_EXECUTING))
        gate.set()
        answers = await desk.settle()
        assert sorted(answer["id"] for answer in answers[2:]) == list(range(full))
        assert running == list(range(full)), "each once, in order"

    run(main())


def test_a_method_that_raises_gives_its_slot_back() -> None:
    async def main() -> None:
        desk = Desk(METHODS)
        answers = await desk.talk(*(request(index, "boom") for index in range(MAX_EXECUTING + MAX_WAITING)))
        assert len(answers) == MAX_EXECUTING + MAX_WAITING
        assert kinds(await desk.talk(request(1, "get_data"))) == ["ok"]

    run(main())


def test_without_room_for_answers_nothing_starts() -> None:
    async def main() -> None:
        room = [False]
        desk = Desk({**METHODS, "ping": Toy(lambda: 0, early=True)}, may_start=lambda: room[0])
        desk.send(request(1, "get_data"), request(2, "ping"))
        await desk.turns()
        assert [answer["id"] for answer in desk.answers] == [2]
        room[0] = True
        desk.dispatcher.pump()
        assert [answer["id"] for answer in await desk.settle()] == [2, 1]

    run(main())


def test_large_requests_in_flight_end_the_room() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def wait(text: str) -> None:
            await gate.wait()

        desk = Desk({"wait": Toy(wait)})
        sent = 0
        while desk.dispatcher.has_room:
            desk.send(request(sent, "wait", ["x" * 1_000_000]))
            sent += 1
        assert sent == -(-MAX_HELD_BYTES // 1_000_000)
        gate.set()
        await desk.settle()
        assert desk.dispatcher.has_room

    run(main())


# --- ids and cancellation ------------------------------------------------------------------------------


def test_an_id_in_flight_is_refused_a_second_time() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        desk = Desk({"wait": Toy(gate.wait)})
        desk.send(*(request(request_id, "wait") for request_id in (1, 1, 1.0, "1", None, None)))
        assert [
            (answer["id"], kind) for answer, kind in zip(desk.answers, kinds(desk.answers), strict=True)
        ] == [(1, "invalid_request")]
        gate.set()
        assert len(await desk.settle()) == 6
        assert kinds(await desk.talk(request(1, "wait"))) == ["ok"], "free again"

    run(main())


@pytest.mark.parametrize(
    ("method", "key"), [("$/cancelRequest", "id"), ("notifications/cancelled", "requestId")]
)
@pytest.mark.parametrize("early", [False, True])
def test_a_cancelled_request_is_answered(method: str, key: str, early: bool) -> None:
    async def main() -> None:
        seen = []

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        desk = Desk({"wait": Toy(wait, early=early)})
        desk.send(request(1, "wait"))
        await desk.turns()
        for wanted in (7, "1", None, [], 1):
            desk.send({"jsonrpc": "2.0", "method": method, "params": {key: wanted}})
        (answer,) = await desk.settle()
        assert answer["id"] == 1
        assert answer["error"] == {
            "code": 1003,
            "message": "request was cancelled",
            "data": {"kind": "cancelled", "retryable": True, "details": {}},
        }
        assert seen == ["cancelled"]
        assert await desk.talk({"jsonrpc": "2.0", "method": method, "params": {key: 1}}) == []
        assert await desk.talk({"jsonrpc": "2.0", "method": method, "params": [1]}) == []

    run(main())


def test_cancelled_before_its_first_step_and_while_waiting() -> None:
    async def main() -> None:
        started: list[int] = []
        gate = asyncio.Event()

        async def wait(index: int) -> None:
            started.append(index)
            await gate.wait()

        desk = Desk({"wait": Toy(wait)})
        desk.send(*(request(index, "wait", [index]) for index in range(MAX_EXECUTING + 2)))
        for victim in (0, MAX_EXECUTING):
            desk.send({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": victim}})
        gate.set()
        answers = await desk.settle()
        failed = {
            answer["id"]: kind for answer, kind in zip(answers, kinds(answers), strict=True) if kind != "ok"
        }
        assert failed == {0: "cancelled", MAX_EXECUTING: "cancelled"}
        assert len(answers) == MAX_EXECUTING + 2
        assert 0 not in started
        assert MAX_EXECUTING not in started

    run(main())


def test_a_method_has_the_last_word_about_its_cancellation() -> None:
    """It may have taken effect already, or have finished at the same moment."""

    async def main() -> None:
        async def unsure() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise OutcomeUnknown("it may have been sent") from None

        async def done() -> int:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return 5
            raise AssertionError

        desk = Desk({"unsure": Toy(unsure), "done": Toy(done)})
        desk.send(request(1, "unsure"), request(2, "done"))
        await desk.turns()
        for victim in (1, 2):
            desk.send({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": victim}})
        answers = await desk.settle()
        assert [(answer["id"], kind) for answer, kind in zip(answers, kinds(answers), strict=True)] == [
            (1, "outcome_unknown"),
            (2, "ok"),
        ]

    run(main())


def test_cancel_inside_a_batch() -> None:
    async def main() -> None:
        desk = Desk({"wait": Toy(asyncio.Event().wait), **METHODS})
        (answer,) = await desk.talk(
            [
                request(1, "wait"),
                {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 1}},
                request(2, "get_data"),
            ]
        )
        assert kinds(answer) == ["cancelled", "ok"]

    run(main())


def test_cancel_all_answers_everybody_but_the_caller() -> None:
    async def main() -> None:
        desk = Desk({"wait": Toy(asyncio.Event().wait), "wait_early": Toy(asyncio.Event().wait, early=True)})
        desk.send(request("caller", "wait_early"))
        caller = desk.calls[-1]
        desk.send(*(request(index, "wait") for index in range(MAX_EXECUTING + MAX_WAITING)))
        desk.dispatcher.cancel_all(but=caller)
        await desk.turns()
        assert len(desk.answers) == MAX_EXECUTING + MAX_WAITING
        assert set(kinds(desk.answers)) == {"cancelled"}
        desk.dispatcher.cancel_all()
        assert (await desk.settle())[-1]["id"] == "caller"

    run(main())


# --- refusals ------------------------------------------------------------------------------------------


def test_refused_methods_do_not_run_and_unknown_ones_stay_unknown() -> None:
    async def main() -> None:
        ran: list[int] = []
        desk = Desk({"late": Toy(lambda: ran.append(1))}, refuse=lambda _: NotInitialized("first initialize"))
        answers = await desk.talk(
            request(1, "late"), request(2, "nope"), {"jsonrpc": "2.0", "method": "late"}
        )
        assert kinds(answers) == ["not_initialized", "method_not_found"]
        assert ran == []

    run(main())


def test_what_waits_is_asked_again_when_its_turn_comes() -> None:
    """Also 256 of them at once: no recursion."""

    async def main() -> None:
        refusal: list[ShuttingDown] = []
        gate = asyncio.Event()
        desk = Desk({"wait": Toy(gate.wait)}, refuse=lambda _: refusal[0] if refusal else None)
        desk.send(*(request(index, "wait") for index in range(MAX_EXECUTING + MAX_WAITING)))
        refusal.append(ShuttingDown("too late"))
        gate.set()
        answers = await desk.settle()
        assert kinds(answers).count("shutting_down") == MAX_WAITING
        assert kinds(answers).count("ok") == MAX_EXECUTING

    run(main())


def test_errors_of_known_methods_are_reported() -> None:
    async def main() -> None:
        heard: list[tuple[str, str]] = []
        desk = Desk(METHODS, on_error=lambda name, error: heard.append((name, error.kind)))
        await desk.talk(request(1, "boom"), {"jsonrpc": "2.0", "method": "subtract"})
        assert sorted(heard) == [("boom", "internal_error"), ("subtract", "invalid_params")]

    run(main())


# --- anything at all -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
REQUESTS = st.fixed_dictionaries(
    {"jsonrpc": st.sampled_from(["2.0", "1.0", 2])},
    optional={
        "id": JSON,
        "method": st.sampled_from([*METHODS, "$/cancelRequest", "nope"]) | JSON,
        "params": JSON,
        "result": JSON,
    },
)


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=40) | JSON | REQUESTS | st.lists(REQUESTS, max_size=5), max_size=8))
def test_whatever_a_host_writes_it_gets_well_formed_answers(messages: list[Json]) -> None:
    """And never more than it has asked for, nor a raise out of the dispatcher."""

    async def main() -> None:
        desk = Desk(METHODS)
        answers = await desk.talk(*messages)
        assert len(answers) <= len(messages)
        for answer in answers:
            for one in answer if isinstance(answer, list) else [answer]:
                assert one["jsonrpc"] == "2.0"
                assert set(one) in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
                assert "error" not in one or set(one["error"]["data"]) == {"kind", "retryable", "details"}
        assert desk.dispatcher.has_room

    logging.disable(logging.CRITICAL)
    try:
        run(main())
    finally:
        logging.disable(logging.NOTSET)
