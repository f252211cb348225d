from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.feeding import Feeding
from tests.support.queueing import Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.start()
    try:
        yield rig
    finally:
        await rig.stop()


@pytest.fixture
async def feeding(rig: Rig, tmp_path: Path) -> AsyncIterator[Feeding]:
    feeding = Feeding(rig, tmp_path)
    yield feeding
    await feeding.stop()
