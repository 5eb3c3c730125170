"""Every decoder, whatever it is fed: a value or DecodeError, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dht_strategies as ds
import wire_strategies as ws
from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire import bencode, hpke, krpc_decode, krpc_encode
from kukuri_sidecar.wire.addr import HostPort, SocketAddr
from kukuri_sidecar.wire.base_n import decode_base32, decode_zbase32, encode_base32
from kukuri_sidecar.wire.compact import (
    NODE6_BYTES,
    NODE_BYTES,
    decode_nodes,
    decode_peer,
    encode_nodes,
    encode_peer,
)
from kukuri_sidecar.wire.dns_message import decode_message
from kukuri_sidecar.wire.endpoint_info import EndpointData, parse_packet, sign_endpoint_data
from kukuri_sidecar.wire.envelope import parse_envelope, seal
from kukuri_sidecar.wire.gossip_messages import (
    FrameReader,
    decode,
    decode_with_trailer,
    encode,
    stream_header,
)
from kukuri_sidecar.wire.hashes import derive_topic_id
from kukuri_sidecar.wire.hpke import open_sealed
from kukuri_sidecar.wire.ids import DhtNodeId, EndpointId, MessageId, Target, TopicId
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.mutable_item import MutableItem
from kukuri_sidecar.wire.peer_data import decode_peer_data, encode_peer_data
from kukuri_sidecar.wire.pkarr import (
    SignedPacket,
    decode_relay_payload,
    decode_signed_packet,
    packet_from_item,
)
from kukuri_sidecar.wire.postcard import (
    read_bool,
    read_bytes,
    read_option_bytes,
    read_seq,
    read_socket_addr,
    read_str,
    read_u16,
    read_varint,
)
from kukuri_sidecar.wire.ticket import decode_ticket, encode_ticket, parse_endpoint_id, parse_peer
from kukuri_sidecar.wire.tracker_record import open_record, parse_record, seal_record, sign_record, slot_at
from vector_files import load

EXAMPLES = settings(max_examples=60)
SECRET = SecretKey(bytes(32))

bodies = ws.messages.map(encode)
peer_data = st.builds(encode_peer_data, st.none() | ws.relay_urls, st.lists(ws.socket_addrs, max_size=4))
envelopes = st.builds(
    lambda payload: seal(SECRET, TopicId(bytes(32)), payload, ts_ms=1, session=2, seq=3),
    st.binary(max_size=40),
)
streams = st.binary(max_size=100).map(lambda data: stream_header(TopicId(bytes(32))) + data)
tickets = ws.endpoint_addrs.map(encode_ticket)
packets = st.builds(
    lambda relays, addrs: sign_endpoint_data(SECRET, EndpointData(tuple(addrs), tuple(relays)), 1),
    st.lists(ws.relay_urls, max_size=2),
    st.lists(ws.socket_addrs, max_size=4),
)
SLOT = slot_at(TopicId(bytes(32)), None, 1)
records = st.lists(ws.endpoint_ids, max_size=5).map(lambda peers: sign_record(SLOT, SECRET, peers, []))


def sealed(plaintext: bytes) -> bytes:
    return hpke.seal(bytes(32), plaintext, bytes(32))


def endpoint_info(dns: bytes) -> object:
    return parse_packet(SignedPacket(SECRET.endpoint_id, bytes(64), 1, dns))


def item_packet(value: bytes) -> object:
    return packet_from_item(MutableItem(SECRET.endpoint_id, 1, bencode.Encoded(value), bytes(64)))


def reader(read: Callable[[bytes, int], object]) -> Callable[[bytes], object]:
    return lambda data: read(data, 0)


BYTES: dict[str, tuple[Callable[[bytes], object], st.SearchStrategy[bytes]]] = {
    "gossip": (decode, bodies),
    "gossip_with_trailer": (decode_with_trailer, bodies),
    "frames": (lambda data: FrameReader(512).feed(data), streams),
    "peer_data": (decode_peer_data, peer_data),
    "envelope": (parse_envelope, envelopes),
    "bencode": (bencode.decode, ds.bencodables.map(bencode.encode)),
    "krpc": (krpc_decode.decode, ds.messages.map(krpc_encode.encode)),
    "compact_peer": (decode_peer, ws.socket_addrs.map(encode_peer)),
    "compact_nodes": (lambda data: decode_nodes(data, NODE_BYTES), ds.nodes.map(encode_nodes)),
    "compact_nodes6": (lambda data: decode_nodes(data, NODE6_BYTES), ds.nodes6.map(encode_nodes)),
    "dns": (decode_message, packets.map(lambda packet: packet.dns)),
    "endpoint_info": (endpoint_info, packets.map(lambda packet: packet.dns)),
    "pkarr": (decode_signed_packet, packets.map(SignedPacket.to_bytes)),
    "pkarr_relay": (
        lambda data: decode_relay_payload(SECRET.endpoint_id, data),
        packets.map(SignedPacket.to_relay_payload),
    ),
    "pkarr_item": (item_packet, packets.map(lambda packet: packet.to_item().value)),
    "dht_node_id": (DhtNodeId, st.binary(min_size=19, max_size=21)),
    "target": (Target, st.binary(min_size=19, max_size=21)),
    "endpoint_id": (EndpointId, st.binary(min_size=31, max_size=33)),
    "message_id": (MessageId, st.binary(min_size=31, max_size=33)),
    "topic_id": (TopicId, st.binary(min_size=31, max_size=33)),
    "secret_key": (SecretKey, st.binary(min_size=31, max_size=33)),
    "varint": (reader(read_varint), st.binary(max_size=12)),
    "u16": (reader(read_u16), st.binary(max_size=4)),
    "bool": (reader(read_bool), st.binary(max_size=2)),
    "bytes": (reader(read_bytes), st.binary(max_size=20)),
    "str": (reader(read_str), st.binary(max_size=20)),
    "option": (reader(read_option_bytes), st.binary(max_size=20)),
    "seq": (lambda data: read_seq(data, 0, read_u16, 1), st.binary(max_size=20)),
    "socket_addr": (reader(read_socket_addr), st.binary(max_size=20)),
    "hpke": (lambda data: open_sealed(bytes(32), data), st.binary(max_size=40).map(sealed)),
    "tracker_record": (lambda data: parse_record(SLOT, data), records),
    "tracker_sealed": (
        lambda data: open_record(SLOT, data),
        records.map(lambda record: seal_record(SLOT, record, bytes(96))),
    ),
}
TEXT: dict[str, tuple[Callable[[str], object], st.SearchStrategy[str]]] = {
    "base32": (decode_base32, st.binary(max_size=30).map(encode_base32)),
    "zbase32": (decode_zbase32, st.binary(max_size=30).map(encode_base32)),
    "hex_id": (EndpointId.from_hex, st.binary(min_size=31, max_size=33).map(bytes.hex)),
    "socket_addr": (SocketAddr.parse, ws.socket_addrs.map(str)),
    "host_port": (HostPort.parse, ws.socket_addrs.map(str)),
    "endpoint_id": (parse_endpoint_id, ws.endpoint_ids.map(encode_base32)),
    "peer": (
        parse_peer,
        tickets | st.builds("{}@{}".format, ws.endpoint_ids.map(bytes.hex), ws.socket_addrs),
    ),
    "ticket": (decode_ticket, tickets),
    "topic_blake3": (lambda name: derive_topic_id(name, "blake3"), st.text()),
    "topic_sha512": (lambda name: derive_topic_id(name, "sha512"), st.text()),
}


@pytest.mark.parametrize("name", BYTES)
@EXAMPLES
@given(data=st.data())
def test_any_bytes(name: str, data: st.DataObject) -> None:
    decoder, valid = BYTES[name]
    attempt(decoder, data.draw(st.binary(max_size=120) | valid | ws.damaged(valid)))


@pytest.mark.parametrize("name", TEXT)
@EXAMPLES
@given(data=st.data())
def test_any_text(name: str, data: st.DataObject) -> None:
    decoder, valid = TEXT[name]
    damaged = ws.damaged(valid.map(lambda text: text.encode(errors="replace"))).map(
        lambda text: text.decode("latin-1")
    )
    surrogates = st.text(st.characters(exclude_categories=()), max_size=80)
    attempt(decoder, data.draw(surrogates | valid | damaged))


@given(ws.damaged(bodies))
def test_what_is_read_can_be_written_and_read_again(body: bytes) -> None:
    try:
        message = decode(body)
    except DecodeError:
        return
    assert decode(encode(message)) == message


def test_no_gossip_vector_is_left_out() -> None:
    """The tests name these groups; a new group in the file must get a test."""
    assert {v["group"] for v in load("gossip")["vectors"]} == {
        *("message", "trailing", "malformed", "stream", "limit"),  # test_gossip_messages
        *("varint", "addr_info", "message_id"),  # test_postcard, test_peer_data, test_hashes
        *("envelope", "envelope_reject", "envelope_none"),  # test_envelope
    }


def attempt(decoder: Callable[[Any], object], data: str | bytes) -> None:
    try:
        decoder(data)
    except DecodeError as error:
        offset = error.offset
    else:
        return
    assert 0 <= offset <= len(data if isinstance(data, bytes) else data.encode(errors="surrogatepass"))
