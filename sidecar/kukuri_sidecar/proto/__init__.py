"""State machines: events and time in, effects out.

No I/O, no clock, no chance of their own, no tasks; sibling packages never meet.
"""
