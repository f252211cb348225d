from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from kqs.worker.lane import Lane


async def test_a_lane_ends_when_its_coroutine_is_closed_and_not_when_its_handler_met_a_closed_one() -> None:
    lane = Lane("lane-0", lambda *_: None)
    outlived: list[str] = []

    async def serve(met: asyncio.Future[None]) -> None:
        try:
            await met
        except GeneratorExit as fault:
            lane.end_if_closed(fault)
            outlived.append("a closed one was met")

    met = asyncio.get_running_loop().create_future()
    lane.task = asyncio.ensure_future(serve(met))
    await asyncio.sleep(0)
    met.set_exception(GeneratorExit())
    await lane.task
    assert outlived == ["a closed one was met"]

    closed = serve(asyncio.get_running_loop().create_future())
    closed.send(None)
    lane.task = asyncio.ensure_future(asyncio.Event().wait())  # type: ignore[arg-type]  # any task that is not on its turn
    closed.close()
    assert len(outlived) == 1
    with pytest.raises(GeneratorExit):
        lane.end_if_closed(GeneratorExit())
    lane.end_if_closed(asyncio.CancelledError())
    lane.task.cancel()
    with suppress(asyncio.CancelledError):
        await lane.task
