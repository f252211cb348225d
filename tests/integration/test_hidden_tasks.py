"""Handlers that take all tasks of the loop for theirs, or change how it makes tasks, meet none of the server's."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from tests.support.asking import Peer, ask, eventually, peer_of
from tests.support.serving import Served, serving

SOURCE = """
import asyncio
from pathlib import Path

import kqs


def others():
    return asyncio.all_tasks() - {asyncio.current_task()}


@kqs.handler("cancel_all", retries=0, ghosts=0)
async def cancel_all(data):
    mine = asyncio.create_task(asyncio.sleep(60))
    found = others()
    for task in found:
        task.cancel()
    return [len(found), mine in found]


@kqs.handler("await_all", ttr=0.2, retries=0, ghosts=0)
async def await_all(data):
    mine = asyncio.create_task(asyncio.sleep(60))
    await asyncio.gather(*others())


@kqs.handler("waits", retries=0, ghosts=0)
async def waits(data):
    while not Path("gate").exists():
        await asyncio.sleep(0.02)
    return "undisturbed"


@kqs.handler("break_factory", retries=0, ghosts=0)
async def break_factory(data):
    def refuse(*_, **__):
        raise ZeroDivisionError

    asyncio.get_running_loop().set_task_factory(refuse)
"""


def serving_it(folder: Path) -> AbstractContextManager[Served]:
    (folder / "grasping.py").write_text(SOURCE)
    return serving(folder, WORKER__MODULES='["kqs.builtin", "grasping"]', WORKER__CONCURRENCY="4")


def ended(peer: Peer, job_id: str) -> dict[str, object]:
    job: dict[str, object] = eventually(lambda: peer.call("job", job_id), lambda job: job["state"] in ("success", "fail"))
    return job


def test_a_handler_that_cancels_every_task_of_the_loop_meets_its_own_alone(tmp_path: Path) -> None:
    with serving_it(tmp_path) as server, peer_of(server) as peer:
        waiting = peer.insert("waits")
        eventually(lambda: peer.call("stats"), lambda stats: stats["lanes_busy"] == 1)
        assert ended(peer, peer.insert("cancel_all"))["result"] == [1, True]
        (tmp_path / "gate").touch()
        assert ended(peer, waiting)["result"] == "undisturbed"
        assert ended(peer, peer.insert("ping"))["state"] == "success"
        assert server.stop() == 0


def test_a_lost_run_that_waits_for_every_task_takes_none_of_the_servers_with_it(tmp_path: Path) -> None:
    with serving_it(tmp_path) as server, peer_of(server) as peer:
        waiting = peer.insert("waits")
        eventually(lambda: peer.call("stats"), lambda stats: stats["lanes_busy"] == 1)
        assert ended(peer, peer.insert("await_all"))["state"] == "fail"
        (tmp_path / "gate").touch()
        assert ended(peer, waiting)["result"] == "undisturbed"
        assert ask(server, "health")["ok"]
        assert server.stop() == 0


def test_a_task_factory_that_raises_keeps_no_client_out(tmp_path: Path) -> None:
    with serving_it(tmp_path) as server:
        with peer_of(server) as peer:
            assert ended(peer, peer.insert("break_factory"))["state"] == "success"
        with peer_of(server) as peer:
            assert ended(peer, peer.insert("ping"))["state"] == "success"
            assert len(peer.call("jobs")) == 2
        assert server.stop() == 0
