"""Every struct of the contract: params, results and events, one doc line per field.

This module is the only source of types. It decodes what the host sends, encodes what we answer, and
``rpc.schema`` turns it into the OpenRPC document and the TypeScript declarations. Names are JSON names,
durations and instants are integer milliseconds (``*_ms``), an absent optional value is ``null``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

API_VERSION = 1
PAGE_LIMIT = 64  # api.md section 1: `limit` <= 64
MAX_PEER_TEXT_CHARS = 4096  # wire.ticket: the longest ticket; no parser sees a megabyte
MAX_TIMEOUT_MS = 300_000  # ours: nobody waits longer for one call

# --- Shared forms ----------------------------------------------------------------------------------------

EndpointIdHex = Annotated[
    str,
    Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64, description="An endpoint id."),
]
EndpointIdText = Annotated[
    str,
    Meta(
        min_length=52,
        max_length=64,
        description="An endpoint id: 64 hex digits, or RFC 4648 base32. The key `node_id` is accepted too.",
    ),
]
TopicIdHex = Annotated[
    str, Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64, description="A topic id.")
]
MessageIdHex = Annotated[
    str, Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64, description="A message id.")
]
PeerText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_PEER_TEXT_CHARS,
        description="A peer: `<id>`, `<id>@host:port` (IPv6 in brackets) or an iroh ticket `endpoint…`.",
    ),
]
Limit = Annotated[int, Meta(ge=1, le=PAGE_LIMIT, description="Entries per page.")]
Cursor = Annotated[
    str | None, Meta(description="`cursor` of the page before; null for the first page, null at the end.")
]

Identity = Literal["loaded", "created", "host", "ephemeral"]
Online = Literal["offline", "local_only", "online"]
Nat = Literal["none", "endpoint_independent", "address_dependent", "unknown"]
AddressSource = Literal["interface", "dht_vote", "relay", "advertised"]
Path = Literal["direct", "relay"]
TopicPath = Literal["direct", "mixed", "relay"]
Scheme = Literal["announce", "tracker"]
Derive = Literal["blake3", "kukuri_hint", "sha512"]
Mode = Literal["raw", "auto", "signed"]
TopicState = Literal["joining", "joined", "isolated", "paused", "left"]
PeerState = Literal["connecting", "connected", "disconnected"]
PeerStateFilter = Literal["connecting", "connected", "disconnected", "blocked"]
PeerOrigin = Literal[
    "bootstrap",
    "ticket",
    "rendezvous",
    "dns",
    "dht",
    "pkarr",
    "local",
    "gossip",
    "provider",
    "inbound",
]
Source = Literal["dht"]
Sink = Literal["dht"]
NeighborDownReason = Literal["evicted", "left", "evicted_us", "connection_lost", "local"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Params(Struct, forbid_unknown_fields=True):
    """Base of all params: by name only, unknown keys are errors."""


class Result(Struct):
    """Base of all results: every field is always there."""


class NoParams(Params):
    """No params."""


# --- 4.1 Process -----------------------------------------------------------------------------------------


class Client(Params):
    """The host, for the log."""

    name: Annotated[str, Meta(max_length=64, description="Name of the host program.")]
    version: Annotated[str, Meta(max_length=64, description="Version of the host program.")] = ""


class InitializeParams(Params):
    """Params of `initialize`."""

    api_version: Annotated[int, Meta(description="The contract the host speaks: 1.")]
    client: Annotated[Client | None, Meta(description="Who is calling.")] = None
    data_dir: Annotated[
        Annotated[str, Meta(min_length=1, max_length=4096)] | None,
        Meta(
            description="Absolute path of the profile; null: `kukuri-sidecar` in the user's data directory."
        ),
    ] = None
    ephemeral: Annotated[bool, Meta(description="A fresh identity; nothing is written at all.")] = False
    secret_key_hex: Annotated[
        Annotated[str, Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64)] | None,
        Meta(description="The identity, kept by the host; nothing is written."),
    ] = None
    config: Annotated[
        dict[str, Any],  # Any: JSON, validated by node.config, which names the field in its own errors
        Meta(description="Partial configuration (api.md section 6)."),
    ] = {}


class InitializeResult(Result):
    """The node runs; whatever needs the network comes as events."""

    api_version: Annotated[int, Meta(description="The contract this process speaks.")]
    version: Annotated[str, Meta(description="Version of the sidecar.")]
    schema_hash: Annotated[
        str,
        Meta(pattern="^[0-9a-f]{16}$", description="Changes with any change of the OpenRPC document."),
    ]
    endpoint_id: EndpointIdHex
    identity: Annotated[Identity, Meta(description="Where the identity comes from.")]
    locked: Annotated[list[str], Meta(description="Config fields fixed by the environment.")]
    warnings: Annotated[list[str], Meta(description="Sentences for an operator.")]
    restored_topics: Annotated[int, Meta(description="Topics joined again from the last run.")]


class ShutdownParams(Params):
    """Params of `shutdown`."""

    deadline_ms: Annotated[int, Meta(ge=0, le=5000, description="Time to leave in good order.")] = 2000


class ShutdownResult(Result):
    """How the end went; the process exits 0 after this answer."""

    graceful: Annotated[bool, Meta(description="Everything was closed before the deadline.")]
    left_topics: Annotated[int, Meta(description="Topics left with a goodbye.")]
    closed_connections: Annotated[int, Meta(description="Connections closed.")]
    unsent_messages: Annotated[int, Meta(description="Published messages that found no neighbour.")]


class PingResult(Result):
    """The process lives."""

    uptime_ms: Annotated[int, Meta(description="Since the process started.")]
    loop_lag_ms: Annotated[
        int, Meta(description="Worst delay of the event loop in the last seconds; 0 before `initialize`.")
    ]


class CancelParams(Params):
    """Params of the notification `$/cancelRequest`."""

    id: Annotated[str | int | float, Meta(description="`id` of the request to cancel.")]


# --- 4.3 Node --------------------------------------------------------------------------------------------


class Address(Result):
    """One of our addresses."""

    address: Annotated[str, Meta(description="`host:port`, IPv6 in brackets.")]
    source: Annotated[AddressSource, Meta(description="How we know it.")]


class NodeInfoResult(Result):
    """Who and where we are."""

    endpoint_id: EndpointIdHex
    online: Annotated[Online, Meta(description="How far our packets are known to get.")]
    bound: Annotated[list[str], Meta(description="Local UDP sockets, `host:port`.")]
    addresses: Annotated[list[Address], Meta(description="Where we can be reached, as far as known.")]
    relay_url: Annotated[str | None, Meta(description="Our home relay.")]
    nat: Annotated[Nat, Meta(description="What kind of NAT is between us and the network.")]
    alpns: Annotated[list[str], Meta(description="Protocols we accept.")]
    version: Annotated[str, Meta(description="Version of the sidecar.")]
    api_version: Annotated[int, Meta(description="The contract this process speaks.")]


class NodeTicketParams(Params):
    """Params of `node.ticket`."""

    kind: Annotated[
        Literal["iroh", "address"], Meta(description="`iroh`: endpoint ticket; `address`: `<id>@host:port`.")
    ] = "iroh"
    include: Annotated[Literal["all", "direct", "relay"], Meta(description="Which addresses go into it.")] = (
        "all"
    )


class NodeTicketResult(Result):
    """A string another user can paste."""

    ticket: Annotated[str | None, Meta(description="null when nothing dialable is known.")]
    reason: Annotated[str | None, Meta(description="Why there is no ticket.")]


# --- 4.4 Discovery ---------------------------------------------------------------------------------------


class DiscoveryResolveParams(Params):
    """Params of `discovery.resolve`."""

    endpoint_id: EndpointIdText
    sources: Annotated[
        Annotated[list[Source], Meta(min_length=1, max_length=8)] | None,
        Meta(description="Whom to ask; null: all that are enabled."),
    ] = None
    timeout_ms: Annotated[int, Meta(ge=1, le=MAX_TIMEOUT_MS, description="For all sources together.")] = (
        10_000
    )
    until: Annotated[
        Literal["first", "all"], Meta(description="Stop at the first find, or when all sources are through.")
    ] = "first"


class ResolvedAddress(Result):
    """An address that was found."""

    address: Annotated[str, Meta(description="`host:port`, IPv6 in brackets.")]
    sources: Annotated[list[Source], Meta(description="Who named it.")]


class DiscoveryResolveResult(Result):
    """What the sources say of the endpoint; only its identity is certain, and only once it is connected."""

    endpoint_id: EndpointIdHex
    addresses: Annotated[list[ResolvedAddress], Meta(description="Where it may be dialled.")]
    relay_urls: Annotated[list[str], Meta(description="Relays it may be dialled through.")]
    latency_ms: Annotated[dict[str, int], Meta(description="By source: when its first find came.")]
    source_errors: Annotated[
        dict[str, str], Meta(description="By source: error kind of those that found nothing.")
    ]


class DiscoveryPublishParams(Params):
    """Params of `discovery.publish`."""

    sinks: Annotated[
        Annotated[list[Sink], Meta(max_length=8)] | None, Meta(description="Where; null: all enabled.")
    ] = None


class SinkResult(Result):
    """What became of our record in one sink."""

    sink: Annotated[Sink, Meta(description="Where.")]
    ok: Annotated[bool, Meta(description="It is there.")]
    stored: Annotated[int, Meta(description="Places that keep it.")]
    error: Annotated[
        str | None, Meta(description="Error kind; `no_addresses`: there is nothing that may be published.")
    ]
    next_at_ms: Annotated[
        int | None, Meta(description="Unix time of the next publication; null when none is planned.")
    ]


class DiscoveryPublishResult(Result):
    """One entry per sink."""

    sinks: Annotated[list[SinkResult], Meta(description="The sinks, in the order asked for.")]


# --- 4.5 Peers -------------------------------------------------------------------------------------------


class PeerConnectParams(Params):
    """Params of `peer.connect`."""

    peer: PeerText
    timeout_ms: Annotated[
        int, Meta(ge=1, le=MAX_TIMEOUT_MS, description="For the whole dial, all addresses together.")
    ] = 10_000


class PeerConnectResult(Result):
    """An authenticated connection lives."""

    endpoint_id: EndpointIdHex
    path: Annotated[Path, Meta(description="How datagrams travel.")]
    address: Annotated[str | None, Meta(description="Address in use; null on a relay.")]
    rtt_ms: Annotated[int | None, Meta(description="Smoothed round trip time.")]


class PeerDisconnectParams(Params):
    """Params of `peer.disconnect`."""

    endpoint_id: EndpointIdText
    forget: Annotated[bool, Meta(description="Also drop what we remember about it.")] = False


class PeerDisconnectResult(Result):
    """The peer is not connected any more."""

    was_connected: Annotated[bool, Meta(description="There was a connection to close.")]


class PeerListParams(Params):
    """Params of `peer.list`; filters combine."""

    origin: Annotated[PeerOrigin | None, Meta(description="Only peers learnt this way.")] = None
    state: Annotated[PeerStateFilter | None, Meta(description="Only peers in this state.")] = None
    topic_id: Annotated[TopicIdHex | None, Meta(description="Only neighbours in this topic.")] = None
    endpoint_id: Annotated[EndpointIdText | None, Meta(description="Only this peer.")] = None
    limit: Limit = PAGE_LIMIT
    cursor: Cursor = None


class PeerInfo(Result):
    """One peer."""

    endpoint_id: EndpointIdHex
    state: Annotated[PeerStateFilter, Meta(description="`connected` means an authenticated live connection.")]
    origins: Annotated[list[PeerOrigin], Meta(description="How we learnt of it.")]
    path: Annotated[Path | None, Meta(description="How datagrams travel; null when not connected.")]
    address: Annotated[str | None, Meta(description="Address in use.")]
    rtt_ms: Annotated[int | None, Meta(description="Smoothed round trip time.")]
    topics: Annotated[list[TopicIdHex], Meta(description="Topics in which it is our neighbour.")]
    connected_ms: Annotated[int | None, Meta(description="Unix time of the connection.")]
    retry_at_ms: Annotated[int | None, Meta(description="Unix time of the next dial.")]
    last_error: Annotated[str | None, Meta(description="Error kind of the last failure.")]
    is_sidecar: Annotated[bool, Meta(description="It told that it is a sidecar too.")]
    score: Annotated[float, Meta(description="Local reputation.")]
    pinned: Annotated[bool, Meta(description="Never evicted.")]
    weight: Annotated[int, Meta(description="The application's opinion, -100 to 100.")]


class PeerListResult(Result):
    """One page of peers, ordered by endpoint id."""

    peers: Annotated[list[PeerInfo], Meta(description="The page.")]
    cursor: Cursor


# --- 4.6 Topics ------------------------------------------------------------------------------------------


class RendezvousParams(Params):
    """How to find who is in a topic."""

    schemes: Annotated[
        Annotated[list[Scheme], Meta(max_length=2)] | None,
        Meta(
            description="`announce`: addresses in the Mainline DHT · `tracker`: ids in it, as "
            "distributed-topic-tracker does (derive `sha512`). [] for none, null: the configured ones."
        ),
    ] = None
    secret_b64: Annotated[
        Annotated[bytes, Meta(min_length=1, max_length=256)] | None,
        Meta(description="Only who knows the same secret is found, standard base64."),
    ] = None


class TopicJoinParams(Params):
    """Params of `topic.join`; exactly one of `topic` and `topic_id`."""

    topic: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None,
        Meta(description="A name of 1 to 256 bytes UTF-8; `derive` makes an id of it."),
    ] = None
    derive: Annotated[
        Derive,
        Meta(
            description='`blake3` of the name · `kukuri_hint`: blake3("hint/" + name) · '
            "`sha512`: the first 32 bytes (distributed-topic-tracker)."
        ),
    ] = "blake3"
    topic_id: Annotated[TopicIdHex | None, Meta(description="The 32 bytes themselves.")] = None
    bootstrap: Annotated[
        Annotated[list[PeerText], Meta(max_length=64)], Meta(description="Peers to start with.")
    ] = []
    mode: Annotated[
        Mode | None,
        Meta(
            description="`raw`: bytes as they are · `auto`: publish raw, verify and unwrap envelopes · "
            "`signed`: only valid envelopes. null: the configured default. Fixed while joined."
        ),
    ] = None
    max_message_bytes: Annotated[
        Annotated[int, Meta(ge=512, le=1_048_576)] | None,
        Meta(description="Equal in the whole swarm. null: the configured default. Fixed while joined."),
    ] = None
    remember: Annotated[
        bool | None, Meta(description="Join again after a restart; null: as it was, false at first.")
    ] = None
    rendezvous: Annotated[
        RendezvousParams | None,
        Meta(description="How to find members by the topic's name; null: the configured schemes."),
    ] = None


class TopicJoinResult(Result):
    """The topic is joined or being joined; progress comes as `topic.state` events."""

    topic_id: TopicIdHex
    state: Annotated[TopicState, Meta(description="State right now.")]
    mode: Annotated[Mode, Meta(description="Effective mode.")]
    max_payload_bytes: Annotated[int, Meta(description="Largest payload `topic.publish` takes.")]
    created: Annotated[bool, Meta(description="false: the topic was joined already.")]


class TopicLeaveParams(Params):
    """Params of `topic.leave`."""

    topic_id: TopicIdHex


class TopicLeaveResult(Result):
    """The topic is left."""

    state: Annotated[TopicState, Meta(description="`left`.")]


class TopicPublishParams(Params):
    """Params of `topic.publish`."""

    topic_id: TopicIdHex
    payload_b64: Annotated[bytes, Meta(description="The payload, standard base64 with padding.")]
    scope: Annotated[
        Literal["swarm", "neighbors"], Meta(description="Everybody, or direct neighbours only.")
    ] = "swarm"
    if_isolated: Annotated[
        Literal["error", "queue"], Meta(description="Without neighbours: fail, or wait for the first one.")
    ] = "error"
    queue_ttl_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_TIMEOUT_MS,
            description="How long a queued message waits; a signed one 90 s at most, as signatures expire.",
        ),
    ] = 30_000
    confirm: Annotated[bool, Meta(description="A `topic.published` event follows.")] = False


class TopicPublishResult(Result):
    """What became of the message so far, and nothing more."""

    message_id: MessageIdHex
    state: Annotated[
        Literal["accepted", "queued"],
        Meta(description="`accepted`: handed to `neighbors` > 0 neighbours; `queued`: waits for one."),
    ]
    neighbors: Annotated[int, Meta(description="Neighbours it was handed to.")]


class TopicListParams(Params):
    """Params of `topic.list`."""

    topic_ids: Annotated[
        Annotated[list[TopicIdHex], Meta(max_length=PAGE_LIMIT)] | None,
        Meta(description="Only these; null: all."),
    ] = None
    limit: Limit = PAGE_LIMIT
    cursor: Cursor = None


class TopicInfo(Result):
    """One topic."""

    topic_id: TopicIdHex
    name: Annotated[str | None, Meta(description="Name given in `topic.join`.")]
    state: Annotated[TopicState, Meta(description="`joined` means at least one neighbour.")]
    mode: Annotated[Mode, Meta(description="Effective mode.")]
    path: Annotated[TopicPath | None, Meta(description="How the neighbours are reached.")]
    neighbors: Annotated[list[EndpointIdHex], Meta(description="Gossip neighbours.")]
    known_peers: Annotated[int, Meta(description="Members we know of.")]
    missing_bootstrap: Annotated[
        list[EndpointIdHex], Meta(description="Bootstrap peers that never answered.")
    ]
    remember: Annotated[bool, Meta(description="Joined again after a restart.")]
    max_payload_bytes: Annotated[int, Meta(description="Largest payload `topic.publish` takes.")]
    join_attempts: Annotated[int, Meta(description="Attempts so far.")]
    next_attempt_at_ms: Annotated[int | None, Meta(description="Unix time of the next attempt.")]
    last_received_ms: Annotated[int | None, Meta(description="Unix time of the last message.")]
    messages_in: Annotated[int, Meta(description="Messages delivered.")]
    messages_out: Annotated[int, Meta(description="Messages published.")]
    invalid: Annotated[int, Meta(description="Messages refused.")]
    lagged: Annotated[int, Meta(description="Events of this topic the host was too slow for.")]
    last_error: Annotated[str | None, Meta(description="Error kind of the last failure.")]


class TopicListResult(Result):
    """One page of topics, ordered by topic id."""

    topics: Annotated[list[TopicInfo], Meta(description="The page.")]
    cursor: Cursor


# --- 4.7 Feed --------------------------------------------------------------------------------------------

EventPattern = Annotated[
    str,
    Meta(
        pattern=r"^[a-z_.]{0,63}\*?$",
        max_length=64,
        description="An event type; a trailing `*` matches a group (`topic.*`). Unknown types match nothing.",
    ),
]


class EventsSubscribeParams(Params):
    """Params of `events.subscribe`."""

    types: Annotated[
        Annotated[list[EventPattern], Meta(max_length=64)] | None,
        Meta(description="Which events; null: all except `log`."),
    ] = None
    topic_ids: Annotated[
        Annotated[list[TopicIdHex], Meta(max_length=64)] | None,
        Meta(description="Of events that name a topic, only these; null: all."),
    ] = None


class EventsSubscribeResult(Result):
    """Events with this number follow the answer."""

    subscription: Annotated[int, Meta(description="Number of the subscription, never used twice.")]


class EventsUnsubscribeParams(Params):
    """Params of `events.unsubscribe`."""

    subscription: Annotated[int, Meta(description="As `events.subscribe` gave it.")]


class EventsUnsubscribeResult(Result):
    """No event of the subscription follows this answer."""

    last_seq: Annotated[int, Meta(description="`seq` of the last event that passed the filter.")]
    missed: Annotated[
        int, Meta(description="Events up to `last_seq` that no event and no `lagged` has told of.")
    ]


# --- 4.8 Insight -----------------------------------------------------------------------------------------


class LogGetParams(Params):
    """Params of `log.get`."""

    level: Annotated[LogLevel, Meta(description="This level and above.")] = "info"
    limit: Annotated[int, Meta(ge=1, le=1000, description="Lines at most.")] = 64


class LogLine(Result):
    """One log line; equal lines in a row are one line with a count."""

    ts_ms: Annotated[int, Meta(description="Unix time of the last occurrence.")]
    level: Annotated[LogLevel, Meta(description="Level.")]
    module: Annotated[str, Meta(description="Part of the sidecar.")]
    message: Annotated[str, Meta(description="English text; never a payload or a secret.")]
    repeated: Annotated[int, Meta(description="Occurrences in a row.")]


class LogGetResult(Result):
    """The newest lines, newest last."""

    lines: Annotated[list[LogLine], Meta(description="The lines.")]
    dropped: Annotated[int, Meta(description="Older lines that the ring no longer holds.")]


# --- 5 Events --------------------------------------------------------------------------------------------


class EventHeader(Struct):
    """What every event starts with; the fields of its type follow in the same object."""

    subscription: Annotated[int, Meta(description="The subscription it belongs to.")]
    seq: Annotated[int, Meta(description="Number within the subscription, from 1.")]
    ts_ms: Annotated[int, Meta(description="Unix time.")]


class Event(Struct, tag_field="type"):
    """Base of all events; the tag is the member `type`."""


class NodeChangedEvent(Event, tag="node.changed"):
    """Addresses, relay, `online` or NAT verdict changed (debounced 500 ms)."""

    endpoint_id: EndpointIdHex
    online: Annotated[Online, Meta(description="How far our packets are known to get.")]
    bound: Annotated[list[str], Meta(description="Local UDP sockets, `host:port`.")]
    addresses: Annotated[list[Address], Meta(description="Where we can be reached, as far as known.")]
    relay_url: Annotated[str | None, Meta(description="Our home relay.")]
    nat: Annotated[Nat, Meta(description="What kind of NAT is between us and the network.")]
    alpns: Annotated[list[str], Meta(description="Protocols we accept.")]
    version: Annotated[str, Meta(description="Version of the sidecar.")]
    api_version: Annotated[int, Meta(description="The contract this process speaks.")]


class PeerStateEvent(Event, tag="peer.state"):
    """A peer's connection state or path changed."""

    endpoint_id: EndpointIdHex
    state: Annotated[PeerState, Meta(description="`connected`: an authenticated live connection.")]
    path: Annotated[Path | None, Meta(description="How datagrams travel.")]
    rtt_ms: Annotated[int | None, Meta(description="Smoothed round trip time.")]
    reason: Annotated[str | None, Meta(description="An error kind or a close reason.")]


