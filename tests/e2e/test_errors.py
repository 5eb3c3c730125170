"""Every error kind of the contract, provoked on the real process: kind, code, `retryable` and details."""

import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from e2e.hosts import DOCUMENTED, black_hole, close_stdin, nodes, peer_info, refusal, refused
from kukuri_sidecar.rpc import api, schema
from peers.sidecar import LOOPBACK, ROOT, Json, Sidecar, node, sidecar

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

STRANGER = "ab" * 32  # an endpoint id of nobody
NEEDS_THE_NODE = ["node.info", "node.ticket", "peer.list", "topic.list", "log.get"]
MAX_PAYLOAD = 4057  # api.md 4.6: the largest at the default of 4096 bytes per message

# --- every kind is covered ------------------------------------------------------------------------------

_TestT = TypeVar("_TestT", bound=Callable[..., Any])
_provoked: set[str] = set()

ELSEWHERE = {  # what the real process does not do on demand -> the test that brings it about
    "internal_error": "tests/rpc/test_server.py",
    "outcome_unknown": "tests/rpc/test_dispatch.py",
    "offline": "tests/proto/quic/test_endpoint.py",
}
NOT_YET = {"peer_blocked"}  # comes with peer.set


def provokes(*kinds: str) -> Callable[[_TestT], _TestT]:
    """Note which kinds a test provokes, for the last test of this file."""
    _provoked.update(kinds)
    return lambda test: test


# --- fixtures -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def ours() -> AsyncIterator[Sidecar]:
    """A node for tests that leave nothing behind; two topics at most."""
    async with node(config={"limits": {"topics": 2}, "connect": {"timeout_ms": 500}}) as host:
        yield host


@pytest.fixture
async def topic(ours: Sidecar) -> AsyncIterator[str]:
    """A joined topic without neighbours."""
    topic_id = secrets.token_hex(32)
    await ours.join(topic_id)
    yield topic_id
    await ours.call("topic.leave", topic_id=topic_id)


# --- the wire -------------------------------------------------------------------------------------------


@provokes("parse_error")
@pytest.mark.parametrize(
    ("line", "offset"),
    [(b'{"jsonrpc": "2.0", "id": 1, !}', 28), (b'"\xff"', 1), (b'{"id":' + b" " * (1 << 20), 1 << 20)],
    ids=["no JSON", "no UTF-8", "more than a MiB"],
)
async def test_a_broken_frame_costs_itself_and_nothing_else(ours: Sidecar, line: bytes, offset: int) -> None:
    await ours.send_raw(line + b"\n")
    assert await refusal(ours, "parse_error", None) == {"offset": offset}
    await ours.call("ping")


@provokes("invalid_request")
@pytest.mark.parametrize(
    "request_",
    [{"jsonrpc": "1.0", "id": 900, "method": "ping"}, {"jsonrpc": "2.0", "id": 900, "method": 7}, [], [1]],
)
async def test_json_that_is_no_request(ours: Sidecar, request_: Json) -> None:
    await ours.send_raw(json.dumps(request_).encode() + b"\n")
    details = await refusal(ours, "invalid_request", 900 if isinstance(request_, dict) else None)
    assert details["reason"]


@provokes("method_not_found")
async def test_an_unknown_method(ours: Sidecar) -> None:
    assert await refused(ours, "method_not_found", "topic.jion") == {}


