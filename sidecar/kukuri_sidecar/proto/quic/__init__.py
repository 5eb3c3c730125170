"""QUIC between raw public keys, on aioquic's sans-IO core, with every buffer bounded.

Knows datagrams and time; knows no sockets and no topics.
"""
