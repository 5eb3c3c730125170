"""The real process with a fake node and a few more methods, to bring it into every state from outside.

Everything between the pipes and the method table is the product's own code. TOY_LOOP=asyncio takes uvloop
away, TOY_TRANSPORT=threads takes the transport for files and ttys.
"""

import asyncio
import os
import subprocess
import sys
import time

from msgspec import Struct

if os.environ.get("TOY_LOOP") == "asyncio":
    sys.modules["uvloop"] = None  # type: ignore[assignment]

from rpc import fake_node

fake_node.install()

from kukuri_sidecar import cli, errors  # noqa: E402
from kukuri_sidecar.rpc import api, methods  # noqa: E402
from kukuri_sidecar.rpc.registry import Call, rpc  # noqa: E402

TICK_S = 0.01


class BytesParams(Struct):
    bytes: int


class SecondsParams(Struct):
    seconds: float


class CountParams(Struct):
    count: int


class KindParams(Struct):
    kind: str


class TextResult(Struct):
    text: str = ""


class StatsResult(Struct):
    worst_lag_ms: float
    rss_kib: int
    peak_rss_kib: int
    queued_bytes: int


@rpc("toy.blob", early=True)
def blob(call: Call, params: BytesParams) -> TextResult:
    return TextResult("x" * params.bytes)


@rpc("toy.sleep")
async def sleep(call: Call, params: SecondsParams) -> TextResult:
    await asyncio.sleep(params.seconds)
    return TextResult()


@rpc("toy.block", early=True)
def block(call: Call, params: SecondsParams) -> TextResult:
    os.write(2, b"blocking\n")
    time.sleep(params.seconds)
    return TextResult()


@rpc("toy.flood", early=True)
async def flood(call: Call, params: CountParams) -> TextResult:
    """Emit events as fast as a node can, giving the loop its turns."""
    event = api.TopicInvalidEvent(topic_id="ab" * 32, count=1, reason="y" * 60, delivered_from="cd" * 32)
    for index in range(params.count):
        call.server.feed.publish(event, time.monotonic(), 0)
        if index % 100 == 99:
            await asyncio.sleep(0)
    return TextResult()


@rpc("toy.stray", early=True)
def stray(call: Call) -> TextResult:
    """Do everything that tears frames in a careless sidecar."""
    print("stray print", flush=True)
    os.write(1, b"stray write\n")
    subprocess.run(["sh", "-c", "echo stray child; cat"], timeout=5, check=True)  # cat must not eat requests
    return TextResult()


@rpc("toy.fail")
async def fail(call: Call, params: KindParams) -> TextResult:
    for error in vars(errors).values():
        if isinstance(error, type) and getattr(error, "kind", None) == params.kind:
            raise error("as asked", reason="asked")
    raise RuntimeError("secret text")


@rpc("toy.stats", early=True)
def stats(call: Call) -> StatsResult:
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    rss, peak = (int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    lag, Ticker.worst_lag_s = Ticker.worst_lag_s, 0.0
    return StatsResult(round(lag * 1000, 1), rss, peak, call.server.feed.queued_bytes)


class Ticker:
    """Stands for the network side: how late does a 100 Hz timer come?"""

    worst_lag_s = 0.0

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.tick(time.monotonic())

    def tick(self, due: float) -> None:
        Ticker.worst_lag_s = max(Ticker.worst_lag_s, time.monotonic() - due)
        self.loop.call_later(TICK_S, self.tick, time.monotonic() + TICK_S)


@rpc("toy.tick", early=True)
def tick(call: Call) -> TextResult:
    Ticker()
    return TextResult()


if __name__ == "__main__":
    for method in (blob, sleep, block, flood, stray, fail, stats, tick):
        methods.METHODS[method.name] = method
    if os.environ.get("TOY_TRANSPORT") == "threads":
        from kukuri_sidecar.rpc import stdio

        stdio.are_pipes = lambda *_: False  # type: ignore[assignment]
    sys.exit(cli.main())
