"""The whole queue against an oracle: what is played is in `model/`, what must come of it in `tests/support/oracle.py`.

Longer: `make model STEPS=100000`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.property.model.order_rules import OrderMachine
from tests.support.machines import played
from tests.support.mongodb import a_database, client_of, mongodb

#: where the URI of the server is said
MONGO = "KQS_MODEL_MONGODB"


class MongoMachine(OrderMachine):
    """As on SQLite, on a server of its own."""

    def __init__(self) -> None:
        self.uri = a_database(os.environ[MONGO])
        super().__init__()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            with client_of(self.uri) as client:
                client.drop_database(client.get_default_database())


@pytest.fixture
def _mongo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with mongodb(tmp_path) as uri:
        monkeypatch.setenv(MONGO, uri)
        yield


TestModelOnMongo = pytest.mark.usefixtures("_mongo")(MongoMachine.TestCase)
TestModelOnMongo.settings = played(1200, 20, share=20)


TestModel = OrderMachine.TestCase
TestModel.settings = played(1200, 40)
