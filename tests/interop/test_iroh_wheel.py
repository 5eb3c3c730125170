"""QuicEndpoint and the real iroh endpoint of three PyPI wheels, both ways, on loopback, on a real loop."""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from kukuri_sidecar.errors import DialTimeout, HandshakeFailed, IdentityMismatch, Refused
from kukuri_sidecar.net.quic import Connection, ConnectionLost, LossKind, QuicConfig, QuicEndpoint
from kukuri_sidecar.proto.quic.rpk import RawKeyContext, RawPublicKey
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.keys import SecretKey

pytestmark = [pytest.mark.peers, pytest.mark.anyio]

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/peers/iroh_wheel.py"
WHEELS = ROOT / ".cache/iroh-wheels"
VERSIONS = ["1.0.0", "1.1.0", "1.2.0"]
NEWEST = VERSIONS[-1]
ALPN = "kukuri-sidecar/interop/0"
BLOB_BYTES = 200_000


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


def wheel_folder(version: str) -> Path:
    """Where the wheel is; a missing one is a failure, never a skip."""
    folder = WHEELS / version
    if not (folder / "iroh" / "__init__.py").is_file():
        pytest.fail(f"the iroh {version} wheel is missing: run python tests/peers/fetch_iroh_wheels.py")
    return folder


