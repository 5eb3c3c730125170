"""Every constant of the gossip core, with where it comes from.

The defaults are our policy: wire-compatible with upstream and better in its own simulator (tests/sim).
``UPSTREAM`` is iroh-gossip v0.101.0's policy, for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kukuri_sidecar.errors import LocalProtocolError

MIN_MAX_MESSAGE_BYTES = 512  # iroh-gossip src/proto.rs:72


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """HyParView. "p. 9" is the paper, by way of iroh-gossip src/proto/hyparview.rs:197-222."""

    active_view: int = 5  # p. 9
    passive_view: int = 30  # p. 9
    active_walk_hops: int = 6  # p. 9, ARWL
    passive_walk_hops: int = 3  # p. 9, PRWL
    shuffle_walk_hops: int = 6  # p. 9
    shuffle_active: int = 3  # p. 9
    shuffle_passive: int = 4  # p. 9
    shuffle_interval_s: float = 60.0  # iroh-gossip, "wild guess"
    request_timeout_s: float = 0.5  # iroh-gossip, "wild guess"

    # ours: policy
    parallel_requests: bool = True  # ask for all free slots at once; upstream asks one peer per event
    first_refill_s: float = 0.1  # after a refusal another peer is asked after this, then later and later ...
    refill_interval_s: float = 10.0  # ... up to this; upstream waits for a shuffle
    answers_stay_pending: bool = False  # upstream's defect U4, for comparison runs only
    protected: int = 2  # trust E1: neighbors, rather of our own choice, that nobody can make us evict
    answer_interval_s: float = 1.0  # a neighbor who asks again is answered this often: ends answer loops
    join_grace_s: float = 5.0  # how long a Join without answer keeps its connection; gossip-wire §1 rule 4

    # ours: bounds on what peers can grow
    max_pending: int = 10  # twice the active view: a walk storm must not make us dial everybody
    max_joining: int = 64  # bootstrap peers at once; the API's own limit
    max_peer_data_bytes: int = 1_024  # larger is treated as unknown; ours are 256, upstream sets no limit
    max_own_data_bytes: int = 256  # gossip-wire §1: a Shuffle carries 8 of them
    max_nodes_per_message: int = 16  # of a Shuffle; upstream sends 8
    max_reserve: int = 128  # peers that fell out of the passive view: what is left after a mass failure
    max_passive_per_network: int = 2  # trust E1: of one public /24 or /48, where peer data tell
    max_passive_per_source: int = 8  # trust E1: nobody fills our passive view alone
    joins_per_peer_s: float = 0.1  # trust E1: 1 per 10 s ...
    joins_burst: int = 3  # ... after a crash loop's worth: a restarted peer must get in again at once
    high_requests_per_peer_s: float = 0.2  # Neighbor(High) beyond this counts as Low: no eviction on demand
    high_requests_burst: int = 5
    max_peer_buckets: int = 1_024  # peers whose rates we remember, oldest out


@dataclass(frozen=True, slots=True)
class BroadcastConfig:
    """PlumTree. Upstream's values stand in iroh-gossip src/proto/plumtree.rs:291-334."""

    adaptive_graft: bool = True  # gossip-wire §4; with False the first two timeouts are fixed
    graft_timeout_s: float = 0.3  # until there are samples; upstream 0.08, fixed
    graft_retry_s: float = 0.15  # upstream 0.04, fixed; adaptive: half the timeout
    min_graft_timeout_s: float = 0.08  # upstream's
    max_graft_timeout_s: float = 0.4  # gossip-wire §4: repair must stay faster than a reader's patience
    min_graft_retry_s: float = 0.04  # upstream's
    graft_spread: float = 4.0  # timeout = this times the median delay, about its 95th percentile
    graft_tick_s: float = 0.005  # timers share wake-ups on this raster
    dispatch_s: float = 0.005  # iroh-gossip: announcements wait this long for company
    steer_s: float = 0.5  # one message per this time may change the tree; upstream: every message, 0
    adopt_deliverer: bool = True  # who brings a new payload becomes eager (paper, Algorithm 1); upstream: no
    optimize_hops: int = 2  # upstream and paper p. 12: 7; ours by simulation, gossip-wire §4
    cache_s: float = 30.0  # iroh-gossip
    seen_s: float = 90.0  # iroh-gossip
    evict_interval_s: float = 1.0  # iroh-gossip

    # ours: bounds on what peers can grow (trust M5, D4 and 2.3)
    ids_per_peer_s: float = 2_000.0  # the budget is one second deep
    max_missing_per_peer: int = 2_000
    max_missing_per_topic: int = 10_000
    max_missing: int = 20_000  # over all topics
    max_sources_per_id: int = 16  # three times the active view: more promises do not make it surer
    missing_s: float = 10.0  # trust M5; a promise that nobody kept by then is void
    max_grafts_per_peer: int = 16  # in flight
    graft_answers_s: float = 200.0  # payloads per peer and second on request
    max_graft_answers: int = 3  # of one payload to one peer
    max_answer_records: int = 2_000  # (peer, id) pairs behind the line above, oldest out
    max_seen: int = 120_000  # over all topics; 90 s at 1,300 messages a second
    max_cache_bytes: int = 12 * 1024 * 1024  # over all topics
    max_strangers: int = 256  # non-neighbors whose rates we remember, oldest out


@dataclass(frozen=True, slots=True)
class ProbeConfig:
    """Finding lost parts of a topic (gossip-wire §7); all numbers ours, by simulation."""

    enabled: bool = True
    interval_s: float = 20.0
    min_age_s: float = 3.0  # younger messages may still be on their way to everybody
    max_age_s: float = 80.0  # older ids are about to be forgotten by those who saw them
    quiet_interval_s: float = 60.0  # without messages: Join one remembered peer ...
    quiet_neighbors: int = 3  # ... while there are fewer neighbors than this
    join_interval_s: float = 5.0  # at most one healing Join per this
    max_remembered: int = 256  # peers per topic, oldest out
    max_discovered: int = 64  # per topic and PeersDiscovered


@dataclass(frozen=True, slots=True)
class GossipConfig:
    """One node's gossip. ``max_message_bytes`` is for topics that name no limit of their own."""

    membership: MembershipConfig = field(default_factory=MembershipConfig)
    broadcast: BroadcastConfig = field(default_factory=BroadcastConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    max_message_bytes: int = 4_096  # iroh-gossip src/proto.rs:69; a body must be shorter than this
    max_pinned: int = 64
    max_blocked: int = 1_024

    def __post_init__(self) -> None:
        if self.max_message_bytes < MIN_MAX_MESSAGE_BYTES:
            raise LocalProtocolError(f"max_message_bytes is below {MIN_MAX_MESSAGE_BYTES}")


UPSTREAM = GossipConfig(
    membership=MembershipConfig(
        parallel_requests=False,
        first_refill_s=float("inf"),
        answers_stay_pending=True,
        protected=0,
        max_reserve=0,
        max_pending=1_000,
        max_passive_per_source=30,
        high_requests_burst=1_000,
    ),
    broadcast=BroadcastConfig(
        adaptive_graft=False,
        graft_timeout_s=0.08,
        graft_retry_s=0.04,
        steer_s=0.0,
        adopt_deliverer=False,
        optimize_hops=7,
    ),
    probe=ProbeConfig(enabled=False),
)
"""iroh-gossip v0.101.0 as far as it matters to a simulation; our bounds stay."""
