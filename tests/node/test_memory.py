from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kukuri_sidecar.errors import StorageError
from kukuri_sidecar.node.envelopes import Mode
from kukuri_sidecar.node.memory import (
    MAX_MEMBERS_PER_TOPIC,
    MAX_PEER_AGE_MS,
    MAX_PEERS,
    MAX_TOPICS,
    PEERS_FILE,
    RECORDS_FILE,
    SAVE_INTERVAL_S,
    TOPICS_FILE,
    Keeper,
    Memory,
    RememberedPeer,
    RememberedRecord,
    RememberedTopic,
)
from kukuri_sidecar.node.node import Node, NodeOptions
from kukuri_sidecar.node.profile import MAX_FILE_BYTES, Profile
from kukuri_sidecar.wire.addr import HostPort

NOW_MS = 1_763_790_000_000
FILES = [TOPICS_FILE, PEERS_FILE]


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Profile]:
    opened = Profile.open(tmp_path / "profile")
    yield opened
    opened.close()


def topic(number: int = 0, **changes: Any) -> RememberedTopic:
    fields = {"name": "demo", "mode": Mode.SIGNED, "max_message_bytes": 4096, "members": ["ab" * 32]}
    return RememberedTopic(topic_id=f"{number:064x}", **fields | changes)


def peer(number: int = 0, *, age_ms: int = 0, host: str = "192.0.2.1:4433") -> RememberedPeer:
    return RememberedPeer(f"{number:064x}", host, NOW_MS - age_ms)


def write(profile: Profile, name: str, content: object) -> bytes:
    data = content if isinstance(content, bytes) else msgspec.json.encode(content)
    (profile.path / name).write_bytes(data)
    return data


def load(profile: Profile) -> tuple[list[RememberedTopic], list[RememberedPeer], list[str]]:
    memory = Memory(profile)
    return memory.topics(), memory.peers(NOW_MS), memory.warnings


# --- round trips -----------------------------------------------------------------------------------------


def test_a_new_profile_remembers_nothing_and_complains_of_nothing(profile: Profile) -> None:
    assert load(profile) == ([], [], [])
    assert list(profile.path.iterdir()) == [profile.path / "lock"], "reading writes nothing"


def test_what_was_saved_is_there_after_a_restart(profile: Profile) -> None:
    topics = [topic(1), topic(2, name=None, mode=Mode.RAW, members=[]), topic(3, max_message_bytes=512)]
    peers = [peer(1), peer(2, host="[2001:db8::1]:1"), peer(3, host="host.example:65535")]
    memory = Memory(profile)
    memory.save_topics(topics)
    memory.save_peers(peers)
    assert load(profile) == (topics, peers, [])


def test_the_newest_records_seen_are_there_after_a_restart(profile: Profile) -> None:
    records = [RememberedRecord(f"{number:064x}", 1_763_790_000_000_000 + number) for number in range(1_002)]
    Memory(profile).save_records(records)
    memory = Memory(profile)
    assert memory.records() == records[2:], "the latest thousand"
    assert memory.warnings == []
    write(profile, RECORDS_FILE, {"version": 1, "records": [{"endpoint_id": "zz", "timestamp_us": 1}]})
    memory = Memory(profile)
    assert memory.records() == []
    assert len(memory.warnings) == 1


def test_parsed_fields(profile: Profile) -> None:
    (kept,) = [topic(5, members=["0a" * 32, "0b" * 32])]
    assert kept.id == bytes(31) + b"\5"
    assert kept.member_ids == (b"\x0a" * 32, b"\x0b" * 32)
    assert (peer(7).id, peer(7).place) == (bytes(31) + b"\7", HostPort("192.0.2.1", 4433))


hexes = st.binary(min_size=32, max_size=32).map(bytes.hex)
topics_ = st.builds(
    RememberedTopic,
    topic_id=hexes,
    name=st.none() | st.text(max_size=256),
    mode=st.sampled_from(Mode),
    max_message_bytes=st.integers(512, 1_048_576),
    members=st.lists(hexes, max_size=MAX_MEMBERS_PER_TOPIC),
)
hosts = st.builds(
    HostPort, st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str), st.integers(1, 65535)
)
peers_ = st.builds(
    RememberedPeer,
    endpoint_id=hexes,
    host=hosts.map(str),
    seen_ms=st.integers(NOW_MS - MAX_PEER_AGE_MS + 1, NOW_MS),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)  # each one syncs
