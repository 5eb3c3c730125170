"""Start a frozen binary: its self-test, then one short conversation. Exits 1 with a reason on silence."""

import json
import subprocess
import sys

TIMEOUT_S = 20


def main(binary: str) -> str | None:
    selftest = subprocess.run([binary, "--selftest"], capture_output=True, text=True, timeout=TIMEOUT_S)
    if selftest.returncode:
        return f"--selftest exited {selftest.returncode}: {selftest.stderr or selftest.stdout}"
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}) + "\n"
    talk = subprocess.run([binary], input=request, capture_output=True, text=True, timeout=TIMEOUT_S)
    if talk.returncode or json.loads(talk.stdout)["result"]["uptime_ms"] < 0:
        return f"ping: exit {talk.returncode}, {talk.stdout!r}, {talk.stderr!r}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
