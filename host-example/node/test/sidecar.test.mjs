/** The client with the real sidecar: program or source, see testing/real_sidecar.mjs. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { RpcError, Sidecar, SidecarExit } from "../client.mjs";
import { command, env, initialize } from "../testing/real_sidecar.mjs";

const start = (t) => {
  const sidecar = Sidecar.spawn({ command, env });
  t.after(() => sidecar.close());
  return sidecar;
};
const kind = (expected) => (error) => {
  assert.ok(error instanceof RpcError, error);
  assert.equal(error.kind, expected);
  return true;
};
const first = async (events, type) => {
  for (;;) {
    const { value } = await events.next();
    if (value.type === type) return value;
  }
};
const b64 = (text) => Buffer.from(text).toString("base64");

test("ping and discover answer before initialize, other methods say what to do", async (t) => {
  const sidecar = start(t);
  assert.ok((await sidecar.call("ping")).uptime_ms >= 0);
  assert.equal((await sidecar.call("rpc.discover")).openrpc, "1.3.2");
  await assert.rejects(sidecar.call("node.info"), kind("not_initialized"));
  await assert.rejects(sidecar.call("no.such"), kind("method_not_found"));
  await assert.rejects(sidecar.call("initialize", { api_version: 1, colour: "red" }), kind("invalid_params"));
});

test("more requests at once than may wait are refused with an error each, none hangs", async (t) => {
  const sidecar = start(t);
  const answers = await Promise.allSettled(Array.from({ length: 2000 }, () => sidecar.call("ping")));
  assert.ok(answers.some(({ status }) => status === "fulfilled"));
  for (const { reason } of answers) if (reason) kind("limit_reached")(reason);
});

test("initialize binds what it was told and gives a ticket", async (t) => {
  const sidecar = start(t);
  const { endpoint_id, identity } = await sidecar.call("initialize", initialize);
  assert.match(endpoint_id, /^[0-9a-f]{64}$/);
  assert.equal(identity, "ephemeral");
  const info = await sidecar.call("node.info");
  assert.equal(info.endpoint_id, endpoint_id);
  assert.equal(info.bound.length, 1);
  assert.match(info.bound[0], /^127\.0\.0\.1:\d+$/);
  assert.match((await sidecar.call("node.ticket")).ticket, /^endpoint[a-z2-7]+$/);
  await assert.rejects(sidecar.call("initialize", initialize), kind("already_initialized"));
});

test("publishing to nobody is an error that may be retried", async (t) => {
  const sidecar = start(t);
  await sidecar.call("initialize", initialize);
  const { topic_id } = await sidecar.call("topic.join", { topic: "alone" });
  await assert.rejects(sidecar.call("topic.publish", { topic_id, payload_b64: b64("hello?") }), (error) => {
    return kind("no_neighbors")(error) && error.retryable;
  });
});

test("two sidecars meet by ticket and hear each other, characters intact", async (t) => {
  const [a, b] = [start(t), start(t)];
  const [heardByA, heardByB] = await Promise.all([
    a.subscribe({ types: ["topic.*"] }),
    b.subscribe({ types: ["topic.*"] }),
  ]);
  await Promise.all([a.call("initialize", initialize), b.call("initialize", initialize)]);
  const { ticket } = await a.call("node.ticket");
  const { topic_id } = await a.call("topic.join", { topic: "two" });
  await b.call("topic.join", { topic: "two", bootstrap: [ticket] });
  await Promise.all([first(heardByA, "topic.neighbor_up"), first(heardByB, "topic.neighbor_up")]);
  for (const [from, heard, text] of [
    [a, heardByB, "ä€😀"],
    [b, heardByA, "クリ"],
  ]) {
    await from.call("topic.publish", { topic_id, payload_b64: b64(text) });
    const { payload_b64 } = await first(heard, "topic.message");
    assert.equal(Buffer.from(payload_b64, "base64").toString(), text);
  }
});

test("close ends it with code 0, in time", async (t) => {
  const sidecar = start(t);
  await sidecar.call("initialize", initialize);
  const begin = Date.now();
  assert.deepEqual(await sidecar.close(), { code: 0, signal: null });
  assert.ok(Date.now() - begin < 2000);
});

test("a killed sidecar rejects what waits for it", async (t) => {
  const sidecar = start(t);
  const events = await sidecar.subscribe();
  const next = events.next();
  process.kill(sidecar.pid, "SIGKILL");
  await assert.rejects(next, (error) => error instanceof SidecarExit && error.signal === "SIGKILL");
  await assert.rejects(sidecar.call("ping"), SidecarExit);
});

test(
  "a killed host takes the sidecar with it within 2 s",
  { skip: process.platform === "win32" },
  async () => {
    const script = fileURLToPath(new URL("../testing/host_that_waits.mjs", import.meta.url));
    const host = spawn(process.execPath, [script], { stdio: ["ignore", "pipe", "inherit"] });
    const pid = await new Promise((resolve, reject) => {
      host.stdout.once("data", (line) => resolve(Number(line.toString())));
      host.once("exit", () => reject(new Error("the host could not start a sidecar")));
    });
    assert.ok(pid > 1);
    host.kill("SIGKILL");
    for (const end = Date.now() + 2000; Date.now() < end; await sleep(20)) {
      try {
        process.kill(pid, 0);
      } catch {
        return;
      }
    }
    process.kill(pid, "SIGKILL");
    assert.fail("the sidecar outlived its host by 2 s");
  },
);
