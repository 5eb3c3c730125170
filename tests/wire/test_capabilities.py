from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kukuri_sidecar.wire.capabilities import (
    MAX_BYTES,
    OURS,
    Capability,
    control_body,
    decode_capabilities,
    encode_capabilities,
)
from kukuri_sidecar.wire.gossip_messages import IHave, decode, decode_with_trailer
from kukuri_sidecar.wire.peer_data import decode_peer_data, encode_peer_data


@given(st.integers(0, int(OURS)).map(Capability))
def test_round_trip(capabilities: Capability) -> None:
    assert decode_capabilities(encode_capabilities(capabilities)) == capabilities


@given(st.binary(max_size=64))
def test_any_bytes_are_capabilities_or_nothing(trailer: bytes) -> None:
    found = decode_capabilities(trailer)
    assert found is None or trailer.startswith(b"\xe1SC")


def test_the_bytes_on_the_wire() -> None:
    assert encode_capabilities(OURS).hex() == "e153430103"


@pytest.mark.parametrize(
    ("size", "is_read"), [(MAX_BYTES - 1, True), (MAX_BYTES, True), (MAX_BYTES + 1, False)]
)
def test_flags_of_the_future_are_tolerated_up_to_the_bound(size: int, is_read: bool) -> None:
    trailer = b"\xe1SC\x02" + b"\xff" * (size - 4)
    assert (decode_capabilities(trailer) == OURS) is is_read


def test_both_carriers_are_invisible_to_others() -> None:
    body = control_body(OURS)
    message = decode(body)
    assert isinstance(message, IHave)
    assert message.items == ()
    assert decode_with_trailer(body)[1] == encode_capabilities(OURS)
    data = encode_peer_data(None, [], encode_capabilities(OURS))
    assert decode_peer_data(data).extension == encode_capabilities(OURS)
