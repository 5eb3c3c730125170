// The least a Node sidecar does: readline, JSON.parse, one answer. For comparison only.
import readline from 'node:readline';

const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity });
lines.on('line', (line) => {
  const { id } = JSON.parse(line);
  process.stdout.write(`${JSON.stringify({ jsonrpc: '2.0', id, result: { uptime_ms: 0, loop_lag_ms: 0 } })}\n`);
});
lines.on('close', () => process.exit(0));