class TopicStateEvent(Event, tag="topic.state"):
    """A topic changed its state."""

    topic_id: TopicIdHex
    state: Annotated[TopicState, Meta(description="`joined` means at least one neighbour.")]
    neighbors: Annotated[int, Meta(description="Gossip neighbours.")]
    next_attempt_at_ms: Annotated[int | None, Meta(description="Unix time of the next attempt.")]
    reason: Annotated[str | None, Meta(description="An error kind or a close reason.")]


class PeerFoundEvent(Event, tag="discovery.peer_found"):
    """A source delivered something new; who is at a rendezvous address is learnt in the handshake."""

    endpoint_id: Annotated[EndpointIdHex | None, Meta(description="null: not known yet.")]
    source: Annotated[Literal["rendezvous", "dht"], Meta(description="Who found it.")]
    addresses: Annotated[list[str], Meta(description="Where to dial.")]
    relay_urls: Annotated[list[str], Meta(description="Relays to dial through.")]
    topic_id: Annotated[TopicIdHex | None, Meta(description="The topic that was searched for.")]
    request_id: Annotated[str | int | None, Meta(description="The request that asked for it.")]


class PublishedEvent(Event, tag="discovery.published"):
    """Our record was published in a sink, or could not be."""

    sink: Annotated[Sink, Meta(description="Where.")]
    ok: Annotated[bool, Meta(description="It is there.")]
    error: Annotated[str | None, Meta(description="Error kind of the failure.")]
    next_at_ms: Annotated[int | None, Meta(description="Unix time of the next publication.")]


