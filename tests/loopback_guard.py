"""Sees what a test sends and where: nothing may leave this machine (style guide, section 8)."""

from __future__ import annotations

import ipaddress
import sys


class NotLoopback(Exception):
    """A test reached for an address that is not this machine."""


class LoopbackGuard:
    """Sees every connect, send and name look-up of this process, whoever makes it (PEP 578 audit events).

    Subprocesses are out of its sight, and so is uvloop's C code.
    """

    def __init__(self) -> None:
        self.is_on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)  # for the life of the process: hooks cannot be removed

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if not self.is_on or not event.startswith("socket."):
            return
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            target = args[1]
            if not isinstance(target, tuple) or isinstance(target[0], int):
                return  # a connected socket, a path, netlink
            host = target[0]
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            host = args[0]
        else:
            return
        if not is_loopback(host):
            self.seen.append(f"{event} {host!r}")
            raise NotLoopback(self.seen[-1])


def is_loopback(host: object) -> bool:
    """Say whether packets to ``host`` stay on this machine, without asking a resolver."""
    if host is None or host in ("localhost", b"localhost"):
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host)
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
