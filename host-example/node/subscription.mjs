/**
 * Events of one subscription, as an async iterator. At most `highWaterMark` wait; beyond that the oldest are dropped
 * and told as one `lagged`, as the sidecar does. Reading is never paused: a loop that awaits a call would wait forever.
 */
export class Subscription {
  #queue = [];
  #lost = null;
  #waiting = []; // { resolve, reject } of next()
  #ended = false;
  #failure = null;
  #highWaterMark;
  #unsubscribe;

  constructor(id, highWaterMark, unsubscribe) {
    this.id = id;
    this.#highWaterMark = highWaterMark;
    this.#unsubscribe = unsubscribe;
  }

  push(event) {
    if (this.#ended) return;
    const reader = this.#waiting.shift();
    if (reader) {
      reader.resolve({ value: event, done: false });
      return;
    }
    this.#queue.push(event);
    if (this.#queue.length > this.#highWaterMark) {
      const oldest = this.#queue.shift();
      const { subscription, seq, ts_ms } = oldest;
      this.#lost ??= { subscription, seq, ts_ms, type: "lagged", topic_id: null, missed: 0 };
      this.#lost.missed += oldest.type === "lagged" ? oldest.missed : 1;
    }
  }

  end(failure) {
    this.#ended = true;
    this.#failure = failure;
    for (const { resolve, reject } of this.#waiting.splice(0)) {
      if (failure) reject(failure);
      else resolve({ value: undefined, done: true });
    }
  }

  async next() {
    if (this.#lost) {
      const value = this.#lost;
      this.#lost = null;
      return { value, done: false };
    }
    if (this.#queue.length > 0) return { value: this.#queue.shift(), done: false };
    if (this.#failure) throw this.#failure;
    if (this.#ended) return { value: undefined, done: true };
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Unsubscribe; `break` in a `for await` does it too. */
  async return() {
    const first = !this.#ended;
    this.end(null);
    this.#queue = [];
    if (first) await this.#unsubscribe();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}
