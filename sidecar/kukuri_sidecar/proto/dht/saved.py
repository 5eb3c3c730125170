"""What a node takes along to its next life: its id, and nodes that answered."""

from __future__ import annotations

from dataclasses import dataclass

from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.ids import DhtNodeId

MAX_SAVED_NODES = 200  # per address family (api.md, dht.persist_table)


@dataclass(frozen=True, slots=True)
class SavedNode:
    """Give it to the next core; its nodes are asked before any bootstrap host."""

    node_id: DhtNodeId
    nodes: tuple[NodeInfo, ...]
