"""``python -m sim.gossip_plots FILE.png``: delivery over time after a mass failure and after a partition."""

from __future__ import annotations

import sys

import matplotlib as mpl

from kukuri_sidecar.proto.gossip.config import UPSTREAM, GossipConfig
from sim.gossip_scenarios import mass_failure, partition

mpl.use("Agg")

KILL_TIMES_S = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 14.0, 20.0, 30.0)
KILLED = (0.5, 0.8, 0.9, 0.95)
COUNT = 1_000
SPLIT = (30, 1_800.0)  # nodes, seconds apart
SEED = 1
POLICIES = {"iroh-gossip's policy": (UPSTREAM, "tab:orange"), "ours": (GossipConfig(), "tab:blue")}


def draw(path: str) -> None:
    """Run both simulations with both policies and write one picture."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for style, killed in zip((":", "-.", "--", "-"), KILLED, strict=True):
        for name, (config, colour) in POLICIES.items():
            ratios = mass_failure(COUNT, killed, SEED, config, KILL_TIMES_S).delivery
            left.plot(
                ratios.keys(), ratios.values(), style, color=colour, label=f"{name}, {killed:.0%} killed"
            )
    left.set(title=f"{COUNT} nodes, a part killed at once", xlabel="message sent, seconds after the failure")
    count, split_s = SPLIT
    for name, (config, colour) in POLICIES.items():
        series = partition(count, split_s, SEED, config, limit_s=30.0).delivery
        right.plot([at for at, _ in series], [ratio for _, ratio in series], "o-", color=colour, label=name)
    right.set(
        title=f"{count} nodes, two halves for {split_s / 60:.0f} minutes",
        xlabel="message sent, seconds after the network healed",
    )
    for axes in (left, right):
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("part of the living that heard it within 5 s")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    draw(sys.argv[1])
    print(f"wrote {sys.argv[1]}")
