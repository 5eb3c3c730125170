"""Hypothesis strategies for wire values, shared by the tests of every layer."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from kukuri_sidecar.wire.addr import EndpointAddr, SocketAddr
from kukuri_sidecar.wire.gossip_messages import (
    Disconnect,
    ForwardJoin,
    Gossip,
    Graft,
    IHave,
    Join,
    Neighbor,
    PeerInfo,
    Priority,
    Prune,
    Shuffle,
    ShuffleReply,
)
from kukuri_sidecar.wire.ids import EndpointId, MessageId, TopicId

_ids = st.binary(min_size=32, max_size=32)
endpoint_ids = _ids.map(EndpointId)
message_ids = _ids.map(MessageId)
topic_ids = _ids.map(TopicId)
u16 = st.integers(0, 0xFFFF) | st.sampled_from([0, 127, 128, 16_383, 16_384, 0xFFFF])  # where a varint grows

ip_literals = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(
    lambda ip: str(ipaddress.IPv6Address(ip.packed))  # without the scope that hypothesis may add
)
socket_addrs = st.builds(SocketAddr, ip_literals, u16)
relay_urls = st.from_regex(r"https?://[a-z0-9.-]{1,40}(:[0-9]{1,5})?/", fullmatch=True)
endpoint_addrs = st.builds(
    EndpointAddr,
    endpoint_ids,
    st.lists(socket_addrs, max_size=6).map(tuple),
    st.lists(relay_urls, max_size=2).map(tuple),
)

peer_data = st.none() | st.binary(max_size=200)
peer_infos = st.builds(PeerInfo, endpoint_ids, peer_data)
_peers = st.lists(peer_infos, max_size=8).map(tuple)
gossips = st.builds(Gossip, message_ids, st.binary(max_size=300), st.none() | u16)
messages = st.one_of(
    st.builds(Join, peer_data),
    st.builds(ForwardJoin, peer_infos, u16),
    st.builds(Shuffle, endpoint_ids, _peers, u16),
    st.builds(ShuffleReply, _peers),
    st.builds(Neighbor, st.sampled_from(Priority), peer_data),
    st.builds(Disconnect, st.booleans(), st.booleans()),
    gossips,
    st.just(Prune()),
    st.builds(Graft, st.none() | message_ids, u16),
    st.builds(IHave, st.lists(st.tuples(message_ids, u16), max_size=10).map(tuple)),
)


@st.composite
def damaged(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Draw valid bytes and hurt them: one byte changed, some cut off, some put in."""
    data = bytearray(draw(valid))
    at = draw(st.integers(0, len(data)))
    match draw(st.integers(0, 3)):
        case 0 if data:
            data[at % len(data)] ^= draw(st.integers(1, 255))
        case 1:
            del data[at:]
        case 2:
            data[at:at] = draw(st.binary(max_size=4))
        case _:
            del data[at : at + draw(st.integers(0, 4))]
    return bytes(data)
