"""Raw public keys in TLS 1.3 (RFC 7250), both ways, Ed25519 only, on aioquic's TLS engine. Fails closed.

An endpoint's "certificate" is the 44-byte SubjectPublicKeyInfo of its Ed25519 key, announced by extensions 19
and 20 (iroh-wire.md section 1.1). aioquic knows X.509 only, but of our certificate it calls ``public_bytes``
and of the peer's ``public_key``; so a small object stands in for both, and path validation is off because the
key itself is the identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kukuri_sidecar.proto.quic.limits import QuicLimits
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.keys import SecretKey, is_valid_endpoint_id

if TYPE_CHECKING:
    from aioquic._buffer import Buffer

EXT_CLIENT_CERTIFICATE_TYPE = 19
EXT_SERVER_CERTIFICATE_TYPE = 20
RAW_PUBLIC_KEY = 2  # RFC 7250 section 7, certificate type
SPKI_PREFIX = bytes.fromhex(
    "302a300506032b6570032100"
)  # RFC 8410: SEQUENCE { Ed25519 }, BIT STRING of 32 bytes
SPKI_BYTES = len(SPKI_PREFIX) + 32
VERIFY_NONE = 0  # ssl.CERT_NONE; the layer rules keep ``ssl`` out of here
MAX_DATAGRAM_FRAME_BYTES = 65_535  # what iroh announces; we receive and drop DATAGRAM frames


class _CertificateRequired(tls.Alert):
    """The client sent an empty Certificate; iroh answers with the same alert (0x174)."""

    description = tls.AlertDescription.certificate_required


class RawPublicKey:
    """Stands where aioquic expects an ``x509.Certificate``."""

    __slots__ = ("_key", "endpoint_id")

    def __init__(self, endpoint_id: EndpointId) -> None:
        self.endpoint_id = endpoint_id
        self._key = Ed25519PublicKey.from_public_bytes(endpoint_id)

    @classmethod
    def from_spki(cls, der: bytes) -> RawPublicKey:
        """Parse the one allowed encoding; raises a TLS alert for anything else.

        Low-order points are refused too: anybody can sign for them (iroh: ``verify_strict``).
        """
        if len(der) != SPKI_BYTES or not der.startswith(SPKI_PREFIX):
            raise tls.AlertUnsupportedCertificate("not an Ed25519 SubjectPublicKeyInfo")
        endpoint_id = EndpointId(der[len(SPKI_PREFIX) :])
        if not is_valid_endpoint_id(endpoint_id):
            raise tls.AlertBadCertificate("not a usable Ed25519 point")
        return cls(endpoint_id)

    def public_bytes(self, _encoding: object) -> bytes:
        """Return the SubjectPublicKeyInfo, whatever encoding is asked for (aioquic asks for DER)."""
        return SPKI_PREFIX + self.endpoint_id

    def public_key(self) -> Ed25519PublicKey:
        """Return the key that CertificateVerify must be checked with."""
        return self._key


class RawKeyContext(tls.Context):
    """aioquic's TLS state machine, restricted to raw Ed25519 keys in both directions.

    Made by ``upgrade`` from the context that QuicConnection built, so that we depend on no constructor.
    """

    _expected_peer: EndpointId | None
    found_peer: EndpointId | None
    """What the peer presented, before it proved anything; for error messages."""

    @classmethod
    def upgrade(cls, context: tls.Context, expected_peer: EndpointId | None) -> RawKeyContext:
        """Turn a fresh ``context`` into ours. ``expected_peer`` is the dialled id, None for a server."""
        context.__class__ = cls
        ours = cast("RawKeyContext", context)
        ours._expected_peer = expected_peer
        ours.found_peer = None
        ours._signature_algorithms = [tls.SignatureAlgorithm.ED25519]
        ours._supported_groups = [tls.Group.X25519]
        if ours._is_client:
            types = bytes([1, RAW_PUBLIC_KEY])  # ClientHello: a list of types, RFC 7250 section 3
        else:
            types = bytes([RAW_PUBLIC_KEY])  # EncryptedExtensions: the chosen one
            ours._request_client_certificate = True
        ours.handshake_extensions += [
            (EXT_CLIENT_CERTIFICATE_TYPE, types),
            (EXT_SERVER_CERTIFICATE_TYPE, types),
        ]
        return ours

    @property
    def proven_peer(self) -> EndpointId | None:
        """The id whose key signed the handshake; None until the peer's Finished was accepted."""
        done = self.state in (tls.State.CLIENT_POST_HANDSHAKE, tls.State.SERVER_POST_HANDSHAKE)
        certificate: object = self._peer_certificate
        return certificate.endpoint_id if done and isinstance(certificate, RawPublicKey) else None

    def require_raw_keys(self) -> None:
        """Raise an alert unless the peer's hello speaks raw keys for both sides; for the ALPN callback."""
        seen = dict(self.received_extensions or [])
        for extension in (EXT_CLIENT_CERTIFICATE_TYPE, EXT_SERVER_CERTIFICATE_TYPE):
            value = seen.get(extension, b"")
            if self._is_client:
                speaks = value == bytes([RAW_PUBLIC_KEY])
            else:
                speaks = len(value) > 1 and value[0] == len(value) - 1 and RAW_PUBLIC_KEY in value[1:]
            if not speaks:
                raise tls.AlertUnsupportedCertificate("peer does not use raw public keys")

    # tls.py:2244: parses X.509 there.
    def _set_peer_certificate(self, certificate: tls.Certificate) -> None:
        if len(certificate.certificates) != 1:
            raise tls.AlertBadCertificate("exactly one raw public key expected")
        peer = RawPublicKey.from_spki(certificate.certificates[0][0])
        self.found_peer = peer.endpoint_id
        if self._expected_peer is not None and peer.endpoint_id != self._expected_peer:
            raise tls.AlertBadCertificate("peer has another EndpointId than the one dialled")
        self._peer_certificate = cast("Any", peer)  # Any: all that is used of an x509.Certificate

    # tls.py:1791: a server that asks for no key would leave us anonymous, and its peer list wrong.
    def _client_handle_certificate(self, input_buf: Buffer) -> None:
        if self._certificate_request is None:
            raise tls.AlertUnexpectedMessage("server did not ask for our raw public key")
        super()._client_handle_certificate(input_buf)

    # tls.py:2166: goes on without client authentication when the list is empty.
    def _server_handle_certificate(self, input_buf: Buffer) -> None:
        super()._server_handle_certificate(input_buf)
        if self._peer_certificate is None:
            raise _CertificateRequired("client sent no raw public key")


