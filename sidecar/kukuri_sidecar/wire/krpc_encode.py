"""KRPC messages -> datagrams: one bencoded dict each (BEP 5 "KRPC Protocol")."""

from __future__ import annotations

from typing import assert_never

from kukuri_sidecar.wire import bencode
from kukuri_sidecar.wire.bencode import Encodable
from kukuri_sidecar.wire.compact import encode_nodes, encode_peer
from kukuri_sidecar.wire.krpc import (
    AnnouncePeer,
    Args,
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
    Want,
)
from kukuri_sidecar.wire.mutable_item import immutable_target

_Fields = dict[bytes, Encodable]
_WANT_NAMES = ((Want.NODES, b"n4"), (Want.NODES6, b"n6"))


def encode(message: Query | Response | Error) -> bytes:
    """Return the datagram. A read-only flag is written in queries only: mainline ignores answers with one."""
    fields: _Fields = {b"t": message.tid}
    if message.version is not None:
        fields[b"v"] = message.version
    if isinstance(message, Query):
        method, args = _args(message.args)
        fields |= {b"y": b"q", b"q": method, b"a": {b"id": message.sender_id, **args}}
        if message.read_only:
            fields[b"ro"] = 1
        return bencode.encode(fields)
    if message.ip is not None:
        fields[b"ip"] = encode_peer(message.ip)
    if isinstance(message, Response):
        fields |= {b"y": b"r", b"r": _result(message)}
    else:
        fields |= {b"y": b"e", b"e": [message.code, message.text.encode()]}
    return bencode.encode(fields)


def _args(args: Args) -> tuple[bytes, _Fields]:
    match args:
        case Ping():
            return b"ping", {}
        case FindNode(target, want):
            return b"find_node", {b"target": target, **_want(want)}
        case GetPeers(info_hash, want):
            return b"get_peers", {b"info_hash": info_hash, **_want(want)}
        case AnnouncePeer(info_hash, port, implied_port, token):
            announce: _Fields = {
                b"info_hash": info_hash,
                b"implied_port": int(implied_port),
                b"token": token,
            }
            return b"announce_peer", announce | ({} if port is None else {b"port": port})
        case Get(target, seq, want, token_or_none):
            get: _Fields = {b"target": target, **_want(want)}
            if seq is not None:
                get[b"seq"] = seq
            return b"get", get | ({} if token_or_none is None else {b"token": token_or_none})
        case PutMutable(item, token, cas):
            put: _Fields = {
                b"k": item.public_key,
                b"seq": item.seq,
                b"sig": item.signature,
                b"target": item.target,  # not in BEP 44, but mainline (Rust) ignores a put without it
                b"token": token,
                b"v": item.value,
            }
            if item.salt:  # bittorrent-dht breaks on an empty one
                put[b"salt"] = item.salt
            return b"put", put | ({} if cas is None else {b"cas": cas})
        case PutImmutable(value, token):
            return b"put", {b"target": immutable_target(value), b"token": token, b"v": value}
        case SampleInfohashes(target, want):
            return b"sample_infohashes", {b"target": target, **_want(want)}
        case _:
            assert_never(args)


def _want(want: Want) -> _Fields:
    return {b"want": [name for flag, name in _WANT_NAMES if flag & want]} if want else {}


def _result(response: Response) -> _Fields:
    result: _Fields = {b"id": response.sender_id}
    if response.nodes is not None:
        result[b"nodes"] = encode_nodes(response.nodes)
    if response.nodes6 is not None:
        result[b"nodes6"] = encode_nodes(response.nodes6)
    if response.peers:
        result[b"values"] = [encode_peer(peer) for peer in response.peers]
    if (samples := response.samples) is not None:
        result[b"interval"] = samples.interval_s
        result[b"num"] = samples.total
        result[b"samples"] = b"".join(samples.info_hashes)
    optional = {
        b"token": response.token,
        b"v": response.value,
        b"k": response.public_key,
        b"seq": response.seq,
        b"sig": response.signature,
    }
    result |= {key: value for key, value in optional.items() if value is not None}
    return result
