//! A real iroh-gossip node driven by JSON lines on stdio, for interop tests.
//!
//! `iroh-peer [--bind IP:PORT] [--secret-hex 64HEX] [--max-message-size N] [--dht HOST:PORT[,...]]`, loopback
//! unless told otherwise; `--dht` names the bootstrap nodes of a Mainline DHT to publish in and to look peers up.
//! First line out: `{"event":"ready","endpoint_id","addresses","ticket","pid","max_message_size"}`.
//! Commands: `commands::Command`, each with an optional `id` that its `ok` or `error` carries.
//! Events: `ready ok error neighbor_up neighbor_down received lagged left connection_up connection_down`, each with
//! `ts_us` (Unix time). Ends at EOF on stdin or `quit`; `RUST_LOG` selects what is logged to stderr.

mod commands;
mod connections;
mod node;
mod output;
mod payload;
mod topic;

use std::{env, io, process, thread, time::Duration};

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use iroh::SecretKey;
use serde_json::json;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};
use tracing_subscriber::EnvFilter;

use crate::{commands::Request, node::Node, node::Options, output::Output};

/// Goodbyes leave within milliseconds; then upstream may drain for 3 to 6 s when it has just dialled a peer that it
/// forgot (leaving one of two shared topics makes it forget), which no test needs at its end.
const EOF_GOODBYE: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .init();
    let options = read_options(env::args().skip(1)).unwrap_or_else(|error| {
        eprintln!("iroh-peer: {error:#}");
        process::exit(2);
    });
    let output = Output::start();
    let code = match run(options, output.clone()).await {
        Ok(()) => 0,
        Err(error) => {
            output.event("error", json!({"message": format!("{error:#}")}));
            1
        }
    };
    output.flush();
    // The stdin thread may be blocked in a read that nothing can cancel.
    process::exit(code);
}

async fn run(options: Options, output: Output) -> Result<()> {
    let mut node = Node::start(options, output.clone()).await?;
    output.event("ready", node.ready());
    let mut lines = read_stdin();
    while let Some(line) = lines.recv().await {
        if !node.handle(Request::parse(&line)).await {
            return Ok(());
        }
    }
    timeout(EOF_GOODBYE, node.close()).await.unwrap_or(Ok(()))
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

fn read_options(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        bind: ([127, 0, 0, 1], 0).into(),
        secret_key: SecretKey::generate(),
        max_message_size: None,
        dht: Vec::new(),
    };
    while let Some(name) = args.next() {
        let mut value = || args.next().with_context(|| format!("{name} needs a value"));
        match name.as_str() {
            "--bind" => options.bind = value()?.parse().context("--bind")?,
            "--secret-hex" => {
                let bytes = HEXLOWER
                    .decode(value()?.as_bytes())
                    .context("--secret-hex")?;
                let bytes: [u8; 32] = bytes.as_slice().try_into().context("--secret-hex")?;
                options.secret_key = SecretKey::from_bytes(&bytes);
            }
            "--max-message-size" => {
                options.max_message_size = Some(value()?.parse().context("--max-message-size")?);
            }
            "--dht" => options.dht = value()?.split(',').map(str::to_owned).collect(),
            _ => bail!("unknown option {name}"),
        }
    }
    Ok(options)
}
