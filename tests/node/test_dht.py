"""The DHT service on the virtual clock: look-ups, bootstrap hosts, and who is never asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from random import Random

import anyio
import pytest

from kukuri_sidecar.node import dht as module
from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.node.dht import Dht, Finding
from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.proto.dht.events import (
    AnnouncePeer,
    Command,
    Ending,
    GetPeers,
    LookupFinished,
    LookupId,
    PeersFound,
)
from kukuri_sidecar.wire.addr import HostPort, SocketAddr
from kukuri_sidecar.wire.ids import Target
from sim.dht_net import DhtNet, dht_net

pytestmark = pytest.mark.anyio

KEY = Target(b"k" * 20)
CLIENT = DhtConfig(mode="client")


@pytest.fixture
async def net(rng: Random) -> AsyncIterator[DhtNet]:
    async with dht_net(rng) as net:
        yield net


def announce(lookup: LookupId) -> Command:
    return AnnouncePeer(lookup, KEY, 4000)


def get(lookup: LookupId) -> Command:
    return GetPeers(lookup, KEY)


async def findings(dht: Dht, make: Callable[[LookupId], Command]) -> list[Finding]:
    async with dht.lookup(make) as found:
        return [finding async for finding in found]


async def test_what_one_announces_another_finds(net: DhtNet) -> None:
    await net.service("127.0.0.1")
    a = await net.service("127.0.0.2", bootstrap=["127.0.0.1:4000"], config=CLIENT)
    b = await net.service("127.0.0.3", bootstrap=["127.0.0.1:4000"], config=CLIENT)
    assert isinstance((await findings(a, announce))[-1], LookupFinished)
    peers, finished = await findings(b, get)
    assert isinstance(peers, PeersFound)
    assert peers.peers == (SocketAddr("127.0.0.2", 4000),)
    assert isinstance(finished, LookupFinished)
    assert finished.report.ending is Ending.COMPLETE


async def test_a_literal_bootstrap_address_serves_the_first_lookup_already(net: DhtNet) -> None:
    """A host joins a topic in the same moment as it starts the node."""
    await net.service("127.0.0.1")
    client = await net.service("127.0.0.2", bootstrap=["127.0.0.1:4000"], config=CLIENT)
    (finished,) = await findings(client, get)
    assert isinstance(finished, LookupFinished)
    assert finished.report.answers == 1


async def test_both_families_look_and_both_finish(net: DhtNet) -> None:
    v6 = SocketAddr("::1", 4000)
    await net.service("127.0.0.1")
    client = await net.service("127.0.0.2", bootstrap=["127.0.0.1:4000"], config=CLIENT, also=[v6])
    endings = {f.report.ending for f in await findings(client, get) if isinstance(f, LookupFinished)}
    assert endings == {Ending.COMPLETE, Ending.NO_NODES}


async def test_leaving_the_block_cancels_what_still_runs(net: DhtNet) -> None:
    client = await net.service("127.0.0.2", bootstrap=["127.0.0.9:4000"], config=CLIENT)
    async with client.lookup(get):
        pass
    (status,) = client.status().values()
    used, _ = status.fill["lookups"]
    assert used <= 1  # only the walk home


async def test_before_it_runs_there_is_nothing_to_find(rng: Random) -> None:
    dht = Dht(
        config=CLIENT, bootstrap=[], agenda=Agenda(), rng=rng, send=lambda _: None,
        on_public_address=lambda: None, saved={},
    )  # fmt: skip
    assert await findings(dht, get) == []


# --- bootstrap hosts -----------------------------------------------------------------------------------


class Resolver:
    """A resolver that knows a few names; others take as long as a timeout."""

    def __init__(self, **known: str) -> None:
        self.asked: list[str] = []
        self._known = known

    async def __call__(self, host: HostPort) -> tuple[SocketAddr, ...]:
        self.asked.append(host.host)
        if host.host not in self._known:
            await anyio.sleep(3)
            return ()
        return (SocketAddr(self._known[host.host], host.port),)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver(one="127.0.0.1", two="127.0.0.2", localhost="127.0.0.1")
    monkeypatch.setattr(module, "resolve_host", resolver)
    return resolver


def sent_to(net: DhtNet, sender: str) -> set[str]:
    return {carried.to.host for carried in net.carried if carried.sender.host == sender}


async def test_every_bootstrap_host_is_asked_and_a_dead_name_delays_none(
    net: DhtNet, resolver: Resolver
) -> None:
    """Each host's addresses replaced the others', and names waited for each other."""
    await net.service("10.0.0.9", bootstrap=["dead:4000", "one:4000", "two:4000"], config=CLIENT)
    await anyio.sleep(1)
    assert set(resolver.asked) == {"dead", "one", "two"}
    assert sent_to(net, "10.0.0.9") == {"127.0.0.1", "127.0.0.2"}
    net.carried.clear()
    await anyio.sleep(60)  # nobody answered: both are asked again
    assert sent_to(net, "10.0.0.9") == {"127.0.0.1", "127.0.0.2"}


async def test_from_loopback_nobody_else_is_asked_not_even_a_resolver(
    net: DhtNet, resolver: Resolver
) -> None:
    """Tests and demos keep to this machine even with the default bootstrap hosts."""
    outside = ["dht.example:6881", "192.0.2.1:6881", "localhost:4000"]
    await net.service("127.0.0.9", bootstrap=outside, config=CLIENT, also=[SocketAddr("::1", 4000)])
    await anyio.sleep(3600)
    assert set(resolver.asked) == {"localhost"}
    assert sent_to(net, "127.0.0.9") == {"127.0.0.1"}
    assert sent_to(net, "::1") == set()


async def test_one_socket_beyond_loopback_may_ask_anybody(net: DhtNet, resolver: Resolver) -> None:
    await net.service("0.0.0.0", bootstrap=["dht.example:6881", "192.0.2.1:6881"], config=CLIENT)
    await anyio.sleep(10)
    assert "dht.example" in resolver.asked
    assert sent_to(net, "0.0.0.0") == {"192.0.2.1"}
