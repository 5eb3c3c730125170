import gc
from collections.abc import Iterator

import pytest

from kukuri_sidecar.rpc import node_task
from kukuri_sidecar.rpc.node_task import NodeTask


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.anyio
@pytest.mark.usefixtures("no_collector")
async def test_the_collector_works_once_all_is_loaded() -> None:
    await NodeTask(lambda: None).start_loading()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


@pytest.mark.anyio
@pytest.mark.usefixtures("no_collector")
async def test_the_collector_works_when_a_module_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("gone")

    monkeypatch.setattr(node_task, "load", fail)
    with pytest.raises(ImportError):
        await NodeTask(lambda: None).start_loading()
    assert gc.isenabled()
