"""Datagrams -> KRPC messages (BEP 5 "KRPC Protocol").

Strict in what it makes of a message, tolerant where real peers differ: unknown keys, ``want`` strings and
methods, transaction ids of any length up to 64, a ``v`` or ``ip`` of any form, nodes of a broken length,
answers without token, errors that are no list (mainline-dht.md 1.2, 2.3, 3.5).
"""

from __future__ import annotations

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire import bencode
from kukuri_sidecar.wire.addr import MAX_PORT, SocketAddr
from kukuri_sidecar.wire.bencode import Encoded, Value
from kukuri_sidecar.wire.compact import (
    NODE6_BYTES,
    NODE_BYTES,
    PEER6_BYTES,
    PEER_BYTES,
    NodeInfo,
    decode_nodes,
    decode_peer,
)
from kukuri_sidecar.wire.ids import DHT_ID_BYTES, ID_BYTES, DhtNodeId, EndpointId, Target
from kukuri_sidecar.wire.keys import SIGNATURE_BYTES
from kukuri_sidecar.wire.krpc import (
    MAX_TID_BYTES,
    MAX_TOKEN_BYTES,
    AnnouncePeer,
    Args,
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
    Samples,
    Want,
)
from kukuri_sidecar.wire.mutable_item import MAX_SALT_BYTES, MAX_SEQ, MAX_VALUE_BYTES, MutableItem

MAX_TEXT_CHARS = 100  # of a foreign error, for logs
MAX_VERSION_BYTES = 16  # real ones have 4

_Dict = dict[bytes, Value]
_WANT = {b"n4": Want.NODES, b"n6": Want.NODES6}


