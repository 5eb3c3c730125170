// @ts-check
/**
 * A terminal chat: one topic, whoever is there.
 *
 *     node chat.mjs TOPIC [TICKET...] [--name NAME] [--local] [--dht HOST:PORT]... [-- PROGRAM ARGS...]
 *
 * The topic's name is enough to meet, through the public DHT or the one that `--dht` names. `/ticket` prints what a
 * friend can put after the topic as well; `--local` stays on this computer. Lines can be piped in, too.
 */
import { userInfo } from "node:os";
import { createInterface } from "node:readline";
import { parseArgs, stripVTControlCharacters } from "node:util";

import { RpcError, Sidecar } from "./client.mjs";

const HELP = "/peers  who is connected    /ticket  your ticket, for a friend    /quit  leave";
const COLOURS = [31, 32, 33, 34, 35, 36, 91, 92, 94, 95, 96];
const coloured = process.stdout.isTTY && !process.env.NO_COLOR;

const paint = (/** @type {string | number} */ code, /** @type {string} */ text) =>
  coloured ? `\x1b[${code}m${text}\x1b[0m` : text;
const dim = (/** @type {string} */ text) => paint(2, text);
const short = (/** @type {string} */ id) => id.slice(0, 10);
/** Text of strangers must not steer our terminal. @param {unknown} text */
const plain = (text) => stripVTControlCharacters(String(text)).replace(/\p{Cc}/gu, " ");

const options = readArguments();
const terminal = createInterface({
  input: process.stdin,
  output: process.stdout,
  terminal: process.stdout.isTTY,
  prompt: coloured ? "› " : "",
});
let typing = true; // a prompt after the end would open stdin again
terminal.once("close", () => (typing = false));
const sidecar = Sidecar.spawn(options.command ? { command: options.command } : {});

/** Print above the line that is being typed. @param {string} text */
function print(text) {
  if (coloured) process.stdout.write("\r\x1b[K");
  console.log(text);
  if (coloured && typing) terminal.prompt(true);
}

async function main() {
  const events = await sidecar.subscribe({ types: ["topic.*"] });
  await sidecar.call("initialize", {
    api_version: 1,
    client: { name: "chat" },
    ephemeral: true,
    config: {
      ...(options.local && { net: { bind_v4: "127.0.0.1:0", bind_v6: null } }),
      ...(options.dht && { dht: { bootstrap_nodes: options.dht } }),
    },
  });
  const { topic_id } = await sidecar.call("topic.join", { topic: options.topic, bootstrap: options.tickets });
  print(`${paint(1, options.topic)}  ${dim(`you are ${options.name}; ${HELP}`)}`);
  await showTicket();
  void read(topic_id);
  for await (const event of events) show(event);
  terminal.close();
}

/** @param {import("./client.mjs").AnyEvent} event */
function show(event) {
  switch (event.type) {
    case "topic.message": {
      const { name, text } = decode(event.payload_b64);
      const colour = COLOURS[parseInt(event.delivered_from.slice(0, 4), 16) % COLOURS.length];
      print(
        `${paint(name ? colourOf(name) : colour, plain(name || short(event.delivered_from)))}  ${plain(text)}`,
      );
      break;
    }
    case "topic.neighbor_up":
      print(dim(`+ ${short(event.endpoint_id)} is connected to you`));
      break;
    case "topic.neighbor_down":
      print(dim(`- ${short(event.endpoint_id)} is gone (${event.reason})`));
      break;
    case "topic.state":
      if (event.state === "isolated") print(dim("nobody here at the moment; looking for peers"));
      break;
    case "topic.published":
      if (event.state !== "acked") print(dim(`a line of yours reached nobody (${event.state})`));
      break;
    case "lagged":
      print(dim(`${event.missed} events were lost: this terminal is too slow`));
  }
}

/** Send what is typed until /quit or the end of input. @param {string} topic_id */
async function read(topic_id) {
  terminal.prompt();
  for await (const line of terminal) {
    const text = line.trim();
    try {
      if (text === "/quit") break;
      else if (text === "/peers") await showPeers(topic_id);
      else if (text === "/ticket") await showTicket();
      else if (text.startsWith("/")) print(dim(HELP));
      else if (text) await send(topic_id, text);
    } catch (error) {
      print(paint(31, error instanceof RpcError ? `not sent: ${error.message}` : String(error)));
    }
    if (typing) terminal.prompt();
  }
  terminal.close();
  await sidecar.close();
}

/** @param {string} topic_id @param {string} text */
async function send(topic_id, text) {
  const payload_b64 = Buffer.from(JSON.stringify({ name: options.name, text })).toString("base64");
  const { state } = await sidecar.call("topic.publish", { topic_id, payload_b64, if_isolated: "queue" });
  if (state === "queued") print(dim("waiting for somebody to come; kept for 30 s"));
}

/** @param {string} topic_id */
async function showPeers(topic_id) {
  const { peers } = await sidecar.call("peer.list", { topic_id, state: "connected" });
  if (peers.length === 0) print(dim("nobody"));
  for (const peer of peers)
    print(dim(`  ${short(peer.endpoint_id)}  ${peer.path} ${peer.address ?? ""}  ${peer.rtt_ms ?? "?"} ms`));
}

async function showTicket() {
  const { ticket, reason } = await sidecar.call("node.ticket", {});
  print(dim(ticket ?? `no ticket yet: ${reason}`));
}

/** A payload of this program, or any other as text. @param {string} payload_b64 @returns {{ name?: unknown, text: unknown }} */
function decode(payload_b64) {
  const text = Buffer.from(payload_b64, "base64").toString();
  try {
    const value = JSON.parse(text);
    if (typeof value?.text === "string") return value;
  } catch {
    // not ours
  }
  return { text };
}

/** @param {unknown} name */
function colourOf(name) {
  let sum = 0;
  for (const character of String(name)) sum = (sum * 31 + (character.codePointAt(0) ?? 0)) % 65521;
  return COLOURS[sum % COLOURS.length];
}

function readArguments() {
  const args = process.argv.slice(2);
  const end = args.indexOf("--");
  const command = end >= 0 ? /** @type {[string, ...string[]]} */ (args.slice(end + 1)) : undefined;
  try {
    const { values, positionals } = parseArgs({
      args: end >= 0 ? args.slice(0, end) : args,
      allowPositionals: true,
      options: {
        name: { type: "string" },
        local: { type: "boolean" },
        dht: { type: "string", multiple: true },
      },
    });
    const [topic, ...tickets] = positionals;
    if (!topic) throw new Error("which topic?");
    return {
      topic,
      tickets,
      name: values.name ?? userInfo().username,
      local: values.local ?? false,
      dht: values.dht,
      command,
    };
  } catch (error) {
    console.error(
      `${error instanceof Error ? error.message : error}\nusage: node chat.mjs TOPIC [TICKET...] [--name NAME] [--local] [--dht HOST:PORT]... [-- PROGRAM ARGS...]`,
    );
    process.exit(2);
  }
}

for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => terminal.close());
terminal.once("SIGINT", () => terminal.close()); // Ctrl-C while the terminal is in raw mode
main().catch(async (error) => {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
  terminal.close();
  await sidecar.close();
});
