"""The queue of the common suite: inside this program, and on a server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import kqs
from tests.support.serving import serving


@pytest.fixture(scope="session")
def server_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Serve for all tests of this process; each works on types of its own."""
    with serving(tmp_path_factory.mktemp("library"), WORKER__MODULES="[]", WORKER__CONCURRENCY="0") as server:
        yield server.port


@pytest.fixture(params=["open", "connect"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[kqs.Queue]:
    if request.param == "open":
        made = kqs.open(tmp_path / "queue")
    else:
        made = kqs.connect(f"127.0.0.1:{request.getfixturevalue('server_port')}")
    async with made as opened:
        yield opened


@pytest.fixture
def type_(request: pytest.FixtureRequest) -> str:
    """Return a type of this test's own."""
    return f"{request.node.name[:150]}"
