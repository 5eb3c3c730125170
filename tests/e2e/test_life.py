"""The life of a sidecar: first start with nobody around, restarts, ends of every kind, exit codes."""

import json
import os
import secrets
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from e2e.hosts import close_stdin, ended, nodes, peer_info, refused, topic_info, until
from peers.sidecar import LOOPBACK, Json, RpcError, Sidecar, node, sidecar

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

TOPIC = "5a" * 32
OTHER_TOPIC = "5b" * 32
END_S = 1.5  # api.md section 3: from a reason to end to the end
REASONS = ["EOF", "SIGTERM", "SIGINT", "shutdown"]


def cpu_s(host: Sidecar) -> float:
    """Processor time so far, user and system."""
    fields = Path(f"/proc/{host.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def end(host: Sidecar, reason: str) -> int:
    """End the process for a reason; return the exit code. It must be gone in time."""
    started = time.monotonic()
    if reason == "EOF":
        code = await close_stdin(host)
    elif reason == "shutdown":
        assert (await host.call("shutdown"))["graceful"]
        code = await ended(host)
    else:
        host.process.send_signal(signal.Signals[reason])
        code = await ended(host)
    assert time.monotonic() - started <= END_S
    return code


# --- the first start ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frozen", [False, pytest.param(True, marks=pytest.mark.e2e)], ids=["source", "frozen"]
)
async def test_the_first_start_with_nobody_around(tmp_path: Path, frozen: bool) -> None:
    """J1: quick, private, honest about being alone, and quiet."""
    profile = tmp_path / "not" / "there yet"
    async with sidecar(frozen=frozen) as host:
        await host.call("events.subscribe")
        started = time.monotonic()
        answer = await host.call("initialize", api_version=1, data_dir=str(profile), config=LOOPBACK)
        assert time.monotonic() - started <= 2.0
        assert (answer["identity"], answer["warnings"], answer["restored_topics"]) == ("created", [], 0)
        assert stat.S_IMODE(profile.stat().st_mode) == 0o700
        identity = profile / "identity.json"
        assert stat.S_IMODE(identity.stat().st_mode) == 0o600
        assert json.loads(identity.read_bytes())["version"] == 1
        assert (await host.call("node.info"))["endpoint_id"] == answer["endpoint_id"]

        took = []
        for number in range(5):
            started = time.monotonic()
            joined = await host.join(f"{number:02x}" * 32)
            took.append(time.monotonic() - started)
            assert joined["state"] in ("joining", "isolated")
        assert sorted(took)[2] <= 0.05
        event = await host.wait("topic.state", topic_id="00" * 32, state="isolated")
        assert event["neighbors"] == 0
        assert event["next_attempt_at_ms"] > event["ts_ms"]

        details = await refused(host, "no_neighbors", "topic.publish", topic_id="00" * 32, payload_b64="")
        assert details["state"] == "isolated"
        queued = await host.publish("00" * 32, b"later", if_isolated="queue", queue_ttl_ms=300)
        assert (queued["state"], queued["neighbors"]) == ("queued", 0)
        asked = time.monotonic()
        event = await host.wait("topic.published", message_id=queued["message_id"])
        assert (event["state"], event["acked_by"]) == ("expired", 0)
        assert 0.2 <= time.monotonic() - asked <= 2.0

        lines, cpu, started = len(host.log), cpu_s(host), time.monotonic()
        await anyio.sleep(3)  # the measurement itself
        assert (cpu_s(host) - cpu) / (time.monotonic() - started) <= 0.02
        assert len(host.log) - lines <= 1, host.log
        assert (await topic_info(host, "00" * 32))["messages_out"] == 0


async def test_attempts_of_a_lonely_topic_become_rare() -> None:
    """After n failures the pause is 2**(n-1) to 2**n seconds; the topic tells when it is over."""
    async with node() as host:
        await host.join(TOPIC)
        plan: list[int] = []

        async def learn_plan() -> bool:
            row = await topic_info(host, TOPIC)
            assert (row["state"], row["last_error"], row["known_peers"]) == ("isolated", None, 0)
            if row["next_attempt_at_ms"] not in plan:
                plan.append(row["next_attempt_at_ms"])
                assert row["join_attempts"] == len(plan)
            return len(plan) == 3

        await until(learn_plan, "third attempt", 20)
        first, second, third = plan
        assert 1_990 <= second - first <= 4_500
        assert 3_990 <= third - second <= 8_500


