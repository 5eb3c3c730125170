"""Stand-ins go to the library that asks for them, to nobody else, and fail whoever calls them."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kukuri_sidecar.stand_ins import StandIn, stand_ins

ROOT = Path(__file__).parents[1]

# Loads all of the program in a fresh interpreter; prints "<holder> <stand-in>" for every global that is one.
LOAD = """
import sys
from kukuri_sidecar.rpc.node_task import load
from kukuri_sidecar.stand_ins import StandIn
load()
for name, module in list(sys.modules.items()):
    assert not isinstance(module, StandIn), name
    for value in list(vars(module).values()):
        if isinstance(value, StandIn):
            print(name, value.__name__)
"""


def test_an_import_finds_the_stand_in_and_later_the_real_module() -> None:
    with stand_ins({"wave": {"open": 5}}):
        import wave

        assert isinstance(wave, StandIn)
        assert wave.open == 5
        with pytest.raises(AttributeError, match=r"wave\.Error is left out"):
            wave.Error  # noqa: B018
    assert not isinstance(importlib.import_module("wave"), StandIn)


def test_submodules_come_with_their_package() -> None:
    with stand_ins({"left_out": {}, "left_out.part": {"thing": 1}}):
        from left_out import part  # type: ignore[import-not-found]
        from left_out.part import thing  # type: ignore[import-not-found]
    assert (part.thing, thing) == (1, 1)
    assert not {"left_out", "left_out.part"} & set(sys.modules)


def test_what_is_imported_already_stays() -> None:
    with stand_ins({"json": {}}):
        import json

        assert json.loads("1") == 1
    assert sys.modules["json"] is json


def test_an_error_in_the_block_takes_them_away() -> None:
    with pytest.raises(ImportError), stand_ins({"left_out": {}}):
        raise ImportError
    assert "left_out" not in sys.modules


def test_only_their_libraries_hold_them() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "sidecar")}
    done = subprocess.run([sys.executable, "-c", LOAD], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "aioquic.tls OpenSSL.crypto",
        "aioquic.tls certifi",
        "aioquic.tls cryptography.x509",
        "aioquic.tls service_identity",
    ]


def test_aioquic_cannot_check_a_certificate_path_by_mistake() -> None:
    """Whoever switches verify_mode on gets an error, never an unchecked certificate."""
    code = (
        "import kukuri_sidecar.proto.quic, datetime\n"
        "from aioquic import tls\n"
        "class Certificate:\n"
        "    not_valid_before_utc = datetime.datetime.min.replace(tzinfo=datetime.UTC)\n"
        "    not_valid_after_utc = datetime.datetime.max.replace(tzinfo=datetime.UTC)\n"
        "tls.verify_certificate(Certificate())\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "sidecar")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is left out of kukuri-sidecar" in done.stderr.splitlines()[-1]
