"""Serverless peer-to-peer topics as a sidecar process: JSON-RPC over stdio, iroh-gossip over QUIC inside."""

__version__ = "0.1.0"
