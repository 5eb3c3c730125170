"""The JSON vectors of tests/vectors as pytest parameters; tests/vectors/PROVENANCE.md says whose they are."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(__file__).parent / "vectors"


@cache
def load(file: str) -> dict[str, Any]:
    """Return the whole of ``vectors/<file>.json``."""
    return json.loads((VECTORS / f"{file}.json").read_text())


def vectors(file: str, *groups: str) -> list[Any]:
    """Return (inputs, expected) of every vector of ``groups`` under its own name; an unknown group fails."""
    chosen = [v for v in load(file)["vectors"] if v["group"] in groups]
    assert {v["group"] for v in chosen} == set(groups)
    return [pytest.param(v["inputs"], v["expected"], id=v["name"]) for v in chosen]


def mainline(group: str) -> list[Any]:
    """Return every vector of one group of ``mainline.json``."""
    return [
        pytest.param(vector, id=f"{i}-{vector.get('name') or vector.get('kind') or vector.get('ip') or ''}")
        for i, vector in enumerate(load("mainline")[group]["vectors"])
    ]
