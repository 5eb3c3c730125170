"""A host in about 50 lines of the standard library: any language that can start a process and speak JSON will do.

python host-example/python/host.py TOPIC [TICKET] [-- PROGRAM ARGS...]
Joins the topic, prints what happens, publishes the lines of stdin; ends at end of input.
"""

import base64
import itertools
import json
import os
import subprocess
import sys
import threading
from typing import Any

own, _, program = sys.argv[1:], None, []
if "--" in own:
    own, program = own[: own.index("--")], own[own.index("--") + 1 :]
topic, tickets = own[0], own[1:]

command = program or [os.environ.get("KUKURI_SIDECAR_BIN", "kukuri-sidecar")]
sidecar = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
assert sidecar.stdin and sidecar.stdout
ids = itertools.count(1)
answers: dict[int, Any] = {}
answered = threading.Condition()


def read() -> None:
    """The only reader of stdout: answers go to their callers, events to the screen."""
    for line in sidecar.stdout or ():
        message = json.loads(line)
        if message.get("method") == "event":
            show(message["params"])
        else:
            with answered:
                answers[message["id"]] = message
                answered.notify_all()
    with answered:
        answers[0] = "the sidecar is gone"
        answered.notify_all()


def call(method: str, **params: object) -> Any:
    request_id = next(ids)
    request = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    sidecar.stdin.write(json.dumps(request).encode() + b"\n")
    sidecar.stdin.flush()
    with answered:
        if not answered.wait_for(lambda: request_id in answers or 0 in answers, timeout=30):
            raise TimeoutError(method)
        answer = answers.pop(request_id, None) or sys.exit(answers[0])
    if "error" in answer:
        sys.exit(f"{method}: {answer['error']['message']} ({answer['error']['data']['kind']})")
    return answer["result"]


def show(event: dict[str, Any]) -> None:
    if event["type"] == "topic.message":
        print("<", base64.b64decode(event["payload_b64"]).decode(errors="replace"), flush=True)
    else:
        print("*", event["type"], event.get("state") or event.get("endpoint_id"), flush=True)


threading.Thread(target=read, daemon=True).start()
call("events.subscribe", types=["topic.*"])
call("initialize", api_version=1, ephemeral=True)
joined = call("topic.join", topic=topic, bootstrap=tickets)
print("*", "ticket", call("node.ticket")["ticket"], flush=True)
for line in sys.stdin:
    payload = base64.b64encode(line.rstrip("\n").encode()).decode()
    call("topic.publish", topic_id=joined["topic_id"], payload_b64=payload, if_isolated="queue")
call("shutdown")
sidecar.wait(5)
