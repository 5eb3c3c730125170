"""Membership (HyParView), broadcast (PlumTree) and healing of iroh-gossip, for any number of topics.

Knows peers only by id; knows nothing of connections, frames or time other than ``now``. Start with ``events``
(what goes in and comes out) and ``state.GossipCore``; ``hyparview``, ``plumtree`` and ``probe`` are one topic
each.
Figures: ``tests/sim``.
"""
