//! An iroh-gossip node on loopback whose topics find their members by the crate alone.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};
use data_encoding::{BASE64, HEXLOWER};
use distributed_topic_tracker::{
    AutoDiscoveryGossip, EncryptedRecord, GossipRecordContent, GossipSender, Record,
    RecordPublisher, RotationHandle, Topic, TopicId, encryption_keypair,
};
use ed25519_dalek::SigningKey;
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey,
    address_lookup::memory::MemoryLookup,
    endpoint::{NetReportConfig, PortmapperConfig, presets},
    protocol::Router,
};
use iroh_gossip::{Gossip, api::Event};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::output::Output;

/// One line of stdin, `{"id": any, "command": name, ...}`. Topics are names; every answer is `ok` or `error`.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
enum Command {
    /// Remember addresses of a peer, `<64 hex>@ip:port`.
    AddAddress {
        peer: String,
    },
    /// Join a topic with the crate's discovery, in the background.
    Track {
        topic: String,
        secret: String,
    },
    Publish {
        topic: String,
        payload_b64: String,
    },
    /// The records of a minute that are in the DHT, our own left out by the crate.
    Records {
        topic: String,
        secret: String,
        minute: u64,
    },
    /// Decrypt and check a record that was found elsewhere.
    Open {
        topic: String,
        secret: String,
        minute: u64,
        sealed_hex: String,
    },
}

struct Node {
    _router: Router, // accepts as long as it lives
    gossip: Gossip,
    lookup: MemoryLookup,
    secret: SecretKey,
    topics: BTreeMap<String, (Topic, GossipSender)>,
    readers: BTreeMap<(String, String), RecordPublisher>,
    output: Output,
}

/// Execute commands until stdin ends.
pub async fn run(mut lines: UnboundedReceiver<String>, output: Output) -> Result<()> {
    let mut node = Node::start(output.clone()).await?;
    while let Some(line) = lines.recv().await {
        let value: Value = serde_json::from_str(&line).unwrap_or_default();
        let name = value["command"].as_str().unwrap_or_default().to_owned();
        let id = value["id"].clone();
        let answer = match serde_json::from_value(value) {
            Ok(command) => node.execute(command).await,
            Err(error) => Err(error.into()),
        };
        match answer {
            Ok(fields) => output.ok(&id, &name, fields),
            Err(error) => output.error(&id, &name, format!("{error:#}")),
        }
    }
    Ok(())
}

impl Node {
    async fn start(output: Output) -> Result<Self> {
        let lookup = MemoryLookup::new();
        let secret = SecretKey::generate();
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(secret.clone())
            .relay_mode(RelayMode::Disabled)
            .clear_address_lookup()
            .address_lookup(lookup.clone())
            .portmapper_config(PortmapperConfig::Disabled)
            .net_report_config(NetReportConfig::minimal())
            .clear_ip_transports()
            .bind_addr(SocketAddr::from(([127, 0, 0, 1], 0)))?
            .bind()
            .await?;
        let gossip = Gossip::builder().spawn(endpoint.clone());
        let sockets = endpoint.bound_sockets();
        output.event(
            "ready",
            json!({
                "endpoint_id": endpoint.id().to_string(),
                "addresses": sockets.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
                "pid": std::process::id(),
            }),
        );
        let router = Router::builder(endpoint)
            .accept(iroh_gossip::ALPN, gossip.clone())
            .spawn();
        Ok(Self {
            _router: router,
            gossip,
            lookup,
            secret,
            topics: BTreeMap::new(),
            readers: BTreeMap::new(),
            output,
        })
    }

    async fn execute(&mut self, command: Command) -> Result<Value> {
        match command {
            Command::AddAddress { peer } => {
                let (id, addr) = peer.split_once('@').context("<id>@ip:port expected")?;
                let addr = EndpointAddr::new(id.parse::<EndpointId>()?).with_ip_addr(addr.parse()?);
                self.lookup.add_endpoint_info(addr);
                Ok(json!({}))
            }
            Command::Track { topic, secret } => {
                let publisher = self.publisher(&topic, &secret);
                let joined = self
                    .gossip
                    .subscribe_and_join_with_auto_discovery_no_wait(publisher)
                    .await?;
                let (sender, mut receiver) = joined.split().await?;
                let (name, output) = (topic.clone(), self.output.clone());
                tokio::spawn(async move {
                    while let Ok(event) = receiver.next().await {
                        report(&name, event, &output);
                    }
                });
                self.topics.insert(topic, (joined, sender));
                Ok(json!({}))
            }
            Command::Publish { topic, payload_b64 } => {
                let (_, sender) = self.topics.get(&topic).context("topic not joined")?;
                sender
                    .broadcast(BASE64.decode(payload_b64.as_bytes())?)
                    .await?;
                Ok(json!({}))
            }
            Command::Records {
                topic,
                secret,
                minute,
            } => {
                let publisher = self.publisher(&topic, &secret);
                let reader = self.readers.entry((topic, secret)).or_insert(publisher);
                let records = reader.get_records(minute, CancellationToken::new()).await?;
                Ok(json!({"records": records.iter().map(describe).collect::<Vec<_>>()}))
            }
            Command::Open {
                topic,
                secret,
                minute,
                sealed_hex,
            } => {
                let initial = self.publisher(&topic, &secret).initial_secret_hash();
                let topic = TopicId::new(topic);
                let key = encryption_keypair(&topic, &RotationHandle::default(), initial, minute);
                let sealed = HEXLOWER.decode(sealed_hex.as_bytes())?;
                let record = EncryptedRecord::from_bytes(sealed)?.decrypt(&key)?;
                record.verify(&topic.hash(), minute)?;
                Ok(json!({"record": describe(&record)}))
            }
        }
    }

    fn publisher(&self, topic: &str, secret: &str) -> RecordPublisher {
        let key = SigningKey::from_bytes(&self.secret.to_bytes());
        RecordPublisher::builder(TopicId::new(topic), key, secret.as_bytes().to_vec()).build()
    }
}

fn describe(record: &Record) -> Value {
    let mut fields = json!({
        "publisher": HEXLOWER.encode(&record.pub_key()),
        "minute": record.unix_minute(),
    });
    if let Ok(content) = record.content::<GossipRecordContent>() {
        fields["active_peers"] = used(&content.active_peers);
        fields["message_hashes"] = used(&content.last_message_hashes);
    }
    fields
}

fn used(places: &[[u8; 32]]) -> Value {
    let used = places.iter().filter(|place| **place != [0; 32]);
    json!(used.map(|place| HEXLOWER.encode(place)).collect::<Vec<_>>())
}

fn report(topic: &str, event: Event, output: &Output) {
    match event {
        Event::NeighborUp(peer) => {
            output.event(
                "neighbor_up",
                json!({"topic": topic, "peer": peer.to_string()}),
            );
        }
        Event::NeighborDown(peer) => {
            output.event(
                "neighbor_down",
                json!({"topic": topic, "peer": peer.to_string()}),
            );
        }
        Event::Received(message) => output.event(
            "received",
            json!({"topic": topic, "payload_b64": BASE64.encode(&message.content)}),
        ),
        Event::Lagged => output.event("lagged", json!({"topic": topic})),
    }
}
