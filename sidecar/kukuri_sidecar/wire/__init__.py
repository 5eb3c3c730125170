"""Codecs and ids: bytes <-> frozen values.

No state, no time, no I/O; every decoder raises DecodeError and nothing else.
"""
