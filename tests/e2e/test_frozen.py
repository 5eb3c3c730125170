"""The one-dir build: complete without an interpreter, nothing in it that only tests need, a clean stdout."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kukuri_sidecar import __version__
from peers.sidecar import LOOPBACK, ROOT, command
from rpc.process import Host

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

SCHEMA = ROOT / "rpc-schema"
# Tools of this repository, and what stand_ins.py replaces.
NOT_IN_IT = {
    *("IPython", "PyInstaller", "_pytest", "hypothesis", "iroh", "libtorrent", "mypy", "outcome", "pip"),
    *("PIL", "matplotlib", "numpy", "pluggy", "pytest", "setuptools", "sortedcontainers", "trio", "unittest"),
    *("OpenSSL", "attr", "attrs", "certifi", "jsonschema", "referencing", "rpds", "service_identity"),
}
IN_IT = {"_cffi_backend", "aioquic", "anyio", "blake3", "cryptography", "jsonrpcserver", "msgspec", "nacl"}
DIALLED_BY_NOBODY = "ab" * 32


@pytest.fixture(scope="module")
def binary() -> Path:
    (path,) = command(frozen=True)
    return Path(path)


@pytest.fixture
def host(binary: Path) -> Iterator[Host]:
    with Host(str(binary)) as host:
        yield host


def run(binary: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run it where no Python, no sources and no library of ours can be found by chance."""
    bare = {"PATH": os.defpath, "HOME": "/nonexistent"}
    return subprocess.run(
        [binary, *arguments], input=stdin, capture_output=True, timeout=20, env=bare, cwd=binary.anchor
    )


# --- questions about itself --------------------------------------------------------------------------------


def test_it_has_every_module_that_is_imported_lazily(binary: Path) -> None:
    done = run(binary, "--selftest")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"selftest ok, ")


def test_version(binary: Path) -> None:
    done = run(binary, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"kukuri-sidecar {__version__}\n".encode(), b"")


def test_the_document_is_the_published_one(binary: Path, host: Host) -> None:
    """Frozen, it is a file of the build, so that it could be another one than the sources make."""
    done = run(binary, "--openrpc")
    assert (done.returncode, done.stderr) == (0, b"")
    document = json.loads(done.stdout)
    assert document == json.loads((SCHEMA / "openrpc.json").read_bytes())
    assert document == host.result("rpc.discover")
    answer = host.result("initialize", api_version=1, ephemeral=True, config=LOOPBACK)
    assert answer["schema_hash"] == hashlib.sha256(done.stdout.removesuffix(b"\n")).hexdigest()[:16]


def test_it_can_check_the_schema(binary: Path) -> None:
    done = run(binary, "schema", "--check", "--directory", str(SCHEMA))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# --- what is in it -----------------------------------------------------------------------------------------


def packages(binary: Path) -> set[str]:
    """Name every top-level module of the archive and of the folder."""
    from PyInstaller.archive.readers import CArchiveReader

    archive = CArchiveReader(str(binary)).open_embedded_archive("PYZ.pyz")
    found = {name.partition(".")[0] for name in archive.toc}
    folder = binary.parent / "_internal"
    for directory in (folder, *folder.glob("python3.*/lib-dynload")):
        found |= {path.name.partition(".")[0].partition("-")[0] for path in directory.iterdir()}
    return found


def test_it_holds_no_tool_and_no_test_package(binary: Path) -> None:
    found = packages(binary)
    assert found >= IN_IT, "the look into the archive sees nothing"
    assert not found & NOT_IN_IT
    assert not {name for name in found if "test" in name.lower()}


# --- serving -----------------------------------------------------------------------------------------------


def test_the_smoke_test_of_the_build(binary: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "build" / "smoke.py", binary], capture_output=True, timeout=50
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_short_life(host: Host, tmp_path: Path) -> None:
    assert host.result("ping")["uptime_ms"] >= 0
    assert host.result("events.subscribe", types=["topic.*"]) == {"subscription": 1}
    answer = host.result("initialize", api_version=1, data_dir=str(tmp_path / "profile"), config=LOOPBACK)
    assert answer["identity"] == "created"
    info = host.result("node.info")
    assert info["endpoint_id"] == answer["endpoint_id"]
    assert host.result("node.ticket")["ticket"].startswith("endpoint")
    joined = host.result("topic.join", topic="smoke", mode="signed")
    assert joined["created"]
    refused = host.call("topic.publish", topic_id=joined["topic_id"], payload_b64="aGk=")
    assert refused["error"]["data"]["kind"] == "no_neighbors"
    nobody = f"{DIALLED_BY_NOBODY}@{info['addresses'][0]['address']}"
    refused = host.call("peer.connect", peer=nobody, timeout_ms=2000)
    assert refused["error"]["data"]["kind"] in ("handshake_failed", "identity_mismatch", "dial_timeout")
    assert host.event()["type"] == "topic.state"
    host.result("topic.leave", topic_id=joined["topic_id"])
    assert host.result("shutdown")["graceful"]
    host.drain()  # raises on anything that is no frame
    assert host.wait() == 0
    for line in host.stderr().splitlines():
        assert {"level", "message"} <= json.loads(line).keys()


def test_two_of_them_understand_each_other(binary: Path) -> None:
    """QUIC, the handshake and gossip as frozen: what no import tells."""
    with Host(str(binary)) as one, Host(str(binary)) as other:
        for host in (one, other):
            host.result("initialize", api_version=1, ephemeral=True, config=LOOPBACK)
            host.result("events.subscribe", types=["topic.neighbor_up", "topic.message"])
        topic_id = one.result("topic.join", topic="smoke", mode="signed")["topic_id"]
        info = one.result("node.info")
        address = f"{info['endpoint_id']}@{info['addresses'][0]['address']}"
        other.result("topic.join", topic="smoke", mode="signed", bootstrap=[address])
        assert other.event()["endpoint_id"] == info["endpoint_id"]
        other.result("topic.publish", topic_id=topic_id, payload_b64="aGVsbG8=")
        assert one.event()["type"] == "topic.neighbor_up"
        message = one.event()
        assert (message["payload_b64"], message["verified"]) == ("aGVsbG8=", True)


def test_stdout_stays_clean(binary: Path) -> None:
    """Nothing before there is input, nothing on a usage error, nothing that is no frame."""
    silent = run(binary)
    assert (silent.returncode, silent.stdout) == (0, b"")
    usage = run(binary, "--no-such-option")
    assert (usage.returncode, usage.stdout) == (2, b"")
    assert b"--no-such-option" in usage.stderr
    noisy = run(
        binary, "--log-level", "debug", stdin=b'garbage\n\xff\xfe\n{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    )
    assert noisy.returncode == 0
    errors, answer = noisy.stdout.splitlines()[:-1], json.loads(noisy.stdout.splitlines()[-1])
    assert [json.loads(line)["error"]["code"] for line in errors] == [-32700, -32700]
    assert answer["id"] == 1
    assert answer["result"]["loop_lag_ms"] == 0
