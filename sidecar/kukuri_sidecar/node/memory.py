"""What survives a restart: remembered topics, and the places where peers were met.

Two small files in the profile. Caches, not truth: a damaged file is moved aside and reported, never fatal.
Not here: the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
from msgspec import Struct

from kukuri_sidecar.errors import DecodeError, StorageError
from kukuri_sidecar.node.profile import Profile
from kukuri_sidecar.wire.addr import HostPort, split_host_port
from kukuri_sidecar.wire.ids import EndpointId, TopicId

TOPICS_FILE = "topics.json"
PEERS_FILE = "peers.json"
VERSION = 1
MAX_TOPICS = 1024  # the most that limits.topics allows
MAX_PEERS = 1024  # api.md section 6: persist_peers
MAX_PEER_AGE_MS = 30 * 24 * 3600 * 1000
MAX_PEERS_PER_TOPIC = 64
MAX_HOSTS_PER_PEER = 8


class RememberedTopic(Struct, frozen=True):
    """A topic to join again, with the members it had."""

    topic_id: str
    name: str | None
    mode: str
    max_message_bytes: int
    members: list[str] = []

    @property
    def id(self) -> TopicId:
        """The topic id; DecodeError when the file holds something else."""
        return TopicId.from_hex(self.topic_id)

    @property
    def member_ids(self) -> tuple[EndpointId, ...]:
        """The members; DecodeError when the file holds something else."""
        return tuple(EndpointId.from_hex(member) for member in self.members[:MAX_PEERS_PER_TOPIC])


class RememberedPeer(Struct, frozen=True):
    """A peer that proved its identity at ``hosts``, the last time at ``seen_ms`` (Unix)."""

    endpoint_id: str
    hosts: list[str]
    seen_ms: int

    @property
    def id(self) -> EndpointId:
        """The endpoint id; DecodeError when the file holds something else."""
        return EndpointId.from_hex(self.endpoint_id)

    @property
    def places(self) -> tuple[HostPort, ...]:
        """The places, in order; DecodeError when the file holds something else."""
        return tuple(HostPort(*split_host_port(host)) for host in self.hosts[:MAX_HOSTS_PER_PEER])


class _TopicsFile(Struct):
    version: int
    topics: list[RememberedTopic]


class _PeersFile(Struct):
    version: int
    peers: list[RememberedPeer]


_FileT = TypeVar("_FileT", bound=Struct)
_EntryT = TypeVar("_EntryT")


class Memory:
    """Reads once, writes when something changed. Blocks on the disk: call it in a thread."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._written: dict[str, bytes] = {}
        self.warnings: list[str] = []

    def topics(self) -> list[RememberedTopic]:
        """Return the remembered topics; none, and a warning, when the file is damaged."""
        file = self._load(TOPICS_FILE, _TopicsFile)
        topics = file.topics[:MAX_TOPICS] if file else []
        return self._sound(TOPICS_FILE, topics, lambda topic: (topic.id, topic.member_ids))

    def peers(self, now_ms: int) -> list[RememberedPeer]:
        """Return the remembered peers of the last 30 days; none, and a warning, when the file is damaged."""
        file = self._load(PEERS_FILE, _PeersFile)
        peers = [peer for peer in file.peers if now_ms - peer.seen_ms < MAX_PEER_AGE_MS] if file else []
        return self._sound(PEERS_FILE, peers[:MAX_PEERS], lambda peer: (peer.id, peer.places))

    def save_topics(self, topics: Iterable[RememberedTopic]) -> None:
        """Replace the remembered topics; StorageError when the disk refuses."""
        self._save(TOPICS_FILE, _TopicsFile(VERSION, list(topics)))

    def save_peers(self, peers: Iterable[RememberedPeer]) -> None:
        """Replace the remembered peers; StorageError when the disk refuses."""
        self._save(PEERS_FILE, _PeersFile(VERSION, list(peers)[:MAX_PEERS]))

    def _load(self, name: str, type_: type[_FileT]) -> _FileT | None:
        data = self._profile.read(name)
        if data is None:
            return None
        try:
            file = msgspec.json.decode(data, type=type_)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._reject(name)
            return None
        self._written[name] = data
        return file

    def _sound(self, name: str, entries: list[_EntryT], parse: Callable[[_EntryT], object]) -> list[_EntryT]:
        """Return ``entries`` if every one of them parses."""
        try:
            for entry in entries:
                parse(entry)
        except DecodeError:
            self._reject(name)
            return []
        return entries

    def _reject(self, name: str) -> None:
        try:
            aside = self._profile.set_aside(name)
            self.warnings.append(f"{name} was damaged; it is kept as {aside} and a new one is begun")
        except StorageError as exc:
            self.warnings.append(f"{name} is damaged: {exc.message}")

    def _save(self, name: str, file: Struct) -> None:
        data = msgspec.json.encode(file) + b"\n"
        if self._written.get(name) != data:
            self._profile.write(name, data)
            self._written[name] = data