def configuration(
    secret: SecretKey, alpns: list[str], limits: QuicLimits, *, is_client: bool
) -> QuicConfiguration:
    """Return what a QuicConnection of this endpoint needs. No SNI, no tickets, no 0-RTT, version 1 only.

    Version 1 only is a must: on an upgrade to version 2 aioquic rebuilds ``handshake_extensions`` and would
    drop ours (connection.py:1380).
    """
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=alpns,
        certificate=RawPublicKey(secret.endpoint_id),
        private_key=Ed25519PrivateKey.from_private_bytes(secret.seed),
        verify_mode=VERIFY_NONE,
        server_name=None,
        supported_versions=[QuicProtocolVersion.VERSION_1],
        # AES-128 first: the hash and key schedule are cheaper, the packets cost the same.
        cipher_suites=[
            tls.CipherSuite.AES_128_GCM_SHA256,
            tls.CipherSuite.AES_256_GCM_SHA384,
            tls.CipherSuite.CHACHA20_POLY1305_SHA256,
        ],
        congestion_control_algorithm=limits.congestion_control,
        idle_timeout=limits.idle_s,
        max_data=limits.connection_window_bytes,
        max_stream_data=limits.stream_window_bytes,
        max_datagram_size=limits.max_datagram_bytes,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME_BYTES,
    )