@given(
    topics=st.lists(topics_, max_size=5, unique_by=lambda one: one.topic_id),
    peers=st.lists(peers_, max_size=5, unique_by=lambda one: one.endpoint_id),
)
def test_round_trip(profile: Profile, topics: list[RememberedTopic], peers: list[RememberedPeer]) -> None:
    memory = Memory(profile)
    memory.save_topics(topics)
    memory.save_peers(peers)
    assert load(profile) == (topics, peers, [])


def test_fields_of_a_later_version_of_ours_are_passed_over(profile: Profile) -> None:
    content = msgspec.to_builtins({"version": 1, "topics": [topic(1)], "later": {"x": 1}})
    content["topics"][0]["later"] = [1]
    write(profile, TOPICS_FILE, content)
    assert load(profile) == ([topic(1)], [], [])


# --- damage ----------------------------------------------------------------------------------------------

GOOD_TOPIC, GOOD_PEER = msgspec.to_builtins(topic(1)), msgspec.to_builtins(peer(1))


def topics_file(**changes: object) -> dict[str, Any]:
    return {"version": 1, "topics": [GOOD_TOPIC, GOOD_TOPIC | {"topic_id": "ff" * 32} | changes]}


def peers_file(**changes: object) -> dict[str, Any]:
    return {"version": 1, "peers": [GOOD_PEER, GOOD_PEER | {"endpoint_id": "ff" * 32} | changes]}


ANY_FILE = [
    b"",
    b"\0" * 100,
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"version":1}',
    b'{"version":"1","topics":[],"peers":[]}',
    b'{"version":1,"topics":{},"peers":{}}',
    b'{"version":1,"topics":[1],"peers":[1]}',
    b'{"version":1,"topics":[],"peers":[]} trailing',
    b'{"version":2,"topics":[],"peers":[]}',
    b'{"version":1,"topics":[],"peers":[],"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b" " * (MAX_FILE_BYTES + 1),
]
DAMAGED = [
    *((name, content) for name in FILES for content in ANY_FILE),
    (TOPICS_FILE, topics_file(topic_id="xy" * 32)),
    (TOPICS_FILE, topics_file(topic_id="ab")),
    (TOPICS_FILE, topics_file(topic_id="")),
    (TOPICS_FILE, topics_file(topic_id=None)),
    (TOPICS_FILE, topics_file(topic_id=GOOD_TOPIC["topic_id"], mode="raw")),
    (TOPICS_FILE, topics_file(name=1)),
    (TOPICS_FILE, topics_file(mode="sealed")),
    (TOPICS_FILE, topics_file(max_message_bytes=511)),
    (TOPICS_FILE, topics_file(max_message_bytes=1_048_577)),
    (TOPICS_FILE, topics_file(max_message_bytes=10**400)),
    (TOPICS_FILE, topics_file(members=["ab"])),
    (TOPICS_FILE, topics_file(members="ab" * 32)),
    (PEERS_FILE, peers_file(endpoint_id=GOOD_PEER["endpoint_id"], host="192.0.2.9:1")),
    (PEERS_FILE, peers_file(endpoint_id="ab")),
    (PEERS_FILE, peers_file(seen_ms=-1)),
    (PEERS_FILE, peers_file(endpoint_id=7)),
    (PEERS_FILE, peers_file(host="")),
    (PEERS_FILE, peers_file(host="192.0.2.1")),
    (PEERS_FILE, peers_file(host="192.0.2.1:65536")),
    (PEERS_FILE, peers_file(host="a b:1")),
    (PEERS_FILE, peers_file(seen_ms="now")),
    (PEERS_FILE, peers_file(seen_ms=1.5)),
    (PEERS_FILE, peers_file(seen_ms=10**400)),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED, ids=[str(n) for n in range(len(DAMAGED))])
def test_a_damaged_file_is_kept_aside_with_a_warning_and_a_new_one_is_begun(
    profile: Profile, name: str, content: object
) -> None:
    other = FILES[FILES.index(name) - 1]
    write(profile, other, topics_file() if other == TOPICS_FILE else peers_file())
    if isinstance(content, dict) and 10**400 in content.get("topics", content.get("peers"))[1].values():
        data = write(profile, name, str(content).replace("'", '"').encode())
    else:
        data = write(profile, name, content)
    topics, peers, warnings = load(profile)
    assert (len(topics), len(peers)) == ((0, 2) if name == TOPICS_FILE else (2, 0)), "the other file is fine"
    assert len(warnings) == 1
    assert name in warnings[0]
    assert "corrupt" in warnings[0]
    assert not (profile.path / name).exists()
    assert (profile.path / f"{name}.corrupt").read_bytes() == data
    memory = Memory(profile)
    memory.save_topics([topic(9)])
    memory.save_peers([peer(9)])
    assert load(profile) == ([topic(9)], [peer(9)], [])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), data=st.data())
