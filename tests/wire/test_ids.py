from __future__ import annotations

import pytest

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.ids import DhtNodeId, EndpointId, MessageId, Target, TopicId

HEX = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"


@pytest.mark.parametrize("id_type", [EndpointId, TopicId, MessageId])
def test_an_id_is_32_bytes_with_a_type(id_type: type[EndpointId | TopicId | MessageId]) -> None:
    value = id_type.from_hex(HEX)
    assert type(value) is id_type
    assert value.hex() == HEX
    assert value == bytes.fromhex(HEX)
    assert hash(value) == hash(bytes.fromhex(HEX))
    assert repr(value) == str(value) == f"{id_type.__name__}(03a107bff3)"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(DecodeError, match="topic_id: 32 bytes expected"):
        TopicId(bytes(size))


@pytest.mark.parametrize(
    "text", ["", HEX[:-1], HEX + "0", HEX.upper(), HEX[:-1] + "g", HEX[:-1] + " ", HEX[:-1] + "０"]
)
def test_only_lower_case_hex_is_taken(text: str) -> None:
    with pytest.raises(DecodeError, match="endpoint_id"):
        EndpointId.from_hex(text)


@pytest.mark.parametrize("id_type", [DhtNodeId, Target])
def test_names_in_the_dht_have_20_bytes(id_type: type[DhtNodeId | Target]) -> None:
    assert id_type.from_hex(HEX[:40]).hex() == HEX[:40]
    for text in (HEX[:38], HEX[:42], HEX):
        with pytest.raises(DecodeError, match="40 lower-case hex digits expected"):
            id_type.from_hex(text)
        with pytest.raises(DecodeError, match="20 bytes expected"):
            id_type(bytes.fromhex(text))
