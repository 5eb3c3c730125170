"""A host in about 50 lines of the standard library: any language with processes and JSON will do.

    python host-example/python/host.py TOPIC [TICKET...] [-- PROGRAM ARGS...]

Joins the topic, prints what happens there, publishes the lines of stdin, leaves at their end.
"""

import base64
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from typing import Any

arguments, program = sys.argv[1:], [os.environ.get("KUKURI_SIDECAR_BIN", "kukuri-sidecar")]
if "--" in arguments:
    cut = arguments.index("--")
    arguments, program = arguments[:cut], arguments[cut + 1 :]
if not arguments:
    sys.exit(__doc__)
topic, *tickets = arguments

sidecar = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
to_sidecar, from_sidecar = sidecar.stdin or sys.exit(1), sidecar.stdout or sys.exit(1)
answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
ids = itertools.count(1)


def read() -> None:
    """The only reader of stdout, always reading: events go to the screen, answers to the caller."""
    for line in from_sidecar:
        message = json.loads(line)
        if message.get("method") == "event":
            show(message["params"])
        else:
            answers.put(message)
    answers.put({"error": {"message": f"the sidecar ended with code {sidecar.wait()}"}})


def call(method: str, **params: object) -> dict[str, Any]:
    """One call at a time, so the next answer is ours; a busier host keeps them apart by `id`."""
    request = {"jsonrpc": "2.0", "id": next(ids), "method": method, "params": params}
    to_sidecar.write(json.dumps(request).encode() + b"\n")
    to_sidecar.flush()
    answer = answers.get(timeout=30)
    if "error" in answer:
        sys.exit(f"{method}: {answer['error']['message']}")
    return dict(answer["result"])


def show(event: dict[str, Any]) -> None:
    """Payloads are bytes in base64; the sidecar does not look into them."""
    if event["type"] == "topic.message":
        print("<", base64.b64decode(event["payload_b64"]).decode(errors="replace"), flush=True)
    else:
        print("*", event["type"], event.get("state") or event.get("endpoint_id"), flush=True)


threading.Thread(target=read, daemon=True).start()
call("events.subscribe", types=["topic.*"])  # first, so that no event is missed
call("initialize", api_version=1, ephemeral=True)
topic_id = call("topic.join", topic=topic, bootstrap=tickets)["topic_id"]
print("* ticket", call("node.ticket")["ticket"], flush=True)
for line in sys.stdin:
    payload = base64.b64encode(line.rstrip("\n").encode()).decode()
    call("topic.publish", topic_id=topic_id, payload_b64=payload, if_isolated="queue")
call("shutdown")
sidecar.wait(5)
