"""Where is this key? Ways to find an endpoint by its id alone, raced, and our own record kept alive in each.

What they find are hints: a wrong one wastes a dial, identity is proven in the handshake. Knows nothing of
topics and of connections. Formats: iroh-wire.md 3.
"""
