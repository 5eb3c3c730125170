from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kukuri_sidecar.node.address_book import (
    HOST_ORIGINS,
    MAX_ADDRESSES_PER_ORIGIN,
    MAX_ORIGINS,
    MAX_PEERS,
    AddressBook,
)
from kukuri_sidecar.wire.addr import HostPort, SocketAddr
from kukuri_sidecar.wire.ids import EndpointId

NOW_MS = 1_763_790_000_000


def peer(number: int) -> EndpointId:
    return EndpointId(number.to_bytes(32, "big"))


def places(*ports: int) -> tuple[HostPort, ...]:
    return tuple(HostPort("192.0.2.1", port) for port in ports)


# --- what is said of one peer --------------------------------------------------------------------------


def test_nothing_is_known_of_a_stranger() -> None:
    book = AddressBook()
    assert book.hosts(peer(1)) == ()
    assert book.origins(peer(1)) == ()
    assert peer(1) not in book
    book.forget(peer(1))
    assert len(book) == 0


def test_every_origin_adds_and_each_replaces_only_its_own() -> None:
    book = AddressBook()
    book.learn(peer(1), places(1, 2), "gossip")
    book.learn(peer(1), [SocketAddr("192.0.2.1", 2), HostPort("peer.example", 3)], "ticket")
    assert book.hosts(peer(1)) == (*places(1, 2), HostPort("peer.example", 3))
    book.learn(peer(1), places(4), "gossip")
    assert book.hosts(peer(1)) == (*places(4, 2), HostPort("peer.example", 3))
    assert book.origins(peer(1)) == ("gossip", "ticket")


def test_an_origin_without_places_is_recorded_and_takes_nothing_away() -> None:
    book = AddressBook()
    book.learn(peer(1), [], "bootstrap")
    assert peer(1) in book
    assert (book.origins(peer(1)), book.hosts(peer(1))) == (("bootstrap",), ())
    book.learn(peer(1), places(1), "bootstrap")
    book.learn(peer(1), [], "bootstrap")
    assert book.hosts(peer(1)) == places(1)


def test_the_proven_place_comes_first_and_survives_what_others_say() -> None:
    book = AddressBook()
    book.learn(peer(1), places(1, 2), "gossip")
    book.prove(peer(1), SocketAddr("192.0.2.1", 2), NOW_MS)
    assert book.hosts(peer(1)) == places(2, 1)
    book.learn(peer(1), places(7, 8), "gossip")
    assert book.hosts(peer(1)) == places(2, 7, 8)
    book.prove(peer(1), SocketAddr("192.0.2.1", 9), NOW_MS)
    assert book.hosts(peer(1)) == places(9, 7, 8)


def test_a_peer_can_be_proven_that_nobody_told_us_of() -> None:
    book = AddressBook()
    book.prove(peer(1), SocketAddr("192.0.2.1", 5), NOW_MS)
    assert (book.hosts(peer(1)), book.origins(peer(1))) == (places(5), ())


def test_what_is_proven_can_be_remembered() -> None:
    book = AddressBook()
    book.learn(peer(1), places(1), "ticket")
    book.prove(peer(2), SocketAddr("192.0.2.1", 2), 1000)
    book.prove(peer(3), HostPort("peer.example", 3), 2000)
    book.prove(peer(2), SocketAddr("192.0.2.1", 4), 3000)
    assert book.proven() == [(peer(3), HostPort("peer.example", 3), 2000), (peer(2), *places(4), 3000)]
    book.forget(peer(2))
    assert book.proven() == [(peer(3), HostPort("peer.example", 3), 2000)]


def test_forgetting_takes_everything() -> None:
    book = AddressBook()
    book.learn(peer(1), places(1), "ticket")
    book.prove(peer(1), SocketAddr("192.0.2.1", 2), NOW_MS)
    book.forget(peer(1))
    assert (peer(1) in book, book.hosts(peer(1)), book.known()) == (False, (), ())


# --- limits: one lying source must not fill a dial, nor strangers the book -----------------------------


@pytest.mark.parametrize(
    "count", [MAX_ADDRESSES_PER_ORIGIN - 1, MAX_ADDRESSES_PER_ORIGIN, MAX_ADDRESSES_PER_ORIGIN + 1]
)
def test_an_origin_has_a_most_of_places(count: int) -> None:
    book = AddressBook()
    told = places(*(port for port in range(1, count + 1) for _ in range(2)))  # repetitions do not count
    book.learn(peer(1), told, "gossip")
    assert book.hosts(peer(1)) == places(*range(1, min(count, MAX_ADDRESSES_PER_ORIGIN) + 1))


def test_a_peer_has_a_most_of_origins() -> None:
    book = AddressBook()
    for number in range(MAX_ORIGINS + 1):
        book.learn(peer(1), places(number + 1), f"origin {number}")
    assert book.origins(peer(1)) == tuple(f"origin {number}" for number in range(MAX_ORIGINS))
    book.learn(peer(1), places(99), "origin 0")  # a known one may still correct itself
    assert places(99)[0] in book.hosts(peer(1))


