"""The life of the process as a host sees it: what is served when, every error kind, every exit code."""

import hashlib
import json
import time
from typing import Any

import pytest

from kukuri_sidecar import errors
from kukuri_sidecar.rpc.api import API_VERSION
from rpc.process import TOY, Host, line

Json = Any  # what JSON holds

PEER = "00" * 32
TOPIC = "3ae7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5"  # BLAKE3("x")


def kind(answer: Json) -> str:
    return answer["error"]["data"]["kind"] if "error" in answer else "ok"


def error(host: Host, method: str, **params: Json) -> Json:
    answer = host.call(method, **params)
    assert "error" in answer, answer
    return answer["error"]


# --- states --------------------------------------------------------------------------------------------

BEFORE = {"ping", "rpc.discover", "events.subscribe", "shutdown"}
WITH_PARAMS: dict[str, Json] = {
    "peer.connect": {"peer": PEER},
    "peer.disconnect": {"endpoint_id": PEER},
    "topic.join": {"topic": "x"},
    "topic.leave": {"topic_id": TOPIC},
    "topic.publish": {"topic_id": TOPIC, "payload_b64": ""},
    "events.unsubscribe": {"subscription": 1},
    "initialize": {"api_version": API_VERSION},
}


def test_what_is_served_before_initialize() -> None:
    from kukuri_sidecar.rpc.methods import METHODS

    with Host(*TOY) as host:
        late = [name for name, method in METHODS.items() if not method.early and not name.startswith("toy.")]
        assert len(late) >= 9
        for name in late:
            assert kind(host.call(name, **WITH_PARAMS.get(name, {}))) == "not_initialized"
        for name in ("ping", "rpc.discover", "events.subscribe", "events.unsubscribe", "initialize"):
            assert kind(host.call(name, **WITH_PARAMS.get(name, {}))) == "ok"
        assert kind(host.call("nope")) == "method_not_found"


def test_initialize_once() -> None:
    with Host(*TOY) as host:
        host.send(
            line("initialize", 1, api_version=1) + line("initialize", 2, api_version=1) + line("node.info", 3)
        )
        answers = {answer["id"]: answer for answer in (host.read(), host.read(), host.read())}
        assert kind(answers[1]) == "ok"
        assert kind(answers[2]) == "already_initialized"
        assert kind(answers[3]) == "not_initialized", "it has not succeeded yet"
        assert kind(host.call("initialize", api_version=1)) == "already_initialized"
        result = answers[1]["result"]
        document = json.dumps(host.result("rpc.discover"), separators=(",", ":"), ensure_ascii=False)
        assert result["schema_hash"] == hashlib.sha256(document.encode()).hexdigest()[:16]
        assert (result["api_version"], result["identity"], result["restored_topics"]) == (1, "ephemeral", 0)


def test_nothing_but_ping_is_served_while_shutting_down() -> None:
    with Host(*TOY, env={"FAKE_NODE": "slow"}) as host:
        host.result("initialize", api_version=1)
        host.send(
            line("toy.sleep", "busy", seconds=60)
            + line("shutdown", "bye", deadline_ms=200)
            + line("ping", "ping")
            + line("node.info", "late")
            + line("shutdown", "again")
            + line("nope", "unknown")
        )
        answers = {answer["id"]: answer for answer in host.drain()}
        assert {name: kind(answer) for name, answer in answers.items()} == {
            "busy": "cancelled",
            "bye": "ok",
            "ping": "ok",
            "late": "shutting_down",
            "again": "shutting_down",
            "unknown": "method_not_found",
        }
        assert answers["bye"]["result"]["graceful"] is False, "the node overran its deadline"
        assert list(answers)[-1] == "bye", "the last answer before the end"
        assert host.wait() == 0


def test_shutdown_reports_and_ends_with_0() -> None:
    with Host(*TOY) as host:
        host.result("initialize", api_version=1)
        host.result("topic.join", topic="x")
        assert host.result("shutdown") == {
            "graceful": True,
            "left_topics": 1,
            "closed_connections": 1,
            "unsent_messages": 0,
        }
        assert host.drain() == []
        assert host.wait(2) == 0


