"""Hypothesis strategies for what the DHT carries, shared by the tests of its codecs and of its core."""

from __future__ import annotations

from hypothesis import strategies as st

from kukuri_sidecar.wire import bencode
from kukuri_sidecar.wire.bencode import Encoded
from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.ids import DhtNodeId, Target
from kukuri_sidecar.wire.krpc import (
    VERSION,
    AnnouncePeer,
    Error,
    FindNode,
    Get,
    GetPeers,
    Ping,
    PutImmutable,
    PutMutable,
    Query,
    Response,
    SampleInfohashes,
    Samples,
    Want,
)
from kukuri_sidecar.wire.mutable_item import MAX_SEQ, MutableItem
from wire_strategies import endpoint_ids, socket_addrs

integers = st.integers(-(1 << 63), 1 << 64) | st.integers(-99, 99)
bencodables = st.recursive(
    integers | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=6), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: _depth(value) <= 7)
values = bencodables.map(lambda value: Encoded(bencode.encode(value))).filter(lambda v: len(v) <= 300)

_ids = st.binary(min_size=20, max_size=20)
node_ids = _ids.map(DhtNodeId)
targets = _ids.map(Target)
tids = st.binary(max_size=8)
tokens = st.binary(max_size=20)
ports = st.integers(1, 65_535)
seqs = st.integers(0, MAX_SEQ)
wants = st.sampled_from(Want) | st.just(Want.NODES | Want.NODES6)
versions = st.none() | st.just(VERSION)
ipv4_addrs = st.builds(lambda addr: addr, socket_addrs.filter(lambda addr: not addr.is_ipv6))
ipv6_addrs = socket_addrs.filter(lambda addr: addr.is_ipv6)
nodes = st.lists(st.builds(NodeInfo, node_ids, ipv4_addrs), max_size=4).map(tuple)
nodes6 = st.lists(st.builds(NodeInfo, node_ids, ipv6_addrs), max_size=3).map(tuple)
items = st.builds(
    MutableItem,
    endpoint_ids,
    seqs,
    values,
    st.binary(min_size=64, max_size=64),
    st.binary(max_size=64),
)
args = st.one_of(
    st.just(Ping()),
    st.builds(FindNode, targets, wants),
    st.builds(GetPeers, targets, wants),
    st.builds(AnnouncePeer, targets, ports, st.booleans(), tokens),
    st.builds(Get, targets, st.none() | seqs, wants, st.none() | tokens),
    st.builds(PutMutable, items, tokens, st.none() | seqs),
    st.builds(PutImmutable, values, tokens),
    st.builds(SampleInfohashes, targets, wants),
)
queries = st.builds(Query, tids, node_ids, args, st.booleans(), versions)
responses = st.builds(
    Response,
    tid=tids,
    sender_id=node_ids,
    nodes=st.none() | nodes,
    nodes6=st.none() | nodes6,
    token=st.none() | tokens,
    peers=st.lists(socket_addrs, max_size=4).map(tuple),
    value=st.none() | values,
    public_key=st.none() | endpoint_ids,
    seq=st.none() | seqs,
    signature=st.none() | st.binary(min_size=64, max_size=64),
    samples=st.none()
    | st.builds(
        Samples, st.integers(0, 21_600), st.integers(0, 2_000), st.lists(targets, max_size=3).map(tuple)
    ),
    ip=st.none() | socket_addrs,
    version=versions,
)
errors = st.builds(
    Error, tids, st.integers(0, 999), st.text("abc ", max_size=20), st.none() | socket_addrs, versions
)
messages = queries | responses | errors


def _depth(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 0
