"""Membership (HyParView) and broadcast (PlumTree) of iroh-gossip, for any number of topics.

Knows peers only by id; knows nothing of connections, frames or time other than ``now``.
"""
