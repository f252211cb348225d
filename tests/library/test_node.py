"""What is so of a queue inside a program: its folder, its process, its death."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import kqs
import kqs.blocking
import kqs.testing
from kqs.client import Client, ConnectionLostError, Run, UnreachableError
from kqs.errors import StartupError

KEEPS = """
import asyncio, sys, kqs
async def main():
    async with kqs.open(sys.argv[1]) as queue:
        async def lasts(data):
            await asyncio.sleep(0)
        queue.add_handler("mail", lasts)
        running = asyncio.create_task(queue.run_jobs(time_limit_s=-1))
        while True:
            for job in await queue.add_jobs([{"type": "mail", "data": n} for n in range(20)]):
                print(job.id, flush=True)
asyncio.run(main())
"""


def told_before_its_death(folder: Path) -> list[str]:
    """Return the ids of the jobs that a program has added, which is killed in the midst."""
    with subprocess.Popen([sys.executable, "-c", KEEPS, str(folder)], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        told = [program.stdout.readline().strip() for _ in range(200)]
        program.kill()
        return told + [line.strip() for line in program.stdout.read().splitlines(keepends=True) if line.endswith("\n")]


async def refused(queue: kqs.Queue) -> None:
    """Return when the queue takes no more calls."""
    while True:
        try:
            await queue.stats()
        except ConnectionLostError:
            return


async def test_jobs_are_there_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    async with kqs.open(tmp_path / "queue") as queue:
        job = await queue.add_job("mail", {"to": "ada"})
    async with kqs.open(tmp_path / "queue") as queue:
        known = await queue.job(job.id)
    assert known is not None
    assert (known.state, known.data) == ("new", {"to": "ada"})


async def test_a_killed_program_loses_nothing_that_it_was_told_is_kept(tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(3):
        told += told_before_its_death(tmp_path / "queue")
    async with kqs.open(tmp_path / "queue") as queue:
        states = {one.id: one.state async for one in queue.records(type="mail")}
    assert set(told) <= set(states)
    assert set(states.values()) <= {"success", "new", "ghost", "retry"}


async def test_a_second_opener_is_told_who_has_the_folder(tmp_path: Path) -> None:
    async with kqs.open(tmp_path / "queue"):
        with pytest.raises(StartupError, match=rf"in use by process {os.getpid()}"):
            await kqs.open(tmp_path / "queue").open()
    async with kqs.open(tmp_path / "queue") as queue:  # and it is free again
        await queue.add_job("mail")


async def test_several_stand_in_one_program(tmp_path: Path) -> None:
    async with kqs.open(tmp_path / "one") as one, kqs.open(tmp_path / "two") as two:
        await one.add_job("mail", id="same")
        assert await two.job("same") is None
        assert (await two.add_job("mail", id="same")).created


async def test_nothing_is_changed_around_it(tmp_path: Path) -> None:
    def around() -> tuple[object, ...]:
        signals = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)]
        return (*signals, sys.getswitchinterval(), gc.get_threshold(), gc.get_freeze_count(), sys.excepthook, Path.cwd())

    before = around()
    async with kqs.open(tmp_path / "queue") as queue:
        await queue.add_job("mail")
        assert around() == before
    assert around() == before


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"server": {"port": 1}}, "server"),
        ({"types": {"a": {"ttl": 1}}}, "ttr"),
        ({"store": {"kind": "oracle"}}, "kind"),
        ({"strore": 1}, "strore: expected one of"),
        ({"types": 5}, "types: expected a mapping"),
        ({"store": None}, "store: expected a mapping"),
        ({"types": {5: {}}}, "types: expected the name of a setting, got 5"),
        ({"types": {"a": {b"ttr": 1}}}, "types.a: expected the name of a setting"),
        ({"concurrency": 0}, "concurrency: expected a whole number from 1"),
        ({"concurrency": -1}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"concurrency": "many"}, "concurrency"),
        ({"concurrency": 10**9}, "concurrency"),
    ],
)
def test_a_setting_that_is_none_is_named(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, StartupError), match=words):
        kqs.open(tmp_path, **sections)


@pytest.mark.parametrize("folder", ["", None, 5, b"queue", [], "a\0b"])
def test_what_is_no_folder_is_refused_and_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="folder: expected a path"):
        kqs.open(folder)
    assert not list(tmp_path.iterdir())


async def test_another_loop_is_told_so_and_does_no_harm(tmp_path: Path) -> None:
    async with kqs.open(tmp_path / "queue") as queue:
        for call in (lambda: queue.add_job("mail"), queue.stats, lambda: queue.reserve("mail"), queue.close):
            with pytest.raises(RuntimeError, match="opened in another event loop"):
                await asyncio.to_thread(asyncio.run, call())
        assert await queue.add_job("mail")


async def test_options_of_types_and_defaults_hold(tmp_path: Path) -> None:
    async with kqs.open(tmp_path / "queue", defaults={"retries": 2}, types={"mail": {"ttr": 5}}) as queue:
        job = await queue.add_job("mail")
        known = await queue.job(job.id)
    assert known is not None
    assert (known.options["retries"], known.options["ttr"]) == (2, 5)


async def test_a_queue_that_has_failed_says_so_and_has_kept_what_it_told(tmp_path: Path) -> None:
    queue = kqs.open(tmp_path / "queue")
    await queue.open()
    job = await queue.add_job("mail")
    queue._supervisor.fault("disk", OSError("it is gone"))  # type: ignore[attr-defined]  # as a part's end would
    await refused(queue)
    with pytest.raises(kqs.QueueFailedError, match="disk: it is gone"):
        await queue.close()
    async with kqs.open(tmp_path / "queue") as again:
        assert await again.job(job.id) is not None


async def test_a_queue_of_which_a_part_fails_while_it_opens_says_so_and_leaves_its_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = kqs.open(tmp_path / "queue")
    open_client = Client.open

    async def open_late(client: Client) -> None:
        queue._supervisor.fault("disk", OSError("it is gone"))  # type: ignore[attr-defined]  # as a part's end would
        await open_client(client)

    with monkeypatch.context() as patched:
        patched.setattr(Client, "open", open_late)
        with pytest.raises(kqs.QueueFailedError, match="disk: it is gone"):
            await queue.open()
    async with kqs.open(tmp_path / "queue") as again:
        assert await again.add_job("mail")


async def test_what_a_look_has_claimed_too_late_is_run_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def done(_data: object) -> None: ...

    async with kqs.open(tmp_path / "queue") as queue:
        client: Client = queue._client
        reserve = client.reserve

        async def late(types: list[str], count: int, wait_s: float, *, worker: str) -> list[Run]:
            runs = await reserve(types, count, wait_s or 10, worker=worker)
            if wait_s:
                return runs
            asyncio.get_running_loop().call_later(0.05, client.give_back, runs)  # as the queue does with what nobody waits for
            return []

        monkeypatch.setattr(client, "reserve", late)
        queue.add_handler("mail", done)
        await queue.add_job("mail")
        assert await queue.run_jobs(-1) == 1


async def test_the_jobs_of_a_slow_store_are_waited_for_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def done(_data: object) -> None: ...

    async with kqs.open(tmp_path / "queue") as queue:
        client: Client = queue._client
        reserve, types = client.reserve, client.types

        async def claimed_late(types: list[str], count: int, wait_s: float, *, worker: str) -> list[Run]:
            return await reserve(types, count, 10, worker=worker) if wait_s > 0.3 else []

        async def told_late(limit: int) -> list[dict[str, Any]]:
            await asyncio.sleep(0.1)
            return await types(limit=limit)

        monkeypatch.setattr(client, "reserve", claimed_late)
        monkeypatch.setattr(client, "types", told_late)
        queue.add_handler("mail", done)
        await queue.add_job("mail")
        assert await queue.run_jobs(-1) == 1


async def test_a_program_that_cancels_all_its_tasks_can_close_it_all_the_same(tmp_path: Path) -> None:
    queue = kqs.open(tmp_path / "queue")
    await queue.open()
    closing = asyncio.create_task(queue.close())
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await queue.close()
    async with kqs.open(tmp_path / "queue") as again:
        assert await again.add_job("mail")


async def test_a_program_that_cancels_all_tasks_it_finds_meets_none_of_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = asyncio.current_task()
    is_saved = asyncio.Event()

    async def saves(_data: object, job: kqs.JobContext) -> None:
        job.save({"page": 3})
        await is_saved.wait()

    async with kqs.open(tmp_path / "queue") as queue:
        touch = queue._client.touch

        async def touch_while_all_are_cancelled(run: Run, *progress: Any) -> Any:
            for task in asyncio.all_tasks() - {mine}:
                task.cancel()
            await asyncio.sleep(0)
            try:
                return await touch(run, *progress)
            finally:
                is_saved.set()

        monkeypatch.setattr(queue._client, "touch", touch_while_all_are_cancelled)
        queue.add_handler("mail", saves)
        job = await queue.add_job("mail")
        assert await queue.run_jobs() == 1
        assert (await job.wait(10)).state == "success"


async def test_who_closes_it_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kqs.library.node.CLOSE_S", 0.01)
    queue = kqs.open(tmp_path / "queue")
    await queue.open()
    goes_on = asyncio.Event()
    queue._stack.push_async_callback(goes_on.wait)  # type: ignore[attr-defined]  # a part's stop that takes long
    with pytest.raises(kqs.QueueFailedError, match=r"not closed after 0\.01 s"):
        await queue.close()
    goes_on.set()
    monkeypatch.undo()
    await queue.close()
    async with kqs.open(tmp_path / "queue") as again:
        assert await again.add_job("mail")


async def test_closing_gives_back_what_runs(tmp_path: Path) -> None:
    began = asyncio.Event()

    async def lasts(_data: object) -> None:
        began.set()
        await asyncio.Event().wait()

    async with kqs.open(tmp_path / "queue") as queue:
        queue.add_handler("mail", lasts)
        job = await queue.add_job("mail")
        running = asyncio.create_task(queue.run_jobs(time_limit_s=-1))
        await began.wait()
    with pytest.raises(ConnectionLostError):
        await running
    async with kqs.open(tmp_path / "queue") as queue:
        known = await queue.job(job.id)
    assert known is not None
    assert (known.state, known.interrupted, known.ghosts) == ("retry", 1, 0)


async def test_a_call_of_quit_closes_it(tmp_path: Path) -> None:
    async with kqs.open(tmp_path / "queue") as queue:
        await queue.call("quit")
        await refused(queue)
    async with kqs.open(tmp_path / "queue"):
        pass


async def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        await kqs.connect("127.0.0.1:1").open()


def test_the_address_comes_from_the_environment() -> None:
    found = [kqs.connect(environ=environ) for environ in ({}, {"KQS_SERVER": "example.org:7"})]
    assert [str(queue._client.address) for queue in found] == ["localhost:14151", "example.org:7"]
    with pytest.raises(ValueError, match="port"):
        kqs.connect("localhost:x")


async def test_a_queue_that_was_not_opened_says_so(tmp_path: Path) -> None:
    for queue in (kqs.open(tmp_path / "queue"), kqs.testing.open()):
        with pytest.raises(RuntimeError, match="not open: use it within `async with"):
            await queue.add_job("mail")
        with pytest.raises(AttributeError, match="has no attribute 'mail'"):
            queue.mail  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(RuntimeError, match="not open: use it within `with"):
        kqs.blocking.open(tmp_path / "queue").add_job("mail")


async def test_a_queue_that_is_closed_says_so_to_whoever_listens_and_to_whoever_comes_later(tmp_path: Path) -> None:
    queue = kqs.open(tmp_path / "queue")
    await queue.open()
    heard = asyncio.ensure_future(anext(aiter(queue.events())))
    await queue.stats()  # a call behind that of the events
    await queue.close()
    with pytest.raises(ConnectionLostError, match="the queue was closed"):
        await heard
    with pytest.raises(ConnectionLostError, match="the queue is not open"):
        await queue.add_job("mail")


async def settled(queue: kqs.Queue) -> None:
    """Return when the store takes what owners say again."""
    while True:
        try:
            await queue.suspend("mail")
        except kqs.CallError:
            continue
        return


@pytest.mark.parametrize("name", ["store.sqlite", "store.sqlite-wal"])
async def test_a_link_in_place_of_a_file_of_the_store_is_another_file(tmp_path: Path, name: str) -> None:
    file, elsewhere = tmp_path / "queue" / name, tmp_path / name
    async with kqs.open(tmp_path / "queue") as queue:
        await queue.suspend("other")
        file.rename(elsewhere)
        file.symlink_to(elsewhere)
        with pytest.raises(kqs.CallError, match="try again later"):
            await queue.suspend("mail")
        assert f"{name} was removed or replaced" in str((await queue.health())["problems"])
        file.unlink()
        elsewhere.rename(file)
        await settled(queue)


async def test_a_link_that_leads_to_another_file_than_at_the_start_is_noticed(tmp_path: Path) -> None:
    link = tmp_path / "queue" / "store.sqlite"
    link.parent.mkdir(0o700)
    link.symlink_to(tmp_path / "one.sqlite")
    async with kqs.open(tmp_path / "queue") as queue:
        await queue.suspend("other")
        link.unlink()
        link.symlink_to(tmp_path / "queue" / "lock")
        with pytest.raises(kqs.CallError, match="try again later"):
            await queue.suspend("mail")
        link.unlink()
        link.symlink_to(tmp_path / "one.sqlite")
        await settled(queue)


async def in_hand(queue: kqs.Queue, count: int) -> asyncio.Task[int]:
    """Have so many runs in hand that last; return what runs them."""
    all_began = asyncio.Event()
    began = 0

    async def lasts(_data: object) -> None:
        nonlocal began
        began += 1
        if began == count:
            all_began.set()
        await asyncio.Event().wait()

    queue.add_handler("mail", lasts)
    await queue.add_jobs([{"type": "mail"}] * count)
    running = asyncio.create_task(queue.run_jobs(time_limit_s=-1))
    await all_began.wait()
    await queue.types()  # the store has their jobs
    return running


@pytest.mark.parametrize("folder", ["gone", "a file"])
async def test_it_closes_in_time_whatever_has_become_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setattr("kqs.library.hands.GIVE_BACK_S", 0.1)
    monkeypatch.setattr("kqs.queue.queue.SETTLE_S", 0.1)
    queue = kqs.open(tmp_path / "queue")
    await queue.open()
    running = await in_hand(queue, 20)
    (tmp_path / "queue").rename(tmp_path / "away")
    if folder == "a file":
        (tmp_path / "queue").touch()
    async with asyncio.timeout(10):  # one by one they would take 100 s and more
        await queue.close()
    with pytest.raises(ConnectionLostError):
        await running
    assert "kqs-store" not in {thread.name for thread in threading.enumerate()}
