"""The configuration a host may set: one struct per group, JSON names, units in names, bounds in the types.

Layers, lowest first: ``default`` < ``bundle`` < ``user`` < ``host`` < ``env`` (api.md section 6). Objects
merge field by field, lists replace, an environment value locks its field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from kukuri_sidecar.errors import DecodeError, InvalidConfig
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ticket import parse_peer

ENV_PREFIX = "KUKURI_SIDECAR_"
MAX_BOOTSTRAP_PEERS = 64

Mode = Literal["raw", "auto", "signed"]


class NetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sockets."""

    bind_v4: Annotated[str | None, Meta(description="address of the IPv4 socket; null switches IPv4 off")] = (
        "0.0.0.0:0"
    )
    bind_v6: Annotated[str | None, Meta(description="address of the IPv6 socket; null switches IPv6 off")] = (
        "[::]:0"
    )
    advertise: Annotated[
        list[str], Meta(max_length=8, description="extra host:port to publish (port forwarding)")
    ] = []


class ConnectConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Dials and the life of a connection."""

    timeout_ms: Annotated[int, Meta(ge=100, le=120_000, description="one dial over all addresses")] = 10_000
    handshake_timeout_ms: Annotated[
        int, Meta(ge=100, le=60_000, description="absolute limit of a handshake")
    ] = 5_000
    keepalive_interval_ms: Annotated[int, Meta(ge=500, le=60_000, description="heartbeat, as iroh's")] = 5_000
    dead_after_ms: Annotated[
        int, Meta(ge=1_000, le=600_000, description="silence until a peer is called disconnected")
    ] = 15_000
    idle_timeout_ms: Annotated[int, Meta(ge=1_000, le=600_000, description="QUIC transport parameter")] = (
        30_000
    )
    backoff_min_ms: Annotated[int, Meta(ge=10, le=60_000, description="first pause between dials")] = 500
    backoff_max_ms: Annotated[int, Meta(ge=100, le=3_600_000, description="longest pause between dials")] = (
        60_000
    )


class GossipConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults of topics."""

    mode: Annotated[Mode, Meta(description="default for topic.join")] = "auto"
    max_message_bytes: Annotated[
        int,
        Meta(
            ge=512, le=1_048_576, description="equal in the whole swarm; more than 4096 only in private ones"
        ),
    ] = 4096
    active_view: Annotated[int, Meta(ge=3, le=16, description="neighbours per topic")] = 5


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds a host may move."""

    topics: Annotated[int, Meta(ge=1, le=1024, description="joined topics")] = 64
    publish_per_s: Annotated[int, Meta(ge=1, le=100_000, description="burst 2x; above: rate_limited")] = 1000
    handshakes_per_s: Annotated[
        int, Meta(ge=1, le=10_000, description="inbound, all peers; burst 2x; Retry under pressure")
    ] = 40
    connections_per_ip: Annotated[
        int, Meta(ge=1, le=1024, description="inbound connections of one address")
    ] = 8


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes to stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least level shown")] = (
        "info"
    )
    format: Annotated[Literal["json", "text"], Meta(description="one line per record")] = "json"


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a host may configure."""

    bootstrap_peers: Annotated[
        list[str],
        Meta(max_length=MAX_BOOTSTRAP_PEERS, description="peers to dial at the start, for every topic"),
    ] = []
    max_peers: Annotated[int, Meta(ge=1, le=200, description="connected peers at once")] = 50
    net: NetConfig = NetConfig()
    connect: ConnectConfig = ConnectConfig()
    gossip: GossipConfig = GossipConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()


Layer = Mapping[str, object]
"""One layer's raw values, nested as in JSON."""


class Effective(Struct, frozen=True):
    """The configuration in force, and where its values come from."""

    config: Config
    origins: dict[str, str]  # dotted field -> layer, for values that some layer set
    locked: tuple[str, ...]  # dotted fields fixed by the environment


def resolve(layers: Mapping[str, Layer]) -> Effective:
    """Merge ``layers`` (name -> values, lowest first) over the defaults.

    Raises InvalidConfig with ``field`` and ``index``; nothing is half applied.
    """
    merged: dict[str, object] = {}
    origins: dict[str, str] = {}
    for name, layer in layers.items():
        for field, value in _leaves(layer):
            _put(merged, field, value)
            origins[field] = name
    try:
        config = msgspec.convert(merged, Config)
    except msgspec.ValidationError as exc:
        field, index, reason = _where(str(exc))
        raise InvalidConfig(f"{field}: {reason}", field=field, index=index) from None
    _check_meaning(config)
    locked = tuple(field for field, origin in origins.items() if origin == "env")
    return Effective(config, origins, locked)


