"""``python -m sim.gossip_report --nodes 100 1000``: our gossip beside the Rust figures, as a table.

Run with ``PYTHONPATH=sidecar:tests``. Upstream's scenarios, seeds and statistics (gossip-wire section 4).
"""

from __future__ import annotations

import argparse
import time
from statistics import mean

from kukuri_sidecar.proto.gossip.config import UPSTREAM, GossipConfig
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
    print(f"\n{time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
