from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.line_server import LineServer


@pytest.fixture
async def server() -> AsyncIterator[LineServer]:
    async with LineServer() as server:
        yield server
