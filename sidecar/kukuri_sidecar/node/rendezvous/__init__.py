"""Who is in this topic? Ways to find members of a topic that share nothing but its name.

A provider yields candidates: addresses without identity, or ids without address. Whoever answers proves its
id in the handshake and its membership by the topic protocol.
"""
