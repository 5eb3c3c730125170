"""The infohash of scheme `announce`: fixed bytes, made with sha1sum and sha512sum, not with our code."""

from __future__ import annotations

import pytest

from kukuri_sidecar.wire.ids import TopicId
from kukuri_sidecar.wire.rendezvous_key import EPOCH_S, announce_key

ZERO, FULL = TopicId(bytes(32)), TopicId(bytes(range(32)))


@pytest.mark.parametrize(
    ("topic_id", "secret", "epoch", "key"),
    [
        (ZERO, None, 0, "3ced446a36cc15a92bc3631199e8aad1bde06e15"),
        (FULL, None, 0x12345, "e8ddfef06bcaa0d22a7335e7d8da5b688e7b82c0"),
        (FULL, b"secret", 0x12345, "d7ff69d0ceb3cd88ba59c32b64735694c3e219c2"),
        (FULL, b"", 0x12345, "569e5cc44ec4232ef39b9df07d7f3b95950bc99e"),
        (FULL, b"secret", (1 << 64) - 1, "2c05242cf91d1e7b9d6f54a4f0ebc0fc2ec42b6a"),
    ],
)
def test_fixed_bytes(topic_id: TopicId, secret: bytes | None, epoch: int, key: str) -> None:
    """Members of different releases must meet: these never change."""
    assert announce_key(topic_id, secret, epoch).hex() == key


def test_an_epoch_lasts_six_hours() -> None:
    assert EPOCH_S == 21_600
