"""The fixtures of conftest.py do what other tests rely on."""

from __future__ import annotations

import socket
from random import Random

import anyio
import pytest
from trio.testing import MockClock

from loopback_guard import NotLoopback, is_loopback

UDP = (socket.AF_INET, socket.SOCK_DGRAM)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost", None])
def test_loopback_is_allowed(host: str | None) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "::", "fe80::1%lo", "peer.example", "", b"x"])
def test_everything_else_is_not(host: object) -> None:
    assert not is_loopback(host)


def test_sends_and_look_ups_beyond_the_loopback_are_refused_and_remembered(loopback_only: list[str]) -> None:
    with socket.socket(*UDP) as udp, pytest.raises(NotLoopback):
        udp.sendto(b"x", ("192.0.2.1", 9))
    with socket.socket(*UDP) as udp, pytest.raises(NotLoopback):
        udp.sendmsg([b"x"], [], 0, ("192.0.2.1", 9))
    with socket.socket() as tcp, pytest.raises(NotLoopback):
        tcp.connect_ex(("192.0.2.1", 9))
    with pytest.raises(NotLoopback):
        socket.getaddrinfo("peer.example", 9)
    assert len(loopback_only) == 4
    loopback_only.clear()  # else this very test fails


def test_the_loopback_itself_works() -> None:
    with socket.socket(*UDP) as receiver, socket.socket(*UDP) as sender:
        receiver.bind(("127.0.0.1", 0))
        sender.sendto(b"x", receiver.getsockname())
        assert receiver.recv(10) == b"x"


@pytest.mark.anyio
async def test_time_is_virtual(clock: MockClock) -> None:
    before = anyio.current_time()
    await anyio.sleep(3600)
    assert anyio.current_time() - before == pytest.approx(3600)
    assert clock.current_time() == anyio.current_time()


async def _interleaving() -> list[int]:
    order: list[int] = []

    async def note(number: int) -> None:
        for _ in range(4):
            await anyio.lowlevel.checkpoint()
            order.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(note, number)
    return order


@pytest.mark.anyio
async def test_the_seed_decides_the_interleaving(monkeypatch: pytest.MonkeyPatch) -> None:
    async def with_seed(seed: int) -> list[int]:
        monkeypatch.setattr("trio._core._run._r", Random(seed))
        return await _interleaving()

    assert await with_seed(7) == await with_seed(7)
    assert len({tuple(await with_seed(seed)) for seed in range(8)}) > 1
