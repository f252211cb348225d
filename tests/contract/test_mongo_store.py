from __future__ import annotations

from collections.abc import Callable

import pytest

from kqs.store.mongo import MongoStore
from tests.contract.store_contract import MakeStore, StoreContract


class TestMongoStore(StoreContract):
    @pytest.fixture
    def make_store(self, make_mongo_store: Callable[..., MongoStore]) -> MakeStore:
        return make_mongo_store