class NeighborUpEvent(Event, tag="topic.neighbor_up"):
    """A peer became our gossip neighbour."""

    topic_id: TopicIdHex
    endpoint_id: EndpointIdHex
    reason: Annotated[None, Meta(description="Always null.")] = None


class NeighborDownEvent(Event, tag="topic.neighbor_down"):
    """A peer is no longer our gossip neighbour."""

    topic_id: TopicIdHex
    endpoint_id: EndpointIdHex
    reason: Annotated[NeighborDownReason, Meta(description="Who or what ended it.")]


class TopicMessageEvent(Event, tag="topic.message"):
    """A message, once. Order is kept per neighbour; per author only in `signed` mode."""

    topic_id: TopicIdHex
    message_id: MessageIdHex
    payload_b64: Annotated[bytes, Meta(description="The payload, standard base64 with padding.")]
    delivered_from: Annotated[EndpointIdHex, Meta(description="The neighbour who handed it to us.")]
    scope: Annotated[Literal["swarm", "neighbors"], Meta(description="How far it was sent.")]
    round: Annotated[int | None, Meta(description="Hops it came; null for scope `neighbors`.")]
    author: Annotated[EndpointIdHex | None, Meta(description="Signer of the envelope, when verified.")]
    verified: Annotated[bool, Meta(description="A signature was checked.")]
    author_seq: Annotated[int | None, Meta(description="The author's own count, when verified.")]


