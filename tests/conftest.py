"""What every test gets: a seed, a virtual clock, and a guard that keeps it on this machine."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import settings
from trio._core import _run as trio_run
from trio.testing import MockClock

from loopback_guard import LoopbackGuard

# The machine is shared: hypothesis' limit of 200 ms per example would fail on somebody else's load.
settings.register_profile("sidecar", deadline=None, print_blob=True)
settings.load_profile("sidecar")


# --- chance and time -----------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="seed of every test; a failure prints its own")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Where a test's chance comes from: fixed per test, or ``--seed``; printed when the test fails."""
    given: int | None = request.config.getoption("--seed")
    value = zlib.crc32(request.node.nodeid.encode()) if given is None else given
    request.node.add_report_section("setup", "seed", f"--seed {value}")
    return value


@pytest.fixture
def rng(seed: int) -> Random:
    """What cores and services take as ``rng``."""
    return Random(seed)


@pytest.fixture
def clock() -> MockClock:
    """The clock of ``virtual_backend``: it jumps to the next deadline when every task waits."""
    return MockClock(autojump_threshold=0)


@pytest.fixture
def virtual_backend(
    seed: int, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, object]]:
    """Run async tests on virtual time, their interleaving replayed from the seed.

    No real sockets, threads or processes there. A module that needs them overrides ``anyio_backend`` with a
    fixture that returns "asyncio".
    """
    monkeypatch.setattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # as Hypothesis's plugin does
    monkeypatch.setattr(trio_run, "_r", Random(seed))
    return "trio", {"clock": clock}


@pytest.fixture
def anyio_backend(virtual_backend: tuple[str, dict[str, object]]) -> tuple[str, dict[str, object]]:
    """What async tests run on, unless their folder, module or class says otherwise."""
    return virtual_backend


# --- the network ---------------------------------------------------------------------------------------

_guard = LoopbackGuard()


@pytest.fixture(autouse=True)
def loopback_only(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Fail a test that leaves the loopback, even when the code swallowed the error. ``net`` tests opt out.

    Yields what was seen.
    """
    _guard.seen = []
    _guard.is_on = request.node.get_closest_marker("net") is None
    yield _guard.seen
    _guard.is_on = False
    assert not _guard.seen, f"not on loopback: {_guard.seen}"
