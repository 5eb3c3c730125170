"""The infohash under which members of a topic announce themselves in the DHT, scheme ``announce``.

    SHA-1( "kukuri-sidecar/rendezvous/announce/1" 00 | topic id[32] | proof[32] | epoch u64 BE )

``proof`` is SHA-512(secret)[:32] when the topic has a secret, else 32 zero bytes. An epoch lasts six hours:
an observer of the DHT who does not know the topic can neither name it nor follow it. Our own format.
"""

from __future__ import annotations

import hashlib

from kukuri_sidecar.wire.ids import Target, TopicId

EPOCH_S = 6 * 3600  # long enough for a store's 30 minutes, short enough to lose a follower
_CONTEXT = b"kukuri-sidecar/rendezvous/announce/1\x00"


def announce_key(topic_id: TopicId, secret: bytes | None, epoch: int) -> Target:
    """Return the infohash of ``epoch`` (Unix seconds // EPOCH_S)."""
    proof = bytes(32) if secret is None else hashlib.sha512(secret).digest()[:32]
    data = _CONTEXT + topic_id + proof + epoch.to_bytes(8, "big")
    return Target(hashlib.sha1(data, usedforsecurity=False).digest())
