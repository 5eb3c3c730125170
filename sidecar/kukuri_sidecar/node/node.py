"""The composition root: opens a profile, builds the services, runs and ends them in order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Literal

import anyio
from anyio.abc import TaskStatus

from kukuri_sidecar.errors import InvalidConfig
from kukuri_sidecar.net.clock import Instants, wall_ms
from kukuri_sidecar.net.interfaces import local_addresses
from kukuri_sidecar.net.quic import QuicConfig, QuicEndpoint, QuicLimits
from kukuri_sidecar.node import identity
from kukuri_sidecar.node.address_book import AddressBook
from kukuri_sidecar.node.agenda import Agenda
from kukuri_sidecar.node.config import (
    Config,
    Layer,
    drop_unknown,
    from_environment,
    from_file,
    parse_bind,
    resolve,
)
from kukuri_sidecar.node.dht import Dht
from kukuri_sidecar.node.discovery.dht import DhtRecords
from kukuri_sidecar.node.discovery.freshness import Freshness
from kukuri_sidecar.node.discovery.provider import select
from kukuri_sidecar.node.discovery.publisher import Publisher
from kukuri_sidecar.node.discovery.service import Discovery
from kukuri_sidecar.node.envelopes import Envelopes
from kukuri_sidecar.node.events import Emit, NodeChanged, NodeInfo
from kukuri_sidecar.node.gossip_link import MAX_STREAM_BACKLOG_BYTES
from kukuri_sidecar.node.memory import Keeper, Memory, RememberedPeer, RememberedRecord, RememberedTopic
from kukuri_sidecar.node.own_addresses import online, own_addresses
from kukuri_sidecar.node.peers import Peers
from kukuri_sidecar.node.profile import Profile, default_data_dir
from kukuri_sidecar.node.rendezvous.service import Rendezvous
from kukuri_sidecar.node.topics import Topics
from kukuri_sidecar.proto.core import Rng
from kukuri_sidecar.proto.dht.config import DhtConfig
from kukuri_sidecar.proto.gossip.config import GossipConfig, MembershipConfig
from kukuri_sidecar.wire.addr import EndpointAddr, HostPort, SocketAddr
from kukuri_sidecar.wire.capabilities import OURS, encode_capabilities
from kukuri_sidecar.wire.gossip_messages import ALPN as GOSSIP_ALPN
from kukuri_sidecar.wire.ids import EndpointId
from kukuri_sidecar.wire.keys import SecretKey
from kukuri_sidecar.wire.peer_data import encode_peer_data
from kukuri_sidecar.wire.ticket import encode_ticket, parse_peer

CONFIG_FILE = "config.json"
WATCH_INTERVAL_S = 5.0  # how often interfaces are looked at; a look costs half a millisecond
MIN_STREAMS = 128  # trust.md M2: that a peer may open towards us
CLOSE_GRACE_S = 0.5  # for the close frames of a shutdown


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What ``initialize`` decides. ``config`` and ``bundle`` are raw layers."""

    data_dir: Path | None = None  # None: the platform's own place
    ephemeral: bool = False
    secret_key_seed: bytes | None = field(default=None, repr=False)
    config: Layer = field(default_factory=dict)
    bundle: Layer = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening the profile found."""

    identity: identity.Origin
    locked: tuple[str, ...]
    warnings: tuple[str, ...]
    restored_topics: int


@dataclass(frozen=True, slots=True)
class ShutdownReport:
    """``graceful``: every goodbye was acknowledged within the deadline."""

    graceful: bool
    left_topics: int
    closed_connections: int
    unsent_messages: int


class Node:
    """One endpoint with its topics. ``open`` touches the disk only, ``run`` the network."""

    def __init__(
        self,
        secret: SecretKey,
        config: Config,
        emit: Emit,
        *,
        opened: Opened,
        profile: Profile | None,
        memory: Memory | None,
        remembered: Sequence[RememberedTopic],
    ) -> None:
        self.endpoint_id: EndpointId = secret.endpoint_id
        self.config = config
        self.opened = opened
        self._profile = profile
        self._remembered = remembered
        self._emit = emit
        rng = SystemRandom()
        self._agenda = Agenda()
        self._book = AddressBook()
        self.peers = Peers(
            own_id=self.endpoint_id,
            alpn=GOSSIP_ALPN,
            config=config,
            book=self._book,
            emit=emit,
            rng=rng,
            wall_ms=wall_ms,
        )
        self._dht = (
            Dht(
                config=DhtConfig(mode=config.dht.mode),
                bootstrap=config.dht.bootstrap_nodes,
                agenda=self._agenda,
                rng=rng,
                send=lambda datagrams: self._endpoint.send_datagrams(datagrams),
                on_public_address=self._look_around,
                saved={},
            )
            if config.enable_dht
            else None
        )
        self._endpoint = QuicEndpoint(
            secret,
            _quic_config(config),
            alpns=[GOSSIP_ALPN],
            accept=self.peers.accepted,
            rng=rng,
            other_datagrams=self._dht.datagrams if self._dht else None,
        )
        self._rendezvous = Rendezvous(
            identity=secret,
            dht=self._dht,
            peers=self.peers,
            own_addresses=self._own_addresses,
            port=lambda: self._endpoint.bound[0].port,
            emit=emit,
            rng=rng,
            wall_ms=wall_ms,
        )
        self._freshness = Freshness(wall_ms)
        self.discovery = self._discovery(secret, config, rng)
        self.topics = Topics(
            own_id=self.endpoint_id,
            core_config=_gossip_config(config),
            config=config,
            peers=self.peers,
            agenda=self._agenda,
            emit=emit,
            rng=rng,
            wall_ms=wall_ms,
            bootstrap=tuple(parse_peer(text) for text in config.bootstrap_peers),
            envelopes=Envelopes(secret, rng, wall_ms),
            rendezvous=self._rendezvous,
        )
        swarm = self.topics.swarm
        find = self.discovery.find if self.discovery.can_find else None
        self.peers.wire(self._endpoint, swarm.user_for, swarm.unreachable, self.topics.topics_of, find)
        self._keeper = (
            Keeper(memory, self.topics.remembered, self._met_peers, self._seen_records) if memory else None
        )
        announces = config.gossip.announce_capabilities
        self._extension = encode_capabilities(OURS) if announces else b""
        self._interfaces: tuple[str, ...] = ()
        self._shown: NodeInfo | None = None

    @classmethod
    async def open(cls, options: NodeOptions, emit: Emit) -> Node:
        """Take the profile, load the identity, check the configuration. Opens no socket.

        Raises InvalidConfig, ProfileInUse, IdentityCorrupt, StorageError; then nothing is held.
        """
        if options.ephemeral:
            return cls._compose(options, None, emit)
        path = options.data_dir or default_data_dir()
        profile = await anyio.to_thread.run_sync(Profile.open, path)
        try:
            return await anyio.to_thread.run_sync(cls._compose, options, profile, emit)
        except BaseException:
            profile.close()
            raise

    @classmethod
    def _compose(cls, options: NodeOptions, profile: Profile | None, emit: Emit) -> Node:
        """Blocks on the disk when there is a profile."""
        user, warnings = _user_layer(profile)
        bundle, unknown = drop_unknown(options.bundle)
        warnings += [f"bundle configuration: unknown key {name} ignored" for name in unknown]
        env, strangers = from_environment(os.environ)
        warnings += [f"environment: {name} names no configuration field" for name in strangers]
        effective = resolve({"bundle": bundle, "user": user, "host": options.config, "env": env})
        secret, origin = identity.choose(options.secret_key_seed, profile)
        memory = Memory(profile) if profile and effective.config.persist_peers else None
        topics = memory.topics() if memory else []
        peers = memory.peers(wall_ms()) if memory else []
        records = memory.records() if memory else []
        warnings += memory.warnings if memory else []
        most = effective.config.limits.topics
        if len(topics) > most:
            warnings.append(f"{len(topics) - most} remembered topics are forgotten: limits.topics is {most}")
            topics = topics[:most]
        node = cls(
            secret,
            effective.config,
            emit,
            opened=Opened(origin, effective.locked, tuple(warnings), len(topics)),
            profile=profile,
            memory=memory,
            remembered=topics,
        )
        for peer in peers:
            node._book.prove(peer.id, peer.place, peer.seen_ms)
        node._freshness.restore((record.id, record.timestamp_us) for record in records)
        return node

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Bind the sockets, then serve until cancelled. ``started`` means bound.

        Raises InvalidConfig when an address cannot be bound.
        """
        try:
            async with anyio.create_task_group() as tasks:
                try:
                    await tasks.start(self._endpoint.run)
                except OSError as exc:
                    raise _cannot_bind(exc) from exc
                await tasks.start(self._agenda.run)
                await tasks.start(self.peers.run)
                if self._dht:
                    await tasks.start(self._dht.run, self._endpoint.bound)
                await tasks.start(self._rendezvous.run)
                await tasks.start(self.discovery.run)
                self._look_around()
                tasks.start_soon(self._watch_addresses)
                for text in self.config.bootstrap_peers:
                    hint = parse_peer(text)
                    self.peers.learn(hint, "bootstrap")
                    self.peers.want(hint.endpoint_id, for_host=True)
                for topic in self._remembered:
                    await self.topics.restore(topic)
                if self._keeper:
                    tasks.start_soon(self._keeper.run)
                task_status.started()
        finally:
            if self._profile:
                self._profile.close()

    async def shutdown(self, deadline_s: float) -> ShutdownReport:
        """Leave the topics, wait for the acknowledgements, close the connections; at most ``deadline_s``."""
        deadline = anyio.current_time() + deadline_s
        if self._keeper:
            await self._keeper.save()
        unsent = sum(self.topics.queued_messages)
        closed = len(list(self._endpoint.connections))  # some close as soon as their topic is left
        left = self.topics.leave_all()
        with anyio.CancelScope(deadline=deadline - CLOSE_GRACE_S):
            await self.topics.swarm.wait_acknowledged()
        graceful = self.topics.swarm.backlog_bytes == 0
        await self._endpoint.close_all(0, "", max(0.0, deadline - anyio.current_time()))
        return ShutdownReport(graceful, left, closed, unsent)

    def info(self) -> NodeInfo:
        """Say who and where we are."""
        seen = self._dht.public_addresses if self._dht else ()
        addresses = own_addresses(self._endpoint.bound, self._interfaces, self.config.net.advertise, seen)
        connected = [connection.address for connection in self._endpoint.connections]
        return NodeInfo(
            endpoint_id=self.endpoint_id,
            online=online(self._interfaces, connected),
            bound=tuple(self._endpoint.bound),
            addresses=addresses,
            relay_url=None,
            nat="unknown",
            alpns=(GOSSIP_ALPN,),
        )

    def ticket(
        self, kind: Literal["iroh", "address"], include: Literal["all", "direct", "relay"]
    ) -> tuple[str | None, str | None]:
        """Return (ticket, None), or (None, reason) when nothing dialable of the wanted kind is known."""
        direct = [] if include == "relay" else [address for address, _ in self.info().addresses]
        if not direct:
            return None, "no relay is in use" if include == "relay" else "no address is known"
        if kind == "address":
            return f"{self.endpoint_id.hex()}@{HostPort(*direct[0])}", None
        return encode_ticket(EndpointAddr(self.endpoint_id, tuple(direct))), None

    def _discovery(self, secret: SecretKey, config: Config, rng: Rng) -> Discovery:
        if self._dht is None:
            return Discovery([], [], self._emit)
        dht = DhtRecords(
            self._dht,
            secret,
            self._freshness,
            self._own_addresses,
            ttl_s=config.publish.record_ttl_s,
            wall_ms=wall_ms,
        )
        publisher = Publisher(
            dht,
            lambda: select(config.publish.dht, self._own_addresses()),
            interval_s=config.dht.republish_interval_ms / 1000,
            emit=self._emit,
            rng=rng,
            instants=Instants(wall_ms),
        )
        return Discovery([dht], [publisher], self._emit)

    def _own_addresses(self) -> tuple[SocketAddr, ...]:
        return tuple(address for address, _ in self.info().addresses)

    def _seen_records(self) -> list[RememberedRecord]:
        return [
            RememberedRecord(endpoint_id.hex(), timestamp_us)
            for endpoint_id, timestamp_us in self._freshness.newest().items()
        ]

    def _met_peers(self) -> list[RememberedPeer]:
        return [
            RememberedPeer(endpoint_id.hex(), str(place), seen_ms)
            for endpoint_id, place, seen_ms in self._book.proven()
        ]

    async def _watch_addresses(self) -> None:
        while True:
            await anyio.sleep(WATCH_INTERVAL_S)
            self._look_around()

    def _look_around(self) -> None:
        """Notice new and lost addresses, tell the swarm and the host."""
        self._interfaces = local_addresses()
        info = self.info()
        if info == self._shown:
            return
        if self._shown is None or info.addresses != self._shown.addresses:
            self.topics.set_own_data(
                encode_peer_data(None, [address for address, _ in info.addresses], self._extension)
            )
            if self._shown is not None:
                self.peers.network_changed()
                self.topics.network_changed()
            self.discovery.addresses_changed()
        self._shown = info
        self._emit(NodeChanged(info))


