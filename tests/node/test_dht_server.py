"""`kukuri-sidecar serve dht` as a process: one node, a network, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

import anyio
import pytest

from kukuri_sidecar.errors import InvalidConfig
from kukuri_sidecar.node.dht_server import MAX_NODES, check_options
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import DhtNodeId, Target
from kukuri_sidecar.wire.krpc import Args, FindNode, Ping, Query, Response
from kukuri_sidecar.wire.krpc_decode import decode
from kukuri_sidecar.wire.krpc_encode import encode
from peers.dht_server import dht_server
from peers.sidecar import ROOT, command

pytestmark = pytest.mark.anyio

END_S = 1.5  # api.md section 3
ANSWER_S = 5.0
SILENCE_S = 0.5  # a node on loopback answers within a few milliseconds, in this test after 100


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def ask(address: str | SocketAddr, args: Args, timeout_s: float = ANSWER_S) -> Response | None:
    """Send one question, return the answer; None when there is none."""
    to = SocketAddr.parse(address) if isinstance(address, str) else address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(timeout_s)
        udp.sendto(encode(Query(b"q", DhtNodeId(bytes(20)), args, read_only=True)), to)
        try:
            answer = decode(udp.recv(2048))
        except TimeoutError:
            return None
    assert isinstance(answer, Response)
    return answer


async def test_one_node_answers_from_the_moment_it_says_so() -> None:
    async with dht_server() as dht:
        (address,) = dht.addresses
        assert ask(address, Ping()) is not None


async def test_it_binds_where_it_is_told() -> None:
    async with dht_server() as dht:
        (taken,) = dht.addresses
    async with dht_server("--bind", taken) as dht:
        assert dht.addresses == [taken]


@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "SIGINT"])
async def test_it_ends_when_it_shall(how: str) -> None:
    async with dht_server("--nodes", "8") as dht:
        start = time.monotonic()
        if how == "stdin":
            assert dht.process.stdin is not None
            await dht.process.stdin.aclose()
        else:
            dht.process.send_signal(getattr(signal, how))
        with anyio.fail_after(10):
            assert await dht.process.wait() == 0
        assert time.monotonic() - start < END_S


async def test_a_second_node_joins_the_first() -> None:
    async with dht_server() as first, dht_server("--bootstrap", *first.addresses) as second:
        answer = None
        while not answer or not answer.nodes:  # nothing tells when it has joined
            answer = ask(second.addresses[0], FindNode(Target(bytes(20))))
        assert [str(node.addr) for node in answer.nodes] == first.addresses


async def test_a_network_is_connected_late_and_partly_dead() -> None:
    """The dead are still named by the living, as in the real network."""
    async with dht_server("--nodes", "24", "--dead", "0.5", "--delay-ms", "100") as dht:
        assert len(dht.addresses) == 8
        start = time.monotonic()
        seen = {
            node.addr
            for bits in range(16)
            for answer in [ask(dht.addresses[0], FindNode(Target(bytes([bits << 4] * 20))))]
            if answer
            for node in answer.nodes or ()
        }
        assert time.monotonic() - start >= 16 * 0.1
        answers = {addr: ask(addr, Ping(), SILENCE_S) is not None for addr in seen}
        assert True in answers.values()
        assert False in answers.values()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--bind", "nowhere"], "bind: host:port expected"),
        (["--bootstrap", "a.example:1", "b"], "bootstrap: b: host:port expected"),
        (["--nodes", "0"], "nodes: out of range"),
        (["--dead", "1"], "dead: out of range"),
        (["--delay-ms", "-1"], "delay_ms: out of range"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], complaint: str) -> None:
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert complaint in result.stderr


def test_a_taken_address_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{udp.getsockname()[1]}"
        result = run("--bind", address)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"Address already in use: '{address}'" in result.stderr


def test_limits_of_the_options() -> None:
    def checked(**changes: object) -> None:
        options = {"bind": "127.0.0.1:0", "bootstrap": [], "nodes": 1, "dead": 0.0, "delay_ms": 0}
        check_options(**{**options, **changes})  # type: ignore[arg-type]

    checked(nodes=MAX_NODES, dead=0.9, delay_ms=10_000)
    for wrong in ({"nodes": MAX_NODES + 1}, {"dead": 0.91}, {"delay_ms": 10_001}):
        with pytest.raises(InvalidConfig):
            checked(**wrong)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command(), "serve", "dht", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=10,
        env={**os.environ, "PYTHONPATH": str(ROOT / "sidecar")},
    )
