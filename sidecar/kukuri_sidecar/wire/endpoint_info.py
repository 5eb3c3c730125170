"""What an endpoint publishes about itself: TXT records ``_iroh.<z-base-32 key>`` with ``key=value`` texts.

One record per value, keys ``relay``, ``addr`` and ``user-data``, TTL 30 s; the same in pkarr packets and in
DNS (there with an origin domain behind the name). Sources: iroh 1.0.3 iroh-dns/src/attrs.rs,
endpoint_info.rs; iroh-wire.md 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kukuri_sidecar.errors import DecodeError, LocalProtocolError
from kukuri_sidecar.wire.addr import SocketAddr, is_relay_url
from kukuri_sidecar.wire.base_n import encode_zbase32
from kukuri_sidecar.wire.dns_message import (
    MAX_STRING_BYTES,
    DnsMessage,
    TxtRecord,
    decode_message,
    encode_answer,
)
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.pkarr import SignedPacket, sign_packet

TTL_S = 30  # iroh's DEFAULT_PKARR_TTL
MAX_USER_DATA_BYTES = 245  # a TXT string less "user-data="
MAX_OWN_DNS_BYTES = 500  # then even an answer of mainline, with 20 nodes, is not fragmented


class EndpointData(NamedTuple):
    """The published part of an endpoint's addresses. Who signed it is known, that it is true is not."""

    addresses: tuple[SocketAddr, ...] = ()
    relay_urls: tuple[str, ...] = ()
    user_data: str | None = None


def record_name(endpoint_id: EndpointId, origin: str = "") -> str:
    """Return the owner name of an endpoint's records, below ``origin`` in DNS."""
    name = f"_iroh.{encode_zbase32(endpoint_id)}"
    return f"{name}.{origin.removesuffix('.')}" if origin else name


def sign_endpoint_data(
    secret: SecretKey, data: EndpointData, timestamp_us: int, *, ttl_s: int = TTL_S
) -> SignedPacket:
    """Return the packet that publishes ``data``, in the order iroh writes: relays, addresses, user data.

    Its DNS message keeps within 500 bytes: last addresses are left out, then last relays. LocalProtocolError
    for user data above 245 bytes or an unusable relay URL. iroh reads a value only up to a second ``=``.
    """
    if not all(map(is_relay_url, data.relay_urls)):
        raise LocalProtocolError(f"no relay URLs: {data.relay_urls}")
    if data.user_data is not None and len(data.user_data.encode()) > MAX_USER_DATA_BYTES:
        raise LocalProtocolError(f"user data above {MAX_USER_DATA_BYTES} bytes")
    name = record_name(secret.endpoint_id)
    addresses = list(data.addresses)
    relays = [url for url in data.relay_urls if len(f"relay={url}") <= MAX_STRING_BYTES]
    while True:
        texts = _texts(relays, addresses, data.user_data)
        dns = encode_answer([TxtRecord(name, ttl_s, (text,)) for text in texts])
        if len(dns) <= MAX_OWN_DNS_BYTES:
            return sign_packet(secret, dns, timestamp_us)
        (addresses or relays).pop()  # name and user data alone take at most 338 bytes


def parse_packet(packet: SignedPacket) -> EndpointData:
    """Return what ``packet`` says about its own key. Raises DecodeError("dns") for a broken message."""
    return parse_records(decode_message(packet.dns), record_name(packet.public_key))


def parse_records(message: DnsMessage, name: str) -> EndpointData:
    """Return what the TXT records of ``name`` (see ``record_name``) say; others are ignored.

    As iroh, values that make no sense are skipped, and the strings of one record are one text. Unlike iroh,
    which then drops the whole packet, unknown keys are skipped too.
    """
    addresses: dict[SocketAddr, None] = {}
    relay_urls: dict[str, None] = {}
    user_data: str | None = None
    for record in message.records:
        if record.name != name:
            continue
        try:
            key, _, value = b"".join(record.strings).decode().partition("=")
        except UnicodeDecodeError:
            continue
        if key == "relay" and is_relay_url(value):
            relay_urls[value] = None
        elif key == "addr" and (addr := _socket_addr(value)) is not None:
            addresses[addr] = None
        elif key == "user-data" and user_data is None and len(value.encode()) <= MAX_USER_DATA_BYTES:
            user_data = value
    return EndpointData(tuple(addresses), tuple(relay_urls), user_data)


def _texts(relays: Iterable[str], addresses: Iterable[SocketAddr], user_data: str | None) -> list[bytes]:
    texts = [f"relay={url}" for url in relays] + [f"addr={addr}" for addr in addresses]
    if user_data is not None:
        texts.append(f"user-data={user_data}")
    return [text.encode() for text in texts]


def _socket_addr(text: str) -> SocketAddr | None:
    """Parse an ``addr`` value; None for a custom transport (``<hex id>_<hex data>``) and for nonsense."""
    try:
        return SocketAddr.parse(text)
    except DecodeError:
        return None
