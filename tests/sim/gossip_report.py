"""``python -m sim.gossip_report --nodes 100 1000``: our gossip beside the Rust figures, as a table.

Run with ``PYTHONPATH=sidecar:tests``. Upstream's scenarios, seeds and statistics (gossip-wire section 4),
then what upstream does not simulate: mass failure, partition, churn, a join flood.
"""

from __future__ import annotations

import argparse
import time
from statistics import mean

from kukuri_sidecar.proto.gossip.config import UPSTREAM, GossipConfig
from sim.gossip_costs import cpu_per_message_us, ihave_flood
from sim.gossip_scenarios import churn, join_flood, mass_failure, partition
from sim.gossip_sim import UPSTREAM_SEEDS, run_scenario

# Real Rust v0.101.0, gossip-wire section 4: RMR, LDH, duration in ms; missed 0 everywhere.
RUST = {
    ("single", 20): (0.145, 3.0, 94),
    ("single", 100): (0.101, 5.8, 177),
    ("single", 1000): (0.074, 13.0, 392),
    ("multi", 20): (0.507, 5.1, 184),
    ("multi", 100): (0.532, 10.6, 322),
    ("multi", 1000): (0.481, 21.5, 626),
    ("all", 20): (1.36, 5.7, 500),
    ("all", 100): (1.06, 10.6, 699),
}
# The same unmodified code with its own random numbers, all four seeds: mean neighbors after bootstrap.
RUST_ACTIVE = {20: 4.35, 100: 4.28, 1000: 4.21}
POLICIES = {"upstream's": UPSTREAM, "ours": GossipConfig()}
# Upstream's state machines after killing a part of 1,000 nodes, gossip-wire section 4: delivery of single
# messages at 0, 1, 2, 4 and 30 s.
SPEC_FAILURE = {
    0.3: (1.0, 1.0, 1.0, 1.0, 1.0),
    0.5: (0.992, 1.0, 1.0, 1.0, 1.0),
    0.8: (0.005, 0.985, 0.998, 1.0, 1.0),
    0.9: (0.0, 0.737, 0.909, 0.995, 0.995),
    0.95: (0.0, 0.245, 0.122, 0.5, 0.63),
}
FAILURE_TIMES = (0.0, 1.0, 2.0, 4.0, 30.0)
FAILURE_SEEDS = range(3)
MAX_BURST_NODES = 200  # every node sends: the square of this many deliveries a round
BURST_ROUNDS = 5


def scenarios(nodes: list[int]) -> None:
    """Print upstream's three scenarios."""
    print("scenario  nodes  policy       RMR    LDH   duration  missed  neighbors")
    for scenario in ("single", "multi", "all"):
        for count in nodes:
            if scenario == "all" and count > MAX_BURST_NODES:
                continue
            seeds = UPSTREAM_SEEDS[:2] if count >= 1000 else UPSTREAM_SEEDS
            if (rust := RUST.get((scenario, count))) is not None:
                _row(scenario, count, "Rust", *rust, 0.0, RUST_ACTIVE[count])
            for name, config in POLICIES.items():
                rounds = BURST_ROUNDS if scenario == "all" and count > 20 else 30
                runs = [run_scenario(scenario, count, seed, config, rounds)[1] for seed in seeds]
                _row(
                    scenario,
                    count,
                    name,
                    mean(f.rmr for f in runs),
                    mean(f.ldh for f in runs),
                    1000 * mean(f.duration_s for f in runs),
                    mean(f.missed for f in runs),
                    mean(f.mean_active for f in runs),
                )


