"""A private DHT of libtorrent nodes on loopback, each with an address of its own, in this process."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NODES = 12
FIRST_HOST = 10  # 127.0.2.10 and up
SETTLE_S = 15.0

SETTINGS: dict[str, Any] = {
    "enable_dht": True,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "dht_bootstrap_nodes": "",
    # One machine is the whole network: what protects the public one against that is off.
    "dht_ignore_dark_internet": False,
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_prefer_verified_node_ids": False,
    "dht_block_ratelimit": 10_000,
    "dht_upload_rate_limit": 1_000_000,
    "alert_mask": 0,
}


@contextmanager
def libtorrent_network() -> Iterator[list[str]]:
    """Start the nodes, introduce them to each other; yields their addresses."""
    import libtorrent

    sessions = []
    addresses = []
    for number in range(NODES):
        host = f"127.0.2.{FIRST_HOST + number}"
        session = libtorrent.session({**SETTINGS, "listen_interfaces": f"{host}:0"})
        sessions.append(session)
        port = _wait(session.listen_port, "a port")
        addresses.append((host, port))
    for session in sessions:
        for address in addresses:
            session.add_dht_node(address)
    for session in sessions:
        _wait(lambda session=session: _contacts(session) >= NODES // 2, "nodes")
    try:
        yield [f"{host}:{port}" for host, port in addresses]
    finally:
        for session in sessions:
            session.pause()


def _contacts(session: Any) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the only synchronous way to ask
        return int(session.status().dht_nodes)


def _wait(value: Any, what: str) -> Any:
    until = time.monotonic() + SETTLE_S
    while not (found := value()):
        assert time.monotonic() < until, f"no {what}"
        time.sleep(0.05)
    return found
