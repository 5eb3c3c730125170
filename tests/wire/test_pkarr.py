from __future__ import annotations

from typing import Any

import pytest

from kukuri_sidecar.errors import DecodeError, LocalProtocolError
from kukuri_sidecar.wire import bencode
from kukuri_sidecar.wire.addr import SocketAddr
from kukuri_sidecar.wire.base_n import encode_zbase32
from kukuri_sidecar.wire.bencode import Encoded
from kukuri_sidecar.wire.dns_message import TxtRecord, decode_message, encode_answer
from kukuri_sidecar.wire.endpoint_info import (
    MAX_OWN_DNS_BYTES,
    MAX_USER_DATA_BYTES,
    TTL_S,
    EndpointData,
    parse_packet,
    parse_records,
    record_name,
    sign_endpoint_data,
)
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.mutable_item import MAX_SEQ, MutableItem, sign_item, signable
from kukuri_sidecar.wire.pkarr import (
    MAX_DNS_BYTES,
    MAX_READ_DNS_BYTES,
    SignedPacket,
    decode_relay_payload,
    decode_signed_packet,
    packet_from_item,
    sign_packet,
)
from vector_files import load, vectors

SECRET = SecretKey(bytes(range(32)))
RELAY = "https://use1-1.relay.n0.iroh.link./"
ADDRS = (SocketAddr("10.0.0.1", 65_535), SocketAddr("2001:db8::1", 443))
FULL = EndpointData(ADDRS, (RELAY,), "foobar")


@pytest.mark.parametrize(("inputs", "expected"), vectors("iroh", "pkarr"))
def test_packets_of_iroh(inputs: Any, expected: Any) -> None:
    secret, timestamp_us = SecretKey(bytes.fromhex(inputs["seed"])), inputs["timestamp_us"]
    name = record_name(secret.endpoint_id)
    dns = encode_answer([TxtRecord(name, inputs["ttl"], (text.encode(),)) for text in inputs["values"]])
    packet = sign_packet(secret, dns, timestamp_us)
    assert dns.hex() == expected["dns"]
    assert packet.signature.hex() == expected["signature"]
    assert packet.to_relay_payload().hex() == expected["relay_payload"]
    assert packet.to_bytes().hex() == expected["signed_packet"]
    value = Encoded(bencode.encode(dns))
    assert signable(timestamp_us, value).startswith(expected["signable_prefix"].encode())
    assert decode_signed_packet(packet.to_bytes()) == packet
    assert decode_relay_payload(secret.endpoint_id, packet.to_relay_payload()) == packet
    assert packet_from_item(packet.to_item()) == packet
    assert packet.to_item().is_genuine()
    texts = [text.partition("=") for text in inputs["values"]]
    assert parse_packet(packet) == EndpointData(
        tuple(SocketAddr.parse(value) for key, _, value in texts if key == "addr"),
        tuple(value for key, _, value in texts if key == "relay"),
        next((value for key, _, value in texts if key == "user-data"), None),
    )
    if inputs["values"][0].startswith("relay="):  # the order in which iroh writes, and we
        assert sign_endpoint_data(secret, parse_packet(packet), timestamp_us) == packet


def test_the_packet_of_the_mainline_vectors() -> None:
    vector = load("mainline")["pkarr"]
    packet = decode_signed_packet(bytes.fromhex(vector["canonical"]))
    assert packet.to_relay_payload().hex() == vector["relay_body"]
    assert packet.public_key.hex() == vector["k"]
    assert encode_zbase32(packet.public_key) == vector["z32"]
    item = packet.to_item()
    assert (item.target.hex(), item.seq, item.signature.hex()) == (
        vector["target"],
        vector["seq"],
        vector["sig"],
    )
    assert signable(item.seq, item.value).hex() == vector["signable"]
    ((owner, ttl_s, kind, text),) = vector["records"]
    assert kind == "TXT"
    assert decode_message(packet.dns).records == (
        TxtRecord(owner.removesuffix("."), ttl_s, (text.encode(),)),
    )
    data = EndpointData(relay_urls=("https://relay.example/",))
    assert sign_endpoint_data(SecretKey(bytes.fromhex(vector["seed"])), data, vector["seq"]) == packet


@pytest.mark.parametrize("at", [0, 31, 32, 95, 96, 103, 104, -1])
def test_every_byte_is_signed(at: int) -> None:
    data = bytearray(sign_endpoint_data(SECRET, FULL, 7).to_bytes())
    data[at] ^= 1
    with pytest.raises(DecodeError, match="pkarr"):
        decode_signed_packet(bytes(data))


@pytest.mark.parametrize("size", [0, 31, 32, 96, 103])
def test_a_packet_that_ends_early_is_refused(size: int) -> None:
    with pytest.raises(DecodeError, match="ends inside"):
        decode_signed_packet(sign_packet(SECRET, b"", 1).to_bytes()[:size])


def test_the_newer_packet_counts_and_ties_have_one_winner() -> None:
    old, new = sign_packet(SECRET, b"b", 1), sign_packet(SECRET, b"a", 2)
    assert new.is_newer_than(old)
    assert not old.is_newer_than(new)
    assert sign_packet(SECRET, b"b", 2).is_newer_than(new)
    assert not new.is_newer_than(new)


