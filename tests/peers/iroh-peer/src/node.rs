//! The endpoint, the gossip instance and the joined topics; executes commands one after the other.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use data_encoding::BASE64;
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey,
    address_lookup::{AddrFilter, memory::MemoryLookup},
    endpoint::{NetReportConfig, PortmapperConfig, presets},
    protocol::Router,
};
use iroh_gossip::{Gossip, TopicId};
use iroh_mainline_address_lookup::DhtAddressLookup;
use iroh_metrics::{MetricsGroup, MetricsGroupSet};
use iroh_tickets::endpoint::EndpointTicket;
use n0_mainline::DhtBuilder;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::{
    commands::{Command, Request, parse_peer},
    connections::Connections,
    output::Output,
    topic::{Job, Topic, What},
};

/// The gossip actor answers in microseconds; one that needs longer is stuck, which a test wants to see.
const ACTOR_TIMEOUT: Duration = Duration::from_secs(5);
/// Upstream waits up to 5 s for acknowledgements of peers that may be gone, and drains for 3 s.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(9);

/// Start-up options, see `main`.
#[derive(Debug)]
pub struct Options {
    pub bind: SocketAddr,
    pub secret_key: SecretKey,
    pub max_message_size: Option<usize>,
    /// Bootstrap nodes of the Mainline DHT where the endpoint publishes all its addresses and looks peers up.
    pub dht: Vec<String>,
}

pub struct Node {
    router: Router,
    gossip: Gossip,
    lookup: MemoryLookup,
    connections: Connections,
    topics: BTreeMap<TopicId, Topic>,
    output: Output,
}

impl Node {
    /// Bind one socket and nothing else: no relay, no port mapping, no lookup but gossip's own, the given addresses
    /// and, when asked for, the DHT.
    pub async fn start(options: Options, output: Output) -> Result<Self> {
        let lookup = MemoryLookup::new();
        let connections = Connections::new(output.clone());
        let mut builder = Endpoint::builder(presets::Minimal)
            .secret_key(options.secret_key)
            .relay_mode(RelayMode::Disabled)
            .clear_address_lookup()
            .address_lookup(lookup.clone())
            .portmapper_config(PortmapperConfig::Disabled)
            .net_report_config(NetReportConfig::minimal())
            .hooks(connections.clone())
            .clear_ip_transports()
            .bind_addr(options.bind)?;
        if !options.dht.is_empty() {
            let mut dht = DhtBuilder::default();
            dht.bootstrap(&options.dht);
            builder = builder.address_lookup(
                DhtAddressLookup::builder()
                    .dht_builder(dht)
                    .addr_filter(AddrFilter::unfiltered()),
            );
        }
        let endpoint = builder.bind().await?;
        let mut gossip = Gossip::builder();
        if let Some(size) = options.max_message_size {
            gossip = gossip.max_message_size(size);
        }
        let gossip = gossip.spawn(endpoint.clone());
        let router = Router::builder(endpoint)
            .accept(iroh_gossip::ALPN, gossip.clone())
            .spawn();
        Ok(Self {
            router,
            gossip,
            lookup,
            connections,
            topics: BTreeMap::new(),
            output,
        })
    }

    /// The fields of `ready`: who and where we are.
    pub fn ready(&self) -> Value {
        let endpoint = self.router.endpoint();
        let sockets = endpoint.bound_sockets();
        let addr = sockets
            .iter()
            .fold(EndpointAddr::new(endpoint.id()), |addr, socket| {
                addr.with_ip_addr(*socket)
            });
        json!({
            "endpoint_id": endpoint.id().to_string(),
            "addresses": sockets.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
            "ticket": EndpointTicket::new(addr).to_string(),
            "pid": std::process::id(),
            "max_message_size": self.gossip.max_message_size(),
        })
    }

    /// Execute one request and answer it, now or (publishing, probing) when it is done. False after `quit`.
    pub async fn handle(&mut self, request: Request) -> bool {
        let Request { id, name, command } = request;
        let quit = matches!(command, Ok(Command::Quit {}));
        let answer = match command {
            Ok(command) => self.execute(&id, command).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(Some(fields)) => self.output.ok(&id, &name, fields),
            Ok(None) => {} // a task answers
            Err(error) => self.output.error(&id, &name, format!("{error:#}")),
        }
        !quit
    }

    /// Say goodbye in every topic and close all connections. Does nothing the second time.
    pub async fn close(&mut self) -> Result<()> {
        for (_, topic) in std::mem::take(&mut self.topics) {
            topic.leave().await;
        }
        timeout(CLOSE_TIMEOUT, self.router.shutdown())
            .await
            .context("shutdown did not end in time")??;
        Ok(())
    }

