"""Which of several connections to one peer is written, and that both sides agree."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import cast

import pytest

from kukuri_sidecar.node.gossip_link import GossipLink
from kukuri_sidecar.node.links import SIMULTANEOUS_S, Links
from kukuri_sidecar.wire.ids import EndpointId

LESSER, GREATER = EndpointId(bytes(32)), EndpointId(bytes([1]) * 32)


@dataclass
class FakeConnection:
    inbound: bool
    established_at: float
    is_closed: bool = False


@dataclass(eq=False)
class FakeLink:
    peer: EndpointId
    connection: FakeConnection
    is_finishing: bool = False


def link(peer: EndpointId, *, inbound: bool, at: float = 0.0) -> GossipLink:
    return cast("GossipLink", FakeLink(peer, FakeConnection(inbound, at)))


@pytest.mark.parametrize("gap_s", [0.0, 0.1, SIMULTANEOUS_S])
@pytest.mark.parametrize("own_id", [LESSER, GREATER])
def test_of_simultaneous_dials_the_lesser_ids_is_written(own_id: EndpointId, gap_s: float) -> None:
    """Whatever order they were established in, which may differ between the sides."""
    peer = GREATER if own_id is LESSER else LESSER
    for order in permutations((True, False)):
        links = Links(own_id)
        both = [link(peer, inbound=inbound, at=index * gap_s) for index, inbound in enumerate(order)]
        spares = [links.add(one) for one in both]
        (wanted,) = [one for one in both if one.connection.inbound == (own_id is GREATER)]
        assert links.get(peer) is wanted
        assert spares == [None, *links.spares(peer)]
        assert links.written == (wanted,)


@pytest.mark.parametrize("inbound", [False, True])
@pytest.mark.parametrize("own_id", [LESSER, GREATER])
def test_a_later_connection_replaces_the_old_one(own_id: EndpointId, inbound: bool) -> None:
    """The peer was restarted, or lost the old one without our noticing."""
    peer = GREATER if own_id is LESSER else LESSER
    links = Links(own_id)
    old, new = link(peer, inbound=not inbound), link(peer, inbound=inbound, at=SIMULTANEOUS_S + 0.001)
    assert (links.add(old), links.add(new)) == (None, old)
    assert links.get(peer) is new


@pytest.mark.parametrize("reason", ["same side", "closed", "goodbye"])
def test_a_connection_that_cannot_be_a_rival_is_replaced_at_once(reason: str) -> None:
    links = Links(LESSER)
    old, new = link(GREATER, inbound=reason == "same side"), link(GREATER, inbound=True)
    old.connection.is_closed = reason == "closed"
    old.is_finishing = reason == "goodbye"
    links.add(old)
    assert links.add(new) is old


def test_when_the_written_one_is_gone_the_newest_open_spare_is_its_heir() -> None:
    links = Links(LESSER)
    first, second, third = [link(GREATER, inbound=True, at=float(index)) for index in range(3)]
    for one in (first, second, third):
        links.add(one)
    first.is_finishing = second.is_finishing = True
    assert links.spares(GREATER) == (first, second)
    assert links.remove(third)
    assert links.get(GREATER) is second
    assert not second.is_finishing, "it is used again"
    assert not links.remove(first)
    assert links.remove(second)
    assert links.get(GREATER) is None
    assert links.peers == ()


def test_a_closed_spare_is_no_heir() -> None:
    links = Links(LESSER)
    spare, written = link(GREATER, inbound=True), link(GREATER, inbound=True, at=1.0)
    links.add(spare)
    links.add(written)
    spare.connection.is_closed = True
    assert links.remove(written)
    assert links.get(GREATER) is None
    assert links.is_spare(spare)
    assert not links.remove(spare)
