"""Signed messages: wraps ours, and judges everybody's before it is delivered or passed on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kukuri_sidecar.errors import DecodeError
from kukuri_sidecar.net.clock import WallMs
from kukuri_sidecar.proto.buckets import TokenBucket
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.replay import ReplayWindows
from kukuri_sidecar.wire.envelope import OVERHEAD_BYTES, Envelope, parse_envelope, seal, verify_envelope
from kukuri_sidecar.wire.ids import EndpointId, TopicId
from kukuri_sidecar.wire.keys import SecretKey

MAX_AGE_MS = 120_000  # gossip-wire.md section 6: ts window -120 s ... +30 s
MAX_AHEAD_MS = 30_000
AUTHOR_PER_S = 50.0  # gossip-wire.md section 6: per author 50/s, burst 200
AUTHOR_BURST = 200.0
OWN_BURST = 100.0  # of our own: half of what receivers allow, as what was delayed may arrive together
MAX_WAIT_S = 90.0  # unsent: leaves 30 s for the way, repairs and clocks that differ
MAX_AUTHORS = 10_000  # with a rate of their own, least recently heard forgotten first


class Mode(StrEnum):
    """How a topic treats signed envelopes."""

    RAW = "raw"  # bytes as they are
    AUTO = "auto"  # publish raw; verify and unwrap what is signed
    SIGNED = "signed"  # publish signed; deliver and pass on nothing else


class Flaw(StrEnum):
    """Why a message is not delivered."""

    UNSIGNED = "unsigned"
    MALFORMED = "malformed"
    EXPIRED = "expired"
    FROM_THE_FUTURE = "from_the_future"
    REPLAYED = "replayed"
    BAD_SIGNATURE = "bad_signature"
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True)
class Opened:
    """What the host gets: the payload, and who provably wrote it (None: nobody signed it)."""

    payload: bytes
    author: EndpointId | None = None
    author_seq: int | None = None

    @property
    def is_verified(self) -> bool:
        """Say whether a signature was checked."""
        return self.author is not None


class Envelopes:
    """Our session's signatures, and the memory that tells replays. One per node; wall time decides on age."""

    def __init__(self, secret: SecretKey, rng: Rng, wall_ms: WallMs) -> None:
        self._secret = secret
        self._wall_ms = wall_ms
        self._session = rng.getrandbits(32)
        self._next_seq: dict[TopicId, int] = {}
        self._windows: ReplayWindows[tuple[TopicId, EndpointId, int]] = ReplayWindows()
        self._rates: dict[EndpointId, TokenBucket] = {}

    def seal(self, topic_id: TopicId, payload: bytes) -> bytes:
        """Return the signed content to publish; numbers of a topic rise without gaps."""
        seq = self._next_seq.get(topic_id, 1)
        self._next_seq[topic_id] = seq + 1
        return seal(self._secret, topic_id, payload, ts_ms=self._wall_ms(), session=self._session, seq=seq)

    def open(self, topic_id: TopicId, mode: Mode, content: bytes, now: float) -> Opened | Flaw:
        """Judge a message, the cheap questions first; only a flawless envelope is remembered.

        In ``auto`` mode a message that claims to be signed and is not is a flaw as well: passing it on to the
        host as plain bytes would let anybody imitate an envelope.
        """
        if mode is Mode.RAW:
            return Opened(content)
        try:
            envelope = parse_envelope(content)
        except DecodeError:
            return Flaw.MALFORMED
        if envelope is None:
            return Flaw.UNSIGNED if mode is Mode.SIGNED else Opened(content)
        key = (topic_id, envelope.author, envelope.session)
        flaw = self._flaw(envelope, topic_id, key, now)
        if flaw:
            return flaw
        self._windows.record(key, envelope.seq)
        return Opened(envelope.payload, envelope.author, envelope.seq)

    def _flaw(
        self, envelope: Envelope, topic_id: TopicId, key: tuple[TopicId, EndpointId, int], now: float
    ) -> Flaw | None:
        age_ms = self._wall_ms() - envelope.ts_ms
        if age_ms > MAX_AGE_MS:
            return Flaw.EXPIRED
        if age_ms < -MAX_AHEAD_MS:
            return Flaw.FROM_THE_FUTURE
        is_own = envelope.author == self._secret.endpoint_id and envelope.session == self._session
        if is_own or envelope.seq == 0 or not self._windows.is_fresh(key, envelope.seq):
            return Flaw.REPLAYED
        if not verify_envelope(envelope, topic_id):
            return Flaw.BAD_SIGNATURE
        # After the signature, although it is cheaper: else forgeries would use up an honest author's rate.
        return None if self._rate(envelope.author).take(now) else Flaw.TOO_MANY

    def _rate(self, author: EndpointId) -> TokenBucket:
        bucket = self._rates.pop(author, None) or TokenBucket(AUTHOR_PER_S, AUTHOR_BURST)
        if len(self._rates) >= MAX_AUTHORS:
            del self._rates[next(iter(self._rates))]
        self._rates[author] = bucket
        return bucket


def overhead_bytes(mode: Mode) -> int:
    """Return what publishing in this mode adds to a payload."""
    return OVERHEAD_BYTES if mode is Mode.SIGNED else 0