    async fn execute(&mut self, id: &Value, command: Command) -> Result<Option<Value>> {
        match command {
            Command::Join {
                topic_id,
                bootstrap,
            } => {
                let peers = bootstrap
                    .iter()
                    .map(|peer| self.learn(peer))
                    .collect::<Result<Vec<_>>>()?;
                self.join(topic_id, peers).await.map(Some)
            }
            Command::Leave { topic_id } => {
                let topic = self.topics.remove(&topic_id).context("topic not joined")?;
                topic.leave().await;
                self.output
                    .event("left", json!({"topic_id": topic_id.to_string()}));
                Ok(Some(json!({})))
            }
            Command::Publish {
                topic_id,
                payload_b64,
                scope,
            } => {
                let content = BASE64.decode(payload_b64.as_bytes())?;
                self.topic(topic_id)?.publish(Job {
                    id: id.clone(),
                    scope,
                    what: What::One(content.into()),
                });
                Ok(None)
            }
            Command::PublishMany {
                topic_id,
                count,
                size,
                seed,
                rate_per_s,
                scope,
            } => {
                if rate_per_s.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
                    bail!("rate_per_s must be positive");
                }
                self.topic(topic_id)?.publish(Job {
                    id: id.clone(),
                    scope,
                    what: What::Many {
                        count,
                        size,
                        seed,
                        rate_per_s,
                    },
                });
                Ok(None)
            }
            Command::AddAddress { peer } => {
                let peer = self.learn(&peer)?;
                Ok(Some(json!({"peer": peer.to_string()})))
            }
            Command::Neighbors { topic_id } => Ok(Some(
                json!({"neighbors": self.topic(topic_id)?.neighbors()}),
            )),
            Command::ConnectProbe {
                peer,
                alpn,
                timeout_ms,
                hold_ms,
            } => {
                self.probe(
                    id.clone(),
                    parse_peer(&peer)?,
                    alpn,
                    Duration::from_millis(timeout_ms),
                    Duration::from_millis(hold_ms),
                );
                Ok(None)
            }
            Command::Stats {} => Ok(Some(self.stats())),
            Command::Close {} | Command::Quit {} => {
                self.close().await?;
                Ok(Some(json!({})))
            }
        }
    }

    async fn join(&mut self, topic_id: TopicId, peers: Vec<EndpointId>) -> Result<Value> {
        if let Some(topic) = self.topics.get(&topic_id) {
            timeout(ACTOR_TIMEOUT, topic.join_peers(peers))
                .await
                .context("gossip does not answer")??;
            return Ok(json!({"created": false}));
        }
        let topic = timeout(ACTOR_TIMEOUT, self.gossip.subscribe(topic_id, peers))
            .await
            .context("gossip does not answer")??;
        self.topics
            .insert(topic_id, Topic::start(topic_id, topic, self.output.clone()));
        Ok(json!({"created": true}))
    }

    fn probe(&self, id: Value, peer: EndpointAddr, alpn: String, limit: Duration, hold: Duration) {
        let endpoint = self.router.endpoint().clone();
        let output = self.output.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            match timeout(limit, endpoint.connect(peer, alpn.as_bytes())).await {
                Err(_) => output.error(&id, "connect_probe", "timeout"),
                // The alternate form names the causes: the TLS alert or the close reason is the last of them.
                Ok(Err(error)) => output.error(&id, "connect_probe", format!("{error:#}")),
                Ok(Ok(connection)) => {
                    output.ok(
                        &id,
                        "connect_probe",
                        json!({
                            "peer": connection.remote_id().to_string(),
                            "alpn": String::from_utf8_lossy(connection.alpn()),
                            "elapsed_us": started.elapsed().as_micros() as u64,
                        }),
                    );
                    tokio::time::sleep(hold).await;
                    connection.close(0u32.into(), b"probe");
                    connection.closed().await;
                }
            }
        });
    }

    fn stats(&self) -> Value {
        let endpoint = self.router.endpoint().metrics();
        let mut groups = Map::new();
        for group in endpoint.groups() {
            groups.insert(group.name().to_owned(), counters(group));
        }
        json!({
            "connections": {
                "opened": endpoint.socket.num_conns_opened.get(),
                "closed": endpoint.socket.num_conns_closed.get(),
                "live": self.connections.live(),
            },
            "topics": self.topics.values().map(Topic::stats).collect::<Vec<_>>(),
            "gossip": counters(&**self.gossip.metrics()),
            "endpoint": groups,
        })
    }

    fn topic(&self, topic_id: TopicId) -> Result<&Topic> {
        self.topics.get(&topic_id).context("topic not joined")
    }

    /// Remember the addresses that a peer string carries and return its id.
    fn learn(&self, peer: &str) -> Result<EndpointId> {
        let peer = parse_peer(peer)?;
        let id = peer.id;
        if !peer.is_empty() {
            self.lookup.add_endpoint_info(peer);
        }
        Ok(id)
    }
}

/// The non-zero counters of a metrics group by name.
fn counters(group: &dyn MetricsGroup) -> Value {
    let values = group
        .iter()
        .map(|item| (item.name(), item.value().to_f32()));
    let named = values
        .filter(|(_, value)| *value != 0.0)
        .map(|(name, value)| (name.to_owned(), json!(value as u64)));
    Value::Object(named.collect())
}
