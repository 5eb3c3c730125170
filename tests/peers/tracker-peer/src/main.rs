//! The real crate distributed-topic-tracker, driven by JSON lines on stdio, for interop tests. Linux only.
//!
//! `tracker-peer vectors` prints test vectors and ends.
//! `tracker-peer dht [--bind IP:PORT] [--bootstrap IP:PORT]` is a Mainline DHT server of crate mainline.
//! `tracker-peer node [--dht IP]` is an iroh-gossip node on loopback with `node::Command`s on stdin; wherever the
//! crate's DHT client asks for a public bootstrap host it gets IP (the ports stay: 6881 and 25401).
//! First line out of the last two: `ready`. They end at EOF on stdin.

mod bootstrap;
mod dht;
mod node;
#[path = "../../iroh-peer/src/output.rs"]
mod output;
mod vectors;

use std::{env, io, process, thread};

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing_subscriber::EnvFilter;

use crate::output::Output;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .init();
    if env::args().nth(1).as_deref() == Some("vectors") {
        // Before `Output`, which keeps stdout to itself.
        let all = vectors::all().and_then(|all| Ok(serde_json::to_string_pretty(&all)?));
        println!("{}", all.expect("vectors"));
        return;
    }
    let output = Output::start();
    let code = match run(output.clone()).await {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("tracker-peer: {error:#}");
            1
        }
    };
    output.flush();
    // The stdin thread may be blocked in a read that nothing can cancel.
    process::exit(code);
}

async fn run(output: Output) -> Result<()> {
    let mut args = env::args().skip(1);
    let role = args.next().context("vectors, dht or node expected")?;
    let mut options = std::collections::BTreeMap::new();
    while let Some(name) = args.next() {
        let value = args
            .next()
            .with_context(|| format!("{name} needs a value"))?;
        options.insert(name, value);
    }
    match role.as_str() {
        "dht" => {
            let bind = options
                .get("--bind")
                .map_or("127.0.0.1:0", String::as_str)
                .parse()
                .context("--bind")?;
            dht::serve(bind, options.get("--bootstrap"), read_stdin(), output).await
        }
        "node" => {
            if let Some(ip) = options.get("--dht") {
                bootstrap::redirect(ip)?;
            }
            node::run(read_stdin(), output).await
        }
        _ => bail!("unknown role {role}"),
    }
}

/// Lines of stdin from a thread of its own; the channel ends at EOF.
fn read_stdin() -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if !line.trim().is_empty() && sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