def test_no_bytes_stop_the_start(profile: Profile, name: str, data: st.DataObject) -> None:
    """Whatever became of a file: it is read, or it is put aside."""
    whole = msgspec.json.encode(topics_file() if name == TOPICS_FILE else peers_file())
    at = data.draw(st.integers(0, len(whole)))
    damage = data.draw(st.binary(max_size=4))
    write(profile, name, whole[:at] + damage + whole[at + data.draw(st.integers(0, 4)) :])
    topics, peers, warnings = load(profile)
    assert len(warnings) <= 1
    assert bool(warnings) is not (profile.path / name).exists()
    assert all(one.id and one.member_ids is not None for one in topics)
    assert all(one.id and one.place for one in peers)


@pytest.mark.parametrize("name", FILES)
def test_something_else_in_place_of_the_file_is_put_aside_too(profile: Profile, name: str) -> None:
    (profile.path / name).mkdir()
    topics, peers, warnings = load(profile)
    assert (topics, peers) == ([], [])
    assert len(warnings) == 1
    assert (profile.path / f"{name}.corrupt").is_dir()


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_that_cannot_be_moved_is_told_and_not_fatal(profile: Profile, name: str) -> None:
    write(profile, name, b"{")
    (profile.path / f"{name}.corrupt").mkdir()
    (profile.path / f"{name}.corrupt" / "something").touch()
    topics, peers, warnings = load(profile)
    assert (topics, peers) == ([], [])
    assert len(warnings) == 1
    assert name in warnings[0]


# --- age and bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_ms", "is_kept"),
    [
        (MAX_PEER_AGE_MS - 1, True),
        (MAX_PEER_AGE_MS, False),
        (MAX_PEER_AGE_MS + 1, False),
        (0, True),
        (-1, True),
        (-10 * MAX_PEER_AGE_MS, True),  # our clock is behind, as without a battery: no reason to forget all
    ],
)
def test_peers_are_remembered_for_30_days(profile: Profile, age_ms: int, is_kept: bool) -> None:
    assert MAX_PEER_AGE_MS == 30 * 86_400_000
    write(profile, PEERS_FILE, {"version": 1, "peers": [peer(1, age_ms=age_ms), peer(2)]})
    _, peers, warnings = load(profile)
    assert [one.endpoint_id for one in peers] == [f"{n:064x}" for n in ((1, 2) if is_kept else (2,))]
    assert warnings == []


@pytest.mark.parametrize("count", [MAX_PEERS - 1, MAX_PEERS, MAX_PEERS + 1])
def test_as_many_peers_as_allowed_and_the_latest_of_them(profile: Profile, count: int) -> None:
    """The address book lists the least recently mentioned first: those are left out."""
    peers = [peer(number) for number in range(count)]
    expected = peers[-MAX_PEERS:]
    Memory(profile).save_peers(peers)
    assert msgspec.json.decode((profile.path / PEERS_FILE).read_bytes())["peers"] == msgspec.to_builtins(
        expected
    )
    write(profile, PEERS_FILE, {"version": 1, "peers": peers})
    assert Memory(profile).peers(NOW_MS) == expected


@pytest.mark.parametrize("count", [MAX_TOPICS - 1, MAX_TOPICS, MAX_TOPICS + 1])
def test_as_many_topics_as_allowed(profile: Profile, count: int) -> None:
    topics = [topic(number) for number in range(count)]
    write(profile, TOPICS_FILE, {"version": 1, "topics": topics})
    assert Memory(profile).topics() == topics[:MAX_TOPICS]


@pytest.mark.parametrize(
    "count", [MAX_MEMBERS_PER_TOPIC - 1, MAX_MEMBERS_PER_TOPIC, MAX_MEMBERS_PER_TOPIC + 1]
)
def test_as_many_members_as_allowed(count: int) -> None:
    members = [f"{number:064x}" for number in range(count)]
    assert len(topic(members=members).member_ids) == min(count, MAX_MEMBERS_PER_TOPIC)


