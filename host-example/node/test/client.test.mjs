import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { RpcError, Sidecar, SidecarExit } from "../client.mjs";

const fake = fileURLToPath(new URL("../testing/fake_sidecar.mjs", import.meta.url));
const start = (t, ...args) => {
  const sidecar = Sidecar.spawn({ command: [process.execPath, fake, ...args] });
  t.after(() => sidecar.close());
  return sidecar;
};
const alive = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};
const gone = async (pid) => {
  for (let i = 0; i < 100 && alive(pid); i++) await sleep(20);
  return !alive(pid);
};

test("calls at the same time get their own answers", async (t) => {
  const sidecar = start(t);
  const sent = Array.from({ length: 500 }, (_, n) => ({ n, text: "ä€😀".repeat(n % 50) }));
  assert.deepEqual(await Promise.all(sent.map((params) => sidecar.call("echo", params))), sent);
});

test("an answer that arrives byte by byte is whole", async (t) => {
  assert.deepEqual(await start(t).call("crawl", { text: "クリ 😀" }), { text: "クリ 😀" });
});

test("an error carries kind, retryable and details", async (t) => {
  await assert.rejects(start(t).call("fail"), (error) => {
    assert.ok(error instanceof RpcError);
    assert.deepEqual(
      [error.kind, error.code, error.retryable, error.details, error.message],
      ["no_neighbors", 1303, true, { n: 0 }, "fail: no neighbour in this topic"],
    );
    return true;
  });
});

test("a time-out rejects, cancels at the sidecar and leaves the line usable", async (t) => {
  const sidecar = start(t);
  await assert.rejects(sidecar.call("never", {}, { timeoutMs: 50 }), {
    name: "TimeoutError",
    message: /50 ms/,
  });
  assert.deepEqual(await sidecar.call("cancelled"), [1]);
});

test("an AbortSignal rejects with its reason and cancels at the sidecar", async (t) => {
  const sidecar = start(t);
  const controller = new AbortController();
  const call = sidecar.call("never", {}, { signal: controller.signal });
  controller.abort(new Error("changed my mind"));
  await assert.rejects(call, /changed my mind/);
  assert.deepEqual(await sidecar.call("cancelled"), [1]);
  await assert.rejects(sidecar.call("echo", {}, { signal: controller.signal }), /changed my mind/);
});

test("requests wait while the pipe is full, keep their order and are all answered", async (t) => {
  const sidecar = start(t);
  await sidecar.call("deaf", { ms: 300 });
  const order = [];
  const calls = Array.from({ length: 200 }, (_, n) =>
    sidecar.call("echo", { n, fill: "x".repeat(20_000) }).then((result) => order.push(result.n)),
  );
  await Promise.all(calls);
  assert.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
  );
  assert.equal(order.length, 200);
});

test("a request that was given up before it could be written is never sent", async (t) => {
  const sidecar = start(t);
  await sidecar.call("deaf", { ms: 400 });
  const fill = sidecar.call("echo", { fill: "x".repeat(4_000_000) });
  await assert.rejects(sidecar.call("die", {}, { timeoutMs: 50 }), { name: "TimeoutError" });
  await fill;
  assert.equal(await sidecar.call("echo", 1), 1);
});

test("lines that are not frames are reported and skipped", async (t) => {
  const odd = [];
  const command = [process.execPath, fake];
  const sidecar = Sidecar.spawn({ command, onProtocolError: (line) => odd.push(line) });
  t.after(() => sidecar.close());
  assert.equal(await sidecar.call("garbage"), "still here");
  assert.deepEqual(odd, ["this is not JSON", ""]);
});

test("events that stand in the same chunk as the answer to subscribe are not lost", async (t) => {
  const sidecar = start(t);
  const events = await sidecar.subscribe();
  assert.deepEqual([(await events.next()).value.seq, (await events.next()).value.seq], [1, 2]);
});

test("above the high-water mark the oldest are dropped and counted exactly", async (t) => {
  const sidecar = start(t);
  const events = await sidecar.subscribe({}, { highWaterMark: 10 });
  await sidecar.call("flood", { subscription: 5, from: 3, count: 998 });
  const got = [];
  for await (const event of events) {
    got.push(event);
    if (event.seq === 1000) break;
  }
  const [lagged, ...rest] = got;
  assert.deepEqual(lagged, {
    subscription: 5,
    seq: 1,
    ts_ms: 1,
    type: "lagged",
    topic_id: null,
    missed: 990,
  });
  assert.deepEqual(
    rest.map((event) => event.seq),
    [991, 992, 993, 994, 995, 996, 997, 998, 999, 1000],
  );
});

test("break unsubscribes, and waiting readers are told the end", async (t) => {
  const sidecar = start(t);
  const events = await sidecar.subscribe();
  for await (const event of events) if (event.seq === 2) break;
  assert.deepEqual(await events.next(), { value: undefined, done: true });
});

test("the death of the process rejects calls and readers with its last words", async (t) => {
  const sidecar = start(t);
  const events = await sidecar.subscribe();
  const reading = (async () => {
    for await (const _ of events);
  })();
  const death = (error) =>
    error instanceof SidecarExit && error.code === 7 && /the disk is on fire/.test(error.message);
  await Promise.all([
    assert.rejects(sidecar.call("never"), death),
    assert.rejects(sidecar.call("die"), death),
    assert.rejects(reading, death),
  ]);
  await assert.rejects(sidecar.call("echo"), death);
  assert.deepEqual(await sidecar.close(), { code: 7, signal: null });
});

test("a program that does not exist rejects the first call", async () => {
  const sidecar = Sidecar.spawn({ command: ["/nowhere/kukuri-sidecar"] });
  await assert.rejects(sidecar.call("ping"), /cannot start \/nowhere\/kukuri-sidecar: .*ENOENT/);
  await sidecar.close();
});

test("close is quick with a healthy sidecar and may be called twice", async () => {
  const sidecar = Sidecar.spawn({ command: [process.execPath, fake] });
  await sidecar.call("echo");
  const begin = Date.now();
  const ends = await Promise.all([sidecar.close(), sidecar.close()]);
  assert.deepEqual(ends, [
    { code: 0, signal: null },
    { code: 0, signal: null },
  ]);
  assert.ok(Date.now() - begin < 1000);
});

test(
  "close ends a sidecar that ignores everything, and what it started",
  { skip: process.platform === "win32" },
  async () => {
    const sidecar = Sidecar.spawn({ command: [process.execPath, fake, "--stubborn"] });
    const grandchild = await sidecar.call("child");
    assert.ok(alive(grandchild));
    assert.deepEqual(await sidecar.close(), { code: null, signal: "SIGKILL" });
    assert.match(sidecar.stderrTail, /SIGTERM\? never heard of it/);
    assert.ok(await gone(grandchild));
  },
);
