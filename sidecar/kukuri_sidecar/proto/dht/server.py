"""Answering: what a query gets, within the bytes that its asker may cause.

Who is heard and how often is the business of ``limits``, whether the asker's address is proven that of
``proofs``.
"""

from __future__ import annotations

from typing import NamedTuple, assert_never

from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.proto.dht.distance import key_of
from kukuri_sidecar.proto.dht.routing_table import RoutingTable
from kukuri_sidecar.proto.dht.storage import Storage, StoredItem
from kukuri_sidecar.proto.dht.tokens import TOKEN_BYTES, Tokens
from kukuri_sidecar.wire import krpc
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.compact import NODE6_BYTES, NODE_BYTES, PEER6_BYTES, PEER_BYTES
from kukuri_sidecar.wire.ids import DHT_ID_BYTES, Target
from kukuri_sidecar.wire.krpc import ErrorCode, Response, Want
from kukuri_sidecar.wire.mutable_item import immutable_target

MAX_PEERS_PER_ANSWER = 100  # libtorrent's; the datagram holds about as many
SAMPLE_INTERVAL_S = 21_600  # BEP 51: the longest; our store changes slowly

# Bytes of an answer's parts, names and punctuation included; integers at their longest.
_BASE = 43  # d1:rd2:id20:<20>e1:t:1:y1:re, without the transaction id
_TOKEN = 7 + 2 + TOKEN_BYTES
_IP, _IP6 = 4 + 2 + PEER_BYTES, 4 + 3 + PEER6_BYTES
_VERSION = 3 + 2 + len(krpc.VERSION)
_NODES = 8 + 5  # and the nodes
_VALUES = 8 + 2  # and the peers
_PEER, _PEER6 = 2 + PEER_BYTES, 3 + PEER6_BYTES
_SEQ = 5 + 2 + 19
_KEY_AND_SIGNATURE = 3 + 3 + 32 + 5 + 3 + 64
_VALUE = 3  # and the value
_SAMPLES = (10 + 7) + (5 + 8) + (9 + 5)  # and the infohashes

_TEXTS = {
    ErrorCode.SERVER: "storage is full",
    ErrorCode.PROTOCOL: "invalid token",
    ErrorCode.INVALID_SIGNATURE: "invalid signature",
    ErrorCode.CAS_MISMATCH: "cas mismatch",
    ErrorCode.SEQ_TOO_OLD: "sequence number less than current",
}


class Answer(NamedTuple):
    """What to send, at most ``size`` bytes; ``is_withheld`` when the item at the target did not fit."""

    message: Response | krpc.Error
    size: int
    is_withheld: bool = False


