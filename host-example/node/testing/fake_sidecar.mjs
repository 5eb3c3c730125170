/** A sidecar that misbehaves on request: what no healthy one can be made to do. `--stubborn` refuses to end. */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const stubborn = process.argv.includes("--stubborn");
const cancelled = [];
const say = (message) => process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
const event = (subscription, seq) => ({
  method: "event",
  params: { subscription, seq, ts_ms: seq, type: "x.y" },
});

const methods = {
  echo: (params) => params,
  cancelled: () => cancelled,
  never: () => undefined,
  fail: () => {
    throw {
      code: 1303,
      message: "no neighbour in this topic",
      data: { kind: "no_neighbors", retryable: true, details: { n: 0 } },
    };
  },
  die: () => {
    process.stderr.write("the disk is on fire\n");
    setTimeout(() => process.exit(7), 20);
  },
  garbage: () => {
    process.stdout.write("this is not JSON\n\nnull\n");
    return "still here";
  },
  crawl: async (params, id) => {
    // One byte at a time, so that every multi-byte character is split across chunks.
    for (const byte of Buffer.from(`${JSON.stringify({ jsonrpc: "2.0", id, result: params })}\n`)) {
      process.stdout.write(Buffer.from([byte]));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  },
  deaf: ({ ms }) => {
    process.stdin.pause();
    setTimeout(() => process.stdin.resume(), ms);
    return true;
  },
  flood: ({ subscription, from, count }) => {
    for (let seq = from; seq < from + count; seq++) say(event(subscription, seq));
    return true;
  },
  child: () => spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "inherit" }).pid,
  "events.unsubscribe": ({ subscription }) => ({ last_seq: subscription, missed: 0 }),
};

async function answer({ id, method, params }) {
  if (method === "$/cancelRequest") {
    cancelled.push(params.id);
  } else if (method === "events.subscribe") {
    // The answer and the first events in one write.
    const lines = [{ id, result: { subscription: 5 } }, event(5, 1), event(5, 2)];
    process.stdout.write(lines.map((line) => `${JSON.stringify({ jsonrpc: "2.0", ...line })}\n`).join(""));
  } else if (method === "shutdown") {
    if (stubborn) return;
    say({ id, result: { graceful: true } });
    process.exit(0);
  } else {
    try {
      const result = await methods[method](params, id);
      if (result !== undefined) say({ id, result });
    } catch (error) {
      say({ id, error });
    }
  }
}

if (stubborn) {
  process.on("SIGTERM", () => process.stderr.write("SIGTERM? never heard of it\n"));
  setInterval(() => {}, 1000);
}
createInterface({ input: process.stdin }).on("line", (line) => answer(JSON.parse(line)));
