"""Every way to be somebody else must fail, on both sides, and never be accepted first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aioquic import tls
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.errors import HandshakeFailed, IdentityMismatch
from kukuri_sidecar.proto.quic.events import Closed, DialFailed, Established
from kukuri_sidecar.proto.quic.rpk import (
    EXT_CLIENT_CERTIFICATE_TYPE,
    EXT_SERVER_CERTIFICATE_TYPE,
    SPKI_PREFIX,
    RawKeyContext,
    RawPublicKey,
)
from kukuri_sidecar.wire.ids import EndpointId
from quic_net import QuicNet, secret

LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",  # not canonical: p
    b"\xee" + b"\xff" * 30 + b"\x7f",  # not canonical: p + 1
]

Tamper = Callable[[RawKeyContext], None]


def _name(value: object) -> str:
    return value.__name__ if callable(value) else f"{value:#x}"


class X509:
    """A certificate as the rest of the world has them, as far as bytes go."""

    def public_bytes(self, _encoding: object) -> bytes:
        return bytes.fromhex("3082010a0282010100") + bytes(257)

    def public_key(self) -> None:
        return None


def no_key(context: RawKeyContext) -> None:
    context.certificate = None


def stolen_key(context: RawKeyContext) -> None:
    context.certificate = RawPublicKey(secret(77).endpoint_id)


def no_extensions(context: RawKeyContext) -> None:
    context.handshake_extensions = [e for e in context.handshake_extensions if e[0] not in (19, 20)]


def one_extension(context: RawKeyContext) -> None:
    context.handshake_extensions = [
        e for e in context.handshake_extensions if e[0] != EXT_CLIENT_CERTIFICATE_TYPE
    ]


def foreign_type(context: RawKeyContext) -> None:
    types = b"\x01\x00" if context._is_client else b"\x00"  # X.509
    context.handshake_extensions = [
        *(e for e in context.handshake_extensions if e[0] not in (19, 20)),
        (EXT_CLIENT_CERTIFICATE_TYPE, types),
        (EXT_SERVER_CERTIFICATE_TYPE, types),
    ]


def x509(context: RawKeyContext) -> None:
    context.certificate = X509()


def two_keys(context: RawKeyContext) -> None:
    context.certificate_chain = [context.certificate]


def low_order(context: RawKeyContext) -> None:
    context.certificate = RawPublicKey(EndpointId(LOW_ORDER[1]))


def no_request(context: RawKeyContext) -> None:
    context._request_client_certificate = False


CLIENTS: list[tuple[Tamper, int]] = [
    (no_key, 0x174),  # certificate_required, as iroh
    (stolen_key, 0x133),  # decrypt_error, as iroh
    (no_extensions, 0x12B),  # unsupported_certificate
    (one_extension, 0x12B),
    (foreign_type, 0x12B),
    (x509, 0x12B),
    (two_keys, 0x12A),  # bad_certificate
    (low_order, 0x12A),
]
SERVERS: list[tuple[Tamper, int]] = [
    (stolen_key, 0x12A),  # another id than the dialled one
    (no_extensions, 0x12B),
    (one_extension, 0x12B),
    (foreign_type, 0x12B),
    (x509, 0x12B),
    (two_keys, 0x12A),
    (low_order, 0x12A),
    (no_request, 0x10A),  # unexpected_message: we would stay anonymous
]


@pytest.mark.parametrize(("tamper", "code"), CLIENTS, ids=_name)
def test_a_false_client_is_refused_and_never_seen(
    tamper: Tamper, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = QuicNet()
    client, server = net.pair()
    _tamper_one_side(monkeypatch, tamper, is_client=True)
    error = net.failure(client, client.dial(server))
    assert isinstance(error, HandshakeFailed)
    assert error.details["code"] == code
    assert net.now < 1000.2
    net.run(10)
    assert not server.of(Established)
    assert not client.of(Established)
    assert not server.core.connections
    assert server.core.counters.library_errors == client.core.counters.library_errors == 0


@pytest.mark.parametrize(("tamper", "code"), SERVERS, ids=_name)
def test_a_false_server_is_refused_and_never_connected(
    tamper: Tamper, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = QuicNet()
    client, server = net.pair()
    _tamper_one_side(monkeypatch, tamper, is_client=False)
    error = net.failure(client, client.dial(server))
    assert isinstance(error, HandshakeFailed | IdentityMismatch)
    if isinstance(error, HandshakeFailed):
        assert error.details["code"] == code
    else:
        assert tamper is stolen_key
    assert net.now < 1000.2
    net.run(10)
    assert not client.of(Established)
    assert not server.core.connections
    assert server.core.counters.library_errors == client.core.counters.library_errors == 0


def _tamper_one_side(monkeypatch: pytest.MonkeyPatch, tamper: Tamper, *, is_client: bool) -> None:
    original = RawKeyContext.upgrade.__func__

    def upgrade(cls, context, expected_peer):
        ours = original(cls, context, expected_peer)
        if ours._is_client is is_client:
            tamper(ours)
        return ours

    monkeypatch.setattr(RawKeyContext, "upgrade", classmethod(upgrade))


def test_a_server_with_the_dialled_key_on_display_but_not_in_hand_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = QuicNet()
    client, server = net.pair()
    impostor = net.host(3, host="203.0.113.3")

    def show(context: RawKeyContext) -> None:
        context.certificate = RawPublicKey(server.id)

    _tamper_one_side(monkeypatch, show, is_client=False)
    error = net.failure(client, client.dial(server, impostor.address))
    assert isinstance(error, HandshakeFailed)
    assert error.details["code"] == 0x133
    assert not client.of(Established)


def test_no_tickets_no_server_name_one_version_one_group_one_signature() -> None:
    net = QuicNet()
    client, server = net.pair()
    dialled, inbound = net.connect(client, server)
    for connection in (dialled, inbound):
        context = connection._quic.tls
        assert context._signature_algorithms == [tls.SignatureAlgorithm.ED25519]
        assert context._supported_groups == [tls.Group.X25519]
        assert context._new_session_ticket is None
        assert connection._quic.configuration.supported_versions == [1]
    assert dialled._quic.tls._server_name is None


@pytest.mark.parametrize("point", LOW_ORDER)
@pytest.mark.parametrize("sign", [0, 0x80])
def test_points_that_anybody_can_sign_for_are_refused(point: bytes, sign: int) -> None:
    with pytest.raises(tls.AlertBadCertificate):
        RawPublicKey.from_spki(SPKI_PREFIX + point[:-1] + bytes([point[-1] | sign]))


def test_a_key_survives_its_encoding() -> None:
    key = RawPublicKey(secret(5).endpoint_id)
    assert RawPublicKey.from_spki(key.public_bytes(None)).endpoint_id == secret(5).endpoint_id
    assert key.public_bytes(None).hex() == "302a300506032b6570032100" + secret(5).endpoint_id.hex()


@given(st.binary(max_size=60) | st.binary(min_size=32, max_size=32).map(lambda key: SPKI_PREFIX + key))
def test_any_bytes_are_a_key_or_a_tls_alert(der: bytes) -> None:
    try:
        key = RawPublicKey.from_spki(der)
    except tls.Alert:
        return
    assert key.public_bytes(None) == der


def test_closed_and_failed_events_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    net = QuicNet()
    client, server = net.pair()
    _tamper_one_side(monkeypatch, no_key, is_client=True)
    client.dial(server)
    net.run(30)
    assert len(client.of(DialFailed)) == 1
    assert not client.of(Closed)
