"""Invariant of ARCHITECTURE.md section 5: wire and proto reach neither the world nor its clocks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kukuri_sidecar

PACKAGE = Path(kukuri_sidecar.__file__).parent
MODULES = sorted(
    path.relative_to(PACKAGE).as_posix()
    for layer in ("wire", "proto")
    for path in (PACKAGE / layer).rglob("*.py")
)
FORBIDDEN = frozenset(
    {"anyio", "asyncio", "trio", "socket", "ssl", "select", "selectors", "time", "random", "secrets", "os"}
    | {"threading", "subprocess", "multiprocessing", "concurrent"}
)
# aioquic's configuration wants this constant; it opens nothing.
ALLOWED = {("proto/quic", "ssl", "CERT_NONE")}


def imports(source: str) -> list[tuple[str, str]]:
    """Return (top-level module, imported name or "") of every import, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name.partition(".")[0], "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [((node.module or "").partition(".")[0], alias.name) for alias in node.names]
        elif isinstance(node, ast.Name) and node.id == "__import__":
            found.append(("__import__", ""))
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_direct_import_of_the_world(module: str) -> None:
    folder = module.rpartition("/")[0]
    used = imports((PACKAGE / module).read_text())
    bad = [
        (top, name)
        for top, name in used
        if top in FORBIDDEN | {"__import__", "importlib"} and (folder, top, name) not in ALLOWED
    ]
    assert bad == []


def test_the_test_sees_imports() -> None:
    source = (
        "import os.path\ndef f():\n    from time import sleep\n    import json, socket\n__import__('ssl')"
    )
    assert set(imports(source)) == {
        ("os", ""),
        ("time", "sleep"),
        ("json", ""),
        ("socket", ""),
        ("__import__", ""),
    }


def test_there_is_something_to_look_at() -> None:
    assert "wire/gossip_messages.py" in MODULES
    assert "proto/core.py" in MODULES