async def test_a_bootstrap_peer_that_is_away_is_named() -> None:
    """joining while it is dialled, isolated afterwards, and the peer stays in missing_bootstrap."""
    away = "ab" * 32
    async with node(config={"connect": {"timeout_ms": 300}}) as host:
        joined = await host.join(TOPIC, f"{away}@127.0.0.1:9")
        assert joined["state"] == "joining"
        row = await topic_info(host, TOPIC)
        assert (row["state"], row["missing_bootstrap"], row["join_attempts"]) == ("joining", [away], 1)
        await host.wait("topic.state", topic_id=TOPIC, state="isolated")
        row = await topic_info(host, TOPIC)
        assert (row["state"], row["missing_bootstrap"]) == ("isolated", [away])
        assert row["last_error"] == "dial_timeout"
        assert row["next_attempt_at_ms"] is not None


# --- restarts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["EOF", "kill -9"])
async def test_a_restart_keeps_the_identity(tmp_path: Path, reason: str) -> None:
    """J5: the same endpoint id again and again, however the last run ended; the lock is never left behind."""
    profile = str(tmp_path)
    ids = []
    for run in range(3):
        async with sidecar() as host:
            answer = await host.initialize(data_dir=profile)
            assert answer["identity"] == ("loaded" if run else "created")
            assert answer["warnings"] == []
            ids.append(answer["endpoint_id"])
            if reason == "kill -9":
                host.process.kill()
                await ended(host)
    assert len(set(ids)) == 1
    assert not any(name.endswith(".tmp") for name in os.listdir(tmp_path)), "no litter after a kill"


async def test_a_profile_is_free_the_moment_its_owner_is_killed(tmp_path: Path) -> None:
    """J15: the second sidecar was refused, the first is killed, the second tries again and has it."""
    profile = str(tmp_path)
    async with node(data_dir=profile) as first, sidecar() as second:
        await refused(second, "profile_in_use", "initialize", api_version=1, data_dir=profile)
        first.process.kill()
        await ended(first)
        answer = await second.initialize(data_dir=profile)
        assert answer["endpoint_id"] == first.endpoint_id
        assert await close_stdin(second) == 0


async def test_remembered_topics_and_known_peers_come_back_by_themselves(tmp_path: Path) -> None:
    """J5: after a restart the learned peer is a neighbour again within 2 s, without any call."""
    profile = str(tmp_path)
    async with node() as other:
        await other.join(TOPIC)
        await other.join(OTHER_TOPIC)
        async with node(data_dir=profile) as host:
            await host.join(TOPIC, other.address, remember=True)
            await host.join(OTHER_TOPIC, other.address)
            for topic_id in (TOPIC, OTHER_TOPIC):
                await host.wait("topic.neighbor_up", topic_id=topic_id)
            assert (await topic_info(host, TOPIC))["remember"]
            assert not (await topic_info(host, OTHER_TOPIC))["remember"]
            assert await close_stdin(host) == 0
        await other.wait("topic.neighbor_down", topic_id=TOPIC, reason="left")
        async with sidecar() as host:
            answer = await host.initialize(data_dir=profile)
            assert answer["restored_topics"] == 1
            await host.wait("topic.neighbor_up", 2, topic_id=TOPIC, endpoint_id=other.endpoint_id)
            assert [row["topic_id"] for row in (await host.call("topic.list"))["topics"]] == [TOPIC]
            await host.call("topic.leave", topic_id=TOPIC)
            assert await close_stdin(host) == 0
        async with sidecar() as host:
            assert (await host.initialize(data_dir=profile))["restored_topics"] == 0


async def test_more_remembered_topics_than_allowed_do_not_stop_the_start(tmp_path: Path) -> None:
    """A limit that was lowered between two runs: what fits is restored, the rest is reported."""
    profile = str(tmp_path)
    async with node(data_dir=profile) as host:
        for number in range(3):
            await host.join(f"{number:02x}" * 32, remember=True)
        assert await close_stdin(host) == 0
    async with sidecar() as host:
        answer = await host.initialize(data_dir=profile, config={"limits": {"topics": 2}})
        assert answer["restored_topics"] == len((await host.call("topic.list"))["topics"]) == 2
        assert len(answer["warnings"]) == 1


@pytest.mark.parametrize("file", ["topics.json", "peers.json"])
async def test_a_damaged_cache_is_moved_aside_and_reported(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b'{"version":1,"topics":[{"topic_id":"zz"}],"peers":7}')
    async with sidecar() as host:
        answer = await host.initialize(data_dir=str(tmp_path))
        assert [file in warning for warning in answer["warnings"]] == [True]
        assert str(tmp_path) not in answer["warnings"][0], "no local path leaves the process"
        assert await close_stdin(host) == 0
    assert (tmp_path / f"{file}.corrupt").exists()
    async with sidecar() as host:
        assert (await host.initialize(data_dir=str(tmp_path)))["warnings"] == []


