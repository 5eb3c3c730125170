"""The configuration a host may set: one struct per group, JSON names, units in names, bounds in the types.

Layers, lowest first: ``default`` < ``bundle`` < ``user`` < ``host`` < ``env`` (api.md section 6). Objects
merge field by field, lists replace, an environment value locks its field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from kukuri_sidecar.errors import DecodeError, InvalidConfig
from kukuri_sidecar.wire.addr import HostPort, SocketAddr
from kukuri_sidecar.wire.ticket import parse_peer

ENV_PREFIX = "KUKURI_SIDECAR_"
MAX_BOOTSTRAP_PEERS = 64
MAX_SHOWN_CHARS = 64  # of an unknown key in an error or a warning

Mode = Literal["raw", "auto", "signed"]
Scheme = Literal["announce", "tracker"]


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
    announce_capabilities: Annotated[
        bool, Meta(description="let sidecars recognise each other; plain iroh nodes never notice")
    ] = True
    active_view: Annotated[int, Meta(ge=3, le=16, description="neighbours per topic")] = 5


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds a host may move."""

    topics: Annotated[int, Meta(ge=1, le=1024, description="joined topics")] = 64
    publish_per_s: Annotated[int, Meta(ge=1, le=100_000, description="burst 2x; above: rate_limited")] = 1000
    messages_per_s_per_peer: Annotated[
        int, Meta(ge=1, le=1_000_000, description="burst 2x; above: the peer is slowed down")
    ] = 1000
    bytes_per_s_per_peer: Annotated[
        int, Meta(ge=65_536, le=1 << 30, description="burst 1 s; above: the peer is slowed down")
    ] = 4_194_304
    handshakes_per_s: Annotated[
        int, Meta(ge=1, le=10_000, description="inbound, all peers; burst 2x; Retry under pressure")
    ] = 40
    connections_per_ip: Annotated[
        int, Meta(ge=1, le=1024, description="inbound connections of one address")
    ] = 8


PUBLIC_BOOTSTRAP_NODES = (  # api.md section 6
    "dht.libtorrent.org:25401",
    "dht.transmissionbt.com:6881",
    "router.bt.ouinet.work:6881",
)


class DhtConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Mainline DHT."""

    bootstrap_nodes: Annotated[
        list[str], Meta(max_length=64, description="host:port; your own list makes a private DHT")
    ] = msgspec.field(default_factory=lambda: list(PUBLIC_BOOTSTRAP_NODES))
    mode: Annotated[
        Literal["auto", "server", "client"], Meta(description="whether we answer others; client: never")
    ] = "auto"
    republish_interval_ms: Annotated[
        int, Meta(ge=60_000, le=6_000_000, description="our record; ± 10 %; nodes forget it after two hours")
    ] = 3_600_000
    persist_table: Annotated[bool, Meta(description="remember up to 200 good nodes per family")] = True


class PublishConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What our records say of us."""

    dht: Annotated[
        Literal["auto", "none", "relay", "direct", "all"],
        Meta(description="in the DHT; auto: relay URLs while a relay is in use, else direct addresses"),
    ] = "auto"
    record_ttl_s: Annotated[int, Meta(ge=1, le=86_400, description="DNS TTL in our records, as iroh's")] = 30


class RendezvousConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Finding members of a topic by its name."""

    schemes: Annotated[
        list[Scheme], Meta(max_length=2, description="default for topic.join; [] for none")
    ] = msgspec.field(default_factory=lambda: list[Scheme](("announce",)))


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
    enable_dht: Annotated[bool, Meta(description="off: no DHT packet at all, rendezvous included")] = True
    persist_peers: Annotated[
        bool, Meta(description="remember up to 1024 peers for 30 days, and the topics that ask for it")
    ] = True
    max_peers: Annotated[int, Meta(ge=1, le=200, description="connected peers at once")] = 50
    net: NetConfig = NetConfig()
    connect: ConnectConfig = ConnectConfig()
    dht: DhtConfig = DhtConfig()
    publish: PublishConfig = PublishConfig()
    rendezvous: RendezvousConfig = RendezvousConfig()
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
    flat: dict[str, object] = {}
    origins: dict[str, str] = {}
    for name, layer in layers.items():
        for field, value, annotation in _entries(layer, _schema(), ""):
            if annotation is None or isinstance(annotation, dict):
                problem = "unknown field" if annotation is None else "an object expected"
                raise InvalidConfig(f"{field}: {problem} ({name})", field=field, index=None)
            flat[field] = value
            origins[field] = name
    merged: dict[str, object] = {}
    for field, value in flat.items():
        _check_type(field, value, origins[field])
        _put(merged, field, value)
    config = msgspec.convert(merged, Config)
    _check_meaning(config)
    locked = tuple(field for field, origin in origins.items() if origin == "env")
    return Effective(config, origins, locked)


def from_environment(environ: Mapping[str, str]) -> tuple[Layer, tuple[str, ...]]:
    """Read the ``KUKURI_SIDECAR_*`` variables; return the layer and the variables that name no field.

    Lists are comma-separated, ``null`` is null. ``KUKURI_SIDECAR_BIN`` belongs to host libraries.
    """
    layer: dict[str, object] = {}
    unknown = []
    variables = {ENV_PREFIX + field.upper().replace(".", "__"): field for field in _leaves()}
    for variable, text in sorted(environ.items()):
        if field := variables.get(variable):
            _put(layer, field, _parse(text, _leaves()[field]))
        elif variable.startswith(ENV_PREFIX) and variable != ENV_PREFIX + "BIN":
            unknown.append(_shown(variable))
    return layer, tuple(unknown)


def from_file(data: bytes, name: str) -> tuple[Layer, tuple[str, ...]]:
    """Parse a configuration file; return the known values and the dotted names of the others.

    Raises InvalidConfig with the file's ``name`` as ``field`` when it holds no JSON object.
    """
    try:
        layer = msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidConfig(f"{name} is no JSON object: {exc}", field=name, index=None) from None
    return drop_unknown(layer)


def drop_unknown(layer: Layer) -> tuple[Layer, tuple[str, ...]]:
    """Split a file's values into the known ones and the dotted names of the others."""
    known: dict[str, object] = {}
    unknown = []
    for field, value, annotation in _entries(layer, _schema(), ""):
        if annotation is None:
            unknown.append(field)
        else:
            _put(known, field, value)
    return known, tuple(unknown)


