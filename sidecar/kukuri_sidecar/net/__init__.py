"""Drivers: the only layer that touches sockets and the wall clock.

Knows bytes and addresses; knows no topics and no JSON.
"""
