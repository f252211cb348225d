"""A fixture for pytest with pytest-asyncio: `pytest_plugins = ["kqs.testing.fixture"]` in a conftest.py."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from kqs.testing.queue import TestQueue


@pytest_asyncio.fixture
async def kqs_queue() -> AsyncIterator[TestQueue]:
    """Give the test a queue of its own, empty, with a clock that it can set forward."""
    async with TestQueue(None, 100, {}) as queue:
        yield queue
