from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.mongodb import a_database, mongodb


@pytest.fixture(params=["sqlite", "mongodb"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Settings of a server with this store."""
    if request.param == "sqlite":
        yield {}
        return
    with mongodb(tmp_path_factory.mktemp("mongodb")) as uri:
        yield {"STORE__KIND": "mongodb", "STORE__URI": a_database(uri)}
