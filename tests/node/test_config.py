from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kukuri_sidecar.errors import InvalidConfig
from kukuri_sidecar.node.config import (
    ENV_PREFIX,
    MAX_BOOTSTRAP_PEERS,
    MAX_SHOWN_CHARS,
    Config,
    Effective,
    Layer,
    _leaves,
    drop_unknown,
    from_environment,
    from_file,
    parse_bind,
    resolve,
)

PEER = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
FIELDS = _leaves()


def _nested(field: str, value: object) -> dict[str, Any]:
    for name in reversed(field.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def _get(config: object, field: str) -> object:
    for name in field.split("."):
        config = getattr(config, name)
    return config


def _refusal(layer: Layer, origin: str = "host") -> InvalidConfig:
    with pytest.raises(InvalidConfig) as caught:
        resolve({origin: layer})
    return caught.value


# --- layers --------------------------------------------------------------------------------------------


def test_no_layers_give_the_defaults() -> None:
    assert resolve({}) == resolve({"user": {}, "host": {"net": {}}}) == Effective(Config(), {}, ())


def test_the_defaults_are_the_contracts() -> None:
    """The table of the RPC contract, section 6, as far as it is built."""
    config = Config()
    assert (config.bootstrap_peers, config.max_peers) == ([], 50)
    assert (config.net.bind_v4, config.net.bind_v6, config.net.advertise) == ("0.0.0.0:0", "[::]:0", [])
    connect = config.connect
    assert (connect.timeout_ms, connect.handshake_timeout_ms) == (10_000, 5_000)
    assert (connect.keepalive_interval_ms, connect.dead_after_ms, connect.idle_timeout_ms) == (
        5_000,
        15_000,
        30_000,
    )
    assert (connect.backoff_min_ms, connect.backoff_max_ms) == (500, 60_000)
    assert (config.gossip.mode, config.gossip.max_message_bytes, config.gossip.active_view) == (
        "auto",
        4096,
        5,
    )
    assert (config.limits.topics, config.limits.publish_per_s) == (64, 1000)
    assert (config.limits.handshakes_per_s, config.limits.connections_per_ip) == (40, 8)
    assert (config.log.level, config.log.format) == ("info", "json")


def test_higher_layers_win_field_by_field_and_lists_replace() -> None:
    effective = resolve(
        {
            "bundle": {
                "max_peers": 10,
                "log": {"level": "debug", "format": "text"},
                "bootstrap_peers": [PEER],
            },
            "user": {"log": {"level": "error"}},
            "host": {"bootstrap_peers": [], "max_peers": 20},
            "env": {"max_peers": 30},
        }
    )
    assert (effective.config.log.level, effective.config.log.format) == ("error", "text")
    assert effective.config.bootstrap_peers == []
    assert effective.config.max_peers == 30
    assert effective.origins == {
        "max_peers": "env",
        "log.level": "user",
        "log.format": "bundle",
        "bootstrap_peers": "host",
    }
    assert effective.locked == ("max_peers",)


def test_a_layer_is_copied() -> None:
    peers = [PEER]
    config = resolve({"host": {"bootstrap_peers": peers}}).config
    peers.append("nonsense")
    assert config.bootstrap_peers == [PEER]


# --- any layer gives a Config or InvalidConfig naming a field ------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def _good_values(annotation: Any) -> st.SearchStrategy[Any]:
    """Draw from a field's range and from its edges."""
    if annotation is FIELDS["bootstrap_peers"]:
        return st.lists(st.just(PEER) | st.text(max_size=3), max_size=2)
    base, meta = get_args(annotation)[:2] if get_origin(annotation) is Annotated else (annotation, None)
    if base is bool:
        return st.booleans()
    if base is int:
        return st.integers(meta.ge - 2, meta.le + 2) | st.sampled_from([meta.ge, meta.le])
    return st.sampled_from(["0.0.0.0:0", "[::1]:5", "auto", "info", "json", None, "x:1"]) | st.lists(
        st.just("1.2.3.4:5")
    )


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    layer: dict[str, Any] = draw(
        st.dictionaries(st.sampled_from([*FIELDS, "net", "log", "x"]), json_values, max_size=2)
    )
    for field in draw(st.lists(st.sampled_from(list(FIELDS)), max_size=4)):
        group, _, leaf = field.rpartition(".")
        target = layer.setdefault(group, {}) if group else layer
        if isinstance(target, dict):
            target[leaf] = draw(_good_values(FIELDS[field]) | json_values)
    return layer


def _told(given_layers: dict[str, Layer]) -> Effective | None:
    """Resolve; a refusal must name a field of ours or an unknown key, be short and fit into JSON."""
    try:
        return resolve(given_layers)
    except InvalidConfig as exc:
        error = exc
    field, index = error.details["field"], error.details["index"]
    assert set(error.details) == {"field", "index"}
    assert isinstance(field, str)
    assert error.message.startswith((field, "net: at least one"))
    assert index is None or (isinstance(index, int) and f"[{index}]" in error.message)
    assert len(error.message) < 400
    msgspec.json.encode([error.message, error.details])
    return None


@given(st.dictionaries(st.sampled_from(["bundle", "user", "host", "env"]), layers(), max_size=3))
@example({"host": {"max_peers": {}}})
@example({"host": {"x": {}}})
@example({"host": {"": {"": 1}}})
@example({"host": {"net": {"bind_v4": "\ud800"}}})
@example({"host": {"log": {"level": "\ud800"}}})
@example({"host": {"\ud800": 1}})
@example({"host": {"max_peers": 2**80}})
@example({"user": {"net": 5}, "host": {"net": {"bind_v4": None}}})
@example({"user": {"net": {"bind_v4": None}}, "host": {"net": 5}})
def test_any_layers_give_a_configuration_or_name_a_field(given_layers: dict[str, Layer]) -> None:
    effective = _told(given_layers)
    if effective is not None:
        assert all(name in given_layers for name in effective.origins.values())
        again = resolve({"host": msgspec.to_builtins(effective.config)})
        assert again.config == effective.config


@given(layers())
def test_a_file_never_fails_for_what_we_do_not_know(layer: Layer) -> None:
    known, unknown = drop_unknown(layer)
    assert drop_unknown(known) == (known, ())
    if not unknown:
        assert _told({"user": layer}) == _told({"user": known})


@pytest.mark.parametrize("levels", [30, 100_000])
def test_depth_costs_nothing(levels: int) -> None:
    value: object = 1
    for _ in range(levels):
        value = {"a": value}
    layer = {"net": {"deep": value}, "max_peers": value}
    assert _refusal(layer).details["field"] == "net.deep"
    known, unknown = drop_unknown(layer)
    assert unknown == ("net.deep",)
    assert _refusal(known).details["field"] == "max_peers"
    while isinstance(value, dict):  # Python itself would recurse when it frees the whole
        value = value.pop("a")


# --- unknown keys: an error from a host, a warning in a file -------------------------------------------

UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"x": 1}, "x"),
    ({"x": {}}, "x"),
    ({"x": {"y": {}}}, "x"),
    ({"net": {"x": []}}, "net.x"),
    ({"net.bind_v4": "127.0.0.1:0"}, "net.bind_v4"),  # a dot in a key is no path
    ({"net": {"bind_v4": "127.0.0.1:0", "": 1}}, "net."),
    ({"Max_Peers": 5}, "Max_Peers"),
    ({"k" * 100_000: 1}, "k" * MAX_SHOWN_CHARS),
]