def _user_layer(profile: Profile | None) -> tuple[Layer, list[str]]:
    data = profile.read(CONFIG_FILE) if profile else None
    if data is None:
        return {}, []
    known, unknown = from_file(data, CONFIG_FILE)
    return known, [f"{CONFIG_FILE}: unknown key {name} ignored" for name in unknown]


def _quic_config(config: Config) -> QuicConfig:
    connect = config.connect
    return QuicConfig(
        bind_v4=_bind(config.net.bind_v4, "net.bind_v4"),
        bind_v6=_bind(config.net.bind_v6, "net.bind_v6"),
        limits=QuicLimits(
            max_connections=config.max_peers,
            handshakes_per_s=config.limits.handshakes_per_s,
            handshake_burst=2 * config.limits.handshakes_per_s,
            handshake_deadline_s=connect.handshake_timeout_ms / 1000,
            idle_s=connect.idle_timeout_ms / 1000,
            dead_after_s=connect.dead_after_ms / 1000,
            keep_alive_s=connect.keepalive_interval_ms / 1000,
            max_stream_backlog_bytes=MAX_STREAM_BACKLOG_BYTES,
            streams_uni=max(MIN_STREAMS, 2 * config.limits.topics),  # a topic ends its stream for another one
        ),
    )


def _cannot_bind(exc: OSError) -> InvalidConfig:
    address = str(exc.filename)
    field_name = "net.bind_v6" if address.startswith("[") else "net.bind_v4"
    return InvalidConfig(f"{field_name}: {address}: {exc.strerror}", field=field_name, index=None)


def _bind(text: str | None, field_name: str) -> SocketAddr | None:
    return None if text is None else parse_bind(text, field_name)


def _gossip_config(config: Config) -> GossipConfig:
    return GossipConfig(membership=MembershipConfig(active_view=config.gossip.active_view))
