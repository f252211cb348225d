"""A queue on a server of its own, which goes away: what becomes of the runs in hand."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import kqs
from tests.support.asking import eventually
from tests.support.serving import serving


async def test_a_run_in_hand_ends_as_it_likes_while_its_server_stops(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__MODULES="[]", WORKER__CONCURRENCY="0", WORKER__GRACE_S="-1") as server:
        async with kqs.connect(f"127.0.0.1:{server.port}") as queue:
            began, ended = asyncio.Event(), asyncio.Event()

            async def lasts(_data: Any) -> None:
                began.set()
                await asyncio.sleep(2)  # until it was asked, and refused, more than once
                ended.set()

            queue.add_handler("long", lasts)
            await queue.add_job("long", ttr=600)
            running = asyncio.create_task(queue.run_jobs(time_limit_s=2.5))
            await asyncio.wait_for(began.wait(), 10)
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(running, 30) == 1
            assert ended.is_set()
        assert await asyncio.to_thread(server.process.wait, 30) == 0
        assert "giving remote runs back" not in eventually(server.log.read_text, lambda said: "stopped" in said)
