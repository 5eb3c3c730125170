import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { findSidecar } from "../find.mjs";

const name = process.platform === "win32" ? "kukuri-sidecar.exe" : "kukuri-sidecar";
const program = (t) => {
  const folder = mkdtempSync(join(tmpdir(), "kukuri-find-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, name);
  writeFileSync(path, "#!/bin/sh\n");
  chmodSync(path, 0o755);
  return { folder, path };
};

test("the option wins over the environment", (t) => {
  const [a, b] = [program(t), program(t)];
  assert.equal(findSidecar(a.path, { KUKURI_SIDECAR_BIN: b.path }), a.path);
  assert.equal(findSidecar(undefined, { KUKURI_SIDECAR_BIN: b.path, PATH: a.folder }), b.path);
});

test("a named program that is missing is an error, not a reason to search on", (t) => {
  const { folder } = program(t);
  assert.throws(
    () => findSidecar(undefined, { KUKURI_SIDECAR_BIN: "/nowhere/x", PATH: folder }),
    /BIN: no program at \/nowhere\/x/,
  );
  assert.throws(() => findSidecar(folder, {}), /no program at/);
});

test("when nothing is found the error lists every place", () => {
  try {
    const found = findSidecar(undefined, { PATH: "" });
    assert.match(found, /dist/); // this checkout has a frozen build
  } catch (error) {
    assert.match(
      error.message,
      /option binary: not set\n.*KUKURI_SIDECAR_BIN: not set\n.*npm package kukuri-sidecar-.*\n.*make binary\)\n.*PATH: no/,
    );
  }
});
