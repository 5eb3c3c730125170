"""The contract as files: OpenRPC document, TypeScript declarations, method table. All made from ``rpc.api``.

``rpc.discover`` and ``--openrpc`` give the same document as ``rpc-schema/openrpc.json``; ``schema --check``
compares the directory with what this version would write. Imported only when somebody asks for the schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from kukuri_sidecar import errors
from kukuri_sidecar.errors import SidecarError
from kukuri_sidecar.node.config import Config
from kukuri_sidecar.rpc import api
from kukuri_sidecar.rpc.methods import METHODS
from kukuri_sidecar.rpc.registry import Method

OPENRPC_VERSION = "1.3.2"
HASH_HEX_DIGITS = 16
PREPARED = Path(__file__).with_name("openrpc.json")  # in a frozen program only, made with it

Json = dict[str, Any]  # Any: JSON Schema is open-ended

# api.md section 10: any method may answer these; not_initialized only those that need the node.
COMMON_ERRORS: tuple[type[SidecarError], ...] = (
    errors.ParseError,
    errors.InvalidRequest,
    errors.MethodNotFound,
    errors.InvalidParams,
    errors.InternalError,
    errors.NotInitialized,
    errors.ShuttingDown,
    errors.Cancelled,
    errors.LimitReached,
    errors.OutcomeUnknown,
)

_REF = "#/components/schemas/{name}"


def openrpc() -> Json:
    """Build the OpenRPC document; OpenRPC knows no notifications, so events stand in ``x-notifications``."""
    schemas = _schemas()
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": "kukuri-sidecar",
            "version": str(api.API_VERSION),
            "description": "JSON-RPC 2.0 over stdio, one JSON value per line or Content-Length framing.",
            "license": {"name": "MIT"},
        },
        "methods": [_method(method, schemas) for method in METHODS.values()],
        "x-notifications": [
            {
                "name": "event",
                "from": "sidecar",
                "summary": "One event of a subscription.",
                "params": {"$ref": _REF.format(name="AnyEvent")},
                "types": [_event_type(event) for event in api.EVENTS],
            },
            {
                "name": "$/cancelRequest",
                "from": "host",
                "summary": "Answer the request with `cancelled`, unless it has finished.",
                "params": {"$ref": _REF.format(name="CancelParams")},
            },
        ],
        "x-common-errors": [_error_ref(error) for error in COMMON_ERRORS],
        "components": {
            "schemas": schemas,
            "errors": {error.kind: _error(error) for error in error_kinds()},
        },
    }


@cache
def openrpc_json() -> bytes:
    """Return the document as compact JSON, as `rpc.discover` answers it."""
    prepared = _read(PREPARED)
    return msgspec.json.encode(openrpc()) if prepared is None else prepared


def schema_hash(document: bytes) -> str:
    """Return the short name of a document: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(document).hexdigest()[:HASH_HEX_DIGITS]


def error_kinds() -> list[type[SidecarError]]:
    """List every error a host may see, by code."""
    found = {error.kind: error for error in _leaves(SidecarError)}
    return sorted(found.values(), key=lambda error: error.code)


def files() -> dict[str, bytes]:
    """Return what ``rpc-schema/`` holds, by file name."""
    from kukuri_sidecar.rpc.typescript import declarations

    document = openrpc()
    return {
        "README.md": _readme(document).encode(),
        "config.schema.json": _pretty(msgspec.json.schema(Config)),
        "kukuri_sidecar.d.ts": declarations(document).encode(),
        "openrpc.json": _pretty(document),
    }


def write(directory: Path) -> list[str]:
    """Write the files; returns the names of those that changed."""
    changed = stale(directory)
    directory.mkdir(exist_ok=True)
    for name, content in files().items():
        if name in changed:
            (directory / name).write_bytes(content)
    return changed


def stale(directory: Path) -> list[str]:
    """Name the files that are missing or differ from what this version would write."""
    return [name for name, content in files().items() if _read(directory / name) != content]


# --- OpenRPC -----------------------------------------------------------------------------------------------


def _schemas() -> Json:
    structs: list[type[msgspec.Struct]] = [
        Config,
        api.ErrorData,
        api.EventHeader,
        api.CancelParams,
        *api.EVENTS,
    ]
    for method in METHODS.values():
        structs.append(method.params)
        if issubclass(method.result, msgspec.Struct):
            structs.append(method.result)
    _, components = msgspec.json.schema_components(structs, ref_template=_REF)
    out: Json = dict(sorted(components.items()))
    # rpc decodes any object here: the node merges layers before it checks. A patch is a partial Config.
    out["InitializeParams"]["properties"]["config"]["anyOf"] = [{"$ref": _REF.format(name="Config")}]
    del out["InitializeParams"]["properties"]["config"]["type"]
    out["AnyEvent"] = {
        "title": "AnyEvent",
        "description": "The params of an `event` notification. Ignore types you do not know.",
        "allOf": [
            {"$ref": _REF.format(name="EventHeader")},
            {"oneOf": [{"$ref": _REF.format(name=event.__name__)} for event in api.EVENTS]},
        ],
    }
    return out


