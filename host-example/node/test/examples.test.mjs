/** The examples as a person runs them, with the real sidecar on loopback. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { command, loopbackEnv, python } from "../testing/real_sidecar.mjs";

const file = (relative) => fileURLToPath(new URL(relative, import.meta.url));

/** A running example: what it printed so far, and a wait for text that is to come. */
class Example {
  text = "";
  #waiting = [];

  constructor(t, program, ...args) {
    this.child = spawn(program, [...args, "--", ...command], {
      env: loopbackEnv,
      stdio: ["pipe", "pipe", "pipe"],
    });
    this.exit = new Promise((resolve) => this.child.once("close", resolve));
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding("utf8").on("data", (chunk) => {
        this.text += chunk;
        this.#waiting = this.#waiting.filter((check) => !check());
      });
    }
    t.after(() => this.child.kill()); // its sidecar leaves by itself, at the end of its stdin
  }

  say(line) {
    this.child.stdin.write(`${line}\n`);
  }

  /** The match, once the output contains it; the output so far when it does not come in time. */
  async until(pattern, ms = 10_000) {
    return new Promise((resolve, reject) => {
      const late = () => reject(new Error(`no ${pattern} within ${ms} ms in:\n${this.text}`));
      const timer = setTimeout(late, ms);
      const check = () => {
        const match = pattern.exec(this.text);
        if (match) {
          clearTimeout(timer);
          resolve(match);
        }
        return match;
      };
      if (!check()) this.#waiting.push(check);
    });
  }
}

const chat = (t, ...args) => new Example(t, process.execPath, file("../chat.mjs"), ...args);

test("the demo delivers everything and ends with 0", async (t) => {
  const demo = new Example(t, process.execPath, file("../demo.mjs"));
  assert.equal(await demo.exit, 0, demo.text);
  assert.match(demo.text, /Done: 6 of 6 deliveries/);
  assert.match(demo.text, /A DHT of our own serves at 127\.0\.0\.1:\d+/);
  for (const name of ["Ada", "Ben", "Cleo"]) assert.match(demo.text, new RegExp(`${name} found somebody by the`));
});

test("the demo works by ticket, without a DHT", async (t) => {
  const demo = new Example(t, process.execPath, file("../demo.mjs"), "--ticket");
  assert.equal(await demo.exit, 0, demo.text);
  assert.match(demo.text, /Done: 6 of 6 deliveries/);
  assert.doesNotMatch(demo.text, /DHT/);
});

test("the demo says how to use it", async (t) => {
  const wrong = spawn(process.execPath, [file("../demo.mjs"), "--tickets"]);
  t.after(() => wrong.kill());
  let text = "";
  wrong.stderr.setEncoding("utf8").on("data", (chunk) => (text += chunk));
  assert.equal(await new Promise((resolve) => wrong.once("close", resolve)), 2);
  assert.match(text, /usage: node demo\.mjs \[--topic NAME\] \[--ticket\]/);
});

test("a demo that cannot work says why and ends with 1", async (t) => {
  const broken = spawn(process.execPath, [file("../demo.mjs"), "--", "no-such-sidecar"]);
  t.after(() => broken.kill());
  let text = "";
  broken.stderr.setEncoding("utf8").on("data", (chunk) => (text += chunk));
  assert.equal(await new Promise((resolve) => broken.once("close", resolve)), 1);
  assert.match(text, /The demo failed: cannot start no-such-sidecar: .*ENOENT/);
});

test("two chats meet by ticket, talk, list each other and leave", async (t) => {
  const anna = chat(t, "garden", "--name", "Änne", "--local");
  const [ticket] = await anna.until(/^endpoint\S+$/m);
  const bert = chat(t, "garden", ticket, "--name", "Bert", "--local");
  await Promise.all([anna.until(/is connected to you/), bert.until(/is connected to you/)]);
  anna.say("grüß dich 😀");
  await bert.until(/^Änne {2}grüß dich 😀$/m);
  bert.say("back at you");
  await anna.until(/^Bert {2}back at you$/m);
  anna.say("/peers");
  await anna.until(/direct 127\.0\.0\.1:\d+/);
  bert.say("/quit");
  assert.equal(await bert.exit, 0, bert.text);
  await anna.until(/is gone/);
  anna.child.stdin.end();
  assert.equal(await anna.exit, 0, anna.text);
});

test("two chats meet by the topic's name alone", async (t) => {
  const [program, ...args] = command;
  const dht = spawn(program, [...args, "serve", "dht"], { env: loopbackEnv, stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => dht.kill());
  const [line] = await once(dht.stdout, "data");
  const [address] = JSON.parse(line).addresses;
  const anna = chat(t, "by name", "--name", "Anna", "--local", "--dht", address);
  const bert = chat(t, "by name", "--name", "Bert", "--local", "--dht", address);
  await Promise.all([anna.until(/is connected to you/), bert.until(/is connected to you/)]);
  anna.say("no ticket");
  await bert.until(/^Anna {2}no ticket$/m);
});

test("a line typed before anybody is there is kept for the first who comes", async (t) => {
  const early = chat(t, "early", "--name", "early", "--local");
  const [ticket] = await early.until(/^endpoint\S+$/m);
  early.say("is anybody there?");
  await early.until(/waiting for somebody/);
  const late = chat(t, "early", ticket, "--name", "late", "--local");
  await late.until(/is anybody there\?/);
});

test("text of others cannot steer the terminal", async (t) => {
  const victim = chat(t, "steer", "--name", "victim", "--local");
  const [ticket] = await victim.until(/^endpoint\S+$/m);
  const rogue = chat(t, "steer", ticket, "--name", "x\u001b[2Jx", "--local");
  await rogue.until(/is connected to you/);
  rogue.say("\u001b]0;title\u0007red\u001b[31m line\u0008");
  await victim.until(/^xx {2}.*red line/m);
  assert.ok(!victim.text.includes("\u001b"));
});

test("the Python host and the chat understand each other", async (t) => {
  const host = new Example(t, python, file("../../python/host.py"), "mixed");
  const [, ticket] = await host.until(/^\* ticket (endpoint\S+)$/m);
  const friend = chat(t, "mixed", ticket, "--name", "friend", "--local");
  await host.until(/^\* topic\.neighbor_up [0-9a-f]{64}$/m);
  await friend.until(/is connected to you/);
  host.say("hello from Python");
  await friend.until(/hello from Python/);
  friend.say("hello from Node");
  await host.until(/^< .*hello from Node/m);
  host.child.stdin.end();
  assert.equal(await host.exit, 0, host.text);
});
