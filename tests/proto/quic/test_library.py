"""aioquic is the release that was reviewed, and nothing but."""

from __future__ import annotations

import importlib
import logging

import aioquic
import pytest

from kukuri_sidecar.proto import quic
from kukuri_sidecar.proto.quic import library


def test_every_function_we_lean_on_is_the_reviewed_one() -> None:
    assert library.changed_sources() == []


def test_a_changed_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(library.REVIEWED, "QuicConnection.close", "0" * 16)
    assert library.changed_sources() == ["QuicConnection.close"]


@pytest.mark.parametrize("version", ["1.7.1", "1.7.3", "2.0.0"])
def test_another_release_is_refused_with_advice(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aioquic, "__version__", version)
    with pytest.raises(ImportError, match=rf"{version} is installed. Install aioquic==1\.7\.2"):
        importlib.reload(quic)
    monkeypatch.undo()
    importlib.reload(quic)


def test_the_library_logs_nothing() -> None:
    library.silence_library_log()
    assert not logging.getLogger("quic").isEnabledFor(logging.CRITICAL)
