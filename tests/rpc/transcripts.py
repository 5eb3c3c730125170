"""Reads a golden transcript and compares what a process says with it.

    # a comment
    --> what the host writes, as it is
    <-- what the sidecar writes next, as JSON
    exit 0      (after the host has closed stdin; its last line)

A step with a number before it (`2-->`, `2<--`, `2exit 0`) belongs to another sidecar and its host.

A string `"<...>"` in an expectation is a placeholder: `<any>`, a JSON type (`<int>`, `<str>`, `<bool>`,
`<object>`, `<array>`), or a name with a capital (`<Topic>`), which binds at its first use, must be the same
later and may stand inside what the host writes.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = Any  # what JSON holds

EXAMPLES = Path(__file__).parents[2] / "rpc-schema" / "examples"

TYPES: dict[str, tuple[type, ...]] = {
    "<any>": (object,),
    "<int>": (int,),
    "<str>": (str,),
    "<bool>": (bool,),
    "<object>": (dict,),
    "<array>": (list,),
}
NAME = re.compile(r"<[A-Z]\w*>")
STEP = re.compile(r"(\d?)(-->|<--|exit) (.*)")


class Transcript:
    """One file; ``names`` holds what its placeholders have been bound to."""

    def __init__(self, path: Path) -> None:
        self.names: dict[str, Json] = {}
        self.lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]

    def steps(self) -> Iterator[tuple[str, str, str]]:
        """Yield (whose, `-->`, `<--` or `exit`, the rest of the line)."""
        for line in self.lines:
            step = STEP.fullmatch(line)
            if step is None:
                raise ValueError(f"neither comment nor step: {line}")
            yield step[1], step[2], step[3]

    def written(self, text: str) -> bytes:
        """Return what the host writes, its names filled in."""
        return NAME.sub(lambda found: str(self.names[found[0]]), text).encode() + b"\n"

    def difference(self, wanted: Json, got: Json, path: str = "$") -> str | None:
        """Say where ``got`` is not as ``wanted``, or None."""
        if isinstance(wanted, str) and wanted in TYPES:
            is_bool_for_int = wanted == "<int>" and isinstance(got, bool)
            return (
                None
                if isinstance(got, TYPES[wanted]) and not is_bool_for_int
                else f"{path}: {got!r} is no {wanted}"
            )
        if isinstance(wanted, str) and NAME.fullmatch(wanted):
            bound = self.names.setdefault(wanted, got)
            return None if bound == got else f"{path}: {wanted} was {bound!r}, is {got!r}"
        if isinstance(wanted, dict) and isinstance(got, dict):
            if list(wanted) != list(got):
                return f"{path}: members {list(got)} instead of {list(wanted)}"
            pairs = ((wanted[key], got[key], f"{path}.{key}") for key in wanted)
        elif isinstance(wanted, list) and isinstance(got, list):
            if len(wanted) != len(got):
                return f"{path}: {len(got)} entries instead of {len(wanted)}"
            pairs = (
                (one, other, f"{path}[{i}]") for i, (one, other) in enumerate(zip(wanted, got, strict=True))
            )
        else:
            return (
                None
                if type(wanted) is type(got) and wanted == got
                else f"{path}: {got!r} instead of {wanted!r}"
            )
        return next(filter(None, (self.difference(*pair) for pair in pairs)), None)


def parse(text: str) -> Json:
    """Parse an expectation."""
    return json.loads(text)