@provokes("invalid_params")
@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("topic.leave", {}, "topic_id"),
        ("topic.leave", {"topic_id": "5a" * 32, "force": True}, "force"),
        ("topic.leave", {"topic_id": "5A" * 32}, "topic_id"),
        ("topic.join", {}, "topic"),
        ("topic.join", {"topic": "demo", "topic_id": "5a" * 32}, "topic"),
        ("topic.join", {"topic": "é" * 129}, "topic"),
        ("topic.join", {"topic": "demo", "bootstrap": [STRANGER, 7]}, "bootstrap[1]"),
        ("topic.join", {"topic": "demo", "max_message_bytes": 511}, "max_message_bytes"),
        ("topic.publish", {"topic_id": "5a" * 32, "payload_b64": "aGVsbG8"}, "payload_b64"),
        ("topic.publish", {"topic_id": "5a" * 32, "payload_b64": "", "scope": "world"}, "scope"),
        ("topic.list", {"topic_ids": ["5a" * 32, "x"]}, "topic_ids[1]"),
        ("topic.list", {"limit": 65}, "limit"),
        ("peer.list", {"cursor": "zz"}, "cursor"),
        ("peer.list", {"endpoint_id": STRANGER, "node_id": STRANGER}, "node_id"),
        ("peer.connect", {"peer": STRANGER, "timeout_ms": 0}, "timeout_ms"),
        ("peer.disconnect", {"endpoint_id": STRANGER[:-1]}, "endpoint_id"),
        ("node.ticket", {"kind": "qr"}, "kind"),
        ("events.subscribe", {"types": ["topic.*", "Topic"]}, "types[1]"),
        ("initialize", {"api_version": 1, "secret_key_hex": "0"}, "secret_key_hex"),
        ("initialize", {"api_version": 1, "data_dir": "here"}, "data_dir"),
        ("shutdown", {"deadline_ms": 5001}, "deadline_ms"),
    ],
)
async def test_params_are_refused_with_the_path(ours: Sidecar, method: str, params: Json, path: str) -> None:
    details = await refused(ours, "invalid_params", method, **params)
    assert details["path"] == path
    assert details["reason"]
    assert (await ours.call("topic.list"))["topics"] == []


async def test_params_by_position_are_refused(ours: Sidecar) -> None:
    await ours.send_raw(b'{"jsonrpc":"2.0","id":900,"method":"topic.leave","params":["5a"]}\n')
    assert (await refusal(ours, "invalid_params", 900))["path"] == ""


# --- life -----------------------------------------------------------------------------------------------


@provokes("not_initialized", "protocol_mismatch", "already_initialized")
async def test_before_and_after_initialize() -> None:
    """A refused initialize leaves everything as it was; a second one beside the first is refused."""
    async with sidecar() as host:
        for method in NEEDS_THE_NODE:
            await refused(host, "not_initialized", method)
        for version in (0, 2):
            details = await refused(host, "protocol_mismatch", "initialize", api_version=version)
            assert details == {"supported": [api.API_VERSION]}
        first = await host.send("initialize", api_version=1, ephemeral=True, config=LOOPBACK)
        await refused(host, "already_initialized", "initialize", api_version=1, ephemeral=True)
        await host.answer(first)
        await refused(host, "already_initialized", "initialize", api_version=1, ephemeral=True)
        assert await host.call("node.info")


@provokes("cancelled")
async def test_a_cancelled_request_is_answered_and_shared_work_goes_on(ours: Sidecar) -> None:
    with black_hole() as address:
        peer = f"{secrets.token_hex(32)}@{address}"
        cancelled, other = [await ours.send("peer.connect", peer=peer) for _ in range(2)]
        await ours.send_raw(b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%d}}\n' % cancelled)
        assert await refusal(ours, "cancelled", cancelled) == {}
        await refusal(ours, "dial_timeout", other)


@provokes("shutting_down")
async def test_on_the_way_out_nothing_new_is_served() -> None:
    """What executes is cancelled, what comes is refused, ping answers to the end."""
    async with node() as host:
        with black_hole() as address:
            dial = await host.send("peer.connect", peer=f"{STRANGER}@{address}")
            shutdown = await host.send("shutdown")
            late = await host.send("node.info")
            ping = await host.send("ping")
            assert await refusal(host, "cancelled", dial) == {}
            assert await refusal(host, "shutting_down", late) == {}
            assert await host.answer(ping)
            assert (await host.answer(shutdown))["graceful"]
        assert await host.process.wait() == 0


# --- profile and configuration --------------------------------------------------------------------------


