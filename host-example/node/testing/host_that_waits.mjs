/** A host that starts a sidecar, prints its pid and waits to be killed. */
import { Sidecar } from "../client.mjs";
import { command, env, initialize } from "./real_sidecar.mjs";

const sidecar = Sidecar.spawn({ command, env });
await sidecar.call("initialize", initialize);
console.log(sidecar.pid);
setInterval(() => {}, 1000);
