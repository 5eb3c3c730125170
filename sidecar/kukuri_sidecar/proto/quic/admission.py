"""What happens to a datagram of nobody we know: accept, Retry, refuse, reset or drop. Cheap checks first.

Costs measured (trust.md section 0.4): a Retry 18 us and no state, an Initial that opens a connection 1.7 ms.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from aioquic._buffer import Buffer
from aioquic._crypto import CryptoError
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.retry import QuicRetryTokenHandler

from kukuri_sidecar.proto.buckets import TokenBucket
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.demux import CID_BYTES
from kukuri_sidecar.proto.quic.bounded import TOKEN_BYTES, reset_token
from kukuri_sidecar.proto.quic.counters import QuicCounters
from kukuri_sidecar.proto.quic.limits import QuicLimits

MIN_INITIAL_BYTES = 1_200  # RFC 9000 section 14.1
MIN_CLIENT_CID_BYTES = 8  # RFC 9000 section 7.2
MIN_RESET_BYTES = 21  # RFC 9000 section 10.3
MAX_RESET_BYTES = 42  # below 43, so that two endpoints cannot reset each other for ever (ibid.)
STRANGERS_PER_S = 10_000  # D3: datagrams of nobody that we look at; known connections are never counted
VERSION_NEGOTIATIONS_PER_S = 10  # D4
RESETS_PER_S = 10  # trust.md section 5
RESET_CHECKS_PER_S = 100  # ours: each compares with every connection at that address
REFUSALS_PER_S = 40  # ours: as many as handshakes
MAX_PREFIXES = 512  # ours: prefixes with a bucket of their own, least recently used first out

Address = tuple[str, int]
Datagram = tuple[bytes, Address]


@dataclass(frozen=True, slots=True)
class Admitted:
    """An Initial that may open a connection."""

    original_cid: bytes  # what the client chose first; differs from destination_cid after a Retry
    destination_cid: bytes
    is_retried: bool


class Admission:
    """The valve in front of the connection table. ``replies`` collects answers that need no state."""

    def __init__(self, limits: QuicLimits, reset_key: bytes, rng: Rng, counters: QuicCounters) -> None:
        self.replies: list[Datagram] = []
        self._limits = limits
        self._reset_key = reset_key
        self._rng = rng
        self._counters = counters
        self._tokens = QuicRetryTokenHandler()
        self._strangers = TokenBucket(STRANGERS_PER_S, STRANGERS_PER_S)
        self._handshakes = TokenBucket(limits.handshakes_per_s, limits.handshake_burst)
        self._initials = TokenBucket(limits.retry_at_initials_per_s, limits.retry_at_initials_per_s)
        self._prefixes: OrderedDict[str, TokenBucket] = OrderedDict()
        self._versions = TokenBucket(VERSION_NEGOTIATIONS_PER_S, VERSION_NEGOTIATIONS_PER_S)
        self._resets = TokenBucket(RESETS_PER_S, RESETS_PER_S)
        self._reset_checks = TokenBucket(RESET_CHECKS_PER_S, RESET_CHECKS_PER_S)
        self._refusals = TokenBucket(REFUSALS_PER_S, REFUSALS_PER_S)

    def stranger(self, now: float) -> bool:
        """Say whether there is budget to look at another datagram of nobody; ask once per datagram."""
        return self._strangers.take(now)

    def may_check_reset(self, now: float) -> bool:
        """Say whether there is budget to compare a stray datagram with the peers' reset tokens."""
        return self._reset_checks.take(now)

    def answer_stray(self, data: bytes, address: Address, now: float) -> None:
        """Answer a short-header packet of a connection that we do not have with a stateless reset."""
        self._counters.strays += 1
        size = min(len(data) - 1, MAX_RESET_BYTES)
        if size < MIN_RESET_BYTES or not self._resets.take(now):
            return
        noise = self._rng.getrandbits(8 * (size - TOKEN_BYTES)).to_bytes(size - TOKEN_BYTES, "big")
        noise = bytes([noise[0] & 0x3F | 0x40]) + noise[1:]  # looks like a short header
        self.replies.append((noise + reset_token(self._reset_key, data[1 : 1 + CID_BYTES]), address))
        self._counters.resets_sent += 1

    def initial(
        self,
        data: bytes,
        address: Address,
        now: float,
        *,
        half_open: int,
        half_open_here: int,
        has_room: bool,
    ) -> Admitted | None:
        """Judge a long-header datagram of nobody; answers that need no state are in ``replies``.

        ``half_open`` counts unfinished inbound handshakes, ``half_open_here`` those from the same IP address.
        """
        header = _parse(data)
        if header is None:
            self._counters.malformed += 1
            return None
        if header.version != QuicProtocolVersion.VERSION_1:
            if header.version and self._versions.take(now):
                self.replies.append((self._version_negotiation(header), address))
            return None
        if (
            header.packet_type is not QuicPacketType.INITIAL
            or len(header.destination_cid) < MIN_CLIENT_CID_BYTES
        ):
            self._counters.strays += 1
            return None
        is_busy = not self._initials.take(now) or half_open >= self._limits.retry_at_half_open
        is_loopback = _is_loopback(address)
        original_cid = header.destination_cid
        if header.token:
            try:
                original_cid = self._tokens.validate_token(
                    address=address, destination_cid=header.destination_cid, token=header.token, now=now
                )
            except ValueError:
                self._counters.bad_tokens += 1
                return None
        elif is_busy:
            self._counters.retries_sent += 1
            self.replies.append((self._retry(header, address, now), address))
            return None
        if half_open >= self._limits.max_half_open or (
            half_open_here >= self._limits.max_half_open_per_ip and not is_loopback
        ):
            self._counters.half_open_full += 1
            return None
        if not self._decrypts(data, header):
            self._counters.malformed += 1
            return None
        if not has_room:
            if self._refusals.take(now):
                self._counters.refused += 1
                self.replies.append((self._refusal(header), address))
            return None
        if not (is_loopback or self._prefix(address).take(now)) or not self._handshakes.take(now):
            self._counters.rate_limited += 1
            return None
        return Admitted(original_cid, header.destination_cid, bool(header.token))

    def _prefix(self, address: Address) -> TokenBucket:
        host = address[0]
        # An IPv4 /24 or an IPv6 /48 in its usual spelling; a coarser cut of "a::b" only joins more senders.
        prefix = ":".join(host.split(":")[:3]) if ":" in host else host.rpartition(".")[0]
        bucket = self._prefixes.get(prefix)
        if bucket is None:
            limits = self._limits
            bucket = TokenBucket(limits.handshakes_per_prefix_per_s, limits.handshake_prefix_burst)
            self._prefixes[prefix] = bucket
            if len(self._prefixes) > MAX_PREFIXES:
                self._prefixes.popitem(last=False)
        else:
            self._prefixes.move_to_end(prefix)
        return bucket

    def _decrypts(self, data: bytes, header: QuicHeader) -> bool:
        """Open the packet with the keys that anybody can derive: 60 us; a useless state costs 700 us."""
        keys = CryptoPair()
        keys.setup_initial(cid=header.destination_cid, is_client=False, version=QuicProtocolVersion.VERSION_1)
        start = _number_offset(data)
        try:
            keys.recv.decrypt_packet(data[: header.packet_length], start, 0)
        except CryptoError:
            return False
        return True

    def _retry(self, header: QuicHeader, address: Address, now: float) -> bytes:
        cid = self._random_cid()
        token = self._tokens.create_token(
            address=address,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=cid,
            now=now,
        )
        return encode_quic_retry(
            version=QuicProtocolVersion.VERSION_1,
            source_cid=cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )

    def _refusal(self, header: QuicHeader) -> bytes:
        """Return an Initial with CONNECTION_CLOSE(CONNECTION_REFUSED); needs no connection."""
        keys = CryptoPair()
        keys.setup_initial(cid=header.destination_cid, is_client=False, version=QuicProtocolVersion.VERSION_1)
        builder = QuicPacketBuilder(
            host_cid=self._random_cid(),
            peer_cid=header.source_cid,
            version=QuicProtocolVersion.VERSION_1,
            is_client=False,
            max_datagram_size=MIN_INITIAL_BYTES,
        )
        builder.start_packet(QuicPacketType.INITIAL, keys)
        frame = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=4)
        frame.push_uint_var(QuicErrorCode.CONNECTION_REFUSED)
        frame.push_uint_var(QuicFrameType.PADDING)  # no frame is to blame
        frame.push_uint_var(0)  # no reason
        datagrams, _ = builder.flush()
        return datagrams[0]

    def _version_negotiation(self, header: QuicHeader) -> bytes:
        return encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=[QuicProtocolVersion.VERSION_1],
        )

    def _random_cid(self) -> bytes:
        return self._rng.getrandbits(8 * CID_BYTES).to_bytes(CID_BYTES, "big")


def _parse(data: bytes) -> QuicHeader | None:
    if len(data) < MIN_INITIAL_BYTES:
        return None
    try:
        return pull_quic_header(Buffer(data=data), host_cid_length=CID_BYTES)
    except ValueError:
        return None


def _number_offset(data: bytes) -> int:
    """Return where the packet number of a parsed Initial starts."""
    buffer = Buffer(data=data)
    buffer.seek(5)
    buffer.pull_bytes(buffer.pull_uint8())
    buffer.pull_bytes(buffer.pull_uint8())
    buffer.pull_bytes(buffer.pull_uint_var())
    buffer.pull_uint_var()
    return buffer.tell()


def _is_loopback(address: Address) -> bool:
    return address[0].startswith("127.") or address[0] == "::1"