@provokes("invalid_config")
@pytest.mark.parametrize(
    ("config", "field", "index"),
    [
        ({"bootstrap_peers": [STRANGER, "not-a-peer"]}, "bootstrap_peers", 1),
        ({"bootstrap_peers": [f"{STRANGER}@127.0.0.1:0"]}, "bootstrap_peers", 0),
        ({"max_peers": 201}, "max_peers", None),
        ({"net": {"bind_v4": "here"}}, "net.bind_v4", None),
        ({"no_such_field": 1}, "no_such_field", None),
    ],
)
async def test_a_bad_configuration_changes_nothing(
    tmp_path: Path, config: Json, field: str, index: int | None
) -> None:
    """Not a file is left, the profile is free, and the next try works; at EOF it would be exit code 2."""
    profile = tmp_path / "profile"
    async with sidecar() as host:
        details = await refused(
            host, "invalid_config", "initialize", api_version=1, data_dir=str(profile), config=config
        )
        assert details == {"field": field, "index": index}
        assert [file.name for file in profile.glob("*") if file.stat().st_size and file.name != "lock"] == []
        await refused(host, "not_initialized", "node.info")
        answer = await host.call("initialize", api_version=1, data_dir=str(profile), config=LOOPBACK)
        assert answer["identity"] == "created"
        assert await close_stdin(host) == 0
    async with sidecar() as host:
        await refused(host, "invalid_config", "initialize", api_version=1, ephemeral=True, config=config)
        assert await close_stdin(host) == 2


