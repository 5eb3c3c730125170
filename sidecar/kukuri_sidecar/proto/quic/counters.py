"""What the QUIC layer counts. Plain integers, read by metrics; every silent drop has one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class QuicCounters:
    """Since the endpoint was made."""

    datagrams_in: int = 0
    datagrams_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    dialled: int = 0  # dials that became a connection
    dials_failed: int = 0
    accepted: int = 0  # inbound handshakes that became a connection
    handshakes_failed: int = 0  # inbound: refused by TLS, timed out or given up
    refused: int = 0  # inbound: no room, or nobody wanted it
    closed: int = 0
    idle_timeouts: int = 0

    half_open_full: int = 0  # Initials dropped: too many unfinished handshakes
    rate_limited: int = 0  # Initials dropped: too many handshakes per second
    retries_sent: int = 0
    bad_tokens: int = 0
    malformed: int = 0  # long headers that cannot be a first Initial of version 1
    strays: int = 0  # packets of connections we do not have
    strangers_dropped: int = 0  # more unknown datagrams than we look at
    foreign_address: int = 0  # right connection id, but not from an address that we dialled
    resets_sent: int = 0
    resets_received: int = 0
    datagram_frames: int = 0  # QUIC DATAGRAM frames: nobody here reads them
    dropped_writes: int = 0  # sends on a stream or connection that was already over

    library_errors: int = 0  # exceptions out of aioquic: the connection was dropped
    timer_spins: int = 0  # timers that wanted to fire again at once: slowed down to 1 ms
