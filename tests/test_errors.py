from __future__ import annotations

import inspect

import pytest

from kukuri_sidecar import errors
from kukuri_sidecar.errors import DecodeError, InternalError, SidecarError, TransportError

CONTRACT = {
    # The table of the RPC contract, section 10 (Errors). Kinds never change their meaning.
    "parse_error": -32700,
    "invalid_request": -32600,
    "method_not_found": -32601,
    "invalid_params": -32602,
    "internal_error": -32603,
    "not_initialized": 1000,
    "already_initialized": 1001,
    "protocol_mismatch": 1002,
    "cancelled": 1003,
    "shutting_down": 1004,
    "invalid_config": 1005,
    "env_locked": 1006,
    "profile_in_use": 1007,
    "identity_corrupt": 1008,
    "storage_error": 1009,
    "unknown_subscription": 1010,
    "outcome_unknown": 1011,
    "invalid_peer": 1100,
    "no_addresses": 1101,
    "unknown_peer": 1102,
    "peer_blocked": 1103,
    "dial_timeout": 1200,
    "handshake_failed": 1201,
    "identity_mismatch": 1202,
    "refused": 1203,
    "offline": 1204,
    "udp_blocked": 1205,
    "relay_unavailable": 1206,
    "dns_failure": 1207,
    "unknown_topic": 1300,
    "message_too_large": 1301,
    "mode_mismatch": 1302,
    "no_neighbors": 1303,
    "limit_reached": 1400,
    "rate_limited": 1401,
}
FAMILIES = {SidecarError, TransportError}  # never raised themselves


def _kinds() -> list[type[SidecarError]]:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
    return [value for value in classes if issubclass(value, SidecarError) and value not in FAMILIES]


def test_kinds_and_codes_are_the_contract() -> None:
    assert {error.kind: error.code for error in _kinds()} == CONTRACT


def test_no_kind_and_no_code_stands_for_two_things() -> None:
    assert len(_kinds()) == len({error.kind for error in _kinds()}) == len({error.code for error in _kinds()})


@pytest.mark.parametrize("error", _kinds(), ids=lambda error: error.kind)
def test_every_kind_declares_itself(error: type[SidecarError]) -> None:
    """An inherited kind would be somebody else's; the class docstring is the documentation."""
    assert {"kind", "code"} <= vars(error).keys()
    assert isinstance(error.retryable, bool)
    assert error.__doc__


@pytest.mark.parametrize("error", _kinds(), ids=lambda error: error.kind)
def test_network_errors_are_one_family(error: type[SidecarError]) -> None:
    assert issubclass(error, TransportError) == (1200 <= error.code < 1300)


def test_a_family_that_is_raised_by_mistake_shows_as_a_bug_of_ours() -> None:
    assert (TransportError.kind, TransportError.code) == (InternalError.kind, InternalError.code)


def test_an_error_carries_its_text_and_its_details() -> None:
    error = errors.LimitReached("too many", limit="topics", max=64, retry_at_ms=None)
    assert str(error) == error.message == "too many"
    assert error.details == {"limit": "topics", "max": 64, "retry_at_ms": None}


def test_a_decode_error_can_be_told_under_the_name_of_what_contains_it() -> None:
    inner = DecodeError("base32", 7, "not in the alphabet")
    outer = inner.named("ticket")
    assert (outer.codec, outer.offset, outer.reason) == ("ticket", 7, "not in the alphabet")
    assert str(outer) == "ticket: not in the alphabet at byte 7"
    assert isinstance(outer, ValueError)
