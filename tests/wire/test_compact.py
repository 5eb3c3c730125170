from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

import dht_strategies as ds
from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.compact import (
    NODE6_BYTES,
    NODE_BYTES,
    NodeInfo,
    decode_nodes,
    decode_peer,
    encode_nodes,
    encode_peer,
)
from kukuri_sidecar.wire.ids import DhtNodeId
from vector_files import mainline
from wire_strategies import socket_addrs


@pytest.mark.parametrize("vector", mainline("compact"))
def test_vectors(vector: Any) -> None:
    data, addr = bytes.fromhex(vector["bytes"]), SocketAddr(vector["host"], vector["port"])
    if "id" in vector:
        node = NodeInfo(DhtNodeId.from_hex(vector["id"]), addr)
        assert encode_nodes([node]) == data
        assert decode_nodes(data, len(data)) == (node,)
        assert len(data) == (NODE6_BYTES if addr.is_ipv6 else NODE_BYTES)
    else:
        assert encode_peer(addr) == data
        assert decode_peer(data) == addr


@given(socket_addrs)
def test_any_address(addr: SocketAddr) -> None:
    assert decode_peer(encode_peer(addr)) == addr


@given(ds.nodes, ds.nodes6)
def test_any_nodes(nodes: tuple[NodeInfo, ...], nodes6: tuple[NodeInfo, ...]) -> None:
    assert decode_nodes(encode_nodes(nodes), NODE_BYTES) == nodes
    assert decode_nodes(encode_nodes(nodes6), NODE6_BYTES) == nodes6


@pytest.mark.parametrize("size", [25, 27, 51, 53])
def test_half_a_node_is_refused(size: int) -> None:
    with pytest.raises(DecodeError, match="compact"):
        decode_nodes(bytes(size), NODE_BYTES)