@pytest.mark.parametrize(("layer", "name"), UNKNOWN, ids=map(str, range(len(UNKNOWN))))
def test_an_unknown_key_of_a_host_is_an_error(layer: Layer, name: str) -> None:
    error = _refusal(layer)
    assert error.details == {"field": name, "index": None}
    assert error.message == f"{name}: unknown field (host)"


@pytest.mark.parametrize(("layer", "name"), UNKNOWN, ids=map(str, range(len(UNKNOWN))))
def test_an_unknown_key_of_a_file_is_named_and_left_out(layer: Layer, name: str) -> None:
    known, unknown = drop_unknown({**layer, "max_peers": 7})
    assert unknown == (name,)
    assert resolve({"user": known}).config.max_peers == 7


def test_a_file_is_a_json_object() -> None:
    layer, unknown = from_file(b'{"max_peers": 7, "net": {"later": true}, "newer": {}}\n', "config.json")
    assert (layer, unknown) == ({"max_peers": 7}, ("net.later", "newer"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'{"max_peers": 7',
        b'{"a": "\xff"}',
        b"\xff\xfe{}",
        b'{"a": 1e999}',
        b'{"a":' + b"[" * 100_000,
    ],
    ids=["empty", "array", "null", "cut off", "no text", "utf-16", "no number", "deep"],
)
def test_any_other_file_is_named_in_the_error(data: bytes) -> None:
    with pytest.raises(InvalidConfig, match="is no JSON object: ") as caught:
        from_file(data, "config.json")
    assert caught.value.details == {"field": "config.json", "index": None}


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_of_a_file_give_a_configuration_or_name_the_problem(data: bytes) -> None:
    with suppress(InvalidConfig):
        layer, _ = from_file(data, "config.json")
        _told({"user": layer})


# --- what is refused, and how ------------------------------------------------------------------------