@provokes("invalid_config")
async def test_a_socket_that_cannot_be_bound_is_a_matter_of_configuration() -> None:
    """A port that another program has, an address that is not ours: named, nothing held, exit code 2."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        async with sidecar() as host:
            config = {"net": {"bind_v4": bind, "bind_v6": None}}
            details = await refused(
                host, "invalid_config", "initialize", api_version=1, ephemeral=True, config=config
            )
            assert details == {"field": "net.bind_v4", "index": None}
            taken.close()
            await host.call("initialize", api_version=1, ephemeral=True, config=config)
            assert (await host.call("node.info"))["bound"] == [bind]


@provokes("profile_in_use")
async def test_a_profile_has_one_owner(tmp_path: Path) -> None:
    """The second process learns who it is and ends with code 3; the first one does not notice."""
    profile = str(tmp_path)
    async with node(data_dir=profile) as first, sidecar() as second:
        pid = first.process.pid
        for _ in range(2):
            details = await refused(second, "profile_in_use", "initialize", api_version=1, data_dir=profile)
            assert details == {"pid": pid}
        assert await close_stdin(second) == 3
        assert (await first.call("node.info")) == first.info


@provokes("identity_corrupt")
@pytest.mark.parametrize("content", [b"", b"{}", b'{"version":1,"secret_key_hex":"00"}', b"\xff\x00"])
async def test_a_corrupt_identity_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "identity.json"
    file.write_bytes(content)
    file.chmod(0o600)
    before = file.stat()
    async with sidecar() as host:
        details = await refused(
            host, "identity_corrupt", "initialize", api_version=1, data_dir=str(tmp_path), config=LOOPBACK
        )
        assert details == {}
        assert await close_stdin(host) == 4
    after = file.stat()
    assert file.read_bytes() == content
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_mode,
    )


@provokes("identity_corrupt")
async def test_an_identity_that_others_can_read_is_refused(tmp_path: Path) -> None:
    async with sidecar() as host:
        await host.call("initialize", api_version=1, data_dir=str(tmp_path), config=LOOPBACK)
        assert await close_stdin(host) == 0
    (tmp_path / "identity.json").chmod(0o640)
    async with sidecar() as host:
        await refused(
            host, "identity_corrupt", "initialize", api_version=1, data_dir=str(tmp_path), config=LOOPBACK
        )
        (tmp_path / "identity.json").chmod(0o600)  # the operator mends it: no restart is needed
        answer = await host.call("initialize", api_version=1, data_dir=str(tmp_path), config=LOOPBACK)
        assert answer["identity"] == "loaded"


@provokes("storage_error")
async def test_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with sidecar() as host:
        details = await refused(
            host, "storage_error", "initialize", api_version=1, data_dir=str(tmp_path / "file" / "profile")
        )
        assert details == {"operation": "open"}
        await host.call("initialize", api_version=1, data_dir=str(tmp_path / "other"), config=LOOPBACK)


# --- the feed -------------------------------------------------------------------------------------------


@provokes("unknown_subscription")
async def test_an_unknown_subscription(ours: Sidecar) -> None:
    number = (await ours.call("events.subscribe", types=["log"]))["subscription"]
    await ours.call("events.unsubscribe", subscription=number)
    assert await refused(ours, "unknown_subscription", "events.unsubscribe", subscription=number) == {}


# --- peers ----------------------------------------------------------------------------------------------


@provokes("invalid_peer")
@pytest.mark.parametrize(
    ("peer", "segment"),
    [
        ("not-a-peer", "endpoint_id"),
        (STRANGER.upper(), "endpoint_id"),
        (STRANGER[:-2] + "@127.0.0.1:4433", "endpoint_id"),
        (STRANGER + "@127.0.0.1", "address"),
        (STRANGER + "@127.0.0.1:0", "address"),
        (STRANGER + "@127.0.0.1:65536", "address"),
        (STRANGER + "@::1:4433", "address"),
        (STRANGER + "@[::1:4433", "address"),
        (STRANGER + "@1.2.3:4433", "address"),
        (STRANGER + "@bad host:4433", "address"),
        ("endpoint", "ticket"),
        ("endpointaaaa", "ticket"),
        ("endpoint!!!!", "ticket"),
    ],
)
async def test_a_malformed_peer_names_its_segment(ours: Sidecar, topic: str, peer: str, segment: str) -> None:
    details = await refused(ours, "invalid_peer", "peer.connect", peer=peer)
    assert (details["segment"], bool(details["reason"])) == (segment, True)
    details = await refused(ours, "invalid_peer", "topic.join", topic_id=topic, bootstrap=[STRANGER, peer])
    assert (details["segment"], details["index"]) == (segment, 1)
    assert await peer_info(ours, STRANGER) is None, "a refused list leaves nothing behind"


async def test_we_are_no_peer_of_ours(ours: Sidecar) -> None:
    details = await refused(ours, "invalid_peer", "peer.connect", peer=ours.address)
    assert details["segment"] == "endpoint_id"


@provokes("no_addresses")
@pytest.mark.parametrize("peer", [STRANGER, f"{'cd' * 32}@[::1]:4433"], ids=["id only", "family is off"])
async def test_nothing_dialable_is_known(ours: Sidecar, peer: str) -> None:
    """The DHT was asked where it could help; alone on loopback it is offline."""
    details = await refused(ours, "no_addresses", "peer.connect", peer=peer)
    assert details in ({"source_errors": {}}, {"source_errors": {"dht": "offline"}})


@provokes("unknown_peer")
async def test_a_peer_nobody_spoke_of(ours: Sidecar) -> None:
    assert await refused(ours, "unknown_peer", "peer.disconnect", endpoint_id="ef" * 32) == {}


# --- the network ----------------------------------------------------------------------------------------


@provokes("dial_timeout")
@pytest.mark.parametrize("timeout_ms", [100, 10_000], ids=["ours", "connect.timeout_ms"])
async def test_an_address_that_swallows_packets(ours: Sidecar, timeout_ms: int) -> None:
    endpoint_id = secrets.token_hex(32)
    with black_hole() as address:
        details = await refused(
            ours, "dial_timeout", "peer.connect", peer=f"{endpoint_id}@{address}", timeout_ms=timeout_ms
        )
        assert details == {"tried": [address]}
    event = await ours.wait("peer.state", endpoint_id=endpoint_id, state="disconnected")
    assert event["reason"] == "dial_timeout"
    row = await peer_info(ours, endpoint_id)
    assert row is not None
    assert (row["state"], row["last_error"]) == ("disconnected", "dial_timeout")
    assert row["retry_at_ms"] is not None


@provokes("handshake_failed")
async def test_a_speaker_of_another_protocol(ours: Sidecar) -> None:
    """It answers every Initial by Version Negotiation (RFC 9000 section 17.2.1): only an unknown version."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.setblocking(False)
        peer = f"{STRANGER}@127.0.0.1:{other.getsockname()[1]}"
        dial = await ours.send("peer.connect", peer=peer)
        with anyio.fail_after(5):
            await anyio.wait_readable(other)
        data, sender = other.recvfrom(2048)
        end = 6 + data[5]
        their_cid, our_cid = data[5:end], data[end : end + 1 + data[end]]
        other.sendto(b"\x80\0\0\0\0" + our_cid + their_cid + bytes.fromhex("1a2a3a4a"), sender)
        details = await refusal(ours, "handshake_failed", dial)
        assert details["reason"]


