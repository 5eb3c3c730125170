"""One error taxonomy for every layer.

    SidecarError                      what the host may see: ``kind``, ``code``, ``retryable``, ``details``
      10xx  process and profile state
      11xx  peers
      12xx  network
      13xx  topics
      14xx  limits
    DecodeError                       bytes from outside did not parse; counted, never shown to the host

A kind never changes its meaning (api.md section 10); the text is for humans.
"""

from __future__ import annotations

from typing import ClassVar


class DecodeError(ValueError):
    """Bytes that are no valid ``codec`` value; ``offset`` says where the decoder gave up."""

    def __init__(self, codec: str, offset: int, reason: str) -> None:
        super().__init__(f"{codec}: {reason} at byte {offset}")
        self.codec = codec
        self.offset = offset
        self.reason = reason

    def named(self, codec: str) -> DecodeError:
        """Return the same finding under the name of the codec that contains this one."""
        return DecodeError(codec, self.offset, self.reason)


class LocalProtocolError(AssertionError):
    """A protocol core was used against its rules: our own bug, it ends the node loudly."""


class SidecarError(Exception):
    """An error the host can act on; ``details`` holds the fields that api.md section 10 names."""

    kind: ClassVar[str] = "internal_error"
    code: ClassVar[int] = -32603
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


# --- JSON-RPC ------------------------------------------------------------------------------------------


class ParseError(SidecarError):
    """The frame was no JSON, or broke a framing limit."""

    kind, code = "parse_error", -32700


class InvalidRequest(SidecarError):
    """JSON, but no JSON-RPC 2.0 request."""

    kind, code = "invalid_request", -32600


class MethodNotFound(SidecarError):
    """No such method."""

    kind, code = "method_not_found", -32601


class InvalidParams(SidecarError):
    """Params that the method's schema refuses; ``path`` names the field."""

    kind, code = "invalid_params", -32602


class InternalError(SidecarError):
    """A bug of ours; the traceback is in the log under ``error_id``."""

    kind, code = "internal_error", -32603


# --- 10xx: process and profile -------------------------------------------------------------------------


class NotInitialized(SidecarError):
    """Call ``initialize`` first."""

    kind, code = "not_initialized", 1000


class AlreadyInitialized(SidecarError):
    """The node runs; a process serves one profile."""

    kind, code = "already_initialized", 1001


class ProtocolMismatch(SidecarError):
    """The host asked for an api_version that we do not speak; ``supported`` lists ours."""

    kind, code = "protocol_mismatch", 1002


class Cancelled(SidecarError):
    """The host cancelled the request."""

    kind, code, retryable = "cancelled", 1003, True


class ShuttingDown(SidecarError):
    """The process is on its way out."""

    kind, code = "shutting_down", 1004


class InvalidConfig(SidecarError):
    """A configuration value was refused; nothing changed. ``field`` and ``index`` name it."""

    kind, code = "invalid_config", 1005


class EnvLocked(SidecarError):
    """An environment variable fixes the field."""

    kind, code = "env_locked", 1006


class ProfileInUse(SidecarError):
    """Another process (``pid``) owns the profile."""

    kind, code, retryable = "profile_in_use", 1007, True


class IdentityCorrupt(SidecarError):
    """The identity file is unreadable or readable by others; it is never replaced."""

    kind, code = "identity_corrupt", 1008


class StorageError(SidecarError):
    """The disk refused ``operation``."""

    kind, code, retryable = "storage_error", 1009, True


class UnknownSubscription(SidecarError):
    """No such subscription."""

    kind, code = "unknown_subscription", 1010


class OutcomeUnknown(SidecarError):
    """The request was interrupted after it may have taken effect."""

    kind, code = "outcome_unknown", 1011


# --- 11xx: peers ---------------------------------------------------------------------------------------


class InvalidPeer(SidecarError):
    """Not an endpoint id, address or ticket; ``segment`` and ``reason`` say which part."""

    kind, code = "invalid_peer", 1100


class NoAddresses(SidecarError):
    """Nothing dialable is known for the peer."""

    kind, code, retryable = "no_addresses", 1101, True


class UnknownPeer(SidecarError):
    """We have never heard of this endpoint id."""

    kind, code = "unknown_peer", 1102


class PeerBlocked(SidecarError):
    """The application blocked this peer."""

    kind, code = "peer_blocked", 1103


# --- 12xx: network -------------------------------------------------------------------------------------


class TransportError(SidecarError):
    """Family of everything that can go wrong between us and one peer."""


class DialTimeout(TransportError):
    """No address of the peer answered in time; ``tried`` lists them."""

    kind, code, retryable = "dial_timeout", 1200, True


class HandshakeFailed(TransportError):
    """The peer answered, but the TLS handshake did not complete; ``reason`` is its or our alert."""

    kind, code = "handshake_failed", 1201


class IdentityMismatch(TransportError):
    """The address belongs to another endpoint: ``expected`` and ``found`` (null when it did not say)."""

    kind, code = "identity_mismatch", 1202


class Refused(TransportError):
    """The peer refused the connection."""

    kind, code, retryable = "refused", 1203, True


class Offline(TransportError):
    """There is no usable network interface."""

    kind, code, retryable = "offline", 1204, True


class UdpBlocked(TransportError):
    """A local firewall refuses our datagrams."""

    kind, code = "udp_blocked", 1205


class RelayUnavailable(TransportError):
    """The relay at ``url`` does not serve us; ``reason`` says why."""

    kind, code, retryable = "relay_unavailable", 1206, True


class DnsFailure(TransportError):
    """A DNS ``server`` did not answer, or badly; ``reason`` says how."""

    kind, code, retryable = "dns_failure", 1207, True


# --- 13xx: topics --------------------------------------------------------------------------------------


class UnknownTopic(SidecarError):
    """The topic is not joined."""

    kind, code = "unknown_topic", 1300


class MessageTooLarge(SidecarError):
    """The payload exceeds the topic's ``limit`` (bytes); ``size`` is what was given."""

    kind, code = "message_too_large", 1301


class ModeMismatch(SidecarError):
    """A joined topic cannot change ``mode`` or ``max_message_bytes``."""

    kind, code = "mode_mismatch", 1302


class NoNeighbors(SidecarError):
    """Nobody to hand the message to; attempts go on, see ``next_attempt_at_ms``."""

    kind, code, retryable = "no_neighbors", 1303, True


# --- 14xx: limits --------------------------------------------------------------------------------------


class LimitReached(SidecarError):
    """A bound (``limit``, ``max``) is reached; ``retry_at_ms`` when it is known to fall."""

    kind, code, retryable = "limit_reached", 1400, True


class RateLimited(SidecarError):
    """Too many calls; try again after ``retry_after_ms``."""

    kind, code, retryable = "rate_limited", 1401, True
