"""A method's signature is its schema; params come by name, results are what was declared."""

from collections.abc import Awaitable
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta, Raw, Struct

from kukuri_sidecar.errors import InvalidParams, UnknownTopic
from kukuri_sidecar.rpc.api import NoParams
from kukuri_sidecar.rpc.registry import Call, Method, locate, rpc, table

CALL = Call(None, 1)  # type: ignore[arg-type]


class Inner(Struct, forbid_unknown_fields=True):
    size: Annotated[int, Meta(ge=1, description="Size.")] = 1


class Params(Struct, forbid_unknown_fields=True):
    endpoint_id: str
    inner: Inner | None = None
    many: list[Inner] = []


class Answer(Struct):
    text: str


@rpc("toy.echo", errors=(UnknownTopic,))
def echo(call: Call, params: Params) -> Answer:
    """Say it back.

    More about it.
    """
    return Answer(params.endpoint_id)


def plain(method: Method, params: dict[str, object]) -> bytes:
    outcome = method(CALL, params)
    assert isinstance(outcome, Raw)
    return bytes(outcome)


def test_the_signature_tells_everything() -> None:
    assert (echo.name, echo.params, echo.result, echo.errors, echo.early) == (
        "toy.echo",
        Params,
        Answer,
        (UnknownTopic,),
        False,
    )
    assert echo.doc == "Say it back.\n\nMore about it."


def test_without_params_none_are_taken() -> None:
    @rpc("toy.bare")
    def bare(call: Call) -> Answer:
        """Bare."""
        return Answer("")

    assert bare.params is NoParams
    assert plain(bare, {}) == b'{"text":""}'
    with pytest.raises(InvalidParams):
        bare(CALL, {"x": 1})


def test_an_awaitable_result_is_its_inner_type() -> None:
    @rpc("toy.later")
    def later(call: Call) -> Awaitable[Answer]:
        """Later."""
        raise NotImplementedError

    assert later.result is Answer


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({}, "endpoint_id"),
        ({"endpoint_id": 1}, "endpoint_id"),
        ({"endpoint_id": "x", "other": 1}, "other"),
        ({"endpoint_id": "x", "inner": 1}, "inner"),
        ({"endpoint_id": "x", "inner": {"size": 0}}, "inner.size"),
        ({"endpoint_id": "x", "inner": {"big": 0}}, "inner.big"),
        ({"endpoint_id": "x", "many": [{}, {"size": "1"}]}, "many[1].size"),
        ({"endpoint_id": "x", "node_id": "x"}, "node_id"),
        (["x"], ""),
    ],
)
def test_wrong_params_name_their_place(params: dict[str, object] | list[object], path: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        echo(CALL, params)
    assert caught.value.details["path"] == path
    assert caught.value.details["reason"]


def test_node_id_is_another_name_of_endpoint_id() -> None:
    assert plain(echo, {"node_id": "x"}) == b'{"text":"x"}'


def test_a_result_that_was_not_declared_is_a_bug() -> None:
    def wrong(call: Call) -> Answer:
        """Wrong."""
        return Inner()  # type: ignore[return-value]

    with pytest.raises(TypeError):
        Method("toy.wrong", wrong, (), False)(CALL, {})


def test_json_made_elsewhere_passes_through() -> None:
    @rpc("toy.raw")
    def raw(call: Call) -> Raw:
        """Raw."""
        return Raw(b"[1]")

    assert plain(raw, {}) == b"[1]"
    assert msgspec.json.encode({"a": raw(CALL, {})}) == b'{"a":[1]}'


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="twice"):
        table(echo, echo)


def test_after_answer_runs_once() -> None:
    seen = []
    call = Call(None, 1)  # type: ignore[arg-type]
    call.after_answer(lambda: seen.append(1))
    call.answered()
    call.answered()
    assert seen == [1]


def test_locate_without_a_path() -> None:
    assert locate("Expected `object`, got `int`") == ("", "Expected `object`, got `int`")
