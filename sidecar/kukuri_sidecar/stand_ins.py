"""Stand-ins for modules that a library imports and we never call, so that each start does without them.

A stand-in is empty: whoever calls into it after all fails loudly. Only the library keeps it; after the block
its name is free again for the real module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType


class StandIn(ModuleType):
    """Has what it was given and nothing else."""

    def __getattr__(self, name: str) -> object:
        raise AttributeError(f"{self.__name__}.{name} is left out of kukuri-sidecar (stand_ins.py)")


@contextmanager
def stand_ins(modules: Mapping[str, Mapping[str, object]]) -> Iterator[None]:
    """Let imports inside the block find these modules, with these attributes; what is imported already stays.

    A submodule of a stand-in is an attribute of it as well, as in real packages.
    """
    added: dict[str, StandIn] = {}
    for name, attributes in modules.items():
        if name not in sys.modules:
            added[name] = StandIn(name)
            vars(added[name]).update(attributes)
    for name, module in added.items():
        parent, _, child = name.rpartition(".")
        if parent in added:
            setattr(added[parent], child, module)
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
