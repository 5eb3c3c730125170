"""What survives a restart: remembered topics, the places where peers were met, the newest records seen.

Three small files in the profile. Caches, not truth: a damaged file is moved aside and reported, never fatal.
Not here: the identity.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal, TypeVar

import anyio
import msgspec
from msgspec import Meta, Struct

from kukuri_sidecar.errors import DecodeError, StorageError
from kukuri_sidecar.node.envelopes import Mode
from kukuri_sidecar.node.profile import Profile
from kukuri_sidecar.wire.addr import HostPort
from kukuri_sidecar.wire.ids import EndpointId, TopicId
from kukuri_sidecar.wire.mutable_item import MAX_SEQ

TOPICS_FILE = "topics.json"
PEERS_FILE = "peers.json"
RECORDS_FILE = "records.json"
VERSION: Literal[1] = 1  # of every file; another one is not ours to read
MAX_TOPICS = 1024  # the most that limits.topics allows
MAX_PEERS = 1024  # api.md section 6: persist_peers
MAX_RECORDS = 1_000  # node.discovery.freshness
MAX_PEER_AGE_MS = 30 * 24 * 3600 * 1000
MAX_MEMBERS_PER_TOPIC = 64
SAVE_INTERVAL_S = 5.0  # what a crash may forget; a write happens only after a change

_log = logging.getLogger(__name__)


class RememberedTopic(Struct, frozen=True):
    """A topic to join again, with the members it had."""

    topic_id: str
    name: str | None
    mode: Mode
    max_message_bytes: Annotated[int, Meta(ge=512, le=1_048_576)]
    members: list[str] = []

    @property
    def id(self) -> TopicId:
        """The topic id; DecodeError when the file holds something else."""
        return TopicId.from_hex(self.topic_id)

    @property
    def member_ids(self) -> tuple[EndpointId, ...]:
        """The members; DecodeError when the file holds something else."""
        return tuple(EndpointId.from_hex(member) for member in self.members[:MAX_MEMBERS_PER_TOPIC])


class RememberedPeer(Struct, frozen=True):
    """A peer that proved its identity at ``host``, the last time at ``seen_ms`` (Unix)."""

    endpoint_id: str
    host: str
    seen_ms: Annotated[int, Meta(ge=0, lt=1 << 48)]

    @property
    def id(self) -> EndpointId:
        """The endpoint id; DecodeError when the file holds something else."""
        return EndpointId.from_hex(self.endpoint_id)

    @property
    def place(self) -> HostPort:
        """Where it was met; DecodeError when the file holds something else."""
        return HostPort.parse(self.host)


class RememberedRecord(Struct, frozen=True):
    """The timestamp (Unix microseconds) of the newest record that was seen of an endpoint."""

    endpoint_id: str
    timestamp_us: Annotated[int, Meta(ge=0, le=MAX_SEQ)]

    @property
    def id(self) -> EndpointId:
        """The endpoint id; DecodeError when the file holds something else."""
        return EndpointId.from_hex(self.endpoint_id)


class _TopicsFile(Struct):
    version: Literal[1]
    topics: list[RememberedTopic]


class _PeersFile(Struct):
    version: Literal[1]
    peers: list[RememberedPeer]


class _RecordsFile(Struct):
    version: Literal[1]
    records: list[RememberedRecord]


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
        # Seen in the future is not too old: a clock that is behind must not forget everybody.
        peers = [peer for peer in file.peers if now_ms - peer.seen_ms < MAX_PEER_AGE_MS] if file else []
        return self._sound(PEERS_FILE, peers[-MAX_PEERS:], lambda peer: (peer.id, peer.place))

    def records(self) -> list[RememberedRecord]:
        """Return the newest records seen; none, and a warning, when the file is damaged."""
        file = self._load(RECORDS_FILE, _RecordsFile)
        records = file.records[-MAX_RECORDS:] if file else []
        return self._sound(RECORDS_FILE, records, lambda record: (record.id, None))

    def save_topics(self, topics: Iterable[RememberedTopic]) -> None:
        """Replace the remembered topics; StorageError when the disk refuses."""
        self._save(TOPICS_FILE, _TopicsFile(VERSION, list(topics)))

    def save_peers(self, peers: Iterable[RememberedPeer]) -> None:
        """Replace the remembered peers, the most recently met last; StorageError when the disk refuses."""
        self._save(PEERS_FILE, _PeersFile(VERSION, list(peers)[-MAX_PEERS:]))

    def save_records(self, records: Iterable[RememberedRecord]) -> None:
        """Replace the newest records seen, the most recent last; StorageError when the disk refuses."""
        self._save(RECORDS_FILE, _RecordsFile(VERSION, list(records)[-MAX_RECORDS:]))

    def _load(self, name: str, type_: type[_FileT]) -> _FileT | None:
        try:
            data = self._profile.read(name)
            if data is None:
                return None
            file = msgspec.json.decode(data, type=type_)
        except (StorageError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._reject(name)
            return None
        self._written[name] = data
        return file

    def _sound(
        self, name: str, entries: list[_EntryT], parse: Callable[[_EntryT], tuple[bytes, object]]
    ) -> list[_EntryT]:
        """Return ``entries`` if every one of them parses; the first parsed field names an entry only once."""
        try:
            ids = {parse(entry)[0] for entry in entries}  # only counted
        except DecodeError:
            ids = set()
        if len(ids) == len(entries):
            return entries
        self._reject(name)
        return []

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


class Keeper:
    """Saves what changed every few seconds and at the end. A disk that refuses is logged, never fatal."""

    def __init__(
        self,
        memory: Memory,
        topics: Callable[[], Sequence[RememberedTopic]],
        peers: Callable[[], Sequence[RememberedPeer]],
        records: Callable[[], Sequence[RememberedRecord]] = tuple,
    ) -> None:
        self._memory = memory
        self._topics = topics
        self._peers = peers
        self._records = records

    async def run(self) -> None:
        """Save now and then, until cancelled."""
        while True:
            await anyio.sleep(SAVE_INTERVAL_S)
            await self.save()

    async def save(self) -> None:
        """Write the files that changed."""
        # On the loop: the thread sees lists nobody changes.
        topics, peers, records = self._topics(), self._peers(), self._records()
        for write in (
            lambda: self._memory.save_topics(topics),
            lambda: self._memory.save_peers(peers),
            lambda: self._memory.save_records(records),
        ):
            try:
                await anyio.to_thread.run_sync(write)
            except StorageError as exc:
                _log.warning("%s", exc.message)