def test_shutdown_without_a_node() -> None:
    with Host() as host:
        assert host.result("shutdown")["graceful"] is True
        assert host.wait(2) == 0


@pytest.mark.parametrize("started", [False, True])
def test_shutdown_while_initializing(started: bool) -> None:
    with Host(*TOY) as host:
        host.send(line("initialize", "start", api_version=1))
        if started:
            host.result("ping")
        host.send(line("shutdown", "end"))
        answers = {answer["id"]: kind(answer) for answer in host.drain()}
        assert answers == {"start": "cancelled", "end": "ok"}
        assert host.wait(2) == 0


def test_initialize_can_be_cancelled_and_tried_again() -> None:
    with Host(*TOY) as host:
        host.send(
            line("initialize", 1, api_version=1)
            + json.dumps({"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 1}}).encode()
            + b"\n"
        )
        assert kind(host.read()) == "cancelled"
        assert kind(host.call("initialize", api_version=1)) == "ok"


def test_a_ping_overtakes_what_waits_and_does_not_wait_for_imports() -> None:
    with Host(*TOY) as host:
        host.send(line("initialize", 1, api_version=1) + line("ping", 2))
        assert [host.read()["id"], host.read()["id"]] == [2, 1]
        host.send(
            b"".join(line("toy.sleep", index, seconds=60) for index in range(10, 110)) + line("ping", 3)
        )
        assert host.read()["id"] == 3


# --- exit codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "params", "wanted", "code"),
    [
        ("", {"api_version": 2}, "protocol_mismatch", 2),
        ("", {}, "invalid_params", 2),
        ("", {"api_version": 1, "data_dir": "relative"}, "invalid_params", 2),
        ("", {"api_version": 1, "data_dir": "/a\0b"}, "invalid_params", 2),
        ("", {"api_version": 1, "secret_key_hex": "ab"}, "invalid_params", 2),
        ("", {"api_version": 1, "unknown": 1}, "invalid_params", 2),
        ("", {"api_version": 1, "config": {"bad": 1}}, "invalid_config", 2),
        ("bind", {"api_version": 1}, "invalid_config", 2),
        ("storage_error", {"api_version": 1}, "storage_error", 2),
        ("profile_in_use", {"api_version": 1}, "profile_in_use", 3),
        ("identity_corrupt", {"api_version": 1}, "identity_corrupt", 4),
        ("bug", {"api_version": 1}, "internal_error", 70),
    ],
)
def test_the_exit_code_tells_why_initialize_failed(env: str, params: Json, wanted: str, code: int) -> None:
    with Host(*TOY, env={"FAKE_NODE": env}) as host:
        answer = host.call("initialize", **params)
        assert kind(answer) == wanted
        assert "secret text" not in json.dumps(answer)
        assert kind(host.call("node.info")) == "not_initialized"
        host.close_stdin()
        assert host.wait(3) == code


def test_a_later_success_or_a_shutdown_makes_it_0() -> None:
    for end in ("success", "shutdown"):
        with Host(*TOY) as host:
            assert kind(host.call("initialize", api_version=1, config={"bad": 1})) == "invalid_config"
            if end == "success":
                host.result("initialize", api_version=1)
                host.close_stdin()
            else:
                host.result("shutdown")
            assert host.wait(3) == 0


def test_a_node_that_crashes_ends_the_process_with_70() -> None:
    with Host(*TOY, env={"FAKE_NODE": "crash"}) as host:
        host.result("initialize", api_version=1)
        assert host.wait(3) == 70
        assert "a bug of the node" in host.stderr()


# --- methods -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Any:
    with Host(*TOY) as host:
        host.result("initialize", api_version=1)
        yield host


@pytest.mark.parametrize(
    ("method", "params", "wanted", "details"),
    [
        ("ping", {"x": 1}, "invalid_params", {"path": "x", "reason": "Object contains unknown field `x`"}),
        (
            "peer.connect",
            {},
            "invalid_params",
            {"path": "peer", "reason": "Object missing required field `peer`"},
        ),
        ("peer.connect", {"peer": "q"}, "invalid_peer", {"segment": "endpoint_id"}),
        ("peer.connect", {"peer": PEER + "@x"}, "invalid_peer", {"segment": "address"}),
        ("peer.connect", {"peer": "endpoint!"}, "invalid_peer", {"segment": "ticket"}),
        ("peer.connect", {"peer": PEER}, "no_addresses", {"source_errors": {}}),
        ("peer.connect", {"peer": PEER, "timeout_ms": 0}, "invalid_params", {"path": "timeout_ms"}),
        ("peer.disconnect", {"endpoint_id": "11" * 32}, "unknown_peer", {}),
        ("peer.disconnect", {"endpoint_id": "q" * 60}, "invalid_params", {"path": "endpoint_id"}),
        ("peer.disconnect", {"endpoint_id": PEER, "node_id": PEER}, "invalid_params", {"path": "node_id"}),
        ("peer.list", {"cursor": "zz"}, "invalid_params", {"path": "cursor"}),
        ("peer.list", {"limit": 65}, "invalid_params", {"path": "limit"}),
        ("peer.list", {"origin": "nowhere"}, "invalid_params", {"path": "origin"}),
        ("topic.join", {}, "invalid_params", {"path": "topic"}),
        ("topic.join", {"topic": "x", "topic_id": TOPIC}, "invalid_params", {"path": "topic"}),
        ("topic.join", {"topic": ""}, "invalid_params", {"path": "topic"}),
        ("topic.join", {"topic": "é" * 129}, "invalid_params", {"path": "topic"}),
        ("topic.join", {"topic": "x", "derive": "md5"}, "invalid_params", {"path": "derive"}),
        ("topic.join", {"topic": "x", "rendezvous": {"x": 1}}, "invalid_params", {"path": "rendezvous.x"}),
        ("topic.join", {"topic_id": TOPIC.upper()}, "invalid_params", {"path": "topic_id"}),
        ("topic.join", {"topic_id": TOPIC + "\n"}, "invalid_params", {"path": "topic_id"}),
        (
            "topic.join",
            {"topic": "x", "max_message_bytes": 511},
            "invalid_params",
            {"path": "max_message_bytes"},
        ),
        (
            "topic.join",
            {"topic": "x", "bootstrap": [PEER, "q"]},
            "invalid_peer",
            {"segment": "endpoint_id", "index": 1},
        ),
        ("topic.join", {"topic": "x", "bootstrap": [1]}, "invalid_params", {"path": "bootstrap[0]"}),
        ("topic.join", {"topic": "x", "bootstrap": ["q"] * 65}, "invalid_params", {"path": "bootstrap"}),
        ("topic.leave", {"topic_id": "11" * 32}, "unknown_topic", {}),
        ("topic.publish", {"topic_id": "11" * 32, "payload_b64": ""}, "unknown_topic", {}),
        (
            "topic.publish",
            {"topic_id": TOPIC, "payload_b64": "YQ"},
            "invalid_params",
            {"path": "payload_b64"},
        ),
        ("events.subscribe", {"types": ["a b"]}, "invalid_params", {"path": "types[0]"}),
        ("events.unsubscribe", {"subscription": 99}, "unknown_subscription", {}),
        ("log.get", {"level": "all"}, "invalid_params", {"path": "level"}),
        ("shutdown", {"deadline_ms": 5001}, "invalid_params", {"path": "deadline_ms"}),
    ],
)
def test_errors_of_methods(running: Host, method: str, params: Json, wanted: str, details: Json) -> None:
    found = error(running, method, **params)
    assert found["data"]["kind"] == wanted, found
    assert details.items() <= found["data"]["details"].items(), found


def test_params_by_position_are_refused(running: Host) -> None:
    running.send({"jsonrpc": "2.0", "id": "p", "method": "topic.leave", "params": [TOPIC]})
    answer = running.read()
    assert answer["error"]["data"]["kind"] == "invalid_params"
    assert "by name" in answer["error"]["message"]


@pytest.mark.parametrize(
    "wanted", [one for one in vars(errors).values() if isinstance(one, type) and "kind" in vars(one)]
)
def test_every_kind_reaches_the_host_as_the_table_says(
    running: Host, wanted: type[errors.SidecarError]
) -> None:
    found = error(running, "toy.fail", kind=wanted.kind)
    assert found["code"] == wanted.code
    assert found["data"] == {
        "kind": wanted.kind,
        "retryable": wanted.retryable,
        "details": {"reason": "asked"},
    }


def test_limits_of_subscriptions(running: Host) -> None:
    numbers = [running.result("events.subscribe", types=[])["subscription"] for _ in range(8)]
    assert error(running, "events.subscribe")["data"] == {
        "kind": "limit_reached",
        "retryable": True,
        "details": {"limit": "subscriptions", "max": 8, "retry_at_ms": None},
    }
    for number in numbers:
        assert running.result("events.unsubscribe", subscription=number) == {"last_seq": 0, "missed": 0}


def test_topics_and_their_events() -> None:
    with Host(*TOY) as host:
        host.send(line("events.subscribe", 1) + line("initialize", 2, api_version=1))
        assert host.read()["id"] == 1, "no event before the answer to the subscriber"
        messages = sorted((host.read(), host.read()), key=lambda message: "id" in message)
        changed, initialized = messages[0]["params"], messages[1]
        assert initialized["id"] == 2
        assert (changed["subscription"], changed["seq"], changed["type"]) == (1, 1, "node.changed")
        info = host.result("node.info")
        assert info.items() <= changed.items()

        joined = host.result("topic.join", topic="x")
        assert joined == {
            "topic_id": TOPIC,
            "state": "joined",
            "mode": "auto",
            "max_payload_bytes": 4057,
            "created": True,
        }
        state, up = host.event(), host.event()
        assert {key: value for key, value in state.items() if key != "ts_ms"} == {
            "subscription": 1,
            "seq": 2,
            "type": "topic.state",
            "topic_id": TOPIC,
            "state": "joined",
            "neighbors": 1,
            "next_attempt_at_ms": None,
            "reason": None,
        }
        assert (up["seq"], up["type"], up["endpoint_id"], up["reason"]) == (
            3,
            "topic.neighbor_up",
            PEER,
            None,
        )

        (row,) = host.result("topic.list")["topics"]
        assert (row["name"], row["neighbors"], row["remember"], row["lagged"]) == ("x", [PEER], False, 0)
        assert host.result("topic.list", topic_ids=["11" * 32])["topics"] == []
        published = host.result("topic.publish", topic_id=TOPIC, payload_b64="aGVsbG8=")
        # BLAKE3("hello"), as in the contract
        assert published["message_id"] == "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"
        assert host.result("topic.leave", topic_id=TOPIC) == {"state": "left"}
        assert host.result("events.unsubscribe", subscription=1) == {"last_seq": 3, "missed": 0}


def test_a_second_state_within_a_second_comes_merged_when_it_is_due() -> None:
    with Host(*TOY) as host:
        host.result("initialize", api_version=1)
        host.result("events.subscribe", types=["topic.state"])
        start = time.monotonic()
        for _ in range(5):
            host.result("topic.join", topic="x")
        host.result("topic.leave", topic_id=TOPIC)
        first, second = host.event(), host.event()
        assert (first["seq"], first["state"], second["seq"], second["state"]) == (1, "joined", 2, "left")
        assert time.monotonic() - start > 0.9


def test_pages_of_peers(running: Host) -> None:
    ids = [f"{index:02x}" * 32 for index in range(1, 6)]
    got: list[str] = []
    cursor = None
    pages = 0
    while pages == 0 or cursor is not None:
        page = running.result("peer.list", limit=2, cursor=cursor)
        got += [peer["endpoint_id"] for peer in page["peers"]]
        cursor = page["cursor"]
        pages += 1
    assert (got, pages) == (ids, 3)
    connected = running.result("peer.list", state="connected")["peers"]
    assert [peer["endpoint_id"] for peer in connected] == ids[::2]
    assert connected[0] == {
        "endpoint_id": ids[0],
        "state": "connected",
        "origins": ["ticket"],
        "path": "direct",
        "address": "127.0.0.1:4433",
        "rtt_ms": 1,
        "topics": [],
        "connected_ms": None,
        "retry_at_ms": None,
        "last_error": None,
        "is_sidecar": False,
        "score": 0.0,
        "pinned": False,
        "weight": 0,
    }
    assert running.result("peer.list", origin="dht")["peers"] == []
    assert running.result("peer.list", topic_id=TOPIC)["peers"] == []
    (only,) = running.result("peer.list", node_id=ids[3])["peers"]
    assert only["endpoint_id"] == ids[3]


def test_connect_and_disconnect(running: Host) -> None:
    assert running.result("peer.connect", peer=f"{PEER}@127.0.0.1:4433") == {
        "endpoint_id": PEER,
        "path": "direct",
        "address": "127.0.0.1:4433",
        "rtt_ms": 1,
    }
    assert running.result("peer.disconnect", node_id="a" * 52, forget=True) == {"was_connected": True}


def test_resolve_and_publish() -> None:
    with Host(*TOY) as host:
        host.result("initialize", api_version=1)
        host.result("events.subscribe", types=["discovery.*"])
        assert host.result("discovery.resolve", endpoint_id=PEER, until="all") == {
            "endpoint_id": PEER,
            "addresses": [{"address": "127.0.0.1:4433", "sources": ["dht"]}],
            "relay_urls": [],
            "latency_ms": {"dht": 640},
            "source_errors": {},
        }
        found = host.event()
        assert (found["type"], found["endpoint_id"], found["source"]) == ("discovery.peer_found", PEER, "dht")
        assert found["addresses"] == ["127.0.0.1:4433"]
        assert isinstance(found["request_id"], int), "the request that asked"
        assert host.result("discovery.publish", sinks=["dht"])["sinks"] == [
            {"sink": "dht", "ok": True, "stored": 20, "error": None, "next_at_ms": 1763793600000}
        ]
        published = host.event()
        assert (published["type"], published["sink"], published["ok"]) == ("discovery.published", "dht", True)
        failed = error(host, "discovery.resolve", endpoint_id="11" * 32)
        assert failed["data"]["kind"] == "no_addresses"
        assert failed["data"]["details"] == {"source_errors": {"dht": "no_addresses"}}
        assert error(host, "discovery.resolve", endpoint_id=PEER, sources=["dns"])["code"] == -32602


def test_tickets(running: Host) -> None:
    assert running.result("node.ticket", include="relay") == {"ticket": None, "reason": "no relay is in use"}
    assert running.result("node.ticket", kind="address")["ticket"].endswith("@127.0.0.1:4433")


def test_log_lines_reach_the_ring_stderr_and_the_feed() -> None:
    with Host(*TOY) as host:
        host.result("events.subscribe", types=["log"])
        host.send(line("initialize", 1, api_version=1))
        messages = [host.read() for _ in range(2)]
        (event,) = [message["params"] for message in messages if message.get("method") == "event"]
        assert (event["type"], event["level"], event["module"], event["repeated"]) == (
            "log",
            "info",
            "rpc.server",
            1,
        )
        for _ in range(3):
            error(host, "toy.fail", kind="x")
        result = host.result("log.get", level="error", limit=2)
        assert [row["module"] for row in result["lines"]] == ["rpc.dispatch"] * 2
        assert result["dropped"] == 0
        host.close_stdin()
        host.wait()
        rows = [json.loads(row) for row in host.stderr().splitlines()]
        assert [row["level"] for row in rows] == ["info", "error", "error", "error", "info"]
        assert "secret text" in rows[1]["traceback"]
        assert "secret text" not in json.dumps(result)