async def test_a_key_of_the_host_is_written_nowhere(tmp_path: Path) -> None:
    """secret_key_hex makes the same endpoint every time; ephemeral leaves no trace at all."""
    secret = secrets.token_hex(32)
    ids = []
    for options in ({"data_dir": str(tmp_path / "a")}, {"ephemeral": True, "data_dir": str(tmp_path / "b")}):
        async with sidecar() as host:
            answer = await host.initialize(secret_key_hex=secret, **options)
            assert answer["identity"] == "host"
            ids.append(answer["endpoint_id"])
    assert len(set(ids)) == 1
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "a" / "identity.json").exists()
    assert not any(secret.encode() in file.read_bytes() for file in (tmp_path / "a").iterdir())


# --- ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", REASONS)
async def test_every_end_says_goodbye(reason: str) -> None:
    """Exit code 0 within 1.5 s; the neighbour learns that we left, not that we were lost."""
    async with nodes(2) as (host, other):
        await other.join(TOPIC)
        await host.join(TOPIC, other.address)
        await host.wait("topic.neighbor_up")
        assert await end(host, reason) == 0
        await other.wait("topic.neighbor_down", endpoint_id=host.endpoint_id, reason="left")

        async def is_gone() -> bool:
            row = await peer_info(other, host.endpoint_id)
            return row is not None and row["state"] != "connected" and row["topics"] == []

        await until(is_gone, "end of the connection")


@pytest.mark.parametrize("reason", REASONS)
async def test_an_end_before_initialize_is_clean(reason: str) -> None:
    async with sidecar() as host:
        await host.call("ping")
        assert await end(host, reason) == 0


async def test_sigterm_at_any_moment_of_the_start(tmp_path: Path) -> None:
    """J15: gone in time whatever it was doing, and the profile stays sound: no half-written identity."""
    profile = str(tmp_path)
    started = time.monotonic()
    async with sidecar() as host:
        endpoint_id = (await host.initialize(data_dir=profile))["endpoint_id"]
        whole_start_s = time.monotonic() - started
    for sixth in range(7):
        if sixth == 3:  # from here on the identity is created anew
            (tmp_path / "identity.json").unlink()
            endpoint_id = None
        async with sidecar() as host:
            request = await host.send("initialize", api_version=1, data_dir=profile, config=LOOPBACK)
            await anyio.sleep(whole_start_s * sixth / 6)
            # Before Python has come to our first line a signal simply kills.
            assert await end(host, "SIGTERM") in (0, -signal.SIGTERM)
            found = None
            with suppress(RpcError, AssertionError):
                found = (await host.answer(request, 0.1))["endpoint_id"]
            assert found in (None, endpoint_id or found)
            endpoint_id = endpoint_id or found
    async with sidecar() as host:
        found = (await host.initialize(data_dir=profile))["endpoint_id"]
        assert found == (endpoint_id or found)


async def test_shutdown_reports_what_it_did() -> None:
    """The connection counts although leaving its last topic closes it; what waited is unsent."""
    async with nodes(2) as (host, other):
        await other.join(TOPIC)
        await host.join(TOPIC, other.address)
        await host.wait("topic.neighbor_up")
        await host.join(OTHER_TOPIC)
        for number in range(3):
            await host.publish(OTHER_TOPIC, bytes([number]), if_isolated="queue")
        report = await host.call("shutdown")
        assert report == {
            "graceful": True,
            "left_topics": 2,
            "closed_connections": 1,
            "unsent_messages": 3,
        }
        assert await ended(host) == 0


# --- exit codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--framing", "morse"], ["serve"]])
async def test_bad_arguments_are_code_2(arguments: list[str]) -> None:
    async with sidecar(*arguments) as host:
        assert await ended(host) == 2
    assert not host.events


@pytest.mark.parametrize(
    ("options", "env", "kind", "code"),
    [
        ({"api_version": 99}, {}, "protocol_mismatch", 2),
        ({"api_version": 1, "data_dir": "relative"}, {}, "invalid_params", 2),
        ({"api_version": 1, "config": {"max_peers": 0}}, {}, "invalid_config", 2),
        ({"api_version": 1}, {"KUKURI_SIDECAR_MAX_PEERS": "many"}, "invalid_config", 2),
    ],
    ids=["version", "params", "config", "environment"],
)
async def test_a_failed_initialize_decides_on_the_code(
    options: Json, env: dict[str, str], kind: str, code: int
) -> None:
    """At EOF, unless a later try worked; 3 and 4 are in test_errors."""
    async with sidecar(env=env) as host:
        await refused(host, kind, "initialize", ephemeral=True, **options)
        assert await close_stdin(host) == code


async def test_an_initialize_that_works_at_last_makes_the_code_0() -> None:
    async with sidecar() as host:
        for wrong in ({"api_version": 99}, {"api_version": 1, "config": {"max_peers": 0}}):
            with pytest.raises(RpcError):
                await host.call("initialize", **wrong)
        await host.call("initialize", api_version=1, ephemeral=True, config=LOOPBACK)
        assert await close_stdin(host) == 0