def _method(method: Method, schemas: Json) -> Json:
    summary, _, description = method.doc.partition("\n")
    shape = schemas[method.params.__name__]
    required = shape.get("required", [])
    out: Json = {"name": method.name, "summary": summary}
    if description.strip():
        out["description"] = " ".join(description.split())
    out["paramStructure"] = "by-name"
    out["x-params"] = {"$ref": _REF.format(name=method.params.__name__)}
    out["params"] = [
        {"name": name, "required": name in required, "schema": schema}
        for name, schema in shape["properties"].items()
    ]
    name = "OpenRPC" if method.result is msgspec.Raw else method.result.__name__
    out["result"] = {
        "name": name,
        "schema": {"type": "object"} if name == "OpenRPC" else {"$ref": _REF.format(name=name)},
    }
    out["errors"] = [_error_ref(error) for error in method.errors]
    out["x-early"] = method.early
    return out


def _error(error: type[SidecarError]) -> Json:
    return {
        "code": error.code,
        "message": (error.__doc__ or "").partition("\n")[0].replace("``", "`"),
        "data": {"kind": error.kind, "retryable": error.retryable, "details": {}},
    }


def _error_ref(error: type[SidecarError]) -> Json:
    return {"$ref": f"#/components/errors/{error.kind}"}


def _event_type(event: type[api.Event]) -> str:
    return str(event.__struct_config__.tag)


def _leaves(error: type[SidecarError]) -> Iterator[type[SidecarError]]:
    for child in error.__subclasses__():
        if "kind" in vars(child):
            yield child
        yield from _leaves(child)


# --- README ------------------------------------------------------------------------------------------------


def _readme(document: Mapping[str, Any]) -> str:
    lines = [
        "# rpc-schema",
        "",
        "Generated by `kukuri-sidecar schema`; do not edit. `openrpc.json` is the contract for machines,",
        "`kukuri_sidecar.d.ts` the same for TypeScript, `config.schema.json` the configuration.",
        "",
        "`examples/*.jsonl` are conversations that a test replays: `-->` a line of the host, `<--` the next",
        'one of the sidecar, `exit` the code after stdin has ended. `"<int>"` and the like stand for a value',
        "that changes; a capital as in `<Topic>` for one that is the same all through. Steps with a number",
        "before them belong to another sidecar and its host.",
        "",
        "## Methods",
        "",
        "| Method | Params | Result | Errors beyond the common ones |",
        "|---|---|---|---|",
    ]
    for method in document["methods"]:
        params = ", ".join(
            f"`{param['name']}`" if param["required"] else f"`{param['name']}`?" for param in method["params"]
        )
        kinds = ", ".join(f"`{_kind(ref)}`" for ref in method["errors"])
        lines.append(
            f"| **`{method['name']}`** {method['summary']} | {params or '—'} "
            f"| `{method['result']['name']}` | {kinds or '—'} |"
        )
    lines += [
        "",
        "## Events",
        "",
        "One notification `event` with `subscription`, `seq`, `ts_ms`, `type` and:",
        "",
        "| Type | Fields | When |",
        "|---|---|---|",
    ]
    for event in api.EVENTS:
        shape = document["components"]["schemas"][event.__name__]
        fields = ", ".join(f"`{name}`" for name in shape["properties"] if name != "type")
        lines.append(f"| `{_event_type(event)}` | {fields} | {shape['description']} |")
    lines += [
        "",
        "## Errors",
        "",
        "Hosts switch on `error.data.kind`. Common kinds: "
        + ", ".join(f"`{_kind(ref)}`" for ref in document["x-common-errors"])
        + ".",
        "",
        "| Code | Kind | Retryable | Meaning |",
        "|---|---|---|---|",
    ]
    for kind, error in document["components"]["errors"].items():
        retryable = "yes" if error["data"]["retryable"] else "no"
        lines.append(f"| {error['code']} | `{kind}` | {retryable} | {error['message']} |")
    return "\n".join(lines) + "\n"


def _kind(ref: Mapping[str, str]) -> str:
    return ref["$ref"].rpartition("/")[2]


def _pretty(value: Json) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