class _Parts:
    """The optional fields of an answer, as long as they fit."""

    def __init__(self, room: int) -> None:
        self.room = room

    def fits(self, size: int) -> bool:
        """Say whether a field of ``size`` bytes still fits, and count it if so."""
        if size > self.room:
            return False
        self.room -= size
        return True

    def count(self, each: int, most: int) -> int:
        """Return how many entries of a list fit, and count them."""
        number = max(0, min(most, self.room // each))
        self.room -= number * each
        return number


class Server:
    """The answering half of a node."""

    def __init__(
        self, config: DhtConfig, table: RoutingTable, storage: Storage, is_v6: bool, rng: Rng
    ) -> None:
        self.config = config
        self._table = table
        self._storage = storage
        self._is_v6 = is_v6
        self._rng = rng
        self._tokens = Tokens(rng)

    def proves(self, args: krpc.Args, host: str, now: float) -> bool:
        """Say whether the query holds a token of ours: then ``host`` receives what we send there."""
        match args:
            case krpc.AnnouncePeer(info_hash, _, _, token):
                return self._tokens.is_valid(token, host, info_hash, now)
            case krpc.PutMutable(item, token, _):
                return self._tokens.is_valid(token, host, item.target, now)
            case krpc.PutImmutable(value, token):
                return self._tokens.is_valid(token, host, immutable_target(value), now)
            case krpc.Get(target, _, _, bytes() as token):
                return self._tokens.is_valid(token, host, target, now)
            case _:
                return False

    def answer(
        self, query: krpc.Query, sender: SocketAddr, budget: int, has_token: bool, now: float
    ) -> Answer:
        """Answer ``query`` in at most ``budget`` bytes; ``has_token`` is what ``proves`` said."""
        args = query.args
        parts = _Parts(budget - _base(query.tid))
        response = Response(query.tid, self._table.own_id)
        is_withheld = False
        match args:
            case krpc.Ping():
                pass
            case krpc.FindNode(target, want):
                response = self._with_nodes(response, parts, target, want)
            case krpc.GetPeers():
                response = self._with_peers(response, parts, args, sender, now)
            case krpc.Get(target, seq, want, _):
                stored = self._storage.items.get(target, now)
                if stored is not None:
                    response, is_withheld = _with_item(response, parts, stored, seq)
                response = self._with_token(response, parts, target, sender, now)
                response = self._with_nodes(response, parts, target, want)
            case krpc.SampleInfohashes(target, want):
                response = self._with_samples(response, parts, target, want)
            case krpc.AnnouncePeer() | krpc.PutMutable() | krpc.PutImmutable():
                code = self._store(args, sender, now) if has_token else ErrorCode.PROTOCOL
                if code is not None:
                    return refuse(query.tid, code, _TEXTS[code], sender)
            case _:
                assert_never(args)
        ip = sender if parts.fits(_IP6 if self._is_v6 else _IP) else None
        version = krpc.VERSION if parts.fits(_VERSION) else None
        return Answer(response._replace(ip=ip, version=version), budget - parts.room, is_withheld)

    # --- storing ---------------------------------------------------------------------------------------

    def _store(
        self, args: krpc.AnnouncePeer | krpc.PutMutable | krpc.PutImmutable, sender: SocketAddr, now: float
    ) -> ErrorCode | None:
        own_id, storage = self._table.own_id, self._storage
        storage.touched(now)
        match args:
            case krpc.AnnouncePeer(info_hash, port, implied_port, _):
                peer = SocketAddr(sender.host, sender.port if implied_port or port is None else port)
                return storage.peers.announce(info_hash, peer, own_id, now)
            case krpc.PutMutable(item, _, cas):
                if not item.is_genuine():
                    return ErrorCode.INVALID_SIGNATURE
                return storage.items.put_mutable(item, cas, own_id, now)
            case krpc.PutImmutable(value, _):
                return storage.items.put_immutable(immutable_target(value), value, own_id, now)

    # --- parts of answers, the most important first ----------------------------------------------------

    def _with_nodes(self, response: Response, parts: _Parts, target: Target, want: Want) -> Response:
        """Add the closest nodes. Of the other family we know nobody: an empty list, if it is wanted."""
        own = Want.NODES6 if self._is_v6 else Want.NODES
        want = want or own
        own_nodes = other_nodes = None
        if own in want and parts.fits(_NODES):
            count = parts.count(NODE6_BYTES if self._is_v6 else NODE_BYTES, self.config.k)
            own_nodes = tuple(contact.info for contact in self._table.closest(key_of(target), count))
        if want & ~own and parts.fits(_NODES):
            other_nodes = ()
        nodes, nodes6 = (other_nodes, own_nodes) if self._is_v6 else (own_nodes, other_nodes)
        return response._replace(nodes=nodes, nodes6=nodes6)

    def _with_peers(
        self, response: Response, parts: _Parts, args: krpc.GetPeers, sender: SocketAddr, now: float
    ) -> Response:
        """Add token, nodes (BEP 32 wants them in every answer) in half of the room, and peers in the rest."""
        response = self._with_token(response, parts, args.info_hash, sender, now)
        kept, parts.room = parts.room // 2, parts.room - parts.room // 2
        response = self._with_nodes(response, parts, args.info_hash, args.want)
        parts.room += kept
        if not parts.fits(_VALUES):
            return response
        count = parts.count(_PEER6 if self._is_v6 else _PEER, MAX_PEERS_PER_ANSWER)
        peers = self._storage.peers.peers(args.info_hash, count, self._rng, now)
        return response._replace(peers=tuple(peers))

    def _with_samples(self, response: Response, parts: _Parts, target: Target, want: Want) -> Response:
        if not parts.fits(_SAMPLES):
            return response
        response = self._with_nodes(response, parts, target, want)
        peers = self._storage.peers
        hashes = peers.infohashes(parts.count(DHT_ID_BYTES, len(peers)), self._rng)
        return response._replace(samples=krpc.Samples(SAMPLE_INTERVAL_S, len(peers), tuple(hashes)))

    def _with_token(
        self, response: Response, parts: _Parts, target: Target, sender: SocketAddr, now: float
    ) -> Response:
        if not parts.fits(_TOKEN):
            return response
        return response._replace(token=self._tokens.make(sender.host, target, now))


def refuse(tid: bytes, code: ErrorCode, text: str, sender: SocketAddr) -> Answer:
    """Return an error; always shorter than three questions."""
    return Answer(krpc.Error(tid, code, text, sender), _base(tid) + len(text) + _IP6 + _VERSION)


def _base(tid: bytes) -> int:
    return _BASE + len(tid) + len(str(len(tid)))


def _with_item(
    response: Response, parts: _Parts, stored: StoredItem, known_seq: int | None
) -> tuple[Response, bool]:
    """Add the item, or only its seq when the asker has it or has no room; say whether it was held back."""
    item, value_size = stored.item, _VALUE + len(stored.value)
    if item is None:
        if parts.fits(value_size):
            return response._replace(value=stored.value), False
        return response._replace(seq=0 if parts.fits(_SEQ) else None), True
    is_wanted = known_seq is None or item.seq > known_seq
    if is_wanted and parts.fits(_KEY_AND_SIGNATURE + _SEQ + value_size):
        full = response._replace(
            value=item.value, public_key=item.public_key, seq=item.seq, signature=item.signature
        )
        return full, False
    return response._replace(seq=item.seq if parts.fits(_SEQ) else None), is_wanted