@pytest.mark.parametrize("count", [MAX_PEERS - 1, MAX_PEERS, MAX_PEERS + 1])
def test_the_book_has_a_most_of_peers_and_forgets_the_least_recently_mentioned(count: int) -> None:
    book = AddressBook()
    book.learn(peer(0), places(1), "gossip")
    book.learn(peer(1), places(1), "gossip")
    book.prove(peer(0), SocketAddr("192.0.2.1", 1), NOW_MS)  # mentioned again
    for number in range(2, count):
        book.learn(peer(number), places(1), "gossip")
    assert len(book) == min(count, MAX_PEERS)
    assert peer(0) in book
    assert (peer(1) in book) == (count <= MAX_PEERS)


@pytest.mark.parametrize("origin", HOST_ORIGINS)
def test_a_flood_of_strangers_does_not_push_out_whom_the_host_named(origin: str) -> None:
    """Shuffles name as many invented peers as somebody likes; the bootstrap peers are named once."""
    book = AddressBook()
    for number in range(64):
        book.learn(peer(number), places(number + 1), origin)
    for number in range(1000, 1000 + 3 * MAX_PEERS):
        book.learn(peer(number), places(1), "gossip")
        book.prove(peer(number), SocketAddr("192.0.2.1", 2), NOW_MS)
    assert len(book) == MAX_PEERS
    assert [book.hosts(peer(number)) for number in range(64)] == [places(number + 1) for number in range(64)]


def test_a_host_that_names_too_many_pushes_out_its_own_oldest() -> None:
    book = AddressBook()
    for number in range(MAX_PEERS + 5):
        book.learn(peer(number), places(1), "ticket")
    assert book.known() == tuple(peer(number) for number in range(5, MAX_PEERS + 5))


# --- what no datagram can reach ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "224.0.0.251",
        "239.1.2.3",
        "255.255.255.255",
        "240.0.0.1",
        "0.0.0.0",
        "::",
        "ff02::fb",
        "fe80::1",
        "::ffff:224.0.0.1",
    ],
)
def test_addresses_of_nobody_or_of_everybody_are_left_out(host: str) -> None:
    """A lie must not make us shout at a whole link (trust.md E3)."""
    book = AddressBook()
    book.learn(peer(1), [HostPort(host, 5), *places(1)], "gossip")
    assert book.hosts(peer(1)) == places(1)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "10.0.0.1", "169.254.1.1", "fd00::1", "2001:db8::1", "peer.example"]
)
def test_near_addresses_and_names_are_kept(host: str) -> None:
    book = AddressBook()
    book.learn(peer(1), [HostPort(host, 5)], "gossip")
    assert book.hosts(peer(1)) == (HostPort(host, 5),)


def test_port_0_is_nowhere() -> None:
    book = AddressBook()
    book.learn(peer(1), [SocketAddr("192.0.2.1", 0), HostPort("peer.example", 0)], "gossip")
    assert book.hosts(peer(1)) == ()


# --- every sequence ------------------------------------------------------------------------------------

PEERS = st.integers(0, 3).map(peer)
HOSTS = st.builds(
    HostPort, st.sampled_from(["192.0.2.1", "::1", "peer.example", "224.0.0.1"]), st.integers(0, 4)
)
ORIGINS = st.sampled_from(["gossip", "ticket", "dns"])


class AnySequence(RuleBasedStateMachine):
    """The order of mention, no duplicates, the proven place first: whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        self.book = AddressBook()
        self.mentioned: dict[EndpointId, None] = {}
        self.proven: dict[EndpointId, HostPort] = {}

    def _mention(self, who: EndpointId) -> None:
        self.mentioned.pop(who, None)
        self.mentioned[who] = None

    @rule(who=PEERS, hosts=st.lists(HOSTS, max_size=12), origin=ORIGINS)
    def learn(self, who: EndpointId, hosts: list[HostPort], origin: str) -> None:
        before = set(self.book.hosts(who))
        self.book.learn(who, iter(hosts), origin)
        self._mention(who)
        assert set(self.book.hosts(who)) <= before | set(hosts)

    @rule(who=PEERS, port=st.integers(1, 4))
    def prove(self, who: EndpointId, port: int) -> None:
        self.book.prove(who, SocketAddr("192.0.2.1", port), NOW_MS)
        self._mention(who)
        self.proven[who] = HostPort("192.0.2.1", port)

    @rule(who=PEERS)
    def forget(self, who: EndpointId) -> None:
        self.book.forget(who)
        self.mentioned.pop(who, None)
        self.proven.pop(who, None)

    @invariant()
    def holds(self) -> None:
        assert self.book.known() == tuple(self.mentioned)
        for who in map(peer, range(4)):
            hosts = self.book.hosts(who)
            assert len(set(hosts)) == len(hosts)
            assert (who in self.book) == (who in self.mentioned)
            if who in self.proven:
                assert hosts[0] == self.proven[who]


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=30, stateful_step_count=30)


@given(st.text(max_size=12), st.integers(-1, 70_000))
def test_any_text_is_a_place_or_none(host: str, port: int) -> None:
    book = AddressBook()
    book.learn(peer(1), [HostPort(host, port)], "gossip")
    assert book.hosts(peer(1)) in ((), (HostPort(host, port),))
