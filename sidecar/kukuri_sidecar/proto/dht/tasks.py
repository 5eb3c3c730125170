"""What look-ups are for: what each asks a node, reads in the answer, and writes in the end."""

from __future__ import annotations

from typing import Protocol

from kukuri_sidecar.proto.dht.events import (
    AnnouncePeer,
    GetImmutable,
    GetMutable,
    GetPeers,
    ItemFound,
    LookupId,
    Notice,
    PeersFound,
    Policy,
    PutImmutable,
    PutMutable,
    ValueFound,
)
from kukuri_sidecar.proto.dht.lookup import Candidate
from kukuri_sidecar.proto.dht.subnets import is_usable
from kukuri_sidecar.wire import krpc
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.bencode import Encoded
from kukuri_sidecar.wire.ids import Target
from kukuri_sidecar.wire.mutable_item import MutableItem, immutable_target, mutable_target

MAX_PEERS_PER_LOOKUP = 1_000


class Task(Protocol):
    """One purpose of a look-up."""

    target: Target
    is_writing: bool
    """The closest nodes are to store something."""
    is_satisfied: bool
    """The policy asks for no more."""

    def question(self) -> krpc.Args:
        """Return what to ask every node."""
        ...

    def second_question(self, candidate: Candidate, response: krpc.Response) -> krpc.Args | None:
        """Return what to ask a node that answered but kept its item back; None as a rule."""
        ...

    def read(self, candidate: Candidate, response: krpc.Response) -> Notice | None:
        """Take an answer; return what is new in it."""
        ...

    def write(self, candidate: Candidate) -> krpc.Args | None:
        """Return what a closest node is to store; None when there is nothing, or it gave no token."""
        ...


class WalkTask:
    """Meet nodes."""

    __slots__ = ("_want", "is_satisfied", "is_writing", "target")

    def __init__(self, target: Target, want: krpc.Want = krpc.Want.NOTHING) -> None:
        self.target = target
        self.is_writing = self.is_satisfied = False
        self._want = want

    def question(self) -> krpc.Args:
        """As ``Task``."""
        return krpc.FindNode(self.target, self._want)

    def second_question(self, candidate: Candidate, response: krpc.Response) -> None:
        """As ``Task``."""

    def read(self, candidate: Candidate, response: krpc.Response) -> None:
        """As ``Task``."""

    def write(self, candidate: Candidate) -> None:
        """As ``Task``."""


class ItemTask:
    """Find a mutable item, or put one."""

    __slots__ = (
        "_best",
        "_cas",
        "_id",
        "_key",
        "_known_seq",
        "_policy",
        "_put",
        "_salt",
        "is_satisfied",
        "is_writing",
        "target",
    )

    def __init__(self, command: GetMutable | PutMutable) -> None:
        self._id = command.lookup
        if isinstance(command, GetMutable):
            self._key, self._salt = command.public_key, command.salt
            self._known_seq, self._policy = command.newer_than, command.policy
            self._put: MutableItem | None = None
            self._cas: int | None = None
        else:
            self._put, self._cas = command.item, command.cas
            self._key, self._salt = command.item.public_key, command.item.salt
            self._known_seq, self._policy = command.item.seq, Policy.COMPLETE
        self._best = self._put
        self.target = mutable_target(self._key, self._salt)
        self.is_writing = self._put is not None
        self.is_satisfied = False

    def question(self) -> krpc.Args:
        """As ``Task``. Always with a seq: mainline tells the two kinds of items apart by it."""
        return krpc.Get(self.target, self._known_seq or 0)

    def second_question(self, candidate: Candidate, response: krpc.Response) -> krpc.Args | None:
        """Ask again who has a seq that we want, but sent no value.

        One of ours wants our address proven before it sends so much. With seq 0 it may be any node: nothing
        exceeds the 0 that we asked with.
        """
        if response.value is not None or response.seq is None:
            return None
        if self._known_seq is not None and response.seq <= self._known_seq:
            return None
        return krpc.Get(
            self.target, None if response.seq == 0 else self._known_seq or 0, token=response.token
        )

    def read(self, candidate: Candidate, response: krpc.Response) -> ItemFound | None:
        """As ``Task``. A signature is checked once per item: others are compared with the best."""
        seq, value, signature = response.seq, response.value, response.signature
        if seq is not None:
            candidate.item_seq = seq
        if value is None or seq is None or signature is None or response.public_key != self._key:
            return None
        if self._put is None and self._known_seq is not None and seq <= self._known_seq:
            return None
        item = MutableItem(self._key, seq, value, signature, self._salt)
        if self._best is not None and not item.is_newer_than(self._best):
            candidate.keeps_ours = item == self._put
            return None
        if not item.is_genuine():
            candidate.item_seq = None
            return None
        self._best = item
        self.is_satisfied = self._policy is Policy.FIRST
        return ItemFound(self._id, item, candidate.addr)

    def write(self, candidate: Candidate) -> krpc.Args | None:
        """As ``Task``. Nodes that keep nothing get no ``cas`` (BEP 44 leaves open what they would do)."""
        if self._put is None or candidate.token is None:
            return None
        cas = self._cas if candidate.item_seq is not None else None
        return krpc.PutMutable(self._put, candidate.token, cas)


