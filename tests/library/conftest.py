"""The queue of the common suite: inside this program, and on a server, the blocking face of both, and the queue of tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest

import kqs
import kqs.blocking
import kqs.testing
from tests.support.serving import serving
from tests.support.threaded import Threaded


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Play the blocking face once: its loop is its own, whichever the tests run on."""
    items[:] = [one for one in items if "[uvloop-blocking " not in one.name]


@pytest.fixture(scope="session")
def server_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Serve for all tests of this process; each works on types of its own."""
    with serving(tmp_path_factory.mktemp("library"), WORKER__MODULES="[]", WORKER__CONCURRENCY="0") as server:
        yield server.port


@pytest.fixture
def bulk() -> kqs.BulkStore | None:
    """Return the bulk store of the queue: none, but for tests that bring one."""
    return None


@pytest.fixture(params=["open", "connect", "blocking open", "blocking connect", "testing"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path, bulk: kqs.BulkStore | None) -> AsyncIterator[kqs.Queue]:
    """Give a queue. Tests whose handlers share a loop with them ask for `open` and `connect` alone."""
    module = kqs.blocking if "blocking" in request.param else kqs
    if request.param == "testing":
        made = kqs.testing.open(bulk=bulk)
    elif request.param.endswith("open"):
        made = module.open(tmp_path / "queue", bulk=bulk)
    else:
        made = module.connect(f"127.0.0.1:{request.getfixturevalue('server_port')}", bulk=bulk)
    if isinstance(made, kqs.Queue):
        async with made as opened:
            yield opened
    else:
        with made as faced:
            yield cast("kqs.Queue", Threaded(faced))


@pytest.fixture
def type_(request: pytest.FixtureRequest) -> str:
    """Return a type of this test's own."""
    return f"{request.node.name[:150]}"
