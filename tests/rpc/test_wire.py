"""The real process on its pipes: framing, stray output, odd files, and nobody reading."""

import json
import os
import subprocess
import tempfile
import threading
from typing import Any

import pytest

from rpc.process import REAL, ROOT, TOY, Host, line

Json = Any  # what JSON holds

VARIANTS = {
    "pipes, uvloop": {},
    "pipes, asyncio": {"TOY_LOOP": "asyncio"},
    "threads, uvloop": {"TOY_TRANSPORT": "threads"},
}
each_variant = pytest.mark.parametrize("env", VARIANTS.values(), ids=VARIANTS)

BOM = b"\xef\xbb\xbf"
MIB = 1 << 20


def kind(answer: Json) -> str:
    return answer["error"]["data"]["kind"] if "error" in answer else "ok"


@each_variant
def test_lines_with_everything_a_platform_adds(env: dict[str, str]) -> None:
    with Host(*TOY, env=env) as host:
        host.send(BOM + line("ping", 1)[:-1] + b"\r\n\n  \r\n" + line("ping", 2))
        assert [host.read()["id"], host.read()["id"]] == [1, 2]


@each_variant
def test_content_length_is_detected_and_mirrored(env: dict[str, str]) -> None:
    body = line("ping", 1)[:-1]
    plain = b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    fancy = b"content-length:%d\r\nContent-Type: application/vscode-jsonrpc; charset=utf-8\r\n\r\n%s" % (
        len(body),
        body,
    )
    with Host(*TOY, env=env) as host:
        host.send(plain + fancy)
        assert [host.read_framed()["id"], host.read_framed()["id"]] == [1, 1]


def test_one_byte_at_a_time() -> None:
    with Host() as host:
        for byte in line("ping", "é"):
            host.send(bytes([byte]))
        assert host.read()["id"] == "é"


@each_variant
def test_bad_frames_are_answered_and_the_stream_goes_on(env: dict[str, str]) -> None:
    with Host(*TOY, env=env) as host:
        big = b"[" + b"1," * MIB + b"1]\n"
        host.send(b"not json\n\xff\xfe bad\n" + big + line("ping", 4))
        answers = [host.read() for _ in range(4)]
        assert [(answer["id"], kind(answer)) for answer in answers] == [(None, "parse_error")] * 3 + [
            (4, "ok")
        ]


def test_bad_header_frames_are_answered_and_the_stream_goes_on() -> None:
    body = line("ping", 4)[:-1]
    with Host() as host:
        host.send(b"Content-Length: %d\r\n\r\n" % (2 * MIB) + b"x" * (2 * MIB))
        host.send(b"Content-Length: 2\r\n\r\n{]Content-Length: %d\r\n\r\n%s" % (len(body), body))
        answers = [host.read_framed() for _ in range(3)]
        assert [(answer["id"], kind(answer)) for answer in answers] == [(None, "parse_error")] * 2 + [
            (4, "ok")
        ]


def test_a_header_without_a_length_is_answered_and_ends_it() -> None:
    with Host() as host:
        host.send(b"Content-Type: json\r\n\r\n{}")
        assert kind(host.read_framed()) == "parse_error"
        assert host.wait(3) == 0


@pytest.mark.parametrize(("size", "fits"), [(MIB - 1, True), (MIB, True), (MIB + 1, False)])
def test_frame_at_the_limit(size: int, fits: bool) -> None:
    with Host() as host:
        start = b'{"jsonrpc":"2.0","id":1,"method":"ping","extra":"'
        host.send(start + b"x" * (size - len(start) - 2) + b'"}\n')
        assert (host.read()["id"], fits) in ((1, True), (None, False))


def test_text_survives_in_ids() -> None:
    text = "日本語🎉\r\n\u2028\x00"
    with Host() as host:
        host.send(
            json.dumps({"jsonrpc": "2.0", "id": text, "method": "ping"}, ensure_ascii=False).encode() + b"\n"
        )
        assert host.read()["id"] == text


@each_variant
def test_stray_output_lands_on_stderr_and_children_eat_no_requests(env: dict[str, str]) -> None:
    with Host(*TOY, env=env) as host:
        host.send(line("toy.stray", 1) + line("ping", 2))
        assert [host.read()["id"], host.read()["id"]] == [1, 2]
        host.close_stdin()
        assert host.drain() == []
        assert host.wait() == 0
        assert {"stray print", "stray write", "stray child"} <= set(host.stderr().splitlines())


def test_files_as_stdin_and_stdout() -> None:
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as sink:
        source.write(line("ping", 1) + line("nope", 2))
        source.seek(0)
        run = subprocess.run(
            REAL,
            stdin=source,
            stdout=sink,
            stderr=subprocess.PIPE,
            timeout=10,
            env={**os.environ, "PYTHONPATH": str(ROOT / "sidecar")},
        )
        sink.seek(0)
        assert [json.loads(one)["id"] for one in sink] == [1, 2]
        assert run.returncode == 0


