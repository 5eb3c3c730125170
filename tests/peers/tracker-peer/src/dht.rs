//! A DHT server of crate mainline, so that a private network holds more than one implementation.

use std::net::SocketAddrV4;

use anyhow::Result;
use mainline::Dht;
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::output::Output;

/// Serve until stdin ends; `ready` carries the address.
pub async fn serve(
    bind: SocketAddrV4,
    bootstrap: Option<&String>,
    mut lines: UnboundedReceiver<String>,
    output: Output,
) -> Result<()> {
    let mut builder = Dht::builder();
    builder
        .bind_address(*bind.ip())
        .port(bind.port())
        .server_mode();
    match bootstrap {
        Some(node) => builder.bootstrap(&[node]),
        None => builder.no_bootstrap(),
    };
    let dht = builder.build()?.as_async();
    let address = dht.info().await.local_addr();
    output.event(
        "ready",
        json!({"address": address.to_string(), "pid": std::process::id()}),
    );
    while lines.recv().await.is_some() {}
    Ok(())
}
