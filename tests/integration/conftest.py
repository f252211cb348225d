from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kqs.cli import run
from kqs.client import Client, connect
from tests.support.asking import Peer, peer_of
from tests.support.mongodb import a_database, mongodb
from tests.support.serving import Kqs, Served, serving


@pytest.fixture(params=["sqlite", "mongodb"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Settings of a server with this store."""
    if request.param == "sqlite":
        yield {}
        return
    with mongodb(tmp_path_factory.mktemp("mongodb")) as uri:
        yield {"STORE__KIND": "mongodb", "STORE__URI": a_database(uri)}


@pytest.fixture(scope="module")
def server_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A MongoDB server of the module's own."""
    with mongodb(tmp_path_factory.mktemp("mongodb")) as uri:
        yield uri


@pytest.fixture
def peer(served: Served) -> Iterator[Peer]:
    """A connection to the server of the module."""
    with peer_of(served) as peer:
        yield peer


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a server that runs nothing itself."""
    with serving(tmp_path, WORKER__MODULES="[]", WORKER__CONCURRENCY="0") as server:
        async with connect("127.0.0.1", server.port) as client:
            yield client


@pytest.fixture
def kqs(served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kqs:
    """Runs commands in this process, for the server of the module."""
    monkeypatch.setenv("KQS_SERVER", f"127.0.0.1:{served.port}")

    def kqs(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        return (code, *capsys.readouterr())

    return kqs
