from __future__ import annotations

from typing import Any

import pytest
from nacl.bindings import crypto_scalarmult_ed25519_base_noclamp

from kukuri_sidecar.errors import LocalProtocolError
from kukuri_sidecar.wire.bencode import Encoded, encode
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.mutable_item import (
    MAX_SALT_BYTES,
    MAX_SEQ,
    MAX_VALUE_BYTES,
    MutableItem,
    immutable_target,
    mutable_target,
    sign_item,
    signable,
)
from vector_files import mainline

SECRET = SecretKey(bytes(range(32)))
VALUE = Encoded(b"1:x")


@pytest.mark.parametrize("vector", mainline("bep44"))
def test_vectors(vector: Any) -> None:
    value = Encoded(bytes.fromhex(vector["v"]))
    if "k" not in vector:
        assert immutable_target(value).hex() == vector["target"]
        return
    key, salt, seq = EndpointId.from_hex(vector["k"]), bytes.fromhex(vector["salt"]), vector["seq"]
    item = MutableItem(key, seq, value, bytes.fromhex(vector["sig"]), salt)
    assert signable(seq, value, salt).hex() == vector["signable"]
    assert item.target.hex() == mutable_target(key, salt).hex() == vector["target"]
    assert item.is_genuine()
    if "seed" in vector:
        assert sign_item(SecretKey(bytes.fromhex(vector["seed"])), value, seq, salt) == item
    else:  # BEP 44 gives the expanded key; its first half is the scalar of the public one
        scalar = bytes.fromhex(vector["private_key_expanded"])[:32]
        assert crypto_scalarmult_ed25519_base_noclamp(scalar) == key


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 8},
        {"salt": b""},
        {"salt": b"salu"},
        {"value": Encoded(b"1:y")},
        {"public_key": SecretKey(bytes(32)).endpoint_id},
        {"signature": bytes(64)},
    ],
)
def test_every_part_is_signed(change: dict[str, Any]) -> None:
    item = sign_item(SECRET, VALUE, 7, b"salt")
    assert item.is_genuine()
    assert not item._replace(**change).is_genuine()


def test_the_newer_item_wins_and_ties_have_one_winner() -> None:
    old, new = sign_item(SECRET, Encoded(b"1:z"), 1), sign_item(SECRET, Encoded(b"1:a"), 2)
    other = sign_item(SECRET, Encoded(b"1:b"), 2)
    assert new.is_newer_than(old)
    assert not old.is_newer_than(new)
    assert other.is_newer_than(new)
    assert not new.is_newer_than(other)
    assert not new.is_newer_than(new)


@pytest.mark.parametrize(("over", "fits"), [(-1, True), (0, True), (1, False)])
def test_limits(over: int, fits: bool) -> None:
    largest = Encoded(encode(bytes(MAX_VALUE_BYTES + over - len(b"996:"))))
    for value, seq, salt in (
        (largest, 0, b""),
        (VALUE, MAX_SEQ + over, b""),
        (VALUE, 0, bytes(MAX_SALT_BYTES + over)),
        (VALUE, -over, b""),
    ):
        if fits:
            assert sign_item(SECRET, value, seq, salt).is_genuine()
        else:
            with pytest.raises(LocalProtocolError):
                sign_item(SECRET, value, seq, salt)
