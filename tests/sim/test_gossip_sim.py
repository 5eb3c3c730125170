"""Swarms of the production core on simulated links: upstream's gates, our targets, global invariants.

A failure prints its seed; a fix adds it to the list it came from.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest

from kukuri_sidecar.proto.gossip.config import UPSTREAM
from sim.gossip_scenarios import churn, join_flood, mass_failure, partition
from sim.gossip_sim import UPSTREAM_SEEDS, Figures, GossipSim, run_scenario
from sim.kernel import Kernel, LinkConfig

pytestmark = pytest.mark.timeout(120)  # seconds of computing, on a machine that may have other work

# iroh-gossip tests/sim.rs: single, multi, burst
GATES = {"single": (15.0, 0.2), "multi": (18.0, 1.0), "all": (30.0, 3.0)}


def rounds_of(scenario: str, count: int, seed: int) -> int:
    if scenario != "all" or count == 20:
        return 30
    return 5 if seed == 0 else 2  # upstream's test runs 5 with seed 0; a round is 25,000 messages


@pytest.mark.parametrize("seed", UPSTREAM_SEEDS)
@pytest.mark.parametrize("count", [20, 100])
@pytest.mark.parametrize("scenario", list(GATES))
def test_upstreams_hard_gates(scenario: str, count: int, seed: int) -> None:
    sim, figures = run_scenario(scenario, count, seed, rounds=rounds_of(scenario, count, seed))
    max_ldh, max_rmr = GATES[scenario]
    assert figures.missed == 0
    assert figures.isolated == 0
    assert figures.ldh < max_ldh
    assert figures.rmr < max_rmr
    sim.run(2.0)
    sim.check_invariants()


@pytest.mark.parametrize(
    ("scenario", "count", "rmr", "ldh", "duration_s"),
    [
        ("single", 100, 0.101, 5.8, 0.177),
        ("multi", 100, 0.532, 10.6, 0.322),
        ("all", 20, 1.36, 5.7, 0.500),
    ],
)
def test_with_upstreams_policy_we_behave_as_upstream(
    scenario: str, count: int, rmr: float, ldh: float, duration_s: float
) -> None:
    """Figures of the real Rust code, gossip-wire section 4; the mean of four seeds scatters by about 20 %."""
    rounds = 10 if scenario == "all" else 30
    runs = [run_scenario(scenario, count, seed, UPSTREAM, rounds)[1] for seed in UPSTREAM_SEEDS]
    assert mean(f.rmr for f in runs) == pytest.approx(rmr, rel=0.25)
    assert mean(f.ldh for f in runs) == pytest.approx(ldh, rel=0.25)
    assert mean(f.duration_s for f in runs) == pytest.approx(duration_s, rel=0.25)
    assert all(f.missed == 0 for f in runs)


def test_a_thousand_nodes() -> None:
    """Our targets: RMR <= 0.12 where upstream has 0.48, views nearly full where upstream's hold 4.2 of 5."""
    sim, figures = run_scenario("multi", 1_000, seed=0)
    assert figures.missed == figures.isolated == 0
    assert figures.rmr <= 0.12
    assert figures.ldh < 18.0
    assert figures.duration_s < 0.6
    sim.run(30.0)
    assert sim.mean_active() >= 4.9
    assert sim.largest_component() == 1_000
    sim.check_invariants()


def test_the_same_seed_gives_the_same_run() -> None:
    def figures(seed: int) -> tuple[Figures, int]:
        sim, result = run_scenario("multi", 40, seed, rounds=5)
        return result, sim.kernel.steps

    assert figures(7) == figures(7)
    assert figures(7) != figures(8)


@pytest.mark.parametrize("seed", range(5))
def test_jitter_does_no_harm(seed: int) -> None:
    links = LinkConfig(latency_s=(0.010, 0.050), jitter_s=0.050)
    sim, figures = run_scenario("multi", 50, seed, links=links)
    assert figures.missed == 0
    sim.run(2.0)
    sim.check_invariants()


@pytest.mark.parametrize("seed", range(3))
def test_lost_messages_are_repaired(seed: int) -> None:
    """2 % of all messages vanish, as when streams are reset: the lazy links bring what the tree lost."""
    sim = GossipSim(50, seed)
    sim.bootstrap()
    sim.links.config = replace(sim.links.config, loss=0.02)
    missed = sum(sim.round([(sim.rng.randrange(50), b"m%d" % i)]).missed for i in range(20))
    assert missed <= 20 * 49 * 0.001


def test_the_kernel_keeps_the_order_of_equal_times() -> None:
    kernel = Kernel()
    order: list[int] = []
    for i in range(100):
        kernel.schedule(1.0, order.append, i)
    kernel.run_until(0.5)
    assert (order, kernel.now) == ([], 0.5)
    kernel.run_until(1.0)
    assert order == list(range(100))


@pytest.mark.parametrize(
    ("count", "killed", "at", "target"),
    [(300, 0.5, 0.0, 0.98), (1_000, 0.9, 4.0, 0.99), (1_000, 0.95, 30.0, 0.95)],
)
def test_a_mass_failure_is_survived(count: int, killed: float, at: float, target: float) -> None:
    """Upstream at 1,000 nodes: 0.99 at 4 s after 90 %, 0.63 at 30 s after 95 % (gossip-wire section 4)."""
    failure = mass_failure(count, killed, seed=0, times=(at,), quiet_s=60.0)
    assert failure.delivery[at] >= target
    assert failure.largest_part >= 0.95


@pytest.mark.parametrize("seed", range(4))
def test_a_partition_of_half_an_hour_heals_within_five_seconds(seed: int) -> None:
    healing = partition(30, 1_800.0, seed)
    assert healing.before < 0.6
    assert healing.healed_after_s is not None
    assert healing.healed_after_s <= 5.0
    assert healing.joins <= 10


def test_upstreams_partition_stays() -> None:
    """U12: the reason for the probe."""
    assert partition(30, 1_800.0, seed=0, config=UPSTREAM, limit_s=120.0).healed_after_s is None


def test_one_of_five_peers_with_a_probe_heals_the_swarm_for_all() -> None:
    healing = partition(30, 1_800.0, seed=1, plain=0.8, plain_config=UPSTREAM)
    assert healing.healed_after_s is not None
    assert healing.healed_after_s <= 5.0


def test_churn_of_ten_percent_a_minute_loses_nothing() -> None:
    """Our goal is 1 % a minute; upstream loses messages at 10 %."""
    result = churn(100, per_minute=0.1, minutes=5.0, seed=1)
    assert result.worst == 1.0
    assert result.mean_active >= 4.7
    assert result.isolated == 0


@pytest.mark.parametrize("seed", range(2))
def test_a_join_flood_does_not_eclipse_a_peer(seed: int) -> None:
    """Trust E1: two honest neighbors at any second, 99 % delivery; upstream has no honest neighbor left."""
    flood = join_flood(100, strangers=400, seconds=30.0, seed=seed)
    assert flood.worst_honest >= 2
    assert flood.delivery >= 0.99
