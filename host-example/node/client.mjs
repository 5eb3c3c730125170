/**
 * A client for kukuri-sidecar without dependencies, Node 20 or later. Types are in client.d.mts.
 *
 *     const sidecar = Sidecar.spawn();
 *     const events = await sidecar.subscribe({ types: ["topic.*"] });
 *     await sidecar.call("initialize", { api_version: 1, data_dir: "/somewhere/private" });
 *     for await (const event of events) console.log(event.type);
 *     await sidecar.close();
 */
import { spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";

import { findSidecar } from "./find.mjs";
import { LineSplitter } from "./lines.mjs";
import { Subscription } from "./subscription.mjs";

export { findSidecar };

const POSIX = process.platform !== "win32";
const STDERR_TAIL = 8192; // characters kept for error texts

/** The sidecar answered with an error. Switch on `kind`; `message` is for humans. */
export class RpcError extends Error {
  constructor(method, { code, message, data }) {
    super(`${method}: ${message}`);
    this.name = "RpcError";
    this.code = code;
    this.kind = data?.kind ?? "internal_error";
    this.retryable = data?.retryable ?? false;
    this.details = data?.details ?? {};
  }
}

/** The process is gone; calls in flight may or may not have taken effect. `stderrTail` often says why. */
export class SidecarExit extends Error {
  constructor(what, code, signal, stderrTail) {
    super(`${what}${stderrTail ? `\n--- its last words ---\n${stderrTail.trimEnd()}` : ""}`);
    this.name = "SidecarExit";
    Object.assign(this, { code, signal, stderrTail });
  }
}

/** One running sidecar process. */
export class Sidecar {
  #child;
  #pending = new Map(); // request id → { method, resolve, reject, onResult }
  #subscriptions = new Map();
  #lastId = 0;
  #stderr = "";
  #waitingForRoom = []; // resolvers of sends that wait until stdin drains
  #closing = null;
  #failure = null; // SidecarExit, once the process is gone

  /** Start the process. A failed start rejects the first call, with the reason. */
  static spawn(options = {}) {
    return new Sidecar(options);
  }

  constructor({ command, binary, args = [], env, onLog, onProtocolError } = {}) {
    const [program, ...rest] = command ?? [findSidecar(binary, env ?? process.env), ...args];
    // Its own process group, so that the last step of close() reaches whatever it started.
    const options = {
      stdio: ["pipe", "pipe", "pipe"],
      windowsHide: true,
      detached: POSIX,
      env: env ?? process.env,
    };
    this.#child = spawn(program, rest, options);
    this.exited = new Promise((resolve) => this.#watch(program, resolve));
    const lines = new LineSplitter();
    this.#child.stdout.on("data", (chunk) => {
      for (const line of lines.push(chunk)) this.#receive(line, onProtocolError);
    });
    const logLines = new LineSplitter();
    this.#child.stderr.on("data", (chunk) => {
      for (const line of logLines.push(chunk)) {
        this.#stderr = `${this.#stderr}${line}\n`.slice(-STDERR_TAIL);
        onLog?.(line);
      }
    });
    this.#child.stdin.on("error", () => {}); // a broken pipe is reported by the exit
    for (const event of ["drain", "close"]) {
      this.#child.stdin.on(event, () => this.#waitingForRoom.splice(0).forEach((go) => go()));
    }
  }

  get pid() {
    return this.#child.pid;
  }

  get stderrTail() {
    return this.#stderr;
  }

  /** Call a method. Rejects with RpcError, SidecarExit, a TimeoutError, or the signal's reason. */
  async call(method, params = {}, { timeoutMs = 30_000, signal } = {}) {
    return this.#request(method, params, timeoutMs, signal);
  }

  /** Subscribe to events; iterate the result. It may be called before `initialize`, so that no event is missed. */
  async subscribe(params = {}, { highWaterMark = 4096, timeoutMs = 30_000, signal } = {}) {
    let subscription;
    // Registered while the answer is read: the first events may stand in the same chunk.
    await this.#request("events.subscribe", params, timeoutMs, signal, (result) => {
      subscription = new Subscription(result.subscription, highWaterMark, async () => {
        this.#subscriptions.delete(result.subscription);
        if (!this.#failure && !this.#closing) {
          await this.call("events.unsubscribe", { subscription: result.subscription });
        }
      });
      this.#subscriptions.set(result.subscription, subscription);
    });
    return subscription;
  }

  /** End it: `shutdown`, end of stdin, 2 s, SIGTERM, 2 s, SIGKILL to the group. Resolves to { code, signal }. */
  close() {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close() {
    await this.#request("shutdown", {}, 3000).catch(() => {}); // a sidecar that cannot answer gets the next steps
    this.#child.stdin.end();
    for (const signal of ["SIGTERM", "SIGKILL"]) {
      const exit = await within(2000, this.exited);
      if (exit) return exit;
      this.#kill(signal);
    }
    return this.exited;
  }

  #kill(signal) {
    try {
      if (POSIX && signal === "SIGKILL") process.kill(-this.#child.pid, signal);
      else this.#child.kill(signal);
    } catch {
      // it has just gone
    }
  }

  async #request(method, params, timeoutMs, signal, onResult) {
    signal?.throwIfAborted();
    if (this.#failure) throw this.#failure;
    const id = ++this.#lastId;
    let timer, abort;
    try {
      return await new Promise((resolve, reject) => {
        this.#pending.set(id, { method, resolve, reject, onResult });
        const giveUp = (reason) => {
          this.#send(frame({ method: "$/cancelRequest", params: { id } }));
          reject(reason);
        };
        const tooLate = `${method}: no answer within ${timeoutMs} ms`;
        timer = setTimeout(() => giveUp(new DOMException(tooLate, "TimeoutError")), timeoutMs);
        abort = () => giveUp(signal.reason);
        signal?.addEventListener("abort", abort, { once: true });
        this.#send(frame({ id, method, params }), () => this.#pending.has(id));
      });
    } finally {
      this.#pending.delete(id);
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Write one line, in order, not before the pipe has room; skipped when nobody wants it any more. */
  async #send(message, wanted = () => true) {
    const { stdin } = this.#child;
    while (stdin.writableNeedDrain) await new Promise((go) => this.#waitingForRoom.push(go));
    if (stdin.writable && wanted()) stdin.write(message);
  }

  #receive(line, onProtocolError) {
    let message;
    try {
      message = JSON.parse(line);
    } catch {
      onProtocolError?.(line); // stdout carries frames only: this is a bug of the sidecar, not a reason to fail
      return;
    }
    if (message?.method === "event") {
      this.#subscriptions.get(message.params.subscription)?.push(message.params);
      return;
    }
    const call = this.#pending.get(message?.id);
    if (!call) return; // given up by time-out or signal
    if (message.error) {
      call.reject(new RpcError(call.method, message.error));
    } else {
      call.onResult?.(message.result);
      call.resolve(message.result);
    }
  }

  #watch(program, resolve) {
    const done = (what, code = null, signal = null) => {
      if (this.#failure) return;
      this.#failure = new SidecarExit(what, code, signal, this.#stderr);
      for (const { reject } of this.#pending.values()) reject(this.#failure);
      for (const subscription of this.#subscriptions.values())
        subscription.end(this.#closing ? null : this.#failure);
      resolve({ code, signal });
    };
    const text = (code, signal) => `kukuri-sidecar ended with ${signal ?? `code ${code}`}`;
    this.#child.on("error", (error) => {
      if (this.#child.pid === undefined) done(`cannot start ${program}: ${error.message}`);
    });
    this.#child.once("close", (code, signal) => done(text(code, signal), code, signal));
    // "close" waits for the pipes; a process that inherited one must not hold up our calls.
    this.#child.once("exit", async (code, signal) => {
      await sleep(250);
      done(text(code, signal), code, signal);
    });
  }
}

const frame = (message) => `${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`;

async function within(ms, promise) {
  const timer = new AbortController();
  try {
    return await Promise.race([promise, sleep(ms, null, { signal: timer.signal })]);
  } finally {
    timer.abort();
  }
}
