"""The whole queue against an oracle: what is played is in `model/`, what must come of it in `tests/support/oracle.py`.

Longer: `make model STEPS=100000`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from pymongo import MongoClient

from tests.property.model.order_rules import OrderMachine
from tests.support.mongodb import a_database, mongodb

IS_LONG = "KQS_MODEL_STEPS" in os.environ
STEPS = int(os.environ.get("KQS_MODEL_STEPS", "1200"))
STEPS_A_RUN = 40
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
            with MongoClient[dict[str, Any]](self.uri) as client:
                client.drop_database(client.get_default_database())


@pytest.fixture
def _mongo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with mongodb(tmp_path) as uri:
        monkeypatch.setenv(MONGO, uri)
        yield


@pytest.mark.usefixtures("_mongo")
class TestModelOnMongo(MongoMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(
        max_examples=max(1, STEPS // STEPS_A_RUN // 10),
        stateful_step_count=STEPS_A_RUN // 2,
        deadline=None,
        derandomize=not IS_LONG,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


TestModel = OrderMachine.TestCase
TestModel.settings = settings(
    max_examples=max(1, STEPS // STEPS_A_RUN),
    stateful_step_count=STEPS_A_RUN,
    deadline=None,
    derandomize=not IS_LONG,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