class ValueTask:
    """Find an immutable value, or put one."""

    __slots__ = ("_id", "_put", "is_satisfied", "is_writing", "target")

    def __init__(self, command: GetImmutable | PutImmutable) -> None:
        self._id = command.lookup
        self._put: Encoded | None = None
        if isinstance(command, PutImmutable):
            self._put, self.target = command.value, immutable_target(command.value)
        else:
            self.target = command.target
        self.is_writing = self._put is not None
        self.is_satisfied = False

    def question(self) -> krpc.Args:
        """As ``Task``."""
        return krpc.Get(self.target)

    def second_question(self, candidate: Candidate, response: krpc.Response) -> krpc.Args | None:
        """As ``Task``. Only ours name a seq at an immutable target: they hold the value back."""
        if self._put is not None or response.value is not None or response.seq is None:
            return None
        return krpc.Get(self.target, token=response.token)

    def read(self, candidate: Candidate, response: krpc.Response) -> ValueFound | None:
        """As ``Task``."""
        value = response.value
        if self._put is not None or value is None or immutable_target(value) != self.target:
            return None
        self.is_satisfied = True
        return ValueFound(self._id, value, candidate.addr)

    def write(self, candidate: Candidate) -> krpc.Args | None:
        """As ``Task``."""
        if self._put is None or candidate.token is None:
            return None
        return krpc.PutImmutable(self._put, candidate.token)


class PeersTask:
    """Find who announced an infohash, and perhaps announce ourselves."""

    __slots__ = ("_announce", "_id", "_policy", "_seen", "is_satisfied", "is_writing", "target")

    def __init__(self, command: GetPeers | AnnouncePeer) -> None:
        self._id: LookupId = command.lookup
        self.target = command.info_hash
        self._announce = command if isinstance(command, AnnouncePeer) else None
        self._policy = command.policy if isinstance(command, GetPeers) else Policy.COMPLETE
        self._seen: dict[SocketAddr, None] = {}
        self.is_writing = self._announce is not None
        self.is_satisfied = False

    def question(self) -> krpc.Args:
        """As ``Task``."""
        return krpc.GetPeers(self.target)

    def second_question(self, candidate: Candidate, response: krpc.Response) -> None:
        """As ``Task``."""

    def read(self, candidate: Candidate, response: krpc.Response) -> PeersFound | None:
        """As ``Task``."""
        new: dict[SocketAddr, None] = {}
        for peer in response.peers:
            if len(self._seen) + len(new) >= MAX_PEERS_PER_LOOKUP:
                break
            if peer.port and peer not in self._seen and is_usable(peer.host):
                new[peer] = None
        if not new:
            return None
        self._seen |= new
        self.is_satisfied = self._policy is Policy.FIRST
        return PeersFound(self._id, tuple(new), candidate.addr)

    def write(self, candidate: Candidate) -> krpc.Args | None:
        """As ``Task``."""
        announce = self._announce
        if announce is None or candidate.token is None:
            return None
        return krpc.AnnouncePeer(self.target, announce.port, announce.implied_port, candidate.token)