@pytest.mark.parametrize(("over", "fits"), [(-1, True), (0, True), (1, False)])
def test_limits(over: int, fits: bool) -> None:
    for dns, timestamp_us in ((bytes(MAX_DNS_BYTES + over), 1), (b"", MAX_SEQ + over)):
        if fits:
            assert decode_signed_packet(sign_packet(SECRET, dns, timestamp_us).to_bytes())
        else:
            with pytest.raises(LocalProtocolError):
                sign_packet(SECRET, dns, timestamp_us)
    dns = bytes(MAX_READ_DNS_BYTES + over)
    signature = SECRET.sign(signable(1, Encoded(bencode.encode(dns))))
    packet = SignedPacket(SECRET.endpoint_id, signature, 1, dns)
    if fits:
        assert decode_signed_packet(packet.to_bytes()) == packet
    else:
        with pytest.raises(DecodeError, match="bytes of DNS"):
            decode_signed_packet(packet.to_bytes())
    user_data = "u" * (MAX_USER_DATA_BYTES + over)
    if fits:
        packet = sign_endpoint_data(SECRET, EndpointData(user_data=user_data), 1)
        assert parse_packet(packet).user_data == user_data
    else:
        with pytest.raises(LocalProtocolError):
            sign_endpoint_data(SECRET, EndpointData(user_data=user_data), 1)


def test_the_dht_takes_less_than_a_relay() -> None:
    with pytest.raises(LocalProtocolError):
        SignedPacket(SECRET.endpoint_id, bytes(64), 1, bytes(MAX_DNS_BYTES + 1)).to_item()


def test_a_timestamp_beyond_any_seq_is_refused() -> None:
    with pytest.raises(DecodeError, match="not signed"):
        decode_signed_packet(SECRET.endpoint_id + bytes(64) + b"\xff" * 8)


def test_an_item_that_is_no_packet() -> None:
    salted = sign_item(SECRET, Encoded(b"1:x"), 1, b"salt")
    number = sign_item(SECRET, Encoded(b"i7e"), 1)
    broken = MutableItem(SECRET.endpoint_id, 1, Encoded(b"9:x"), bytes(64))
    for item in (salted, number, broken):
        with pytest.raises(DecodeError, match="pkarr"):
            packet_from_item(item)


def packet_with(*texts: bytes, name: str | None = None) -> SignedPacket:
    owner = name or record_name(SECRET.endpoint_id)
    return sign_packet(SECRET, encode_answer([TxtRecord(owner, TTL_S, (text,)) for text in texts]), 1)


def test_values_without_sense_are_skipped() -> None:
    """As iroh does; unknown keys too, where iroh drops the whole packet (iroh-wire.md 3.1)."""
    texts = (
        b"addr=1.2.3.4:5",
        b"addr=1.2.3.4:5",
        b"addr=nonsense",
        b"addr=1.2.3.4:0",
        b"addr=20_00ff",
        b"relay=data:x",
        b"relay=https://r.example/?a=b",
        b"colour=blue",
        b"user-data=a=b",
        b"user-data=second",
        b"user-data",
        b"\xff=\xff",
        b"",
    )
    assert parse_packet(packet_with(*texts)) == EndpointData(
        (SocketAddr("1.2.3.4", 5),), ("https://r.example/?a=b",), "a=b"
    )


def test_only_the_own_name_counts() -> None:
    other = record_name(SecretKey(bytes(32)).endpoint_id)
    for name in (other, "example", "_iroh.example", record_name(SECRET.endpoint_id, "dns.iroh.link")):
        assert parse_packet(packet_with(b"addr=1.2.3.4:5", name=name)) == EndpointData()


def test_records_below_an_origin_and_in_pieces() -> None:
    name = record_name(SECRET.endpoint_id, "dns.iroh.link.")
    assert name.endswith("y.dns.iroh.link")
    dns = encode_answer([TxtRecord(name, 30, (b"addr=1.2.3", b".4:5"))])
    assert parse_records(decode_message(dns), name).addresses == (SocketAddr("1.2.3.4", 5),)


def test_our_packet_stays_small() -> None:
    """500 bytes: then even mainline's answer with 20 nodes is one datagram (mainline-dht.md section 0.7)."""
    many = tuple(SocketAddr(f"2001:db8::{i:x}", 40_000) for i in range(1, 30))
    data = EndpointData(many, (RELAY, "https://" + "r" * 300), "u" * 100)
    packet = sign_endpoint_data(SECRET, data, 1)
    parsed = parse_packet(packet)
    assert MAX_OWN_DNS_BYTES - 40 < len(packet.dns) <= MAX_OWN_DNS_BYTES
    assert parsed.relay_urls == (RELAY,)
    assert parsed.user_data == data.user_data
    assert parsed.addresses == many[: len(parsed.addresses)]


def test_an_unusable_relay_url_is_our_bug() -> None:
    with pytest.raises(LocalProtocolError):
        sign_endpoint_data(SECRET, EndpointData(relay_urls=("ftp://x/",)), 1)
