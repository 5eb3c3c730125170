"""Hand-made QUIC packets: what a hostile or broken peer could send."""

from __future__ import annotations

from aioquic.buffer import encode_uint_var
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Epoch

V1 = QuicProtocolVersion.VERSION_1
PING, CRYPTO = 0x01, 0x06


def initial(
    frames: bytes,
    *,
    key_cid: bytes,
    target_cid: bytes,
    source_cid: bytes,
    is_client: bool = True,
    number: int = 0,
    token: bytes = b"",
) -> bytes:
    """An Initial of 1200 bytes, protected with the keys that everybody derives from ``key_cid``."""
    keys = CryptoPair()
    keys.setup_initial(cid=key_cid, is_client=is_client, version=V1)
    builder = QuicPacketBuilder(
        host_cid=source_cid,
        peer_cid=target_cid,
        peer_token=token,
        version=V1,
        is_client=is_client,
        max_datagram_size=1200,
        packet_number=number,
    )
    builder.start_packet(QuicPacketType.INITIAL, keys)
    buffer = builder.start_frame(frames[0], capacity=len(frames))
    buffer.push_bytes(frames[1:])
    buffer.push_bytes(bytes(builder.remaining_buffer_space))
    (datagram,), _ = builder.flush()
    return datagram


def client_initial(frames: bytes, *, cid: bytes = b"choice01", token: bytes = b"", number: int = 0) -> bytes:
    """A client's first packet."""
    return initial(frames, key_cid=cid, target_cid=cid, source_cid=b"client01", token=token, number=number)


def crypto(offset: int, data: bytes) -> bytes:
    """A CRYPTO frame."""
    return bytes([CRYPTO]) + encode_uint_var(offset) + encode_uint_var(len(data)) + data


def cids(long_header: bytes) -> tuple[bytes, bytes]:
    """Destination and source connection id of a long-header packet."""
    at = 6 + long_header[5]
    return long_header[6:at], long_header[at + 1 : at + 1 + long_header[at]]


def sealed(connection, payload: bytes) -> bytes:
    """A 1-RTT packet of ``connection`` with any payload, correctly encrypted."""
    quic = connection._quic
    builder = QuicPacketBuilder(
        host_cid=quic.host_cid,
        peer_cid=quic._peer_cid.cid,
        version=V1,
        is_client=quic._is_client,
        max_datagram_size=1_400,
        packet_number=quic._packet_number,
    )
    quic._packet_number += 1
    builder.start_packet(QuicPacketType.ONE_RTT, quic._cryptos[Epoch.ONE_RTT])
    payload = payload[:1_300].ljust(3, b"\0")
    buffer = builder.start_frame(payload[0] & 0x3F)
    buffer.seek(buffer.tell() - 1)
    buffer.push_bytes(payload)
    (datagram,), _ = builder.flush()
    return datagram