def _check_type(field: str, value: object, origin: str) -> None:
    annotation = _leaves()[field]
    try:
        msgspec.convert(value, annotation)
    except (msgspec.ValidationError, UnicodeEncodeError) as exc:  # env: bytes that are no text
        item = re.search(r" - at `\$\[(\d+)\]`$", str(exc))
        index = int(item[1]) if item else None
        expected = f"{field}[{index}]: a string" if item else f"{field}: {_allowed(annotation)}"
        raise InvalidConfig(f"{expected} expected ({origin})", field=field, index=index) from None


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
    for index, text in enumerate(config.dht.bootstrap_nodes):
        try:
            HostPort.parse(text)
        except DecodeError as exc:
            raise InvalidConfig(
                f"dht.bootstrap_nodes[{index}]: {exc.reason}", field="dht.bootstrap_nodes", index=index
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


# --- the shape of a configuration ----------------------------------------------------------------------

_Schema = dict[str, Any]  # field -> its annotation, or the schema of a group; Any: annotations have no type


@cache
def _schema(struct: type[Struct] = Config) -> _Schema:
    return {
        name: _schema(annotation)
        if isinstance(annotation, type) and issubclass(annotation, Struct)
        else annotation
        for name, annotation in get_type_hints(struct, include_extras=True).items()
    }


@cache
def _leaves() -> dict[str, Any]:
    """Return the annotation of every dotted field."""

    def walk(schema: _Schema, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, annotation in schema.items():
            if isinstance(annotation, dict):
                yield from walk(annotation, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", annotation

    return dict(walk(_schema(), ""))


def _entries(layer: Layer, schema: _Schema, prefix: str) -> Iterator[tuple[str, object, Any]]:
    """Yield (dotted name, value, annotation) of what ``layer`` sets; the annotation of the unknown is None.

    Goes no deeper than the schema, whatever the layer holds. A group that is no object comes as it is, with
    its schema.
    """
    for key, value in layer.items():
        annotation = schema.get(key)
        if isinstance(annotation, dict) and isinstance(value, Mapping):
            yield from _entries(value, annotation, f"{prefix}{key}.")
        else:
            yield f"{prefix}{_shown(key)}", value, annotation


def _put(target: dict[str, object], field: str, value: object) -> None:
    *groups, leaf = field.split(".")
    for group in groups:
        target = cast("dict[str, object]", target.setdefault(group, {}))
    target[leaf] = value


def _shown(name: str) -> str:
    """Return a stranger's name so that it can stand in a message: short, and encodable in every case."""
    return name[:MAX_SHOWN_CHARS].encode("utf-8", "backslashreplace").decode()


def _allowed(annotation: Any) -> str:
    """Say in words which values a field takes."""
    meta = Meta()
    if get_origin(annotation) is Annotated:
        annotation, meta = get_args(annotation)[:2]
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(get_args(annotation))
    if get_origin(annotation) is list:
        return f"a list of at most {meta.max_length} strings"
    if annotation is int:
        return f"a whole number from {meta.ge} to {meta.le}"
    return "true or false" if annotation is bool else "a string or null"


def _parse(text: str, annotation: Any) -> object:
    """Turn an environment value into what JSON would have held; the types check it afterwards."""
    annotation = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(annotation) is list:
        return [item.strip() for item in text.split(",") if item.strip()]
    if text == "null" and type(None) in get_args(annotation):
        return None
    if annotation is int and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if annotation is bool and text in ("true", "false"):
        return text == "true"
    return text
