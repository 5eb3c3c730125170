import assert from "node:assert/strict";
import { test } from "node:test";

import { LineSplitter } from "../lines.mjs";

const cut = (text, ...borders) => {
  const bytes = Buffer.from(text);
  const ends = [...borders, bytes.length];
  return ends.map((end, i) => bytes.subarray(i === 0 ? 0 : ends[i - 1], end));
};
const lines = (chunks) => {
  const splitter = new LineSplitter();
  return chunks.flatMap((chunk) => splitter.push(chunk));
};

test("characters of two, three and four bytes survive every border", () => {
  const text = "ä€😀\nクリ\n";
  const size = Buffer.byteLength(text);
  for (let a = 0; a <= size; a++) {
    for (let b = a; b <= size; b++) {
      assert.deepEqual(lines(cut(text, a, b)), ["ä€😀", "クリ"], `cut at ${a} and ${b}`);
    }
  }
});

test("one byte at a time gives the same lines", () => {
  const bytes = Buffer.from('{"a":"😀"}\n\n{"b":1}\nrest');
  assert.deepEqual(lines([...bytes].map((byte) => Buffer.from([byte]))), ['{"a":"😀"}', "", '{"b":1}']);
});

test("a line without an end waits for it", () => {
  const splitter = new LineSplitter();
  assert.deepEqual(splitter.push(Buffer.from("ab")), []);
  assert.deepEqual(splitter.push(Buffer.from("c\nd")), ["abc"]);
  assert.deepEqual(splitter.push(Buffer.from("\n")), ["d"]);
});

test("a long line in small chunks costs linear time", () => {
  const time = (chunks) => {
    const splitter = new LineSplitter();
    const chunk = Buffer.alloc(64, "x");
    const start = process.hrtime.bigint();
    for (let i = 0; i < chunks; i++) splitter.push(chunk);
    assert.equal(splitter.push(Buffer.from("\n"))[0].length, 64 * chunks);
    return Number(process.hrtime.bigint() - start);
  };
  time(20_000); // warm
  const [one, eight] = [time(20_000), time(160_000)];
  assert.ok(
    eight < 40 * one,
    `8 times the chunks took ${(eight / one).toFixed(1)} times as long; quadratic is 64`,
  );
});
