"""KRPC messages against the BEPs' examples and against datagrams of libtorrent and bittorrent-dht."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dht_strategies as ds
from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire import bencode
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.ids import DhtNodeId, EndpointId, Target
from kukuri_sidecar.wire.krpc import (
    MAX_TID_BYTES,
    MAX_TOKEN_BYTES,
    VERSION,
    AnnouncePeer,
    BadQuery,
    Error,
    ErrorCode,
    FindNode,
    Get,
    GetPeers,
    Message,
    Ping,
    PutImmutable,
    PutMutable,
    Query,
    Response,
    SampleInfohashes,
    Want,
)
from kukuri_sidecar.wire.krpc_decode import decode
from kukuri_sidecar.wire.krpc_encode import encode
from kukuri_sidecar.wire.mutable_item import MutableItem, immutable_target
from vector_files import load, mainline
from wire_strategies import damaged

CLIENT = DhtNodeId(b"abcdefghij0123456789")
SERVER = DhtNodeId(b"mnopqrstuvwxyz123456")
T1 = b"\x00\x00\x00\x01"
KEY = EndpointId.from_hex(load("mainline")["pkarr"]["k"])
ITEM = Target.from_hex(load("mainline")["pkarr"]["target"])
HELLO = Target.from_hex("e5f96f6f38320f0f33959cb4d3d656452117aadb")

QUERIES = {
    "find_node query, both families": FindNode(ITEM, Want.NODES | Want.NODES6),
    "get_peers query": GetPeers(ITEM),
    "announce_peer query": AnnouncePeer(ITEM, 4433, False, b"tokentok"),
    "get query, mutable, nothing known (seq 0)": Get(ITEM, 0),
    "get query, immutable": Get(HELLO),
    "sample_infohashes query": SampleInfohashes(ITEM),
}


def without_put_target(data: bytes) -> bytes:
    """Return the datagram as libtorrent and bittorrent-dht send it: only mainline names a put's target."""
    message = bencode.decode(data)
    assert isinstance(message, dict)
    if message.get(b"q") == b"put":
        arguments = message[b"a"]
        assert isinstance(arguments, dict)
        assert len(arguments.pop(b"target")) == 20
    return bencode.encode(message)


@pytest.mark.parametrize(
    "args",
    [
        PutMutable(
            MutableItem(EndpointId(bytes(32)), 1, bencode.Encoded(b"1:v"), bytes(64), b"salt"), b"token"
        ),
        PutImmutable(bencode.Encoded(b"1:v"), b"token"),
    ],
)
def test_a_put_names_its_target(args: PutMutable | PutImmutable) -> None:
    """Rust nodes (mainline 7.0.0 src/common/messages/internal.rs) drop a put that does not."""
    target = args.item.target if isinstance(args, PutMutable) else immutable_target(args.value)
    assert b"6:target20:" + target in encode(Query(b"tid1", DhtNodeId(bytes(20)), args))


@pytest.mark.parametrize("vector", mainline("krpc_messages"))
def test_a_message_is_written_as_it_was_read(vector: Any) -> None:
    data = bytes.fromhex(vector["bytes"])
    message = decode(data)
    assert not isinstance(message, BadQuery)
    assert without_put_target(encode(message)) == data
    if vector["from"] == "own" and vector["name"] in QUERIES:
        assert message == Query(T1, CLIENT, QUERIES[vector["name"]], True)


def own(name: str) -> Message:
    vectors = load("mainline")["krpc_messages"]["vectors"]
    return decode(
        next(bytes.fromhex(v["bytes"]) for v in vectors if v["name"] == name and v["from"] == "own")
    )


def test_fields_of_a_ping() -> None:
    assert own("ping query, read-only") == Query(T1, CLIENT, Ping(), True)
    assert own("ping query, serving node") == Query(T1, CLIENT, Ping(), False)
    assert own("ping response with ip") == Response(T1, SERVER, ip=SocketAddr("203.0.113.5", 6881))


def test_fields_of_answers() -> None:
    nodes = tuple(
        NodeInfo(DhtNodeId(bytes([i]) * 20), SocketAddr(f"203.0.113.{i}", 6881)) for i in range(1, 9)
    )
    found = own("find_node response, 8 nodes")
    assert isinstance(found, Response)
    assert found.nodes == nodes
    assert found.token is None
    peers = own("get_peers response, nodes and peers")
    assert isinstance(peers, Response)
    assert (peers.nodes, peers.token) == (nodes, b"tokentok")
    assert peers.peers[0] == SocketAddr("203.0.113.9", 4433)
    mutable = own("get response, mutable item")
    assert isinstance(mutable, Response)
    assert mutable.value is not None
    assert mutable.signature is not None
    assert (mutable.public_key, mutable.seq) == (KEY, 1_790_000_000_000_000)
    assert MutableItem(KEY, mutable.seq or 0, mutable.value, mutable.signature).is_genuine()
    only_seq = own("get response, only seq (nothing newer)")
    assert isinstance(only_seq, Response)
    assert (only_seq.seq, only_seq.value) == (1_790_000_000_000_000, None)
    samples = own("sample_infohashes response")
    assert isinstance(samples, Response)
    assert samples.samples is not None
    assert (samples.samples.interval_s, samples.samples.total) == (21_600, 1)
    assert len(samples.samples.info_hashes) == 1