@provokes("identity_mismatch")
async def test_an_address_of_somebody_else(ours: Sidecar) -> None:
    async with node() as other:
        address = other.info["addresses"][0]["address"]
        details = await refused(ours, "identity_mismatch", "peer.connect", peer=f"{STRANGER}@{address}")
        assert details == {"expected": STRANGER, "found": other.endpoint_id}


@provokes("refused", "limit_reached")
async def test_a_full_house(ours: Sidecar) -> None:
    """max_peers holds inbound (we are refused) and outbound (we do not even try)."""
    async with nodes(2, config={"max_peers": 1}) as (full, other):
        await ours.call("peer.connect", peer=full.address)
        details = await refused(other, "refused", "peer.connect", peer=full.address)
        assert isinstance(details["reason"], str)
        details = await refused(full, "limit_reached", "peer.connect", peer=other.address)
        assert details == {"limit": "max_peers", "max": 1, "retry_at_ms": None}
        row = await peer_info(full, ours.endpoint_id)
        assert row is not None
        assert row["state"] == "connected", "established peers see no interruption"


# --- topics ---------------------------------------------------------------------------------------------


@provokes("unknown_topic")
async def test_an_unknown_topic(ours: Sidecar) -> None:
    assert await refused(ours, "unknown_topic", "topic.leave", topic_id="5a" * 32) == {}
    assert await refused(ours, "unknown_topic", "topic.publish", topic_id="5a" * 32, payload_b64="") == {}


@provokes("message_too_large", "no_neighbors")
async def test_a_message_is_too_large_by_one_byte(ours: Sidecar, topic: str) -> None:
    for size in (MAX_PAYLOAD - 1, MAX_PAYLOAD):
        assert (await ours.publish(topic, bytes(size), if_isolated="queue"))["state"] == "queued"
        details = await refused_payload(ours, "no_neighbors", topic, size)
        assert details["state"] in ("joining", "isolated")
        assert details["next_attempt_at_ms"] > 0
    for if_isolated in ("error", "queue"):
        details = await refused_payload(
            ours, "message_too_large", topic, MAX_PAYLOAD + 1, if_isolated=if_isolated
        )
        assert details == {"limit": MAX_PAYLOAD, "size": MAX_PAYLOAD + 1}


async def refused_payload(host: Sidecar, kind: str, topic_id: str, size: int, **more: Any) -> Json:
    from base64 import b64encode

    payload = b64encode(bytes(size)).decode()
    return await refused(host, kind, "topic.publish", topic_id=topic_id, payload_b64=payload, **more)


@provokes("mode_mismatch")
@pytest.mark.parametrize("change", [{"mode": "raw"}, {"mode": "signed"}, {"max_message_bytes": 8192}])
async def test_a_joined_topic_keeps_its_mode_and_size(ours: Sidecar, topic: str, change: Json) -> None:
    assert await refused(ours, "mode_mismatch", "topic.join", topic_id=topic, **change) == {}
    again = await ours.join(topic, mode="auto", max_message_bytes=4096)
    assert (again["created"], again["mode"], again["max_payload_bytes"]) == (False, "auto", MAX_PAYLOAD)


# --- limits ---------------------------------------------------------------------------------------------


