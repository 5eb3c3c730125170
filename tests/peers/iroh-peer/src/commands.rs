//! Lines in: the commands and the ways a peer may be written.

use anyhow::{Context, Result, bail};
use iroh::{EndpointAddr, EndpointId};
use iroh_gossip::TopicId;
use iroh_tickets::endpoint::EndpointTicket;
use serde::Deserialize;
use serde_json::Value;

/// One line of stdin, `{"id": any, "command": name, ...}`. Unknown fields are errors: a typo must not pass a test.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Subscribe to a topic; on a joined topic, send Join to the given peers.
    Join {
        #[serde(deserialize_with = "topic")]
        topic_id: TopicId,
        #[serde(default)]
        bootstrap: Vec<String>,
    },
    /// Drop the subscription: gossip says goodbye and forgets the topic.
    Leave {
        #[serde(deserialize_with = "topic")]
        topic_id: TopicId,
    },
    Publish {
        #[serde(deserialize_with = "topic")]
        topic_id: TopicId,
        payload_b64: String,
        #[serde(default)]
        scope: Scope,
    },
    /// Publish `count` generated payloads (see `payload`), paced when `rate_per_s` is given.
    PublishMany {
        #[serde(deserialize_with = "topic")]
        topic_id: TopicId,
        count: u64,
        size: usize,
        seed: u64,
        rate_per_s: Option<f64>,
        #[serde(default)]
        scope: Scope,
    },
    /// Remember addresses of a peer without connecting.
    AddAddress {
        peer: String,
    },
    Neighbors {
        #[serde(deserialize_with = "topic")]
        topic_id: TopicId,
    },
    /// Dial on the endpoint itself, report, close with code 0 and reason `probe` after `hold_ms`.
    ConnectProbe {
        peer: String,
        #[serde(default = "gossip_alpn")]
        alpn: String,
        #[serde(default = "ten_seconds")]
        timeout_ms: u64,
        #[serde(default)]
        hold_ms: u64,
    },
    Stats {},
    /// Leave every topic and close the endpoint; the process stays for `stats` and `quit`.
    Close {},
    /// `close` if still open, then exit 0.
    Quit {},
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    #[default]
    Swarm,
    Neighbors,
}

/// A parsed line: the caller's id, the command's name for the answer, and the command or what is wrong with it.
pub struct Request {
    pub id: Value,
    pub name: String,
    pub command: Result<Command>,
}

impl Request {
    /// Read one line. A broken line still gets an answer, with `id` null when none could be read.
    pub fn parse(line: &str) -> Self {
        let mut value: Value = match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => {
                return Self {
                    id: Value::Null,
                    name: String::new(),
                    command: Err(error.into()),
                };
            }
        };
        let id = value
            .as_object_mut()
            .and_then(|fields| fields.remove("id"))
            .unwrap_or(Value::Null);
        let name = value["command"].as_str().unwrap_or_default().to_owned();
        Self {
            id,
            name,
            command: serde_json::from_value(value).map_err(Into::into),
        }
    }
}

/// Read a peer: `<64 hex>`, `<64 hex>@ip:port` or an `endpoint…` ticket. No DNS names: nothing is resolved here.
pub fn parse_peer(text: &str) -> Result<EndpointAddr> {
    if text.starts_with("endpoint") {
        return Ok(text.parse::<EndpointTicket>()?.endpoint_addr().clone());
    }
    let (id, addr) = match text.split_once('@') {
        Some((id, addr)) => (id, Some(addr)),
        None => (text, None),
    };
    if id.len() != 64 {
        bail!("not an endpoint id: {id}");
    }
    let mut peer = EndpointAddr::new(id.parse::<EndpointId>().with_context(|| id.to_owned())?);
    if let Some(addr) = addr {
        peer = peer.with_ip_addr(addr.parse().with_context(|| addr.to_owned())?);
    }
    Ok(peer)
}

fn topic<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<TopicId, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}

fn gossip_alpn() -> String {
    String::from_utf8_lossy(iroh_gossip::ALPN).into_owned()
}

fn ten_seconds() -> u64 {
    10_000
}
