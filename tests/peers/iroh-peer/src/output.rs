//! Lines out: one JSON object per line on stdout, written by one thread so that no task ever waits for the reader.

use std::{
    io::{BufWriter, Write, stdout},
    process,
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

enum Item {
    Line(Value),
    Flush(SyncSender<()>),
}

/// A cheap handle to stdout. The queue is unbounded: a test that does not read must not slow the node down.
#[derive(Clone, Debug)]
pub struct Output(Sender<Item>);

impl Output {
    /// Start the writing thread. It ends the process when stdout is gone.
    pub fn start() -> Self {
        let (sender, receiver) = channel();
        thread::spawn(move || write_all(receiver));
        Self(sender)
    }

    /// Write `{"event": name, "ts_us": now, ...fields}`; `fields` is a JSON object.
    pub fn event(&self, name: &str, fields: Value) {
        let mut line = fields;
        line["event"] = json!(name);
        line["ts_us"] = json!(unix_us());
        self.0.send(Item::Line(line)).ok();
    }

    /// Answer a command that succeeded; `fields` is a JSON object, `id` whatever the command carried.
    pub fn ok(&self, id: &Value, command: &str, fields: Value) {
        let mut line = fields;
        line["id"] = id.clone();
        line["command"] = json!(command);
        self.event("ok", line);
    }

    /// Answer a command that failed.
    pub fn error(&self, id: &Value, command: &str, message: impl ToString) {
        self.event(
            "error",
            json!({"id": id, "command": command, "message": message.to_string()}),
        );
    }

    /// Wait until everything queued so far has left the process.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.0.send(Item::Flush(done)).is_ok() {
            wait.recv().ok();
        }
    }
}

/// Unix time in microseconds: all peers of a test share one clock, so differences are latencies.
pub fn unix_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as u64)
}

fn write_all(receiver: Receiver<Item>) {
    let mut out = BufWriter::new(stdout().lock());
    while let Ok(first) = receiver.recv() {
        let mut next = Some(first);
        while let Some(item) = next {
            let written = match item {
                Item::Line(line) => writeln!(out, "{line}"),
                Item::Flush(done) => out.flush().inspect(|()| {
                    done.send(()).ok();
                }),
            };
            if written.is_err() {
                process::exit(0);
            }
            next = receiver.try_recv().ok();
        }
        if out.flush().is_err() {
            process::exit(0);
        }
    }
}
