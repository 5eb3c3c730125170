"""Messages of the Mainline DHT as values: BEP 5, with the fields of BEP 32, 42, 43, 44 and 51.

``krpc_encode`` turns them into datagrams, ``krpc_decode`` back. They are tuples for speed, so ``==`` does not
see the class: match types.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple, TypeAlias

from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.bencode import Encoded
from kukuri_sidecar.wire.compact import NodeInfo
from kukuri_sidecar.wire.ids import DhtNodeId, EndpointId, Target
from kukuri_sidecar.wire.mutable_item import MutableItem

VERSION = b"KS\x00\x01"  # exactly 4 bytes: mainline's decoder drops messages with any other length
TID_BYTES = 4  # ours; mainline >= 6 drops queries with any other length (mainline-dht.md section 0.2)
MAX_TID_BYTES = 64  # theirs, echoed
MAX_TOKEN_BYTES = 64  # bittorrent-dht has 20, libtorrent and mainline 4


class ErrorCode(IntEnum):
    """BEP 5 "Errors", BEP 44 "Errors". Others exist and travel as plain numbers."""

    UNREADABLE = 0  # ours, never sent: an answer that makes no sense
    GENERIC = 201
    SERVER = 202
    PROTOCOL = 203
    METHOD_UNKNOWN = 204
    VALUE_TOO_BIG = 205
    INVALID_SIGNATURE = 206
    SALT_TOO_BIG = 207
    CAS_MISMATCH = 301
    SEQ_TOO_OLD = 302


class Want(IntFlag):
    """Which families of nodes an answer should hold (BEP 32); nothing means the family of the datagram."""

    NOTHING = 0
    NODES = 1
    NODES6 = 2


# --- what a query asks ---------------------------------------------------------------------------------


class Ping(NamedTuple):
    """Are you there?"""


class FindNode(NamedTuple):
    """Whom do you know near ``target``? Also what an unknown method with a target is taken for."""

    target: Target
    want: Want = Want.NOTHING


class GetPeers(NamedTuple):
    """Who announced ``info_hash``?"""

    info_hash: Target
    want: Want = Want.NOTHING


class AnnouncePeer(NamedTuple):
    """The sender takes part in ``info_hash`` at ``port``, or at the port it sends from when ``implied_port``.

    ``port`` is None only beside ``implied_port``; ours always carries it, libtorrent insists.
    """

    info_hash: Target
    port: int | None
    implied_port: bool
    token: bytes


class Get(NamedTuple):
    """What is stored at ``target``? Leave the value out unless its seq exceeds ``seq``.

    Look-ups for mutable items always give a seq (0 when nothing is known). ``token`` is ours: it proves the
    address when an earlier answer held a value back; others ignore it.
    """

    target: Target
    seq: int | None = None
    want: Want = Want.NOTHING
    token: bytes | None = None


class PutMutable(NamedTuple):
    """Store ``item``, provided that the stored seq is ``cas`` when given."""

    item: MutableItem
    token: bytes
    cas: int | None = None


class PutImmutable(NamedTuple):
    """Store ``value`` under its hash."""

    value: Encoded
    token: bytes


class SampleInfohashes(NamedTuple):
    """Which infohashes do you keep (BEP 51)?"""

    target: Target
    want: Want = Want.NOTHING


Args: TypeAlias = (
    Ping | FindNode | GetPeers | AnnouncePeer | Get | PutMutable | PutImmutable | SampleInfohashes
)


# --- messages ------------------------------------------------------------------------------------------


class Query(NamedTuple):
    """A question that can be answered."""

    tid: bytes
    sender_id: DhtNodeId
    args: Args
    read_only: bool = False
    """The sender does not serve and must not enter a routing table (BEP 43)."""
    version: bytes | None = VERSION


class BadQuery(NamedTuple):
    """A question that can only be answered with this error."""

    tid: bytes
    code: ErrorCode
    text: str


class Samples(NamedTuple):
    """The answer part of ``sample_infohashes``: ask again in ``interval_s``, ``total`` are kept."""

    interval_s: int
    total: int
    info_hashes: tuple[Target, ...]


class Response(NamedTuple):
    """An answer. Which fields are there depends on the question; None or empty means absent."""

    tid: bytes
    sender_id: DhtNodeId
    nodes: tuple[NodeInfo, ...] | None = None
    nodes6: tuple[NodeInfo, ...] | None = None
    token: bytes | None = None
    peers: tuple[SocketAddr, ...] = ()
    value: Encoded | None = None
    public_key: EndpointId | None = None
    seq: int | None = None
    signature: bytes | None = None
    samples: Samples | None = None
    ip: SocketAddr | None = None
    """The asker's address as the answerer sees it (BEP 42)."""
    version: bytes | None = VERSION


class Error(NamedTuple):
    """A refusal. ``code`` may be any number; ``text`` is for logs."""

    tid: bytes
    code: int
    text: str
    ip: SocketAddr | None = None
    version: bytes | None = VERSION


Message: TypeAlias = Query | BadQuery | Response | Error
