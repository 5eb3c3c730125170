"""Every number of the QUIC layer, with its parent. ``node`` builds one from the host's configuration."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class QuicLimits:
    """Bounds and timers of one endpoint. Letters are rows of trust.md section 2.4."""

    # Connections
    max_connections: int = 50  # S1; more inbound ones are refused with CONNECTION_REFUSED
    max_dials: int = 16  # ours: 8 are wanted in parallel (trust.md section 2.6), the rest is slack
    max_candidates: int = 16  # E3: 8 addresses from each of two sources, per dial

    # Handshakes
    max_half_open: int = 32  # D1; 70-80 KiB each
    max_half_open_per_ip: int = 4  # D1; loopback is exempt
    handshakes_per_s: float = 40.0  # D1: 8 % of a core
    handshake_burst: int = 80
    handshakes_per_prefix_per_s: float = 4.0  # D1: IPv4 /24, IPv6 /48; loopback is exempt
    handshake_prefix_burst: int = 8
    retry_at_half_open: int = 8  # D1: from here on an Initial costs us one Retry and no state
    retry_at_initials_per_s: float = 20.0
    handshake_deadline_s: float = 5.0  # D2, absolute
    dial_stall_s: float = 2.0  # ours: a candidate that answered and then went silent is dropped

    # Life
    idle_s: float = 30.0  # D2, as iroh: what we announce
    dead_after_s: float = 15.0  # G23 and iroh's PATH_MAX_IDLE: three heartbeats without any answer
    keep_alive_s: float = 5.0  # D2 and iroh's HEARTBEAT_INTERVAL, +- 20 %
    ack_delay_s: float = 0.005  # performance.md section 3.2; peers assume up to 25 ms
    key_update_packets: int = 1 << 22  # O2: half of AES-GCM's confidentiality limit (RFC 9001 section 6.6)

    # Memory
    streams_uni: int = 128  # M2: opened by the peer
    streams_bidi: int = 16
    stream_window_bytes: int = 256 * KIB  # M1
    connection_window_bytes: int = 512 * KIB  # M1; also the bound of all reassembly buffers together
    max_stream_backlog_bytes: int = MIB  # M3: `send` refuses above; users are expected to stop far below
    max_unread_streams: int = 1_024  # ours: finished streams whose data the user still holds

    # Wire
    max_datagram_bytes: int = 1_200  # RFC 9000 section 14.1; path MTU discovery would raise it
    congestion_control: str = "bwmodel"  # congestion.py; "reno" and "cubic" are aioquic's