def test_fields_of_puts() -> None:
    mutable = own("put query, mutable with salt")
    assert isinstance(mutable, Query)
    assert isinstance(mutable.args, PutMutable)
    assert (mutable.args.item.salt, mutable.args.cas) == (b"foobar", None)
    assert mutable.args.item.is_genuine()
    cas = own("put query, mutable with cas")
    assert isinstance(cas, Query)
    assert isinstance(cas.args, PutMutable)
    assert cas.args.cas == 1_789_999_999_999_999
    immutable = own("put query, immutable")
    assert isinstance(immutable, Query)
    assert immutable.args == PutImmutable(bencode.Encoded(b"12:Hello World!"), b"tokentok")


@pytest.mark.parametrize("vector", mainline("krpc_captured"))
def test_real_peers_are_understood(vector: Any) -> None:
    query, reply = decode(bytes.fromhex(vector["query"])), decode(bytes.fromhex(vector["reply"]))
    assert isinstance(query, Query)
    assert without_put_target(encode(query)) == bytes.fromhex(vector["query"])
    assert reply.tid == query.tid
    summary = vector["reply_summary"]
    if summary.startswith("error"):
        assert isinstance(reply, Error)
        assert str(reply.code) == summary.split()[1]
        return
    assert isinstance(reply, Response)
    fields = summary.partition("|")[0].split()
    for key, value in {
        "nodes": reply.nodes,
        "token": reply.token,
        "values": reply.peers or None,
        "v": reply.value,
        "k": reply.public_key,
        "seq": reply.seq,
        "sig": reply.signature,
    }.items():
        assert (value is not None) == (key in fields), key
    assert (reply.ip is not None) == vector["peer"].startswith("libtorrent")


@given(ds.messages)
def test_any_message_is_written_and_read(message: Query | Response | Error) -> None:
    data = encode(message)
    assert decode(data) == message
    assert type(decode(data)) is type(message)


@given(st.binary(max_size=200) | damaged(ds.messages.map(encode)))
def test_what_is_read_can_be_written_and_read_again(data: bytes) -> None:
    try:
        message = decode(data)
    except DecodeError:
        return
    if not isinstance(message, BadQuery):
        assert decode(encode(message)) == message


# --- tolerance: each line is a peer that exists (mainline-dht.md 1.2, 2.3, 3.5) --------------------------


def query(method: bytes, args: dict[bytes, Any], **top: Any) -> Message:
    fields = {b"t": T1, b"y": b"q", b"q": method, b"a": {b"id": CLIENT, **args}}
    return decode(bencode.encode(fields | {key.encode(): value for key, value in top.items()}))


def answer(result: dict[bytes, Any], **top: Any) -> Message:
    fields = {b"t": T1, b"y": b"r", b"r": {b"id": SERVER, **result}}
    return decode(bencode.encode(fields | {key.encode(): value for key, value in top.items()}))


def error(value: Any) -> Message:
    return decode(bencode.encode({b"t": T1, b"y": b"e", b"e": value}))


@pytest.mark.parametrize("tid", [b"", b"aa", b"\x00" * 20, b"x" * MAX_TID_BYTES])
def test_any_transaction_id_is_echoed(tid: bytes) -> None:
    assert query(b"ping", {}, t=tid) == Query(tid, CLIENT, Ping(), version=None)


def test_a_transaction_id_has_a_bound() -> None:
    for tid in (b"x" * (MAX_TID_BYTES + 1), 7):
        with pytest.raises(DecodeError):
            query(b"ping", {}, t=tid)


def test_versions_and_addresses_of_any_form() -> None:
    assert answer({}, v=b"LT") == Response(T1, SERVER, version=b"LT")
    assert answer({}, v=7) == answer({}, v=b"x" * 17) == Response(T1, SERVER, version=None)
    v6 = SocketAddr("2001:db8::5", 6881)
    assert answer({}, ip=bytes.fromhex("20010db80000000000000000000000051ae1")) == Response(
        T1, SERVER, ip=v6, version=None
    )
    assert answer({}, ip=b"short") == Response(T1, SERVER, version=None)


def test_want_strings_that_nobody_knows_are_ignored() -> None:
    asked = query(b"find_node", {b"target": ITEM, b"want": [b"n4", b"n8", 6]})
    assert asked == Query(T1, CLIENT, FindNode(ITEM, Want.NODES), version=None)
    assert query(b"find_node", {b"target": ITEM, b"want": b"n4"}) == Query(
        T1, CLIENT, FindNode(ITEM), version=None
    )