class _Refused(Exception):
    """The query gets this error."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def decode(data: bytes) -> Message:
    """Parse a datagram. Raises DecodeError("krpc") when it cannot even be answered or attributed."""
    try:
        message = bencode.decode(data)
    except DecodeError as error:
        raise error.named("krpc") from None
    if not isinstance(message, dict):
        raise DecodeError("krpc", 0, "no dict")
    tid = message.get(b"t")
    if not isinstance(tid, bytes) or len(tid) > MAX_TID_BYTES:
        raise DecodeError("krpc", len(data), f"no transaction id of up to {MAX_TID_BYTES} bytes")
    match message.get(b"y"):
        case b"q":
            return _query(tid, message)
        case b"r":
            return _response(tid, message)
        case b"e":
            return _error(tid, message)
    raise DecodeError("krpc", len(data), "neither query nor answer nor error")


def _query(tid: bytes, message: _Dict) -> Query | BadQuery:
    try:
        args = message.get(b"a")
        if not isinstance(args, dict):
            raise _Refused(ErrorCode.PROTOCOL, "no arguments")
        sender_id = DhtNodeId(_exactly(args, b"id", DHT_ID_BYTES))
        parsed = _parse_args(message.get(b"q"), args)
    except _Refused as refused:
        return BadQuery(tid, refused.code, refused.text)
    read_only = message.get(b"ro")
    return Query(tid, sender_id, parsed, isinstance(read_only, int) and read_only != 0, _version(message))


def _parse_args(method: Value | None, args: _Dict) -> Args:
    match method:
        case b"ping":
            return Ping()
        case b"find_node":
            return FindNode(_target(args, b"target"), _parse_want(args))
        case b"get_peers":
            return GetPeers(_target(args, b"info_hash"), _parse_want(args))
        case b"announce_peer":
            return _announce(args)
        case b"get":
            seq, token = args.get(b"seq"), args.get(b"token")
            return Get(
                _target(args, b"target"),
                max(0, min(seq, MAX_SEQ)) if isinstance(seq, int) else None,
                _parse_want(args),
                token if isinstance(token, bytes) and len(token) <= MAX_TOKEN_BYTES else None,
            )
        case b"put":
            return _put(args)
        case b"sample_infohashes":
            return SampleInfohashes(_target(args, b"target"), _parse_want(args))
    for key in (b"target", b"info_hash"):  # as libtorrent: there are more BEPs than we know
        target = args.get(key)
        if isinstance(target, bytes) and len(target) == DHT_ID_BYTES:
            return FindNode(Target(target), _parse_want(args))
    raise _Refused(ErrorCode.METHOD_UNKNOWN, "method unknown")


def _announce(args: _Dict) -> AnnouncePeer:
    implied, port = args.get(b"implied_port"), args.get(b"port")
    implied_port = isinstance(implied, int) and implied != 0
    if not isinstance(port, int) or not 0 < port <= MAX_PORT:
        if not implied_port:
            raise _Refused(ErrorCode.PROTOCOL, "invalid port")
        port = None
    return AnnouncePeer(_target(args, b"info_hash"), port, implied_port, _parse_token(args))


def _put(args: _Dict) -> PutMutable | PutImmutable:
    token = _parse_token(args)
    if b"v" not in args:
        raise _Refused(ErrorCode.PROTOCOL, "no v")
    value = Encoded(bencode.encode(args[b"v"]))
    if len(value) > MAX_VALUE_BYTES:
        raise _Refused(ErrorCode.VALUE_TOO_BIG, "v too big")
    if b"k" not in args and b"sig" not in args:
        return PutImmutable(value, token)
    salt, seq, cas = args.get(b"salt", b""), args.get(b"seq"), args.get(b"cas")
    if not isinstance(salt, bytes) or len(salt) > MAX_SALT_BYTES:
        raise _Refused(ErrorCode.SALT_TOO_BIG, "salt too big")
    if not isinstance(seq, int) or not 0 <= seq <= MAX_SEQ:
        raise _Refused(ErrorCode.PROTOCOL, "invalid seq")
    key, signature = _exactly(args, b"k", ID_BYTES), _exactly(args, b"sig", SIGNATURE_BYTES)
    item = MutableItem(EndpointId(key), seq, value, signature, salt)
    return PutMutable(item, token, cas if isinstance(cas, int) else None)


def _response(tid: bytes, message: _Dict) -> Response | Error:
    result = message.get(b"r")
    node_id = result.get(b"id") if isinstance(result, dict) else None
    if not isinstance(result, dict) or not isinstance(node_id, bytes) or len(node_id) != DHT_ID_BYTES:
        return Error(tid, ErrorCode.UNREADABLE, "no result with an id", _ip(message), _version(message))
    token, key, seq, signature = (result.get(name) for name in (b"token", b"k", b"seq", b"sig"))
    value = Encoded(bencode.encode(result[b"v"])) if b"v" in result else None
    return Response(
        tid,
        DhtNodeId(node_id),
        _nodes(result.get(b"nodes"), NODE_BYTES),
        _nodes(result.get(b"nodes6"), NODE6_BYTES),
        token if isinstance(token, bytes) and len(token) <= MAX_TOKEN_BYTES else None,
        _peers(result.get(b"values")),
        value if value is not None and len(value) <= MAX_VALUE_BYTES else None,
        EndpointId(key) if isinstance(key, bytes) and len(key) == ID_BYTES else None,
        seq if isinstance(seq, int) and 0 <= seq <= MAX_SEQ else None,
        signature if isinstance(signature, bytes) and len(signature) == SIGNATURE_BYTES else None,
        _samples(result),
        _ip(message),
        _version(message),
    )


def _error(tid: bytes, message: _Dict) -> Error:
    code: int = ErrorCode.UNREADABLE
    text = b""
    match message.get(b"e"):
        case [int(number), *rest]:
            code = number if abs(number) < 1 << 31 else code
            text = rest[0] if rest and isinstance(rest[0], bytes) else b""
    readable = text.decode(errors="replace")[:MAX_TEXT_CHARS]
    return Error(tid, code, readable, _ip(message), _version(message))


def _exactly(args: _Dict, key: bytes, size: int) -> bytes:
    value = args.get(key)
    if not isinstance(value, bytes) or len(value) != size:
        raise _Refused(ErrorCode.PROTOCOL, f"invalid {key.decode()}")
    return value


def _target(args: _Dict, key: bytes) -> Target:
    return Target(_exactly(args, key, DHT_ID_BYTES))


def _parse_token(args: _Dict) -> bytes:
    token = args.get(b"token")
    if not isinstance(token, bytes) or len(token) > MAX_TOKEN_BYTES:
        raise _Refused(ErrorCode.PROTOCOL, "invalid token")
    return token


def _parse_want(args: _Dict) -> Want:
    want, names = Want.NOTHING, args.get(b"want")
    if isinstance(names, list):
        for name in names:
            if isinstance(name, bytes):
                want |= _WANT.get(name, Want.NOTHING)
    return want


def _nodes(blob: Value | None, size: int) -> tuple[NodeInfo, ...] | None:
    return decode_nodes(blob, size) if isinstance(blob, bytes) and len(blob) % size == 0 else None


def _peers(values: Value | None) -> tuple[SocketAddr, ...]:
    if not isinstance(values, list):
        return ()
    return tuple(
        decode_peer(value)
        for value in values
        if isinstance(value, bytes) and len(value) in (PEER_BYTES, PEER6_BYTES)
    )


def _samples(result: _Dict) -> Samples | None:
    blob, interval, total = result.get(b"samples"), result.get(b"interval"), result.get(b"num")
    if not isinstance(blob, bytes) or len(blob) % DHT_ID_BYTES:
        return None
    return Samples(
        interval if isinstance(interval, int) else 0,
        total if isinstance(total, int) else 0,
        tuple(Target(blob[at : at + DHT_ID_BYTES]) for at in range(0, len(blob), DHT_ID_BYTES)),
    )


def _ip(message: _Dict) -> SocketAddr | None:
    blob = message.get(b"ip")
    return decode_peer(blob) if isinstance(blob, bytes) and len(blob) in (PEER_BYTES, PEER6_BYTES) else None


def _version(message: _Dict) -> bytes | None:
    version = message.get(b"v")
    return version if isinstance(version, bytes) and len(version) <= MAX_VERSION_BYTES else None
