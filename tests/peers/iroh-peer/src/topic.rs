//! One joined topic: a task that turns gossip events into lines and a task that publishes in order.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use data_encoding::BASE64;
use iroh::EndpointId;
use iroh_gossip::{
    TopicId,
    api::{ApiError, Event, GossipReceiver, GossipSender, GossipTopic},
    proto::DeliveryScope,
};
use n0_future::StreamExt;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{commands::Scope, output::Output, payload::payload};

/// A subscription and its two tasks. Gossip leaves the topic when both tasks are gone.
pub struct Topic {
    id: TopicId,
    sender: GossipSender,
    jobs: UnboundedSender<Job>,
    tasks: [JoinHandle<()>; 2],
    shared: Arc<Shared>,
}

/// Work for the publishing task; it answers the command when gossip has taken everything.
pub struct Job {
    pub id: Value,
    pub scope: Scope,
    pub what: What,
}

pub enum What {
    One(Bytes),
    Many {
        count: u64,
        size: usize,
        seed: u64,
        rate_per_s: Option<f64>,
    },
}

#[derive(Default)]
struct Shared {
    neighbors: Mutex<BTreeSet<EndpointId>>,
    received: AtomicU64,
    published: AtomicU64,
    lagged: AtomicU64,
}

impl Topic {
    pub fn start(id: TopicId, topic: GossipTopic, output: Output) -> Self {
        let (sender, receiver) = topic.split();
        let (jobs, queue) = unbounded_channel();
        let shared = Arc::new(Shared::default());
        let tasks = [
            tokio::spawn(report(id, receiver, shared.clone(), output.clone())),
            tokio::spawn(work(queue, sender.clone(), shared.clone(), output)),
        ];
        Self {
            id,
            sender,
            jobs,
            tasks,
            shared,
        }
    }

    pub fn publish(&self, job: Job) {
        self.jobs.send(job).ok();
    }

    pub async fn join_peers(&self, peers: Vec<EndpointId>) -> Result<(), ApiError> {
        self.sender.join_peers(peers).await
    }

    pub fn neighbors(&self) -> Vec<String> {
        let neighbors = self.shared.neighbors.lock().expect("not poisoned");
        neighbors.iter().map(EndpointId::to_string).collect()
    }

    pub fn stats(&self) -> Value {
        json!({
            "topic_id": self.id.to_string(),
            "neighbors": self.neighbors(),
            "received": self.shared.received.load(Ordering::Relaxed),
            "published": self.shared.published.load(Ordering::Relaxed),
            "lagged": self.shared.lagged.load(Ordering::Relaxed),
        })
    }

    /// Drop every handle to the topic, which is how a gossip topic is left.
    pub async fn leave(self) {
        for task in self.tasks {
            task.abort();
            task.await.ok();
        }
    }
}

async fn report(id: TopicId, mut receiver: GossipReceiver, shared: Arc<Shared>, output: Output) {
    let topic_id = id.to_string();
    while let Some(event) = receiver.next().await {
        match event {
            Ok(Event::NeighborUp(peer)) => {
                shared.neighbors.lock().expect("not poisoned").insert(peer);
                output.event(
                    "neighbor_up",
                    json!({"topic_id": topic_id, "peer": peer.to_string()}),
                );
            }
            Ok(Event::NeighborDown(peer)) => {
                shared.neighbors.lock().expect("not poisoned").remove(&peer);
                output.event(
                    "neighbor_down",
                    json!({"topic_id": topic_id, "peer": peer.to_string()}),
                );
            }
            Ok(Event::Received(message)) => {
                shared.received.fetch_add(1, Ordering::Relaxed);
                let (scope, round) = match message.scope {
                    DeliveryScope::Swarm(round) => ("swarm", json!(round)),
                    DeliveryScope::Neighbors => ("neighbors", Value::Null),
                };
                output.event(
                    "received",
                    json!({
                        "topic_id": topic_id,
                        "payload_b64": BASE64.encode(&message.content),
                        "delivered_from": message.delivered_from.to_string(),
                        "scope": scope,
                        "round": round,
                    }),
                );
            }
            Ok(Event::Lagged) => {
                shared.lagged.fetch_add(1, Ordering::Relaxed);
                output.event("lagged", json!({"topic_id": topic_id}));
            }
            Err(error) => output.event(
                "error",
                json!({"topic_id": topic_id, "message": error.to_string()}),
            ),
        }
    }
    // Reached only when gossip itself ends the stream; `leave` and `close` abort this task.
    output.event(
        "error",
        json!({"topic_id": topic_id, "message": "topic stream ended"}),
    );
}

async fn work(
    mut queue: UnboundedReceiver<Job>,
    sender: GossipSender,
    shared: Arc<Shared>,
    output: Output,
) {
    while let Some(job) = queue.recv().await {
        let name = match job.what {
            What::One(_) => "publish",
            What::Many { .. } => "publish_many",
        };
        let started = Instant::now();
        let answer = match job.what {
            What::One(content) => send(&sender, &shared, job.scope, content).await,
            What::Many {
                count,
                size,
                seed,
                rate_per_s,
            } => {
                send_many(
                    &sender, &shared, job.scope, count, size, seed, rate_per_s, started,
                )
                .await
            }
        };
        match answer {
            Ok(count) => output.ok(
                &job.id,
                name,
                json!({"count": count, "elapsed_us": started.elapsed().as_micros() as u64}),
            ),
            Err(error) => output.error(&job.id, name, error),
        }
    }
}

async fn send(
    sender: &GossipSender,
    shared: &Shared,
    scope: Scope,
    content: Bytes,
) -> Result<u64, ApiError> {
    match scope {
        Scope::Swarm => sender.broadcast(content).await?,
        Scope::Neighbors => sender.broadcast_neighbors(content).await?,
    }
    shared.published.fetch_add(1, Ordering::Relaxed);
    Ok(1)
}

#[expect(clippy::too_many_arguments, reason = "the fields of one command")]
async fn send_many(
    sender: &GossipSender,
    shared: &Shared,
    scope: Scope,
    count: u64,
    size: usize,
    seed: u64,
    rate_per_s: Option<f64>,
    started: Instant,
) -> Result<u64, ApiError> {
    for index in 0..count {
        if let Some(rate) = rate_per_s {
            sleep_until(started + Duration::from_secs_f64(index as f64 / rate)).await;
        }
        send(sender, shared, scope, payload(seed, index, size).into()).await?;
    }
    Ok(count)
}