@provokes("limit_reached")
async def test_as_many_topics_as_allowed(ours: Sidecar) -> None:
    topics = [secrets.token_hex(32) for _ in range(3)]
    for topic_id in topics[:2]:
        assert (await ours.join(topic_id))["created"]
    assert await refused(ours, "limit_reached", "topic.join", topic_id=topics[2]) == {
        "limit": "topics",
        "max": 2,
        "retry_at_ms": None,
    }
    assert not (await ours.join(topics[0]))["created"], "a joined one can still be extended"
    await ours.call("topic.leave", topic_id=topics[0])
    assert (await ours.join(topics[2]))["created"]
    for topic_id in topics[1:]:
        await ours.call("topic.leave", topic_id=topic_id)


@provokes("limit_reached")
async def test_as_many_queued_messages_as_allowed(ours: Sidecar, topic: str) -> None:
    """63, 64, and the 65th is refused; leaving says of every queued one that it failed."""
    queued = [
        (await ours.publish(topic, bytes([index]), if_isolated="queue"))["message_id"] for index in range(64)
    ]
    details = await refused_payload(ours, "limit_reached", topic, 2, if_isolated="queue")
    assert details == {"limit": "queued_messages", "max": 64, "retry_at_ms": None}
    await ours.call("topic.leave", topic_id=topic)
    for message_id in queued:
        event = await ours.wait("topic.published", topic_id=topic, message_id=message_id)
        assert (event["state"], event["acked_by"]) == ("failed", 0)
    await ours.join(topic)


@provokes("limit_reached")
async def test_as_many_subscriptions_as_allowed() -> None:
    async with sidecar() as host:
        numbers = [(await host.call("events.subscribe"))["subscription"] for _ in range(8)]
        details = await refused(host, "limit_reached", "events.subscribe")
        assert details == {"limit": "subscriptions", "max": 8, "retry_at_ms": None}
        await host.call("events.unsubscribe", subscription=numbers[3])
        assert (await host.call("events.subscribe"))["subscription"] not in numbers


@provokes("limit_reached")
async def test_as_many_requests_as_allowed(ours: Sidecar) -> None:
    """32 execute, 256 wait, the next is refused at once."""
    with black_hole() as address:
        peer = f"{secrets.token_hex(32)}@{address}"
        dials = [await ours.send("peer.connect", peer=peer) for _ in range(32 + 256)]
        details = await refused(ours, "limit_reached", "node.info")
        assert details == {"limit": "requests_waiting", "max": 256, "retry_at_ms": None}
        await ours.call("ping")
        for dial in dials:
            await ours.send_raw(b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%d}}\n' % dial)
        for dial in dials:
            await refusal(ours, "cancelled", dial)
    assert await ours.call("node.info")


@provokes("rate_limited")
async def test_more_messages_per_second_than_allowed() -> None:
    """Twice the rate at once, then one when its time has come, not earlier."""
    async with node(config={"limits": {"publish_per_s": 2}}) as host:
        await host.join("5a" * 32)
        for index in range(4):
            await host.publish("5a" * 32, bytes([index]), if_isolated="queue")
        details = await refused_payload(host, "rate_limited", "5a" * 32, 1, if_isolated="queue")
        assert 0 < details["retry_after_ms"] <= 501
        await anyio.sleep(details["retry_after_ms"] / 1000)
        await host.publish("5a" * 32, b"in time", if_isolated="queue")
        await refused_payload(host, "rate_limited", "5a" * 32, 1, if_isolated="queue")


# --- the list -------------------------------------------------------------------------------------------


async def test_every_kind_that_the_schema_names_is_provoked() -> None:
    """Of the common errors and of every method's own."""
    document = schema.openrpc()
    references = document["x-common-errors"] + [e for method in document["methods"] for e in method["errors"]]
    named = {reference["$ref"].rpartition("/")[2] for reference in references}
    assert named <= set(DOCUMENTED)
    assert named == _provoked | set(ELSEWHERE) | NOT_YET
    assert _provoked.isdisjoint({*ELSEWHERE, *NOT_YET})


@pytest.mark.parametrize(("kind", "path"), ELSEWHERE.items())
def test_the_other_tests_are_there(kind: str, path: str) -> None:
    (error,) = [error for error in schema.error_kinds() if error.kind == kind]
    text = (ROOT / path).read_text()
    assert kind in text or error.__name__ in text