def from_environment(environ: Mapping[str, str]) -> tuple[Layer, tuple[str, ...]]:
    """Read the ``KUKURI_SIDECAR_*`` variables; return the layer and the variables that name no field.

    Lists are comma-separated, ``null`` is null. ``KUKURI_SIDECAR_BIN`` belongs to host libraries.
    """
    layer: dict[str, object] = {}
    unknown = []
    fields = dict(_fields(Config, ""))
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or variable == ENV_PREFIX + "BIN":
            continue
        field = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        if field in fields:
            _put(layer, field, _parse(text, fields[field]))
        else:
            unknown.append(variable)
    return layer, tuple(unknown)


def drop_unknown(layer: Layer) -> tuple[Layer, tuple[str, ...]]:
    """Split a file's values into the known ones and the dotted names of the others."""
    known: dict[str, object] = {}
    unknown = []
    fields = dict(_fields(Config, ""))
    for field, value in _leaves(layer):
        if field in fields:
            _put(known, field, value)
        else:
            unknown.append(field)
    return known, tuple(unknown)


def _check_meaning(config: Config) -> None:
    for index, text in enumerate(config.bootstrap_peers):
        try:
            parse_peer(text)
        except DecodeError as exc:
            raise InvalidConfig(
                f"bootstrap_peers[{index}]: not an endpoint id, address or ticket ({exc.reason})",
                field="bootstrap_peers",
                index=index,
            ) from None
    binds = (("net.bind_v4", config.net.bind_v4, False), ("net.bind_v6", config.net.bind_v6, True))
    for field, bind, is_ipv6 in binds:
        if bind is not None and parse_bind(bind, field).is_ipv6 is not is_ipv6:
            raise InvalidConfig(f"{field}: address of the other family", field=field, index=None)
    if config.net.bind_v4 is None and config.net.bind_v6 is None:
        raise InvalidConfig("net: at least one address family must stay on", field="net.bind_v4", index=None)
    for index, text in enumerate(config.net.advertise):
        try:
            SocketAddr.parse(text)
        except DecodeError as exc:
            raise InvalidConfig(
                f"net.advertise[{index}]: {exc.reason}", field="net.advertise", index=index
            ) from None
    connect = config.connect
    if connect.backoff_min_ms > connect.backoff_max_ms:
        raise InvalidConfig(
            "connect.backoff_min_ms exceeds connect.backoff_max_ms",
            field="connect.backoff_min_ms",
            index=None,
        )


def parse_bind(text: str, field: str) -> SocketAddr:
    """Parse a bind address; port 0 lets the system choose."""
    zero = text.endswith(":0")
    try:
        address = SocketAddr.parse(text[:-1] + "1" if zero else text)
    except DecodeError as exc:
        raise InvalidConfig(f"{field}: {exc.reason}", field=field, index=None) from None
    return SocketAddr(address.host, 0) if zero else address


def _leaves(layer: Layer, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in layer.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(target: dict[str, object], field: str, value: object) -> None:
    *groups, leaf = field.split(".")
    for group in groups:
        inner = target.setdefault(group, {})
        if not isinstance(inner, dict):
            raise InvalidConfig(f"{group}: an object is expected", field=group, index=None)
        target = inner
    target[leaf] = value


def _fields(struct: type[Struct], prefix: str) -> Iterator[tuple[str, object]]:
    """Yield (dotted name, annotation) of every leaf field."""
    for name, annotation in get_type_hints(struct, include_extras=True).items():
        if isinstance(annotation, type) and issubclass(annotation, Struct):
            yield from _fields(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", annotation


def _parse(text: str, annotation: object) -> object:
    """Turn an environment value into what JSON would have held; the types check it afterwards."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is list:
        return [item.strip() for item in text.split(",") if item.strip()]
    if text == "null" and type(None) in get_args(annotation):
        return None
    if annotation is int and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if annotation is bool and text in ("true", "false"):
        return text == "true"
    return text


_PATH = re.compile(r"^(?P<reason>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)


def _where(message: str) -> tuple[str, int | None, str]:
    """Split msgspec's message into dotted field, list index and reason."""
    match = _PATH.match(message)
    path, reason = (match["path"] or "", match["reason"]) if match else ("", message)
    if unknown := re.search(r"unknown field `([^`]*)`", reason):
        path = f"{path}.{unknown[1]}".lstrip(".")
    index = re.search(r"\[(\d+)\]", path)
    return path.split("[")[0], int(index[1]) if index else None, reason
