"""A node of the Mainline DHT (BEP 5, 32, 42, 43, 44, 51) for one address family.

Finds and stores peers and items, and serves others when it can be reached. Knows addresses and bytes; knows
nothing of sockets, of QUIC or of what the items mean.
"""
