"""The methods of the contract: JSON values in, node values inside, JSON values out.

Every docstring here is public documentation: ``rpc.schema`` copies it. Nothing heavy is imported at module
level; by the time a method that needs the node runs, ``initialize`` has loaded it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Raw

from kukuri_sidecar import __version__
from kukuri_sidecar.errors import (
    AlreadyInitialized,
    DecodeError,
    DialTimeout,
    HandshakeFailed,
    IdentityCorrupt,
    IdentityMismatch,
    InvalidConfig,
    InvalidParams,
    InvalidPeer,
    MessageTooLarge,
    ModeMismatch,
    NoAddresses,
    NoNeighbors,
    Offline,
    PeerBlocked,
    ProfileInUse,
    ProtocolMismatch,
    RateLimited,
    Refused,
    StorageError,
    UnknownPeer,
    UnknownSubscription,
    UnknownTopic,
)
from kukuri_sidecar.rpc import api
from kukuri_sidecar.rpc.registry import Call, rpc, table

if TYPE_CHECKING:
    from kukuri_sidecar.node.events import NodeInfo
    from kukuri_sidecar.node.node import NodeOptions, ShutdownReport
    from kukuri_sidecar.node.peers import PeerInfo
    from kukuri_sidecar.node.topics import TopicInfo
    from kukuri_sidecar.wire.addr import PeerHint
    from kukuri_sidecar.wire.ids import EndpointId, TopicId

_ItemT = TypeVar("_ItemT")

MS_PER_S = 1000


# --- Process -----------------------------------------------------------------------------------------------


@rpc(
    "initialize",
    early=True,
    errors=(
        ProtocolMismatch,
        AlreadyInitialized,
        InvalidConfig,
        ProfileInUse,
        IdentityCorrupt,
        StorageError,
    ),
)
async def initialize(call: Call, params: api.InitializeParams) -> api.InitializeResult:
    """Open the profile and start the node.

    Opens the profile (lock, identity, caches), applies the configuration, binds sockets and returns. It never
    waits for the network; everything after that is events. After an error it may be tried again.
    """
    if params.api_version != api.API_VERSION:
        raise ProtocolMismatch(
            f"api_version {params.api_version} is not spoken here", supported=[api.API_VERSION]
        )
    if params.data_dir is not None and not _is_absolute(params.data_dir):
        raise _invalid("data_dir", "an absolute path is expected")
    node = await call.server.initialize(lambda: _node_options(params))
    opened = node.opened
    return api.InitializeResult(
        api_version=api.API_VERSION,
        version=__version__,
        schema_hash=call.server.schema_hash,
        endpoint_id=node.endpoint_id.hex(),
        identity=opened.identity,
        locked=list(opened.locked),
        warnings=list(opened.warnings),
        restored_topics=opened.restored_topics,
    )


@rpc("shutdown", early=True)
def shutdown(call: Call, params: api.ShutdownParams) -> Awaitable[api.ShutdownResult]:
    """Leave topics, close connections, stop; the process exits 0 after the answer is written."""
    call.after_answer(call.server.leave)
    return _shutdown_result(call, call.server.shutdown(params.deadline_ms / MS_PER_S, call))


async def _shutdown_result(call: Call, stopping: Awaitable[ShutdownReport | None]) -> api.ShutdownResult:
    report = await stopping
    if report is None:
        is_graceful = not call.server.has_node
        return api.ShutdownResult(
            graceful=is_graceful, left_topics=0, closed_connections=0, unsent_messages=0
        )
    return api.ShutdownResult(
        graceful=report.graceful,
        left_topics=report.left_topics,
        closed_connections=report.closed_connections,
        unsent_messages=report.unsent_messages,
    )


@rpc("ping", early=True)
def ping(call: Call) -> api.PingResult:
    """Watchdog: served at any time, ahead of waiting requests."""
    server = call.server
    return api.PingResult(uptime_ms=server.uptime_ms(), loop_lag_ms=server.loop_lag_ms())


@rpc("rpc.discover", early=True)
def rpc_discover(call: Call) -> Raw:
    """Return this OpenRPC document, the same as `rpc-schema/openrpc.json` and `kukuri-sidecar --openrpc`."""
    return Raw(call.server.openrpc)


# --- Node --------------------------------------------------------------------------------------------------


@rpc("node.info")
def node_info(call: Call) -> api.NodeInfoResult:
    """Say who and where we are."""
    return api.NodeInfoResult(**node_info_fields(call.server.node.info()))


@rpc("node.ticket")
def node_ticket(call: Call, params: api.NodeTicketParams) -> api.NodeTicketResult:
    """Return a string another user can paste.

    When nothing dialable is known the ticket is null with a reason; an address is never invented. Importing
    needs no method: wherever a peer is expected a ticket is accepted.
    """
    ticket, reason = call.server.node.ticket(params.kind, params.include)
    return api.NodeTicketResult(ticket=ticket, reason=reason)


# --- Discovery ---------------------------------------------------------------------------------------------


@rpc("discovery.resolve", errors=(NoAddresses, Offline))
async def discovery_resolve(call: Call, params: api.DiscoveryResolveParams) -> api.DiscoveryResolveResult:
    """Find addresses of an endpoint id; all enabled sources race.

    Every find is also a `discovery.peer_found` event with this request's id. A failing source is data, not an
    error; `no_addresses` only when nothing was found.
    """
    endpoint_id = _endpoint_id(params.endpoint_id)
    asked_by = call.request_id
    resolved = await call.server.node.discovery.resolve(
        endpoint_id,
        params.sources,
        timeout_s=params.timeout_ms / MS_PER_S,
        until_first=params.until == "first",
        request_id=asked_by if isinstance(asked_by, str | int) else None,
    )
    return api.DiscoveryResolveResult(
        endpoint_id=endpoint_id.hex(),
        addresses=[
            api.ResolvedAddress(address=str(address), sources=[literal(source) for source in sources])
            for address, sources in resolved.addresses.items()
        ],
        relay_urls=list(resolved.relay_urls),
        latency_ms={source: round(MS_PER_S * s) for source, s in resolved.latency_s.items()},
        source_errors=resolved.source_errors,
    )


@rpc("discovery.publish", errors=(NoAddresses, Offline))
async def discovery_publish(call: Call, params: api.DiscoveryPublishParams) -> api.DiscoveryPublishResult:
    """Publish our record now; it is otherwise published on change and on schedule."""
    publications = await call.server.node.discovery.publish(params.sinks)
    return api.DiscoveryPublishResult(
        sinks=[
            api.SinkResult(
                sink=literal(one.sink),
                ok=one.ok,
                stored=one.stored,
                error=one.error,
                next_at_ms=one.next_at_ms,
            )
            for one in publications
        ]
    )


# --- Peers -------------------------------------------------------------------------------------------------


@rpc(
    "peer.connect",
    errors=(
        InvalidPeer,
        PeerBlocked,
        NoAddresses,
        DialTimeout,
        HandshakeFailed,
        IdentityMismatch,
        Refused,
        Offline,
    ),
)
async def peer_connect(call: Call, params: api.PeerConnectParams) -> api.PeerConnectResult:
    """Dial a peer and keep it."""
    hint = _peer(params.peer)
    peer = await call.server.node.peers.connect(hint, params.timeout_ms / MS_PER_S)
    return api.PeerConnectResult(
        endpoint_id=peer.endpoint_id.hex(),
        path=literal(peer.path),
        address=_text(peer.address),
        rtt_ms=peer.rtt_ms,
    )


@rpc("peer.disconnect", errors=(UnknownPeer,))
async def peer_disconnect(call: Call, params: api.PeerDisconnectParams) -> api.PeerDisconnectResult:
    """Close the connection; `forget` also drops what we remember about the peer."""
    endpoint_id = _endpoint_id(params.endpoint_id)
    was_connected = await call.server.node.peers.disconnect(endpoint_id, forget=params.forget)
    return api.PeerDisconnectResult(was_connected=was_connected)


@rpc("peer.list")
def peer_list(call: Call, params: api.PeerListParams) -> api.PeerListResult:
    """List peers by origin, state, topic or id; filters combine."""
    only = None if params.endpoint_id is None else _endpoint_id(params.endpoint_id)
    topic_id = None if params.topic_id is None else _topic_id(params.topic_id, "topic_id")
    peers = [
        peer
        for peer in call.server.node.peers.list()
        if (only is None or peer.endpoint_id == only)
        and (params.origin is None or params.origin in peer.origins)
        and (params.state is None or params.state == peer.state)
        and (topic_id is None or topic_id in peer.topics)
    ]
    page, cursor = _page(peers, lambda peer: peer.endpoint_id, params.limit, params.cursor)
    return api.PeerListResult(peers=[_peer_info(peer) for peer in page], cursor=cursor)


# --- Topics ------------------------------------------------------------------------------------------------


@rpc("topic.join", errors=(InvalidPeer, ModeMismatch))
async def topic_join(call: Call, params: api.TopicJoinParams) -> api.TopicJoinResult:
    """Join a topic, or extend a joined one.

    Answers at once; progress is `topic.state` events. A second call adds peers; nothing is rebuilt. `mode`
    and `max_message_bytes` are fixed while joined.
    """
    from kukuri_sidecar.node.envelopes import Mode
    from kukuri_sidecar.node.topics import JoinRequest

    if (params.topic is None) == (params.topic_id is None):
        raise _invalid("topic", "exactly one of topic and topic_id is expected")
    if params.topic is not None:
        topic_id = _derive(params.topic, params.derive)
    else:
        topic_id = _topic_id(params.topic_id or "", "topic_id")
    node = call.server.node
    asked = None if params.rendezvous is None else params.rendezvous.schemes
    schemes = node.config.rendezvous.schemes if asked is None else asked
    joined = await node.topics.join(
        JoinRequest(
            topic_id=topic_id,
            name=params.topic,
            bootstrap=tuple(_peer(text, index) for index, text in enumerate(params.bootstrap)),
            mode=None if params.mode is None else Mode(params.mode),
            max_message_bytes=params.max_message_bytes,
            remember=params.remember,
            rendezvous=tuple(schemes),
            secret=None if params.rendezvous is None else params.rendezvous.secret_b64,
        )
    )
    return api.TopicJoinResult(
        topic_id=joined.topic_id.hex(),
        state=literal(joined.state),
        mode=literal(joined.mode),
        max_payload_bytes=joined.max_payload_bytes,
        created=joined.created,
    )


@rpc("topic.leave", errors=(UnknownTopic,))
async def topic_leave(call: Call, params: api.TopicLeaveParams) -> api.TopicLeaveResult:
    """Say goodbye and stop."""
    state = await call.server.node.topics.leave(_topic_id(params.topic_id, "topic_id"))
    return api.TopicLeaveResult(state=literal(state))


@rpc("topic.publish", errors=(UnknownTopic, MessageTooLarge, NoNeighbors, RateLimited))
def topic_publish(call: Call, params: api.TopicPublishParams) -> api.TopicPublishResult:
    """Send bytes to a joined topic.

    The result promises only what it says: `accepted` means handed to `neighbors` > 0 neighbours, `queued`
    means waiting for the first one, without durability. Sending to several topics is a batch.

    In `signed` mode it takes 50 messages a second, 100 at once, over all topics: receivers refuse more.
    While every neighbour is behind with reading, `rate_limited` says when to try again.
    """
    published = call.server.node.topics.publish(
        _topic_id(params.topic_id, "topic_id"),
        params.payload_b64,
        neighbors_only=params.scope == "neighbors",
        queue=params.if_isolated == "queue",
        queue_ttl_s=params.queue_ttl_ms / MS_PER_S,
        confirm=params.confirm,
    )
    return api.TopicPublishResult(
        message_id=published.message_id.hex(), state=published.state, neighbors=published.neighbors
    )


@rpc("topic.list")
def topic_list(call: Call, params: api.TopicListParams) -> api.TopicListResult:
    """List the joined topics, or those in `topic_ids`; ids that are not joined are left out."""
    only = params.topic_ids
    wanted = None if only is None else [_topic_id(x, f"topic_ids[{i}]") for i, x in enumerate(only)]
    topics = call.server.node.topics.list(wanted)
    page, cursor = _page(topics, lambda topic: topic.topic_id, params.limit, params.cursor)
    return api.TopicListResult(
        topics=[_topic_info(topic, call.server.feed.missed_of(topic.topic_id.hex())) for topic in page],
        cursor=cursor,
    )


# --- Feed --------------------------------------------------------------------------------------------------


@rpc("events.subscribe", early=True)
def events_subscribe(call: Call, params: api.EventsSubscribeParams) -> api.EventsSubscribeResult:
    """Stream events as `event` notifications; at most 8 subscriptions.

    Subscribe before `initialize` and no event is missed. Events never come before this answer.
    """
    feed = call.server.feed
    number = feed.subscribe(params.types, params.topic_ids)
    call.after_answer(lambda: feed.release(number))
    return api.EventsSubscribeResult(subscription=number)


@rpc("events.unsubscribe", early=True, errors=(UnknownSubscription,))
def events_unsubscribe(call: Call, params: api.EventsUnsubscribeParams) -> api.EventsUnsubscribeResult:
    """End a subscription; no event of it follows the answer."""
    last_seq, missed = call.server.feed.unsubscribe(params.subscription)
    return api.EventsUnsubscribeResult(last_seq=last_seq, missed=missed)


# --- Insight -----------------------------------------------------------------------------------------------


@rpc("log.get")
def log_get(call: Call, params: api.LogGetParams) -> api.LogGetResult:
    """Return the last lines of the log ring (at most 1000 kept, repeats collapsed), newest last."""
    lines, dropped = call.server.logs.tail(params.level, params.limit)
    return api.LogGetResult(lines=lines, dropped=dropped)


METHODS = table(
    initialize,
    shutdown,
    ping,
    rpc_discover,
    node_info,
    node_ticket,
    discovery_resolve,
    discovery_publish,
    peer_connect,
    peer_disconnect,
    peer_list,
    topic_join,
    topic_leave,
    topic_publish,
    topic_list,
    events_subscribe,
    events_unsubscribe,
    log_get,
)


# --- Values to JSON ----------------------------------------------------------------------------------------


def node_info_fields(info: NodeInfo) -> dict[str, Any]:  # Any: the fields of two structs, as keywords
    """Return the fields that `node.info` and `node.changed` share."""
    return {
        "endpoint_id": info.endpoint_id.hex(),
        "online": literal(info.online),
        "bound": [str(address) for address in info.bound],
        "addresses": [
            api.Address(address=str(address), source=literal(source)) for address, source in info.addresses
        ],
        "relay_url": info.relay_url,
        "nat": info.nat,
        "alpns": list(info.alpns),
        "version": __version__,
        "api_version": api.API_VERSION,
    }


def _peer_info(peer: PeerInfo) -> api.PeerInfo:
    return api.PeerInfo(
        endpoint_id=peer.endpoint_id.hex(),
        state=literal(peer.state),
        origins=[literal(origin) for origin in peer.origins],
        path=literal(peer.path),
        address=_text(peer.address),
        rtt_ms=peer.rtt_ms,
        topics=[topic_id.hex() for topic_id in peer.topics],
        connected_ms=peer.connected_ms,
        retry_at_ms=peer.retry_at_ms,
        last_error=peer.last_error,
        is_sidecar=peer.is_sidecar,
        score=0.0,  # nothing rates peers yet; peer.set does not exist yet
        pinned=False,
        weight=0,
    )


def _topic_info(topic: TopicInfo, lagged: int) -> api.TopicInfo:
    return api.TopicInfo(
        topic_id=topic.topic_id.hex(),
        name=topic.name,
        state=literal(topic.state),
        mode=literal(topic.mode),
        path=literal(topic.path),
        neighbors=[endpoint_id.hex() for endpoint_id in topic.neighbors],
        known_peers=topic.known_peers,
        missing_bootstrap=[endpoint_id.hex() for endpoint_id in topic.missing_bootstrap],
        remember=topic.remember,
        max_payload_bytes=topic.max_payload_bytes,
        join_attempts=topic.join_attempts,
        next_attempt_at_ms=topic.next_attempt_at_ms,
        last_received_ms=topic.last_received_ms,
        messages_in=topic.messages_in,
        messages_out=topic.messages_out,
        invalid=topic.invalid,
        lagged=lagged,
        last_error=topic.last_error,
    )


def literal(value: str | None) -> Any:
    """Pass a node enum's value to a Literal field. Any: a test compares the enums with the Literals."""
    return None if value is None else str(value)


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