class TopicInvalidEvent(Event, tag="topic.invalid"):
    """Messages were refused: told for the first and every 100th of the topic."""

    topic_id: TopicIdHex
    count: Annotated[int, Meta(description="Refused messages of the topic so far.")]
    reason: Annotated[
        str,
        Meta(
            description="Of this one: `unsigned`, `malformed`, `expired`, `from_the_future`, `replayed`, "
            "`bad_signature` or `too_many`."
        ),
    ]
    delivered_from: Annotated[EndpointIdHex, Meta(description="The neighbour who handed it to us.")]


class TopicPublishedEvent(Event, tag="topic.published"):
    """Fate of a message published with `confirm`, or of a queued one."""

    topic_id: TopicIdHex
    message_id: MessageIdHex
    state: Annotated[
        Literal["acked", "expired", "failed"],
        Meta(description="`acked`: acknowledged by at least min(2, n) neighbours."),
    ]
    acked_by: Annotated[int, Meta(description="Neighbours that acknowledged it.")]


class LogEvent(Event, tag="log"):
    """A log line; only for subscriptions that ask for it."""

    level: Annotated[LogLevel, Meta(description="Level.")]
    module: Annotated[str, Meta(description="Part of the sidecar.")]
    message: Annotated[str, Meta(description="English text; never a payload or a secret.")]
    repeated: Annotated[int, Meta(description="Occurrences in a row.")]


class LaggedEvent(Event, tag="lagged"):
    """Events were lost because the host read too slowly; its `seq` is the first lost one."""

    topic_id: Annotated[
        TopicIdHex | None, Meta(description="Topic of the lost events; null for events without one.")
    ]
    missed: Annotated[int, Meta(description="Number of lost events.")]


EVENTS: tuple[type[Event], ...] = (
    NodeChangedEvent,
    PeerStateEvent,
    TopicStateEvent,
    PeerFoundEvent,
    PublishedEvent,
    NeighborUpEvent,
    NeighborDownEvent,
    TopicMessageEvent,
    TopicInvalidEvent,
    TopicPublishedEvent,
    LogEvent,
    LaggedEvent,
)


# --- 10 Errors -------------------------------------------------------------------------------------------


class ErrorData(Result):
    """`error.data` of every error; hosts switch on `kind`."""

    kind: Annotated[str, Meta(description="Never changes its meaning.")]
    retryable: Annotated[bool, Meta(description="The same call may succeed later.")]
    details: Annotated[
        dict[str, Any],  # Any: JSON; api.md section 10 names the keys of each kind
        Meta(description="Fields that belong to the kind."),
    ]
