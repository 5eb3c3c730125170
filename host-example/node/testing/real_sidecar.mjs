/** How to start the real sidecar from a test: the program that findSidecar finds, else this repository's source. */
import { existsSync } from "node:fs";
import { delimiter } from "node:path";
import { fileURLToPath } from "node:url";

import { findSidecar } from "../find.mjs";

const path = (relative) => fileURLToPath(new URL(`../../../${relative}`, import.meta.url));

export const env = {
  ...process.env,
  PYTHONPATH: [path("sidecar"), process.env.PYTHONPATH].filter(Boolean).join(delimiter),
};

/** For programs that take no configuration: loopback all the same. */
export const loopbackEnv = {
  ...env,
  KUKURI_SIDECAR_NET__BIND_V4: "127.0.0.1:0",
  KUKURI_SIDECAR_NET__BIND_V6: "null",
};

export const python =
  [path(".venv/bin/python"), path(".venv/Scripts/python.exe")].find(existsSync) ?? "python3";

export const command = (() => {
  try {
    return [findSidecar()];
  } catch (error) {
    if (process.env.KUKURI_SIDECAR_BIN) throw error;
    return [python, "-m", "kukuri_sidecar"];
  }
})();

/** Loopback only, nothing on disk. */
export const initialize = {
  api_version: 1,
  client: { name: "node-test" },
  ephemeral: true,
  config: { net: { bind_v4: "127.0.0.1:0", bind_v6: null } },
};