# --- JSON to values ----------------------------------------------------------------------------------------


def _node_options(params: api.InitializeParams) -> NodeOptions:
    from pathlib import Path

    from kukuri_sidecar.node.node import NodeOptions

    seed = params.secret_key_hex
    return NodeOptions(
        data_dir=None if params.data_dir is None else Path(params.data_dir),
        ephemeral=params.ephemeral,
        secret_key_seed=None if seed is None else bytes.fromhex(seed),
        config=params.config,
    )


def _is_absolute(path: str) -> bool:
    return os.path.isabs(path) and "\0" not in path


def _invalid(path: str, reason: str) -> InvalidParams:
    return InvalidParams(f"{path}: {reason}", path=path, reason=reason)


def _peer(text: str, index: int | None = None) -> PeerHint:
    from kukuri_sidecar.wire.ticket import parse_peer

    try:
        return parse_peer(text)
    except DecodeError as exc:
        where = {} if index is None else {"index": index}
        raise InvalidPeer(
            f"{exc.codec}: {exc.reason}", segment=exc.codec, reason=exc.reason, **where
        ) from None


def _endpoint_id(text: str) -> EndpointId:
    from kukuri_sidecar.wire.ticket import parse_endpoint_id

    try:
        return parse_endpoint_id(text)
    except DecodeError as exc:
        raise _invalid("endpoint_id", exc.reason) from None


def _topic_id(text: str, path: str) -> TopicId:
    from kukuri_sidecar.wire.ids import TopicId

    try:
        return TopicId.from_hex(text)
    except DecodeError as exc:
        raise _invalid(path, exc.reason) from None


def _derive(name: str, derive: api.Derive) -> TopicId:
    from kukuri_sidecar.wire.hashes import derive_topic_id

    try:
        return derive_topic_id(name, derive)
    except DecodeError as exc:
        raise _invalid("topic", exc.reason) from None


def _page(
    items: Sequence[_ItemT], key: Callable[[_ItemT], bytes], limit: int, cursor: str | None
) -> tuple[list[_ItemT], str | None]:
    """Cut one page out of ``items``, ordered by ``key``; the cursor is the last key of the page before."""
    try:
        after = b"" if cursor is None else bytes.fromhex(cursor)
    except ValueError:
        raise _invalid("cursor", "not a cursor of ours") from None
    rest = sorted((item for item in items if key(item) > after), key=key)
    page = rest[:limit]
    return page, key(page[-1]).hex() if len(rest) > limit else None
