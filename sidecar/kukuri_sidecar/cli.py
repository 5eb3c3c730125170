"""The command line: serves on stdio, serves a DHT, or answers a question about itself.

Exit codes are api.md section 3.

Serving imports in the order of need: descriptors and the end watch first, so that nothing can print into
the wire and a SIGTERM during start-up finds somebody; then asyncio; the node after the first answer.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import argparse
    import asyncio
    from collections.abc import Callable

    from kukuri_sidecar.node.dht_server import DhtServer
    from kukuri_sidecar.rpc.api import LogLevel
    from kukuri_sidecar.rpc.framing import Framing
    from kukuri_sidecar.rpc.lifetime import EndWatch
    from kukuri_sidecar.rpc.logs import LogFormat

EXIT_STALE_SCHEMA = 1
EXIT_USAGE = 2
EXIT_INTERNAL_ERROR = 70
STDERR_FLUSH_S = 0.1


def main() -> int:
    """Run the command; returns the exit code, except that serving ends the process itself."""
    started_at = time.monotonic()
    if len(sys.argv) == 1:  # as hosts start it: without argparse, 2 ms
        serve(started_at)
    arguments = _parse(sys.argv[1:])
    if arguments.version:
        from kukuri_sidecar import __version__

        return _say(f"kukuri-sidecar {__version__}\n")
    if arguments.openrpc:
        from kukuri_sidecar.rpc.schema import openrpc_json

        return _say(openrpc_json().decode() + "\n")
    if arguments.selftest:
        return _selftest()
    if arguments.command == "serve":
        return _serve_dht(arguments)
    if arguments.command == "schema":
        return _schema(arguments.directory, check=arguments.check)
    serve(started_at, arguments.framing, arguments.log_level, arguments.log_format)


def serve(
    started_at: float,
    framing: Framing | None = None,
    log_level: LogLevel | None = None,
    log_format: LogFormat | None = None,
) -> NoReturn:
    """Serve one host on stdio, then end the process: a thread blocked in a read cannot be joined."""
    import gc

    from kukuri_sidecar.rpc.descriptors import claim
    from kukuri_sidecar.rpc.lifetime import EndWatch

    gc.disable()  # imports make next to no garbage; ``rpc.node_task`` switches it on when all is loaded
    try:
        stdin_fd, stdout_fd = claim()
    except OSError as exc:
        sys.stderr.write(f"kukuri-sidecar: no stdin or no stdout: {exc}\n")
        os._exit(EXIT_USAGE)
    end = EndWatch(stdin_fd, os.getppid())

    import asyncio

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(stdin_fd, stdout_fd, end, started_at, framing, log_level, log_format))
    raise AssertionError("unreachable")


async def _run(
    stdin_fd: int,
    stdout_fd: int,
    end: EndWatch,
    started_at: float,
    framing: Framing | None,
    log_level: LogLevel | None,
    log_format: LogFormat | None,
) -> NoReturn:
    import logging

    from kukuri_sidecar.rpc.logs import install
    from kukuri_sidecar.rpc.methods import METHODS
    from kukuri_sidecar.rpc.server import Server

    logs = install(log_level, log_format)
    code = EXIT_INTERNAL_ERROR
    try:
        server = Server(METHODS, end, logs, framing=framing, started_at=started_at)
        code = await server.run(stdin_fd, stdout_fd)
    except Exception:  # the last supervisor
        logging.getLogger(__name__).exception("the server failed")
    finally:
        logs.stderr.flush(STDERR_FLUSH_S)
        if os.name == "posix":
            os.set_blocking(stdout_fd, True)  # the open file may be shared with whoever started us
        os._exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


def _parse(arguments: list[str]) -> argparse.Namespace:
    import argparse

    parser = argparse.ArgumentParser(
        prog="kukuri-sidecar",
        description="Serve one host by JSON-RPC 2.0 on stdin and stdout. Logs go to stderr.",
        allow_abbrev=False,
    )
    parser.add_argument("--framing", choices=("ndjson", "lsp"), help="default: detected from the input")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--log-format", choices=("json", "text"))
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--openrpc", action="store_true", help="print the OpenRPC document")
    parser.add_argument("--selftest", action="store_true", help="import everything, sign and verify once")
    commands = parser.add_subparsers(dest="command")
    schema = commands.add_parser("schema", help="write rpc-schema/")
    schema.add_argument("--check", action="store_true", help="compare only; exit 1 when it is stale")
    schema.add_argument("--directory", default="rpc-schema")
    modes = commands.add_parser("serve", help="serve a network instead of a host").add_subparsers(
        dest="mode", required=True
    )
    dht = modes.add_parser(
        "dht",
        help="bootstrap nodes of a DHT of your own",
        description="Prints one line of JSON with its addresses and serves until stdin closes or a SIGTERM.",
    )
    dht.add_argument(
        "--bind", metavar="HOST:PORT", default="127.0.0.1:0", help="an IP address; default %(default)s"
    )
    dht.add_argument("--bootstrap", metavar="HOST:PORT", nargs="+", default=[], help="nodes to join")
    test_network = dht.add_argument_group("a test network")
    test_network.add_argument(
        "--nodes", metavar="N", type=int, default=1, help="so many nodes in this process"
    )
    test_network.add_argument(
        "--dead", metavar="FRACTION", type=float, default=0.0, help="of them never answer"
    )
    test_network.add_argument(
        "--delay-ms", metavar="MS", type=int, default=0, help="how late every datagram leaves"
    )
    return parser.parse_args(arguments)


def _selftest() -> int:
    """Prove that a frozen build holds every module that is imported lazily."""
    import kukuri_sidecar.node.dht_server  # noqa: F401
    from kukuri_sidecar.rpc.node_task import load
    from kukuri_sidecar.rpc.schema import files
    from kukuri_sidecar.wire.keys import SecretKey, verify

    load()
    files()
    key = SecretKey(os.urandom(32))
    message = b"selftest"
    if not verify(key.endpoint_id, message, key.sign(message)):
        return EXIT_INTERNAL_ERROR
    return _say(f"selftest ok, {len(sys.modules)} modules\n")


def _schema(directory: str, *, check: bool) -> int:
    from pathlib import Path

    from kukuri_sidecar.rpc.schema import stale, write

    changed = stale(Path(directory)) if check else write(Path(directory))
    for name in changed:
        _say(f"{'stale' if check else 'wrote'} {directory}/{name}\n")
    return EXIT_STALE_SCHEMA if check and changed else 0


def _serve_dht(arguments: argparse.Namespace) -> int:
    """Serve the DHT alone, then end the process; its life is bound to stdin as the life of every sidecar."""
    from kukuri_sidecar.rpc.lifetime import EndWatch

    end = EndWatch(0, os.getppid())

    import asyncio
    from random import SystemRandom

    from kukuri_sidecar.errors import InvalidConfig
    from kukuri_sidecar.node.dht_server import DhtServer, check_options

    try:
        options = check_options(
            bind=arguments.bind,
            bootstrap=arguments.bootstrap,
            nodes=arguments.nodes,
            dead=arguments.dead,
            delay_ms=arguments.delay_ms,
        )
        server = DhtServer(options, SystemRandom())
        server.bind()
    except (InvalidConfig, OSError) as exc:
        sys.stderr.write(f"kukuri-sidecar serve dht: {exc}\n")
        return EXIT_USAGE
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run_dht(server, end))
    raise AssertionError("unreachable")


async def _run_dht(server: DhtServer, end: EndWatch) -> None:
    import json
    from functools import partial

    import anyio

    end.on_end(partial(os._exit, 0))  # nothing is to be saved, and nobody to be told
    async with anyio.create_task_group() as tasks:
        addresses = await tasks.start(server.run)
        _say(json.dumps({"addresses": [str(address) for address in addresses]}) + "\n")
        sys.stdout.flush()


def _say(text: str) -> int:
    sys.stdout.write(text)
    return 0