REFUSED: list[tuple[str, object, int | None, str]] = [
    ("max_peers", "5", None, "max_peers: a whole number from 1 to 200 expected (host)"),
    ("max_peers", True, None, "max_peers: a whole number from 1 to 200 expected (host)"),
    ("max_peers", 5.0, None, "max_peers: a whole number from 1 to 200 expected (host)"),
    ("max_peers", None, None, "max_peers: a whole number from 1 to 200 expected (host)"),
    ("max_peers", {}, None, "max_peers: a whole number from 1 to 200 expected (host)"),
    ("net", 5, None, "net: an object expected (host)"),
    ("net", None, None, "net: an object expected (host)"),
    ("log.level", "loud", None, "log.level: one of debug, info, warning, error expected (host)"),
    ("gossip.mode", "RAW", None, "gossip.mode: one of raw, auto, signed expected (host)"),
    ("net.bind_v4", 5, None, "net.bind_v4: a string or null expected (host)"),
    ("bootstrap_peers", "x", None, "bootstrap_peers: a list of at most 64 strings expected (host)"),
    ("bootstrap_peers", [PEER, 5], 1, "bootstrap_peers[1]: a string expected (host)"),
    ("net.bind_v4", "[::]:0", None, "net.bind_v4: address of the other family"),
    ("net.bind_v6", "0.0.0.0:0", None, "net.bind_v6: address of the other family"),
    ("net.bind_v4", "localhost:0", None, "net.bind_v4: not an IP address"),
    ("net.bind_v4", "", None, "net.bind_v4: host:port expected"),
    ("net.bind_v4", ":0", None, "net.bind_v4: host:port expected"),
    ("net.bind_v4", "127.0.0.1:00", None, "net.bind_v4: port 1-65535 expected"),
    ("net.bind_v4", "127.0.0.1:65536", None, "net.bind_v4: port 1-65535 expected"),
    ("net.advertise", ["1.2.3.4:5", "1.2.3.4:0"], 1, "net.advertise[1]: port 1-65535 expected"),
    ("net.advertise", ["my.home.example:5"], 0, "net.advertise[0]: not an IP address"),
]


@pytest.mark.parametrize(("field", "value", "index", "message"), REFUSED)
def test_a_refusal_names_the_field_and_what_is_allowed(
    field: str, value: object, index: int | None, message: str
) -> None:
    error = _refusal(_nested(field, value))
    assert error.details == {"field": field, "index": index}
    assert error.message == message
    assert error.__cause__ is None


def test_a_bad_peer_is_named_by_its_place() -> None:
    error = _refusal({"bootstrap_peers": [PEER, f"{PEER}@peer.example:5", "not-a-peer"]})
    assert error.details == {"field": "bootstrap_peers", "index": 2}
    assert error.message.startswith("bootstrap_peers[2]: not an endpoint id, address or ticket")


def test_one_address_family_stays_on() -> None:
    assert _refusal({"net": {"bind_v4": None, "bind_v6": None}}).details["field"] == "net.bind_v4"
    assert resolve({"host": {"net": {"bind_v6": None}}}).config.net.bind_v6 is None


def test_the_least_back_off_does_not_exceed_the_most() -> None:
    error = _refusal({"connect": {"backoff_min_ms": 1001, "backoff_max_ms": 1000}})
    assert error.details["field"] == "connect.backoff_min_ms"
    equal = {"connect": {"backoff_min_ms": 1000, "backoff_max_ms": 1000}}
    assert resolve({"host": equal}).config.connect.backoff_min_ms == 1000


def _bounds() -> Iterator[tuple[str, int, bool]]:
    for field, annotation in FIELDS.items():
        base, meta = get_args(annotation)[:2]
        if base is int:
            yield from ((field, meta.ge - 1, False), (field, meta.ge, True), (field, meta.le, True))
            yield field, meta.le + 1, False


@pytest.mark.parametrize(("field", "value", "is_allowed"), list(_bounds()))
def test_a_number_is_refused_just_outside_its_bounds(field: str, value: int, is_allowed: bool) -> None:
    layer = _nested(field, value)
    if field.startswith("connect.backoff"):
        layer["connect"] |= {"backoff_min_ms": 10, "backoff_max_ms": 60_000} | layer["connect"]
    if is_allowed:
        assert _get(resolve({"host": layer}).config, field) == value
    else:
        assert _refusal(layer).details["field"] == field


@pytest.mark.parametrize(
    ("field", "item", "most"),
    [("bootstrap_peers", PEER, MAX_BOOTSTRAP_PEERS), ("net.advertise", "1.2.3.4:5", 8)],
)
def test_a_list_has_a_most(field: str, item: str, most: int) -> None:
    for count in (most - 1, most):
        assert len(_get(resolve({"host": _nested(field, [item] * count)}).config, field)) == count  # type: ignore[arg-type]
    assert _refusal(_nested(field, [item] * (most + 1))).details["field"] == field


