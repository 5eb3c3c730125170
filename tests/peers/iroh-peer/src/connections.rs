//! What the endpoint itself sees: every connection after its handshake, and why it ended.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use iroh::{
    TransportAddr,
    endpoint::{AfterHandshakeOutcome, Connection, EndpointHooks},
};
use serde_json::{Value, json};

use crate::output::Output;

/// An endpoint hook that reports `connection_up` and `connection_down`. It holds only weak handles.
#[derive(Clone, Debug)]
pub struct Connections {
    output: Output,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    last: u64,
    live: BTreeMap<u64, Value>,
}

impl Connections {
    pub fn new(output: Output) -> Self {
        Self {
            output,
            seen: Arc::default(),
        }
    }

    /// The open connections, oldest first, as in `connection_up`.
    pub fn live(&self) -> Vec<Value> {
        self.seen
            .lock()
            .expect("not poisoned")
            .live
            .values()
            .cloned()
            .collect()
    }
}

impl EndpointHooks for Connections {
    async fn after_handshake(&self, connection: &Connection) -> AfterHandshakeOutcome {
        let closed = connection.weak_handle().closed();
        let mut info = json!({
            "peer": connection.remote_id().to_string(),
            "alpn": String::from_utf8_lossy(connection.alpn()),
            "side": format!("{:?}", connection.side()).to_lowercase(),
            "address": address(connection),
        });
        let number = {
            let mut seen = self.seen.lock().expect("not poisoned");
            seen.last += 1;
            let number = seen.last;
            info["connection"] = json!(number);
            seen.live.insert(number, info.clone());
            number
        };
        self.output.event("connection_up", info.clone());
        let this = self.clone();
        tokio::spawn(async move {
            let reason = closed.await.map(|closed| closed.reason.to_string());
            this.seen.lock().expect("not poisoned").live.remove(&number);
            info["reason"] = json!(reason);
            this.output.event("connection_down", info);
        });
        AfterHandshakeOutcome::Accept
    }
}

/// `ip:port` of the first path, null before there is one.
fn address(connection: &Connection) -> Option<String> {
    connection
        .paths()
        .iter()
        .find_map(|path| match path.remote_addr() {
            TransportAddr::Ip(addr) => Some(addr.to_string()),
            _ => None,
        })
}
