"""Node events to the events of the contract. Imported with the node, not at start."""

from __future__ import annotations

from typing import assert_never

from kukuri_sidecar.node import events as node
from kukuri_sidecar.rpc import api
from kukuri_sidecar.rpc.methods import literal, node_info_fields


def translate(event: node.NodeEvent) -> api.Event:
    """Return what the host sees of a node event."""
    match event:
        case node.TopicMessage():
            return api.TopicMessageEvent(
                topic_id=event.topic_id.hex(),
                message_id=event.message_id.hex(),
                payload_b64=event.payload,
                delivered_from=event.delivered_from.hex(),
                scope="neighbors" if event.round is None else "swarm",
                round=event.round,
                author=None if event.author is None else event.author.hex(),
                verified=event.author is not None,
                author_seq=event.author_seq,
            )
        case node.CandidateFound():
            return api.PeerFoundEvent(
                endpoint_id=None if event.endpoint_id is None else event.endpoint_id.hex(),
                source="rendezvous",
                addresses=[] if event.address is None else [str(event.address)],
                relay_urls=[],
                topic_id=event.topic_id.hex(),
                request_id=None,
            )
        case node.EndpointFound():
            return api.PeerFoundEvent(
                endpoint_id=event.endpoint_id.hex(),
                source=literal(event.source),
                addresses=[str(address) for address in event.addresses],
                relay_urls=list(event.relay_urls),
                topic_id=None,
                request_id=event.request_id,
            )
        case node.RecordPublished():
            return api.PublishedEvent(
                sink=literal(event.sink), ok=event.ok, error=event.error, next_at_ms=event.next_at_ms
            )
        case node.NodeChanged():
            return api.NodeChangedEvent(**node_info_fields(event.info))
        case node.PeerChanged():
            return api.PeerStateEvent(
                endpoint_id=event.endpoint_id.hex(),
                state=literal(event.state),
                path=literal(event.path),
                rtt_ms=event.rtt_ms,
                reason=event.reason,
            )
        case node.TopicChanged():
            return api.TopicStateEvent(
                topic_id=event.topic_id.hex(),
                state=literal(event.state),
                neighbors=event.neighbors,
                next_attempt_at_ms=event.next_attempt_at_ms,
                reason=event.reason,
            )
        case node.NeighborUp():
            return api.NeighborUpEvent(topic_id=event.topic_id.hex(), endpoint_id=event.endpoint_id.hex())
        case node.NeighborDown():
            return api.NeighborDownEvent(
                topic_id=event.topic_id.hex(),
                endpoint_id=event.endpoint_id.hex(),
                reason=literal(event.reason),
            )
        case node.TopicInvalid():
            return api.TopicInvalidEvent(
                topic_id=event.topic_id.hex(),
                count=event.count,
                reason=event.reason,
                delivered_from=event.delivered_from.hex(),
            )
        case node.TopicPublished():
            return api.TopicPublishedEvent(
                topic_id=event.topic_id.hex(),
                message_id=event.message_id.hex(),
                state=literal(event.state),
                acked_by=event.acked_by,
            )
        case _:
            assert_never(event)