def test_a_terminal_as_stdin() -> None:
    mine, theirs = os.openpty()
    try:
        with Host(stdin=theirs) as host:
            os.write(mine, line("ping", 1))
            assert host.read()["id"] == 1
            os.write(mine, b"\x04")  # end of file, as a user types it
            assert host.wait(3) == 0
    finally:
        os.close(mine)
        os.close(theirs)


def test_stderr_on_the_same_pipe_as_stdout() -> None:
    """2>&1 makes stderr non-blocking as well; a host that reads gets whole lines of both."""
    with Host("sh", "-c", 'exec "$@" 2>&1', "sh", *TOY) as host:
        host.send(line("initialize", "start", api_version=1))
        while host.read().get("id") != "start":
            pass
        for index in range(200):
            host.send(line("toy.fail", index, kind="x"))
        host.send(line("ping", "end"))
        answers, logged = 0, 0
        while True:
            message = host.read()
            if message.get("id") == "end":
                continue
            answers += "jsonrpc" in message
            logged += message.get("module") == "rpc.dispatch"
            if answers == 200 and logged >= 100:
                break


def test_the_blocking_mode_of_a_shared_stdout_is_given_back() -> None:
    """The shell that started us goes on writing to the same pipe."""
    reader, writer = os.pipe()
    try:
        run = subprocess.Popen(
            REAL,
            stdin=subprocess.PIPE,
            stdout=writer,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT / "sidecar")},
        )
        run.communicate(line("ping", 1), timeout=10)
        assert os.get_blocking(writer)
        assert json.loads(os.read(reader, 65_536))["id"] == 1
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("closed", "code"),
    [("0", 2), ("1", 2), ("2", 0)],
)
def test_started_without_a_standard_descriptor(closed: str, code: int) -> None:
    run = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *REAL],
        input=line("ping", 1),
        capture_output=True,
        timeout=10,
        env={**os.environ, "PYTHONPATH": str(ROOT / "sidecar")},
    )
    assert run.returncode == code
    assert bool(run.stdout) is (code == 0)


class Ledger:
    """A host's books of one subscription."""

    received, missed, last_seq, answers = 0, 0, 0, 0

    def take(self, message: Json) -> None:
        if message.get("method") != "event":
            self.answers += 1
            return
        event = message["params"]
        assert event["seq"] > self.last_seq
        self.last_seq = event["seq"]
        self.received += event["type"] != "lagged"
        self.missed += event.get("missed", 0)


# --- floods --------------------------------------------------------------------------------------------


@each_variant
def test_more_requests_in_one_chunk_than_may_be_in_flight(env: dict[str, str]) -> None:
    """Each is answered, the surplus with an error; the process neither blocks nor forgets one."""
    with Host(*TOY, env=env) as host:
        host.result("initialize", api_version=1)
        count = 600
        data = b"".join(line("toy.sleep", index, seconds=0.05) for index in range(count))
        writer = threading.Thread(target=host.send, args=(data,))
        writer.start()
        answers = [host.read() for _ in range(count)]
        writer.join()
        assert sorted(answer["id"] for answer in answers) == list(range(count))
        assert {kind(answer) for answer in answers} == {"ok", "limit_reached"}


@each_variant
def test_a_host_that_does_not_read_costs_bounded_memory_and_stalls_nobody(env: dict[str, str]) -> None:
    """200,000 events and then requests until nothing is taken: RSS and a 100 Hz ticker are watched."""
    with Host(*TOY, env=env) as host:
        host.result("toy.tick")
        host.result("events.subscribe")
        before = host.result("toy.stats")
        host.send(line("toy.flood", "flood", count=200_000))
        assert host.is_readable(5)
        requests = line("toy.blob", "blob", bytes=2_000) * 60_000
        taken = host.push(requests, patience_s=1.0)
        assert taken < 1 * MIB, "reading has stopped"

        books = Ledger()
        rest_of_line = requests[taken : requests.index(b"\n", taken) + 1]
        host.send_later(rest_of_line + line("ping", "caught up"))
        answers = {"flood", "caught up"}
        while answers:
            message = host.read()
            books.take(message)
            answers -= {message.get("id")}
        host.send(line("toy.stats", "stats") + line("events.unsubscribe", "end", subscription=1))
        while (message := host.read()).get("id") != "stats":
            books.take(message)
        stats = message["result"]
        while (message := host.read()).get("id") != "end":
            books.take(message)
        end = message["result"]
        lag_ms, before_kib, peak_kib = stats["worst_lag_ms"], before["rss_kib"], stats["peak_rss_kib"]
        print(f"{taken} bytes taken, lag {lag_ms} ms, RSS {before_kib} -> {peak_kib} KiB")
        assert books.received + books.missed + end["missed"] == end["last_seq"] == 200_000
        assert books.missed > 100_000
        assert peak_kib - before_kib < 40_000
        assert lag_ms < 150


def test_stderr_that_nobody_reads_stalls_nobody() -> None:
    with Host(*TOY) as host:
        host.result("initialize", api_version=1)
        for index in range(1_200):  # a traceback each: 2 MB into a pipe of 64 KiB
            host.call("toy.fail", kind=f"x{index}")
        assert host.result("log.get", level="error", limit=5)["dropped"] > 0
        host.close_stdin()
        assert host.wait(3) == 0