@pytest.mark.parametrize("text", ["127.0.0.1:0", "127.0.0.1:10", "[::]:0", "[::1]:4100", "0.0.0.0:65535"])
def test_a_bind_address_may_leave_the_port_to_the_system(text: str) -> None:
    assert str(parse_bind(text, "net.bind_v4")) == text


# --- the environment -----------------------------------------------------------------------------------


def test_variables_become_a_layer() -> None:
    layer, unknown = from_environment(
        {
            "KUKURI_SIDECAR_MAX_PEERS": "7",
            "KUKURI_SIDECAR_PERSIST_PEERS": "false",
            "KUKURI_SIDECAR_NET__BIND_V6": "null",
            "KUKURI_SIDECAR_LOG__LEVEL": "debug",
            "KUKURI_SIDECAR_BOOTSTRAP_PEERS": f" {PEER} , {PEER}@[::1]:5,",
            "KUKURI_SIDECAR_NET__ADVERTISE": "",
            "KUKURI_SIDECAR_BIN": "/somewhere/else",
            "KUKURI_SIDECAR_SECRET_KEY_HEX": "00",
            "KUKURI_SIDECAR_NET": "x",
            "KUKURI_SIDECAR_max_peers": "8",
            "KUKURI_SIDECAR_NET.BIND_V4": "127.0.0.1:0",
            "KUKURI_SIDECAR_": "",
            "PATH": "/bin",
        }
    )
    assert layer == {
        "max_peers": 7,
        "persist_peers": False,
        "net": {"bind_v6": None, "advertise": []},
        "log": {"level": "debug"},
        "bootstrap_peers": [PEER, f"{PEER}@[::1]:5"],
    }
    assert unknown == (
        "KUKURI_SIDECAR_",
        "KUKURI_SIDECAR_NET",
        "KUKURI_SIDECAR_NET.BIND_V4",
        "KUKURI_SIDECAR_SECRET_KEY_HEX",
        "KUKURI_SIDECAR_max_peers",
    )
    effective = resolve({"host": {"max_peers": 9}, "env": layer})
    assert effective.config.max_peers == 7
    assert set(effective.locked) == {
        "max_peers",
        "persist_peers",
        "net.bind_v6",
        "net.advertise",
        "log.level",
        "bootstrap_peers",
    }


@pytest.mark.parametrize(
    "text", ["", "x", "5.0", "0x5", "+5", " 5", "5\n", "٥", "0", "201", "9" * 19, "9" * 5000, "null"]
)
def test_a_value_that_does_not_parse_names_what_is_allowed(text: str) -> None:
    layer, _ = from_environment({"KUKURI_SIDECAR_MAX_PEERS": text})
    assert _refusal(layer, "env").message == "max_peers: a whole number from 1 to 200 expected (env)"


def _variable(field: str) -> str:
    return ENV_PREFIX + field.upper().replace(".", "__")


@given(
    st.dictionaries(
        st.sampled_from([_variable(field) for field in FIELDS])
        | st.text(st.characters(exclude_characters="=\0"), max_size=12).map(lambda name: ENV_PREFIX + name),
        st.text(st.characters(exclude_characters="\0"), max_size=20)
        | st.binary(max_size=8).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
        | st.integers().map(str)
        | st.sampled_from(["null", "true", "auto", "127.0.0.1:0", "[::1]:0", "1.2.3.4:5,[::1]:5", PEER]),
        max_size=4,
    )
)
def test_any_environment_gives_a_configuration_or_names_a_field(environ: dict[str, str]) -> None:
    layer, unknown = from_environment(environ)
    ours = {_variable(field) for field in FIELDS} | {ENV_PREFIX + "BIN"}
    assert len(unknown) == sum(name not in ours for name in environ)
    msgspec.json.encode(unknown)  # they become warnings of initialize
    effective = _told({"env": layer})
    if effective is not None:
        assert set(effective.locked) == {field for field in FIELDS if _variable(field) in environ}


@given(layers())
def test_what_the_environment_can_say_arrives(layer: Layer) -> None:
    """Every value a configuration can hold can be written into a variable and comes back."""
    effective = _told({"host": layer})
    if effective is None:
        return
    environ = {}
    for field in effective.origins:
        value = _get(effective.config, field)
        # Numbers, true, false and null as in JSON; texts bare, lists with commas.
        text = ",".join(value) if isinstance(value, list) else json.dumps(value)
        environ[_variable(field)] = value if isinstance(value, str) else text
    again, unknown = from_environment(environ)
    assert unknown == ()
    assert resolve({"env": again}).config == effective.config
