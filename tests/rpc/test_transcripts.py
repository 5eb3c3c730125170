"""The transcripts in rpc-schema/examples are documentation that is executed, as it stands."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from rpc.process import Host
from rpc.transcripts import EXAMPLES, Transcript, parse

FILES = sorted(EXAMPLES.glob("*.jsonl"))


def test_the_examples_are_found() -> None:
    assert {"hello", "errors", "batch", "meeting", "peers", "limits"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_replay(path: Path) -> None:
    transcript = Transcript(path)
    hosts: dict[str, Host] = {}
    with ExitStack() as stack:
        for whose, kind, text in transcript.steps():
            if whose not in hosts:
                hosts[whose] = stack.enter_context(Host())
            host = hosts[whose]
            if kind == "-->":
                host.send(transcript.written(text))
            elif kind == "<--":
                got = host.read()
                assert transcript.difference(parse(text), got) is None, got
            else:
                if host.process.stdin is not None and not host.process.stdin.closed:
                    host.close_stdin()
                assert host.drain() == []
                assert host.wait() == int(text)


@pytest.mark.parametrize(
    ("wanted", "got", "is_same"),
    [
        ({"a": "<int>"}, {"a": 1}, True),
        ({"a": "<int>"}, {"a": True}, False),
        ({"a": "<int>"}, {"a": "1"}, False),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        ([1, 2], [1], False),
        (["<X>", "<X>"], [1, 1], True),
        (["<X>", "<X>"], [1, 2], False),
        ({"a": "<object>", "b": "<array>", "c": "<any>"}, {"a": {}, "b": [], "c": None}, True),
        (None, False, False),
    ],
)
def test_comparison(wanted: object, got: object, is_same: bool) -> None:
    assert (Transcript(EXAMPLES / "hello.jsonl").difference(wanted, got) is None) is is_same
