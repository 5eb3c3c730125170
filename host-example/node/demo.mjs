// @ts-check
/**
 * Three sidecars on this computer meet by nothing but a topic's name and talk; tells live what happens and how long
 * it takes. The name leads them together through a DHT of their own, one node of it, that runs beside them.
 *
 *     node host-example/node/demo.mjs [--topic NAME] [--ticket] [-- PROGRAM ARGS...]
 *
 * With `--ticket` there is no DHT: the first hands a ticket to the others.
 *
 * Loopback only, nothing is written to disk. Exit code 0 means that every message arrived.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { performance } from "node:perf_hooks";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

import { findSidecar, Sidecar } from "./client.mjs";

const DEADLINE_MS = 30_000;
const NAMES = ["Ada", "Ben", "Cleo"];
/** Loopback binds: nothing leaves this computer. */
const NET = { bind_v4: "127.0.0.1:0", bind_v6: null };

const { topic, byTicket, command } = readArguments(process.argv.slice(2));
const start = performance.now();
const deadline = AbortSignal.timeout(DEADLINE_MS);
/** @type {Node[]} */
const nodes = [];
/** @type {import("node:child_process").ChildProcess | undefined} */
let dht;

const since = (/** @type {number} */ begin) => `${(performance.now() - begin).toFixed(1)} ms`;
let lastSaid = "";
let summary = "";
/** @param {string} text */
function say(text) {
  lastSaid = text;
  console.log(`${((performance.now() - start) / 1000).toFixed(3).padStart(7)} s  ${text}`);
}
const short = (/** @type {string} */ id) => id.slice(0, 10);

/** One sidecar with what we are waiting for from it. */
class Node {
  /** @type {((event: import("./client.mjs").AnyEvent) => void)[]} */
  #listeners = [];
  id = "";

  /** @param {string} name */
  constructor(name) {
    this.name = name;
    const begin = performance.now();
    this.sidecar = Sidecar.spawn(command ? { command } : {});
    this.spawnTime = since(begin);
  }

  /** @param {import("./client.mjs").Methods["initialize"]["params"]["config"]} config */
  async open(config) {
    const begin = performance.now();
    const events = await this.sidecar.subscribe({ types: ["topic.*"] }, { signal: deadline });
    void this.#listen(events);
    const firstAnswer = since(begin);
    const again = performance.now();
    const info = await this.call("initialize", {
      api_version: 1,
      client: { name: "demo" },
      ephemeral: true,
      config,
    });
    this.id = info.endpoint_id;
    say(
      `${this.name} is up: process spawned in ${this.spawnTime}, first answer after ${firstAnswer}, initialize ${since(again)}; id ${short(this.id)}`,
    );
  }

  /**
   * @template {keyof import("./client.mjs").Methods} M
   * @param {M} method
   * @param {import("./client.mjs").Methods[M]["params"]} params
   * @returns {Promise<import("./client.mjs").Methods[M]["result"]>}
   */
  call(method, params) {
    return this.sidecar.call(method, .../** @type {any} */ ([params, { signal: deadline }]));
  }

  /**
   * The next event that fits; ask before you cause it.
   * @param {string} what
   * @param {(event: import("./client.mjs").AnyEvent) => boolean} fits
   * @returns {Promise<number>} when it came
   */
  next(what, fits) {
    return new Promise((resolve, reject) => {
      const late = () => reject(new Error(`${this.name} still waits for ${what}`));
      deadline.addEventListener("abort", late, { once: true });
      this.#listeners.push((event) => {
        if (!fits(event)) return;
        deadline.removeEventListener("abort", late);
        resolve(performance.now());
      });
    });
  }

  /** @param {AsyncIterable<import("./client.mjs").AnyEvent>} events */
  async #listen(events) {
    try {
      for await (const event of events) for (const listener of this.#listeners) listener(event);
    } catch (error) {
      fail(error);
    }
  }
}

async function main() {
  const bootstrap = byTicket ? [] : await serveDht();
  say(`Starting ${NAMES.length} sidecars; they know nothing of each other.`);
  for (const name of NAMES) nodes.push(new Node(name));
  const found = byTicket ? { enable_dht: false } : { dht: { bootstrap_nodes: bootstrap } };
  await Promise.all(nodes.map((node) => node.open({ net: NET, ...found })));
  const topicId = await (byTicket ? meetByTicket() : meetByName());
  await talk(topicId);
  for (const node of nodes) {
    const begin = performance.now();
    const { code, signal } = await node.sidecar.close();
    if (code !== 0) throw new Error(`${node.name} ended with ${signal ?? `code ${code}`}`);
    say(`${node.name} left in good order, ${since(begin)}`);
  }
  if (dht) {
    const begin = performance.now();
    await endDht();
    if (dht.exitCode !== 0) throw new Error(`the DHT ended with ${dht.signalCode ?? `code ${dht.exitCode}`}`);
    say(`The DHT node ended in good order, ${since(begin)}`);
  }
  say(summary);
}

