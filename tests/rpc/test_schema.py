"""The three forms of the contract are one: structs, OpenRPC document, TypeScript, and what is checked in."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest

from kukuri_sidecar import errors
from kukuri_sidecar.node import events as node_events
from kukuri_sidecar.node.envelopes import Mode
from kukuri_sidecar.rpc import api, schema
from kukuri_sidecar.rpc.methods import METHODS
from rpc.process import REAL, ROOT

Json = Any  # what JSON holds

SCHEMA = ROOT / "rpc-schema"
DOCUMENT: Json = schema.openrpc()


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(ROOT / "sidecar"), "PATH": ""}
    return subprocess.run([*REAL, *arguments], capture_output=True, text=True, timeout=20, env=env, cwd=cwd)


def test_the_checked_in_files_are_current() -> None:
    assert schema.stale(SCHEMA) == [], "run: make schema"


def test_the_command_writes_compares_and_prints_the_same(tmp_path: Path) -> None:
    assert run("schema", "--check", "--directory", str(tmp_path)).returncode == 1
    assert run("schema", "--directory", str(tmp_path)).returncode == 0
    assert run("schema", "--check", "--directory", str(tmp_path)).returncode == 0
    assert (tmp_path / "openrpc.json").read_bytes() == (SCHEMA / "openrpc.json").read_bytes()
    assert json.loads(run("--openrpc").stdout) == json.loads((SCHEMA / "openrpc.json").read_text())
    (tmp_path / "README.md").write_text("old")
    check = run("schema", "--check", "--directory", str(tmp_path))
    assert (check.returncode, check.stdout) == (1, f"stale {tmp_path}/README.md\n")


def test_the_command_line_answers_for_itself() -> None:
    assert run("--version").stdout == "kukuri-sidecar 0.1.0\n"
    assert run("--nonsense").returncode == 2
    assert run("--framing", "xml").returncode == 2


def references(value: Json) -> list[str]:
    if isinstance(value, dict):
        return (
            [value["$ref"], *(ref for one in value.values() for ref in references(one))]
            if "$ref" in value
            else [ref for one in value.values() for ref in references(one)]
        )
    return [ref for one in value for ref in references(one)] if isinstance(value, list) else []


def test_every_reference_leads_somewhere() -> None:
    for ref in references(DOCUMENT):
        target = DOCUMENT
        for step in ref.removeprefix("#/").split("/"):
            target = target[step]


def test_every_schema_is_a_schema() -> None:
    for shape in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft7Validator.check_schema(shape)  # what OpenRPC 1.3 names
        jsonschema.Draft202012Validator.check_schema(shape)


def test_the_shape_of_the_document() -> None:
    """The members OpenRPC 1.3.2 requires; the meta-schema itself is a network away."""
    assert DOCUMENT["openrpc"] == "1.3.2"
    assert set(DOCUMENT["info"]) >= {"title", "version"}
    names = [method["name"] for method in DOCUMENT["methods"]]
    assert len(names) == len(set(names))
    for method in DOCUMENT["methods"]:
        assert method["paramStructure"] == "by-name"
        assert method["summary"].endswith(".")
        for descriptor in [*method["params"], method["result"]]:
            assert set(descriptor) >= {"name", "schema"}
        required = [param["required"] for param in method["params"]]
        assert required == sorted(required, reverse=True), "required params stand first"
    for error in DOCUMENT["components"]["errors"].values():
        assert set(error) == {"code", "message", "data"}


def test_every_field_has_a_doc_line_and_a_plain_name() -> None:
    for name, shape in DOCUMENT["components"]["schemas"].items():
        assert shape.get("description"), name
        for field, about in shape.get("properties", {}).items():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", field), f"{name}.{field}"
            assert "$ref" in about or field == "type" or about.get("description"), f"{name}.{field}"


def test_every_field_of_a_result_is_always_there() -> None:
    for name, shape in DOCUMENT["components"]["schemas"].items():
        if name.endswith("Result"):
            assert shape.get("required", []) == list(shape["properties"]), name


def test_params_refuse_unknown_keys() -> None:
    for method in METHODS.values():
        assert DOCUMENT["components"]["schemas"][method.params.__name__]["additionalProperties"] is False


def test_the_document_and_its_hash_are_the_same_in_every_process() -> None:
    """No set, no hash seed, no environment gets into it."""
    document = schema.openrpc_json()
    assert re.fullmatch("[0-9a-f]{16}", schema.schema_hash(document))
    other = subprocess.run(
        [*REAL, "--openrpc"],
        capture_output=True,
        timeout=20,
        check=True,
        env={"PYTHONPATH": str(ROOT / "sidecar"), "PYTHONHASHSEED": "7"},
    ).stdout
    assert other.rstrip(b"\n") == document


def test_every_error_kind_is_listed_once_with_its_code() -> None:
    kinds = schema.error_kinds()
    assert len({error.kind for error in kinds}) == len({error.code for error in kinds}) == len(kinds)
    declared = {one.kind for one in vars(errors).values() if isinstance(one, type) and "kind" in vars(one)}
    assert declared - {"internal_error"} <= {error.kind for error in kinds}
    for method in METHODS.values():
        assert not set(method.errors) & set(schema.COMMON_ERRORS), f"{method.name} lists a common error"


def test_enums_are_those_of_the_node() -> None:
    """`methods.literal` passes them on unchecked."""
    pairs: list[tuple[Json, Json, set[str]]] = [
        (api.Online, node_events.Online, set()),
        (api.TopicState, node_events.TopicState, {"paused"}),  # comes with topic.leave {"forget": false}
        (api.PeerState, node_events.PeerState, set()),
        (api.Mode, Mode, set()),
    ]
    for literal, enum, planned in pairs:
        assert set(get_args(literal)) == {one.value for one in enum} | planned


def test_every_node_event_has_its_event() -> None:
    """`events.translate` closes its match with assert_never; here the other direction."""
    from kukuri_sidecar.rpc.feed import _STATE_KEYS

    told = {"log", "lagged"}
    shared = {node_events.CandidateFound, node_events.EndpointFound}  # one event: discovery.peer_found
    assert len(get_args(node_events.NodeEvent)) == len(api.EVENTS) - len(told) + len(shared) - 1
    assert set(_STATE_KEYS) <= set(api.EVENTS)


def test_typescript_names_every_method_and_event() -> None:
    text = (SCHEMA / "kukuri_sidecar.d.ts").read_text()
    for method in METHODS:
        assert f'"{method}": {{ params: ' in text
    for event in api.EVENTS:
        assert f"export interface {event.__name__} {{" in text
        assert f'type: "{event.__struct_config__.tag}";' in text
    assert "any" not in re.findall(r":\s*(\w+)", text)


@pytest.mark.parametrize(
    "struct",
    [
        api.LaggedEvent(topic_id=None, missed=1),
        api.LogLine(ts_ms=1, level="info", module="m", message="x", repeated=1),
    ],
)
def test_structs_encode_as_their_schema_says(struct: msgspec.Struct) -> None:
    shapes = DOCUMENT["components"]["schemas"]
    value = json.loads(msgspec.json.encode(struct))
    jsonschema.validate(value, {**shapes[type(struct).__name__], "components": {"schemas": shapes}})


def test_the_examples_of_the_contract_decode() -> None:
    """Requests as api.md prints them, for the methods that exist."""
    for name, params in {
        "initialize": {
            "api_version": 1,
            "client": {"name": "demo-app", "version": "0.1.0"},
            "data_dir": "/var/lib/demo-app/p2p",
            "config": {"bootstrap_peers": []},
        },
        "shutdown": {"deadline_ms": 2000},
        "node.ticket": {"kind": "iroh"},
        "discovery.resolve": {"endpoint_id": "19" * 32, "until": "all"},
        "discovery.publish": {"sinks": ["dht"]},
        "peer.connect": {"peer": "19" * 32 + "@198.51.100.4:40123"},
        "peer.disconnect": {"endpoint_id": "19" * 32, "forget": True},
        "peer.list": {"state": "connected", "limit": 64},
        "topic.leave": {"topic_id": "0c" * 32},
        "topic.publish": {"topic_id": "0c" * 32, "payload_b64": "aGVsbG8=", "confirm": True},
        "topic.list": {},
        "events.subscribe": {"types": ["topic.*", "peer.state", "health.changed"]},
        "events.unsubscribe": {"subscription": 1},
        "log.get": {"level": "warning", "limit": 1},
    }.items():
        msgspec.convert(params, METHODS[name].params)
