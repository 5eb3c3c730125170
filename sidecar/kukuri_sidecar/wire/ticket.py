"""What a user pastes to name a peer: endpoint ids, ``<id>@host:port``, iroh tickets.

Every DecodeError here names the part that is wrong: ``endpoint_id``, ``address`` or ``ticket`` (the
``segment`` of ``invalid_peer``). Ids are checked for form only; ``keys.is_valid_endpoint_id`` says whether
one is a public key.
"""

from __future__ import annotations

from kukuri_sidecar.errors import DecodeError, LocalProtocolError
from kukuri_sidecar.wire.addr import EndpointAddr, HostPort, PeerHint, SocketAddr, is_relay_url
from kukuri_sidecar.wire.base_n import decode_base32, encode_base32
from kukuri_sidecar.wire.ids import ID_BYTES, EndpointId
from kukuri_sidecar.wire.postcard import (
    encode_bytes,
    encode_socket_addr,
    encode_varint,
    read_exact,
    read_socket_addr,
    read_str,
    read_tag,
    read_varint,
)

TICKET_PREFIX = "endpoint"
MAX_TICKET_CHARS = 4_096  # ours: 300 addresses; an iroh node with two relays and 20 addresses takes 800

_VARIANT_1 = b"\x00"  # the only one, iroh-tickets 1.0.0 src/endpoint.rs
_RELAY, _IP, _CUSTOM = range(3)  # iroh-base TransportAddr, in its sort order
_HEX_CHARS = 2 * ID_BYTES


def parse_endpoint_id(text: str) -> EndpointId:
    """Parse 64 lower-case hex digits or 52 base32 characters of any case; else DecodeError("endpoint_id").

    Exactly what iroh takes: 64 characters are hex, upper-case hex is refused, anything else is base32.
    """
    if len(text) == _HEX_CHARS:
        return EndpointId.from_hex(text)
    if len(text) != len(encode_base32(bytes(ID_BYTES))):
        raise DecodeError("endpoint_id", len(text), "64 hex digits or 52 base32 characters expected")
    try:
        return EndpointId(decode_base32(text))
    except DecodeError as error:
        raise error.named("endpoint_id") from None


def parse_peer(text: str) -> PeerHint:
    """Parse ``<id>``, ``<id>@host:port`` (IPv6 in brackets, names allowed) or an iroh ticket.

    DecodeError("endpoint_id" | "address" | "ticket"). Addresses of a ticket that nobody can dial (port 0) are
    left out.
    """
    if text.startswith(TICKET_PREFIX) and len(text) != len(encode_base32(bytes(ID_BYTES))):
        addr = decode_ticket(text)
        hosts = tuple(HostPort(direct.host, direct.port) for direct in addr.direct if direct.port)
        return PeerHint(addr.endpoint_id, hosts, addr.relay_urls)
    id_text, at, address = text.partition("@")
    endpoint_id = parse_endpoint_id(id_text)
    return PeerHint(endpoint_id, (HostPort.parse(address),) if at else ())


def encode_ticket(addr: EndpointAddr) -> str:
    """Return the iroh ticket of ``addr``; addresses are sorted and made unique, as iroh's set does.

    Relay URLs must pass ``is_relay_url``, and the ticket must stay within 4,096 characters:
    LocalProtocolError.
    """
    relays = sorted(set(addr.relay_urls))
    if not all(map(is_relay_url, relays)):
        raise LocalProtocolError(f"no relay URLs: {relays}")
    direct = sorted(set(addr.direct), key=lambda addr: addr.wire_order)
    entries = [bytes((_RELAY,)) + encode_bytes(url.encode("ascii")) for url in relays]
    entries += [bytes((_IP,)) + encode_socket_addr(addr) for addr in direct]
    raw = _VARIANT_1 + addr.endpoint_id + encode_varint(len(entries)) + b"".join(entries)
    text = TICKET_PREFIX + encode_base32(raw)
    if len(text) > MAX_TICKET_CHARS:
        raise LocalProtocolError(f"{len(entries)} addresses do not fit a ticket")
    return text


def decode_ticket(text: str) -> EndpointAddr:
    """Parse an iroh ticket: ``endpoint``, then base32 of any case. Raises DecodeError("ticket").

    As iroh: bytes behind the address list are ignored, order does not matter, duplicates collapse. Relay URLs
    that nobody could use are left out. A custom address ends the list: they sort last, and their form changed
    between iroh 1.0.3 and 1.2 (iroh #4465), so what follows one cannot be read safely.
    """
    if len(text) > MAX_TICKET_CHARS:
        raise DecodeError("ticket", MAX_TICKET_CHARS, f"more than {MAX_TICKET_CHARS} characters")
    if not text.startswith(TICKET_PREFIX):
        raise DecodeError("ticket", 0, f"{TICKET_PREFIX!r} expected")
    try:
        return _decode_addr(decode_base32(text.removeprefix(TICKET_PREFIX)))
    except DecodeError as error:
        raise error.named("ticket") from None


def _decode_addr(raw: bytes) -> EndpointAddr:
    _, offset = read_tag(raw, 0, 1)
    id_bytes, offset = read_exact(raw, offset, ID_BYTES)
    count, offset = read_varint(raw, offset)
    direct: dict[SocketAddr, None] = {}
    relay_urls: dict[str, None] = {}
    for _ in range(count):  # every entry takes bytes, so a false count ends in an error soon
        kind, offset = read_tag(raw, offset, 3)
        if kind == _IP:
            addr, offset = read_socket_addr(raw, offset)
            direct[addr] = None
        elif kind == _RELAY:
            url, offset = read_str(raw, offset)
            if is_relay_url(url):
                relay_urls[url] = None
        elif kind == _CUSTOM:
            break
    return EndpointAddr(EndpointId(id_bytes), tuple(direct), tuple(relay_urls))