def test_a_method_we_do_not_know_asks_for_nodes_if_it_has_a_target() -> None:
    expected = Query(T1, CLIENT, FindNode(ITEM), version=None)
    assert query(b"get_signed_peers", {b"info_hash": ITEM}) == expected
    assert query(b"vote", {b"target": ITEM}) == expected
    assert query(b"vote", {}) == BadQuery(T1, ErrorCode.METHOD_UNKNOWN, "method unknown")


def test_an_announce_may_leave_the_port_out_when_it_is_implied() -> None:
    args = {b"info_hash": ITEM, b"token": b"t"}
    assert query(b"announce_peer", args | {b"implied_port": 1}) == Query(
        T1, CLIENT, AnnouncePeer(ITEM, None, True, b"t"), version=None
    )
    for port in (0, 65_536, -1, b"80"):
        refused = query(b"announce_peer", args | {b"port": port})
        assert refused == BadQuery(T1, ErrorCode.PROTOCOL, "invalid port")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({b"v": bytes(997)}, ErrorCode.VALUE_TOO_BIG),
        ({b"v": None}, ErrorCode.PROTOCOL),
        ({b"salt": bytes(65)}, ErrorCode.SALT_TOO_BIG),
        ({b"seq": -1}, ErrorCode.PROTOCOL),
        ({b"seq": 1 << 63}, ErrorCode.PROTOCOL),
        ({b"seq": None}, ErrorCode.PROTOCOL),
        ({b"k": bytes(31)}, ErrorCode.PROTOCOL),
        ({b"k": None}, ErrorCode.PROTOCOL),
        ({b"sig": bytes(63)}, ErrorCode.PROTOCOL),
        ({b"sig": None}, ErrorCode.PROTOCOL),
        ({b"token": None}, ErrorCode.PROTOCOL),
        ({b"token": bytes(MAX_TOKEN_BYTES + 1)}, ErrorCode.PROTOCOL),
        ({b"id": bytes(19)}, ErrorCode.PROTOCOL),
    ],
)
def test_a_bad_put_gets_its_error(change: dict[bytes, Any], code: ErrorCode) -> None:
    args = {b"k": bytes(32), b"seq": 1, b"sig": bytes(64), b"token": b"t", b"v": bytes(996)}
    assert isinstance(query(b"put", args | {b"salt": bytes(64)}), Query)
    changed = {key: value for key, value in (args | change).items() if value is not None}
    refused = query(b"put", changed)
    assert isinstance(refused, BadQuery)
    assert refused.code == code


def test_a_query_without_arguments_gets_an_error() -> None:
    data = bencode.encode({b"t": T1, b"y": b"q", b"q": b"ping"})
    assert decode(data) == BadQuery(T1, ErrorCode.PROTOCOL, "no arguments")


def test_an_answer_is_taken_without_its_broken_parts() -> None:
    mangled = answer(
        {
            b"nodes": bytes(27),
            b"nodes6": 5,
            b"token": bytes(MAX_TOKEN_BYTES + 1),
            b"values": [b"abcdef", b"short", 7, bytes(18)],
            b"v": bytes(997),
            b"k": bytes(33),
            b"seq": -1,
            b"sig": bytes(65),
            b"samples": bytes(19),
        }
    )
    peers = (SocketAddr("97.98.99.100", 0x6566), SocketAddr("::", 0))
    assert mangled == Response(T1, SERVER, peers=peers, version=None)


def test_an_answer_without_an_id_is_a_failed_query() -> None:
    for result in ({b"id": bytes(19)}, {}, 5):
        data = bencode.encode({b"t": T1, b"y": b"r", b"r": result})
        assert decode(data) == Error(T1, ErrorCode.UNREADABLE, "no result with an id", version=None)


@pytest.mark.parametrize(
    ("value", "code", "text"),
    [
        ([203, b"bad token"], 203, "bad token"),
        ([400], 400, ""),
        ([], 0, ""),
        (b"no list", 0, ""),
        ([b"text", 1], 0, ""),
        ([1 << 40, b"huge"], 0, "huge"),
        ([201, b"\xff\xfe"], 201, "��"),
        ([201, b"x" * 200], 201, "x" * 100),
        ([202, 7], 202, ""),
    ],
)
def test_an_error_of_any_form_is_a_failed_query(value: Any, code: int, text: str) -> None:
    assert error(value) == Error(T1, code, text, version=None)


def test_ours_are_exactly_as_long_as_strict_peers_want() -> None:
    assert len(VERSION) == 4
    for value in (b"5", [], {b"y": b"q"}, {b"t": T1}, {b"t": T1, b"y": b"x"}):
        with pytest.raises(DecodeError):
            decode(bencode.encode(value))
