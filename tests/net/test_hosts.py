from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from kukuri_sidecar.net.hosts import MAX_ADDRESSES_PER_NAME, RESOLVE_TIMEOUT_S, resolve_host
from kukuri_sidecar.wire.addr import HostPort, SocketAddr

pytestmark = pytest.mark.anyio

Answer = Callable[..., Awaitable[list[Any]]]


@pytest.fixture
def anyio_backend(virtual_backend: tuple[str, dict[str, object]]) -> tuple[str, dict[str, object]]:
    return virtual_backend


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    """Put a resolver in place of the system's."""
    return lambda answer: monkeypatch.setattr(anyio, "getaddrinfo", answer)


def _answering(*addresses: str) -> Answer:
    async def answer(host: str, port: int, *, type: int) -> list[Any]:
        assert type == socket.SOCK_DGRAM
        await anyio.sleep(0.1)
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [
            (family, type, 17, "", (address, port))
            for family, address in zip(families, addresses, strict=True)
        ]

    return answer


def _failing(error: Exception) -> Answer:
    async def answer(*_: object, **__: object) -> list[Any]:
        raise error

    return answer


async def test_a_name_gives_its_addresses_in_the_resolvers_order(resolver: Callable[[Answer], None]) -> None:
    resolver(_answering("2001:db8::1", "192.0.2.1", "2001:db8::1", "192.0.2.1"))  # once for each socket type
    assert await resolve_host(HostPort("peer.example", 5)) == (
        SocketAddr("2001:db8::1", 5),
        SocketAddr("192.0.2.1", 5),
    )


@pytest.mark.parametrize("literal", ["192.0.2.1", "2001:db8::1", "::1"])
async def test_a_literal_asks_nobody(resolver: Callable[[Answer], None], literal: str) -> None:
    resolver(_failing(AssertionError("asked")))
    assert await resolve_host(HostPort(literal, 5)) == (SocketAddr(literal, 5),)


@pytest.mark.parametrize("text", ["2001:DB8:0:0::1", "2001:db8::0001"])
async def test_a_literal_becomes_canonical(text: str) -> None:
    assert await resolve_host(HostPort(text, 5)) == (SocketAddr("2001:db8::1", 5),)


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        TimeoutError(),
        OSError(24, "Too many open files"),
        UnicodeError("label too long"),
        ValueError("embedded null character"),
    ],
    ids=repr,
)
async def test_a_name_that_does_not_resolve_has_no_addresses(
    resolver: Callable[[Answer], None], error: Exception
) -> None:
    resolver(_failing(error))
    assert await resolve_host(HostPort("peer.example", 5)) == ()


async def test_a_resolver_that_never_answers_costs_three_seconds(resolver: Callable[[Answer], None]) -> None:
    async def never(*_: object, **__: object) -> list[Any]:
        await anyio.sleep_forever()
        raise AssertionError

    resolver(never)
    start = anyio.current_time()
    assert await resolve_host(HostPort("peer.example", 5)) == ()
    assert anyio.current_time() - start == pytest.approx(RESOLVE_TIMEOUT_S)


@pytest.mark.parametrize(
    "count", [MAX_ADDRESSES_PER_NAME - 1, MAX_ADDRESSES_PER_NAME, MAX_ADDRESSES_PER_NAME + 1]
)
async def test_a_name_has_a_most_of_addresses(resolver: Callable[[Answer], None], count: int) -> None:
    """A zone file can hold thousands, each of which would be dialled."""
    addresses = [f"192.0.2.{number}" for number in range(1, count + 1)]
    resolver(_answering(*addresses))
    found = await resolve_host(HostPort("peer.example", 5))
    assert [address.host for address in found] == addresses[:MAX_ADDRESSES_PER_NAME]


async def test_an_address_that_needs_a_scope_is_left_out(resolver: Callable[[Answer], None]) -> None:
    resolver(_answering("fe80::1%2", "fe80::1", "192.0.2.1"))
    assert await resolve_host(HostPort("printer.local", 5)) == (SocketAddr("192.0.2.1", 5),)


async def test_cancelling_is_not_swallowed(resolver: Callable[[Answer], None]) -> None:
    resolver(_answering("192.0.2.1"))
    with anyio.move_on_after(0.05) as scope:
        await resolve_host(HostPort("peer.example", 5))
    assert scope.cancelled_caught


class TestWithTheSystemsResolver:
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_localhost_is_here(self) -> None:
        found = await resolve_host(HostPort("localhost", 5))
        assert found
        assert set(found) <= {SocketAddr("127.0.0.1", 5), SocketAddr("::1", 5)}
