"""A neighbor that promises what does not exist must not cost memory or honest messages (trust.md M5)."""

from __future__ import annotations

from sim.gossip_costs import ihave_flood


def test_a_flood_of_false_announcements_is_bounded_and_harmless() -> None:
    flood = ihave_flood(40_000)
    assert flood.grown_bytes <= 5 << 20
    assert flood.delivered == 1.0
