from __future__ import annotations

from typing import Any

import pytest
from blake3 import blake3

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.wire.hashes import MAX_TOPIC_NAME_BYTES, TopicDerivation, derive_topic_id, message_id
from vector_files import vectors


@pytest.mark.parametrize(("inputs", "expected"), vectors("gossip", "message_id"))
def test_message_ids(inputs: Any, expected: Any) -> None:
    content = (
        bytes.fromhex(inputs["content"])
        if "content" in inputs
        else bytes.fromhex(inputs["content_byte"]) * inputs["length"]
    )
    assert message_id(content).hex() == expected["id"]


@pytest.mark.parametrize(
    ("name", "derive", "expected"),
    [
        # official BLAKE3 and FIPS 180 values of "abc"
        ("abc", "blake3", "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
        ("abc", "sha512", "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"),
        ("kukuri:topic:demo", "blake3", "0ca1e314ab913c185a49d1be20d013d4ad61b823c5ed98ca23a8d79323bdd5d0"),
        ("東京", "kukuri_hint", blake3("hint/東京".encode()).hexdigest()),
    ],
)
def test_topic_ids(name: str, derive: TopicDerivation, expected: str) -> None:
    assert derive_topic_id(name, derive).hex() == expected


@pytest.mark.parametrize("derive", ["blake3", "kukuri_hint", "sha512"])
@pytest.mark.parametrize("size", [1, MAX_TOPIC_NAME_BYTES - 1, MAX_TOPIC_NAME_BYTES])
def test_names_up_to_the_limit_are_taken(size: int, derive: TopicDerivation) -> None:
    assert len(derive_topic_id("n" * size, derive)) == 32


@pytest.mark.parametrize(
    "name", ["", "n" * (MAX_TOPIC_NAME_BYTES + 1), "é" * (MAX_TOPIC_NAME_BYTES // 2) + "n", "a\ud800"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(DecodeError) as caught:
        derive_topic_id(name, "blake3")
    assert caught.value.codec == "topic"
