"""Services composed into one node: identity, connections, topics.

Knows values and tasks; knows no JSON and opens no socket of its own.
"""