/** One DHT node that always serves, in a process of the same program. @returns {Promise<string[]>} where it is */
async function serveDht() {
  const begin = performance.now();
  const [program, ...args] = command ?? [findSidecar()];
  dht = spawn(program, [...args, "serve", "dht"], { stdio: ["pipe", "pipe", "inherit"], windowsHide: true });
  const { stdin, stdout } = dht;
  if (!stdin || !stdout) throw new Error("no pipes");
  stdin.on("error", () => {}); // it is gone; whoever waits for it says so
  const failed = once(dht, "exit").then(([code]) => Promise.reject(new Error(`the DHT ended with code ${code}`)));
  failed.catch(() => {});
  const started = once(createInterface({ input: stdout }), "line", { signal: deadline });
  started.catch(() => {});
  const [line] = await Promise.race([started, failed]).catch((error) => {
    throw error.code === "ENOENT" ? new Error(`cannot start ${program}: ${error.message}`) : error;
  });
  const { addresses } = JSON.parse(line);
  say(`A DHT of our own serves at ${addresses[0]}, ${since(begin)} after its process was spawned.`);
  return addresses;
}

async function endDht() {
  if (!dht?.pid || dht.exitCode !== null || dht.signalCode !== null) return;
  dht.stdin?.end();
  await once(dht, "exit");
}

/** Everybody joins at the same time and is told nothing but the name. @returns {Promise<string>} */
async function meetByName() {
  say(`All join the topic "${topic}" at the same time; its name is all they have.`);
  const begin = performance.now();
  const ids = await Promise.all(
    nodes.map(async (node) => {
      const up = node.next("its first neighbour", (event) => event.type === "topic.neighbor_up");
      const { topic_id } = await node.call("topic.join", { topic });
      const took = (await up) - begin;
      say(`${node.name} found somebody by the topic's name, after ${took.toFixed(0)} ms`);
      return topic_id;
    }),
  );
  return ids[0];
}

/** @returns {Promise<string>} */
async function meetByTicket() {
  const [first, ...others] = nodes;
  const { ticket, reason } = await first.call("node.ticket", { kind: "iroh" });
  if (ticket === null) throw new Error(`${first.name} has no ticket: ${reason}`);
  say(`${first.name} opens the topic "${topic}" and hands out a ticket: ${ticket.slice(0, 24)}…`);
  const { topic_id } = await first.call("topic.join", { topic });

  for (const node of others) {
    const begin = performance.now();
    const up = node.next("its first neighbour", (event) => event.type === "topic.neighbor_up");
    const joined = await node.call("topic.join", { topic, bootstrap: [ticket] });
    if (joined.topic_id !== topic_id)
      throw new Error(`${node.name} derived another topic id: ${joined.topic_id}`);
    say(`${node.name} joined with it and has a neighbour after ${((await up) - begin).toFixed(1)} ms`);
  }

  return topic_id;
}

/** Everybody says hello, everybody else hears it. @param {string} topic_id */
async function talk(topic_id) {
  const latencies = [];
  for (const sender of nodes) {
    const text = `Hello from ${sender.name}, ${performance.now()}`;
    const payload_b64 = Buffer.from(text).toString("base64");
    const receivers = nodes.filter((node) => node !== sender);
    const arrivals = receivers.map((node) =>
      node.next(
        `the message of ${sender.name}`,
        (event) => event.type === "topic.message" && event.payload_b64 === payload_b64,
      ),
    );
    const begin = performance.now();
    await sender.call("topic.publish", { topic_id, payload_b64 });
    const times = (await Promise.all(arrivals)).map((at) => at - begin);
    latencies.push(...times);
    say(
      `${sender.name} said hello; ${receivers.map((node, i) => `${node.name} heard it after ${times[i].toFixed(1)} ms`).join(", ")}`,
    );
  }

  latencies.sort((a, b) => a - b);
  summary = `Done: ${latencies.length} of ${latencies.length} deliveries, median ${latencies[latencies.length >> 1].toFixed(1)} ms, slowest ${latencies[latencies.length - 1].toFixed(1)} ms.`;
}

/** Say what went wrong, end every sidecar, exit 1. @param {any} error */
function fail(error) {
  if (process.exitCode) return;
  process.exitCode = 1;
  const reason = deadline.aborted
    ? `it gives up after ${DEADLINE_MS / 1000} s`
    : String(error?.message ?? error);
  console.error(`\nThe demo failed: ${reason}\nThe last step that worked: ${lastSaid}`);
  for (const { name, sidecar } of nodes) {
    if (sidecar.stderrTail)
      console.error(`--- last words of ${name}'s sidecar ---\n${sidecar.stderrTail.trimEnd()}`);
  }
  void Promise.all([endDht(), ...nodes.map(({ sidecar }) => sidecar.close())]).then(() => process.exit());
}

/** @param {string[]} args */
function readArguments(args) {
  const end = args.indexOf("--");
  const command = end >= 0 ? /** @type {[string, ...string[]]} */ (args.slice(end + 1)) : undefined;
  const own = end >= 0 ? args.slice(0, end) : args;
  try {
    const { values } = parseArgs({
      args: own,
      options: { topic: { type: "string", default: "kukuri:topic:demo" }, ticket: { type: "boolean" } },
    });
    if (!values.topic || command?.length === 0) throw new Error("a name or a program is missing");
    return { topic: values.topic, byTicket: values.ticket ?? false, command };
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    console.error("usage: node demo.mjs [--topic NAME] [--ticket] [-- PROGRAM ARGS...]");
    process.exit(2);
  }
}

main().catch(fail);
