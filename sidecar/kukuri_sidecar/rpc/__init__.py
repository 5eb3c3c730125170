"""The contract with the host: structs, methods, events, stdio. Knows JSON; knows no sockets.

``stdio``, ``dispatch``, ``server`` and ``node_task`` run on plain asyncio: the first answer leaves before
anyio is imported, and asyncio's pipe transport is what makes a round trip cheap. anyio begins with the node.
"""