class Peer:
    """The subprocess with the wheel."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._lines = _lines(process.stdout)

    async def start(self) -> None:
        ready = await self.event("ready")
        self.id = EndpointId.from_hex(ready["id"])
        self.address = SocketAddr.parse(ready["addr"])
        self.wheel = ready["wheel"]

    async def do(self, action: str, **fields: object) -> None:
        await self._process.stdin.send(json.dumps({"do": action, **fields}).encode() + b"\n")

    async def event(self, *names: str) -> dict:
        """The next event of one of these names; others are passed over."""
        with anyio.fail_after(8):
            async for line in self._lines:
                event = json.loads(line)
                if event["event"] in names:
                    return event
        raise AssertionError("the peer ended")


async def _lines(stream) -> AsyncIterator[bytes]:
    buffered = b""
    async for chunk in stream:
        *lines, buffered = (buffered + chunk).split(b"\n")
        for line in lines:
            yield line


@asynccontextmanager
async def iroh(version: str) -> AsyncIterator[Peer]:
    env = {**os.environ, "PYTHONPATH": str(wheel_folder(version))}
    command = [sys.executable, str(PROGRAM), ALPN]
    async with await anyio.open_process(command, env=env, stderr=None) as process:
        peer = Peer(process)
        try:
            await peer.start()
            assert Path(peer.wheel).is_relative_to(WHEELS / version)
            yield peer
        finally:
            process.kill()


class User:
    """Collects what a connection delivers."""

    def __init__(self) -> None:
        self.data: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.lost: ConnectionLost | None = None
        self._changed = anyio.Event()

    def stream_data(self, connection: Connection, stream_id: int, data: bytes, end: bool) -> None:
        self.data.setdefault(stream_id, bytearray()).extend(data)
        connection.consume(stream_id, len(data))
        if end:
            self.ended.add(stream_id)
        self._notify()

    def stream_reset(self, connection: Connection, stream_id: int, code: int) -> None: ...

    def stream_stopped(self, connection: Connection, stream_id: int, code: int) -> None: ...

    def progressed(self, connection: Connection) -> None:
        self._notify()

    def closed(self, connection: Connection, reason: ConnectionLost) -> None:
        assert self.lost is None, "closed twice"
        self.lost = reason
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(8):
            while not condition():
                await self._changed.wait()


class Ours:
    """A running QuicEndpoint and the connections that it accepted."""

    def __init__(self) -> None:
        self.secret = SecretKey(random.SystemRandom().randbytes(32))
        self.accepted: list[tuple[Connection, User]] = []
        self._arrived = anyio.Event()
        config = QuicConfig(bind_v4=SocketAddr("127.0.0.1", 0))
        rng = random.SystemRandom()
        self.endpoint = QuicEndpoint(self.secret, config, alpns=[ALPN], accept=self._accept, rng=rng)

    def _accept(self, connection: Connection) -> User:
        user = User()
        self.accepted.append((connection, user))
        self._arrived.set()
        return user

    async def arrival(self) -> tuple[Connection, User]:
        with anyio.fail_after(8):
            await self._arrived.wait()
        return self.accepted[-1]

    async def dial(
        self, peer: Peer, *, alpn: str = ALPN, timeout_s: float = 8, **other: EndpointId
    ) -> tuple[Connection, User]:
        user = User()
        endpoint_id = other.get("endpoint_id", peer.id)
        return await self.endpoint.dial(
            endpoint_id, [peer.address], alpn, lambda _: user, timeout_s=timeout_s
        ), user

    @property
    def target(self) -> dict[str, str]:
        return {"id": self.secret.endpoint_id.hex(), "addr": str(self.endpoint.bound[0]), "alpn": ALPN}


@asynccontextmanager
async def ours() -> AsyncIterator[Ours]:
    made = Ours()
    async with anyio.create_task_group() as group:
        await group.start(made.endpoint.run)
        yield made
        group.cancel_scope.cancel()


def blob(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOB_BYTES)


async def exchange(connection: Connection, user: User, peer: Peer) -> None:
    """200 kB on a uni stream each way, byte-equal."""
    up = connection.open_uni()
    data = blob(1)
    for at in range(0, BLOB_BYTES, 20_000):
        connection.send(up, data[at : at + 20_000], end=at + 20_000 >= BLOB_BYTES)
        await anyio.lowlevel.checkpoint()
    event = await peer.event("uni")
    assert (event["size"], event["sha256"]) == (BLOB_BYTES, hashlib.sha256(data).hexdigest())
    await user.until(lambda: connection.backlog() == 0)
    assert connection.acked(up) == BLOB_BYTES
    await peer.do("send_uni", size=BLOB_BYTES, seed=2)
    await user.until(lambda: bool(user.ended))
    assert bytes(user.data[user.ended.pop()]) == blob(2)


@pytest.mark.parametrize("version", VERSIONS)
async def test_we_dial_iroh(version: str) -> None:
    async with iroh(version) as peer, ours() as us:
        connection, user = await us.dial(peer)
        assert (connection.peer, connection.alpn, connection.inbound) == (peer.id, ALPN, False)
        assert connection.address == peer.address
        seen = await peer.event("accepted")
        assert (seen["peer"], seen["alpn"]) == (us.secret.endpoint_id.hex(), ALPN)
        await exchange(connection, user, peer)
        connection.close(42, "bye from us")
        reason = (await peer.event("closed"))["reason"]
        assert "42" in reason
        assert "bye from us" in reason
        await user.until(lambda: user.lost is not None)
        assert (user.lost.code, user.lost.by_peer, user.lost.kind) == (42, False, LossKind.LOCAL)
        assert not list(us.endpoint.connections)


@pytest.mark.parametrize("version", VERSIONS)
async def test_iroh_dials_us(version: str) -> None:
    async with iroh(version) as peer, ours() as us:
        await peer.do("connect", **us.target)
        connected = await peer.event("connected")
        assert connected["peer"] == us.secret.endpoint_id.hex()
        connection, user = await us.arrival()
        assert (connection.peer, connection.alpn, connection.inbound) == (peer.id, ALPN, True)
        await exchange(connection, user, peer)
        await peer.do("close", code=7, reason="bye from iroh")
        await user.until(lambda: user.lost is not None)
        assert user.lost == ConnectionLost(7, "bye from iroh", by_peer=True, kind=LossKind.CLOSED)
        assert (us.endpoint.counters.library_errors, us.endpoint.counters.handshakes_failed) == (0, 0)


# --- Everybody who is not who they say ----------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_we_refuse_another_key_than_the_dialled_one(version: str) -> None:
    async with iroh(version) as peer, ours() as us:
        expected = SecretKey(bytes(32)).endpoint_id
        start = time.perf_counter()
        with pytest.raises(IdentityMismatch) as caught:
            await us.dial(peer, endpoint_id=expected)
        assert time.perf_counter() - start < 1
        assert caught.value.details == {"expected": expected, "found": peer.id}
        assert "another EndpointId" in (await peer.event("refused"))["error"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_iroh_refuses_our_key_for_another_id(version: str) -> None:
    async with iroh(version) as peer, ours() as us:
        wrong = us.target | {"id": SecretKey(bytes(32)).endpoint_id.hex()}
        start = time.perf_counter()
        await peer.do("connect", **wrong)
        await peer.event("refused")
        assert time.perf_counter() - start < 1
        await anyio.sleep(0.05)  # the alert may arrive after iroh's report
        assert not us.accepted
        assert us.endpoint.counters.handshakes_failed == 1


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_unknown_alpn_is_refused_both_ways(version: str) -> None:
    async with iroh(version) as peer, ours() as us:
        start = time.perf_counter()
        with pytest.raises(HandshakeFailed) as caught:
            await us.dial(peer, alpn="nope/1")
        assert caught.value.details["code"] == 0x178
        await peer.do("connect", **us.target | {"alpn": "nope/1"})
        # The wheel reports its own refusal of our dial, and the failure of its dial.
        await peer.event("refused")
        await peer.event("refused")
        assert time.perf_counter() - start < 1
        assert not us.accepted


def no_key(context: RawKeyContext) -> None:
    context.certificate = None


def stolen_key(context: RawKeyContext) -> None:
    context.certificate = RawPublicKey(SecretKey(bytes(32)).endpoint_id)


def no_extensions(context: RawKeyContext) -> None:
    context.handshake_extensions = [e for e in context.handshake_extensions if e[0] not in (19, 20)]


def x509_types(context: RawKeyContext) -> None:
    types = b"\x01\x00" if context._is_client else b"\x00"
    no_extensions(context)
    context.handshake_extensions += [(19, types), (20, types)]


def tamper_with(
    patch: pytest.MonkeyPatch, tamper: Callable[[RawKeyContext], None], *, is_client: bool
) -> None:
    original = RawKeyContext.upgrade.__func__

    def upgrade(cls, context, expected_peer):
        ours = original(cls, context, expected_peer)
        if ours._is_client is is_client:
            tamper(ours)
        return ours

    patch.setattr(RawKeyContext, "upgrade", classmethod(upgrade))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("tamper", "code"), [(no_key, 0x174), (stolen_key, 0x133), (no_extensions, 0x128), (x509_types, None)]
)
async def test_iroh_refuses_a_false_client_and_so_do_we(
    version: str, tamper: Callable[[RawKeyContext], None], code: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel is the judge first; then our own endpoint gets the same client."""
    async with iroh(version) as peer, ours() as us, ours() as server:
        tamper_with(monkeypatch, tamper, is_client=True)
        start = time.perf_counter()
        with pytest.raises(HandshakeFailed) as caught:
            await us.dial(peer)
        if code is not None:
            assert caught.value.details["code"] == code
        await peer.event("refused")
        with pytest.raises(HandshakeFailed):
            await us.endpoint.dial(
                server.secret.endpoint_id, server.endpoint.bound, ALPN, lambda _: User(), timeout_s=5
            )
        assert time.perf_counter() - start < 2  # two dials
        assert not server.accepted


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tamper", [stolen_key, no_extensions, x509_types])
async def test_iroh_refuses_a_false_server(
    version: str, tamper: Callable[[RawKeyContext], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with iroh(version) as peer, ours() as us:
        tamper_with(monkeypatch, tamper, is_client=False)
        start = time.perf_counter()
        await peer.do("connect", **us.target)
        await peer.event("refused")
        assert time.perf_counter() - start < 1
        await anyio.sleep(0.05)
        assert not us.accepted


# --- What else a real iroh does -----------------------------------------------------------------------------


async def test_a_retry_of_iroh_is_answered() -> None:
    async with iroh(NEWEST) as peer, ours() as us:
        await peer.do("policy", next="retry")
        await peer.event("done")
        connection, user = await us.dial(peer)
        await exchange(connection, user, peer)


async def test_a_refusal_and_a_silence_of_iroh_are_told_apart() -> None:
    async with iroh(NEWEST) as peer, ours() as us:
        await peer.do("policy", next="refuse")
        await peer.event("done")
        start = time.perf_counter()
        with pytest.raises(Refused):
            await us.dial(peer)
        assert time.perf_counter() - start < 1
        await peer.do("policy", next="ignore")
        await peer.event("done")
        with pytest.raises(DialTimeout):
            await us.dial(peer, timeout_s=0.5)


async def test_iroh_comes_through_our_retry_and_hears_our_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    async with iroh(NEWEST) as peer, ours() as us:
        us.endpoint._core._admission._limits = _with(us, retry_at_half_open=0)
        await peer.do("connect", **us.target)
        await peer.event("connected")
        assert us.endpoint.counters.retries_sent >= 1
        connection, user = await us.arrival()
        await exchange(connection, user, peer)
        monkeypatch.setattr(us.endpoint, "_accept", lambda _connection: None)
        await peer.do("connect", **us.target)
        event = await peer.event("refused", "closed")
        assert "refused" in str(event).lower()


def _with(us: Ours, **changes: object):
    return replace(us.endpoint._config.limits, **changes)


def test_a_missing_wheel_is_a_failure_not_a_skip() -> None:
    with pytest.raises(pytest.fail.Exception, match="fetch_iroh_wheels"):
        wheel_folder("0.0.0")