def test_the_largest_memory_fits_its_files(profile: Profile) -> None:
    members = [f"{number:064x}" for number in range(MAX_MEMBERS_PER_TOPIC)]
    topics = [topic(number, name="\x01" * 256, members=members) for number in range(MAX_TOPICS)]
    peers = [
        peer(number, host=f"{'h' * 60}.{'h' * 60}.{'h' * 60}.{'h' * 60}:65535") for number in range(MAX_PEERS)
    ]
    memory = Memory(profile)
    memory.save_topics(topics)
    memory.save_peers(peers)
    assert load(profile) == (topics, peers, [])


# --- saving ----------------------------------------------------------------------------------------------


def test_nothing_is_written_without_a_change(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(profile).save_topics([topic(1)])
    written: list[str] = []
    monkeypatch.setattr(Profile, "write", lambda _, name, data: written.append(name))
    memory = Memory(profile)
    memory.save_topics(memory.topics())
    assert written == []
    memory.save_topics([topic(2)])
    memory.save_topics([topic(2)])
    memory.save_topics([])
    assert written == [TOPICS_FILE] * 2


def test_a_write_that_failed_is_tried_again(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(profile)

    def refuse(*_: object) -> None:
        raise StorageError("cannot write: No space left on device", operation="write")

    with monkeypatch.context() as patch:
        patch.setattr(Profile, "write", refuse)
        with pytest.raises(StorageError):
            memory.save_topics([topic(1)])
    memory.save_topics([topic(1)])
    assert load(profile)[0] == [topic(1)]


class Kept:
    """What a node remembers at the moment, for a Keeper."""

    def __init__(self, profile: Profile) -> None:
        self.topics: list[RememberedTopic] = []
        self.peers: list[RememberedPeer] = []
        self.keeper = Keeper(Memory(profile), lambda: self.topics, lambda: self.peers)


@pytest.fixture
def kept(profile: Profile) -> Kept:
    return Kept(profile)


class TestKeeper:
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"  # it writes in a thread

    @pytest.mark.anyio
    async def test_it_saves_both(self, profile: Profile, kept: Kept) -> None:
        kept.topics, kept.peers = [topic(1)], [peer(1)]
        await kept.keeper.save()
        assert load(profile) == ([topic(1)], [peer(1)], [])

    @pytest.mark.anyio
    async def test_it_saves_now_and_then(
        self, profile: Profile, kept: Kept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        naps: list[float] = []
        saved = anyio.Event()

        async def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 1:
                kept.topics = [topic(1)]
            elif len(naps) == 2:
                kept.topics = [topic(2)]
            else:
                saved.set()
                await anyio.sleep_forever()

        monkeypatch.setattr("kukuri_sidecar.node.memory.anyio.sleep", nap)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kept.keeper.run)
            with anyio.fail_after(10):
                await saved.wait()
            tasks.cancel_scope.cancel()
        assert naps == [SAVE_INTERVAL_S] * 3
        assert load(profile)[0] == [topic(2)]

    @pytest.mark.anyio
    @pytest.mark.parametrize("name", FILES)
    async def test_a_disk_that_refuses_one_file_is_logged_and_the_other_is_saved(
        self, profile: Profile, kept: Kept, caplog: pytest.LogCaptureFixture, name: str
    ) -> None:
        (profile.path / name).mkdir()
        kept.topics, kept.peers = [topic(1)], [peer(1)]
        with caplog.at_level(logging.WARNING):
            await kept.keeper.save()
        assert name in caplog.text
        other = FILES[FILES.index(name) - 1]
        assert (profile.path / other).is_file()


class TestNode:
    """The whole node, with real files and sockets."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.mark.anyio
    @pytest.mark.parametrize("limit", [2, 3, 4])
    async def test_remembered_topics_beyond_a_lowered_limit_do_not_stop_the_start(
        self, profile: Profile, limit: int
    ) -> None:
        write(profile, TOPICS_FILE, {"version": 1, "topics": [topic(number) for number in range(3)]})
        profile.close()
        config = {"net": {"bind_v4": "127.0.0.1:0", "bind_v6": None}, "limits": {"topics": limit}}
        node = await Node.open(NodeOptions(data_dir=profile.path, config=config), lambda _: None)
        kept = min(3, limit)
        assert node.opened.restored_topics == kept
        assert len(node.opened.warnings) == (limit < 3)
        async with anyio.create_task_group() as tasks:
            with anyio.fail_after(10):
                await tasks.start(node.run)
            assert [info.topic_id for info in node.topics.list(None)] == [topic(n).id for n in range(kept)]
            tasks.cancel_scope.cancel()