def failures(count: int) -> None:
    """Print delivery after mass failures."""
    print(f"\nkilled of {count:5}  policy        0 s    1 s    2 s    4 s   30 s  largest part  neighbors")
    for killed, spec in SPEC_FAILURE.items():
        if count == 1000:
            print(f"{killed:11.0%}      spec      ", *(f"{ratio:6.3f}" for ratio in spec))
        for name, config in POLICIES.items():
            runs = [mass_failure(count, killed, seed, config, FAILURE_TIMES) for seed in FAILURE_SEEDS]
            ratios = [f"{mean(run.delivery[at] for run in runs):6.3f}" for at in FAILURE_TIMES]
            part, active = mean(r.largest_part for r in runs), mean(r.mean_active for r in runs)
            print(f"{killed:11.0%}      {name:10}", *ratios, f"{part:12.3f} {active:10.2f}", flush=True)


def partitions() -> None:
    """Print how split swarms grow together."""
    print("\npartition                            policy      whole after        Joins  probes")
    mixed = "20 % ours"
    for count, split_s in ((10, 1_800.0), (30, 1_800.0), (200, 120.0)):
        for name in (*POLICIES, mixed):
            plain = 0.8 if name == mixed else 0.0
            config = POLICIES.get(name)
            runs = [
                partition(count, split_s, seed, config, limit_s=120.0, plain=plain, plain_config=UPSTREAM)
                for seed in FAILURE_SEEDS
            ]
            times = " ".join(
                "never" if r.healed_after_s is None else f"{r.healed_after_s:.0f} s" for r in runs
            )
            joins, probes = mean(r.joins for r in runs), mean(r.probes for r in runs)
            what = f"{count} nodes, halves for {split_s:.0f} s"
            print(f"{what:36} {name:11} {times:18} {joins:5.1f} {probes:7.1f}", flush=True)


def disorder(count: int) -> None:
    """Print delivery under churn, and to a peer under a join flood."""
    print("\nchurn, ten minutes                   policy      worst    mean  neighbors  isolated")
    for per_minute in (0.01, 0.1):
        for name, config in POLICIES.items():
            result = churn(count, per_minute, 10.0, 0, config)
            what = f"{count} nodes, {per_minute:.0%} a minute"
            print(
                f"{what:36} {name:10} {result.worst:6.3f} {result.mean:7.4f}"
                f" {result.mean_active:10.2f} {result.isolated:9}",
                flush=True,
            )
    print("\njoin flood, one minute               policy      honest neighbors, worst and mean    delivery")
    for honest, strangers in ((100, 200), (100, 2_000), (1_000, 4_000)):
        for name, config in POLICIES.items():
            flood = join_flood(honest, strangers, 60.0, 0, config)
            what = f"{honest} nodes, {strangers} strangers"
            figures = f"{flood.worst_honest:18} {flood.mean_honest:17.2f} {flood.delivery:11.3f}"
            print(f"{what:36} {name:10} {figures}", flush=True)


def costs() -> None:
    """Print what a flood of announcements and what a message costs one node."""
    flood = ihave_flood(1_000_000)
    print(
        f"\na million false announcements in a minute: at most {flood.grown_bytes / 2**20:.1f} MiB more,"
        f" {flood.delivered:.1%} of the honest messages delivered, {flood.asked} Grafts sent"
    )
    for size in (200, 4_000):
        cpu_us = min(cpu_per_message_us(size, 4) for _ in range(3))
        print(f"a message of {size} bytes, decoded, hashed and passed on to 4: {cpu_us:.1f} us of CPU")


def _row(
    scenario: str,
    count: int,
    policy: str,
    rmr: float,
    ldh: float,
    duration_ms: float,
    missed: float,
    active: float,
) -> None:
    print(
        f"{scenario:8} {count:6}  {policy:10} {rmr:6.3f} {ldh:6.1f} {duration_ms:7.0f} ms"
        f" {missed:7.1f} {active:10.2f}",
        flush=True,
    )


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m sim.gossip_report", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000])
    arguments = parser.parse_args()
    started = time.process_time()
    scenarios(arguments.nodes)
    failures(max(arguments.nodes))
    partitions()
    disorder(min(arguments.nodes))
    costs()
    print(f"\n{time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
