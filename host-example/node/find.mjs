import { accessSync, constants, statSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

const POSIX = process.platform !== "win32";
const PROGRAM = POSIX ? "kukuri-sidecar" : "kukuri-sidecar.exe";

/** Path of the sidecar: `binary`, $KUKURI_SIDECAR_BIN, the npm platform package, this repository's dist/, $PATH. */
export function findSidecar(binary, env = process.env) {
  const tried = [];
  for (const [what, path] of [
    ["option binary", binary],
    ["KUKURI_SIDECAR_BIN", env.KUKURI_SIDECAR_BIN],
  ]) {
    if (!path) tried.push(`${what}: not set`);
    else if (isProgram(path)) return path;
    else throw new Error(`${what}: no program at ${path}`); // what was asked for, or nothing
  }
  const platformPackage = `kukuri-sidecar-${process.platform}-${process.arch}`;
  try {
    return createRequire(import.meta.url).resolve(platformPackage);
  } catch {
    tried.push(`npm package ${platformPackage}: not installed`);
  }
  const dist = fileURLToPath(new URL(`../../dist/kukuri-sidecar/${PROGRAM}`, import.meta.url));
  const onPath = (env.PATH ?? "")
    .split(delimiter)
    .filter(Boolean)
    .map((folder) => join(folder, PROGRAM));
  const found = [dist, ...onPath].find(isProgram);
  if (found) return found;
  tried.push(`${dist}: not built (make binary)`, `PATH: no ${PROGRAM}`);
  throw new Error(
    `kukuri-sidecar not found. Install ${platformPackage} or name the program.\n  ${tried.join("\n  ")}`,
  );
}

function isProgram(path) {
  try {
    accessSync(path, POSIX ? constants.X_OK : constants.F_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
