"""Long data in a bulk store of one's own, wherever the queue stands."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from pydantic import BaseModel

import kqs
import kqs.library.apart
import kqs.testing
from kqs.client import ConnectionLostError
from kqs.errors import CallError
from kqs.library.apart import Reference, reference_in
from tests.support.turning import until

LONG = "x" * 200


class Shelf(kqs.BulkStore):
    """Keeps all in memory. trouble: what each method raises next, by its name; a list of such things, None for none.

    hanging: the names of methods that never return. asked: how often each was called.
    """

    over_bytes = 100

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.trouble: dict[str, list[BaseException | None]] = {}
        self.hanging: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.closed = 0

    async def _meet(self, name: str) -> None:
        self.asked[name] += 1
        if name in self.hanging:
            await asyncio.Event().wait()
        troubles = self.trouble.get(name)
        if troubles and (trouble := troubles.pop(0)) is not None:
            raise trouble

    async def set(self, key: str, data: bytes) -> None:
        await self._meet("set")
        self.kept[key] = data

    async def get(self, key: str) -> bytes | None:
        await self._meet("get")
        return self.kept.get(key)

    async def delete(self, key: str) -> None:
        await self._meet("delete")
        self.kept.pop(key, None)

    async def close(self) -> None:
        self.closed += 1
        await self._meet("close")


class Letter(BaseModel):
    text: str


class Got:
    """A handler that notes what it was given."""

    def __init__(self, queue: kqs.Queue, *types: str) -> None:
        self.data: list[Any] = []
        for one in types:
            queue.add_handler(one, self.note)

    async def note(self, data: Any) -> None:
        self.data.append(data)


@pytest.fixture
def bulk() -> Shelf:
    return Shelf()


async def error_of(queue: kqs.Queue, job: Any) -> str:
    record = await queue.job(job.id)
    assert record is not None
    return record.error or ""


async def until_empty(bulk: Shelf) -> None:
    """Wait for what a run by hand leaves to be deleted, soon after."""
    await until(lambda: not bulk.kept)


async def test_long_data_is_kept_apart_until_its_job_has_succeeded(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    got = Got(queue, type_)
    long, short = await queue.add_jobs([{"type": type_, "data": LONG}, {"type": type_, "data": "short"}])
    (key,) = bulk.kept
    assert key.rpartition(".")[0] == long.id
    assert bulk.kept[key] == b'"' + LONG.encode() + b'"'
    shown = [await queue.job(job.id) for job in (long, short)]
    assert [record and record.data for record in shown] == [{"kqs.bulk": ANY}, "short"]
    assert await queue.run_jobs(-1) == 2
    assert sorted(got.data) == ["short", LONG]
    assert (await long.wait(10)).state == "success"
    assert bulk.kept == {}


async def test_data_longer_than_any_line_comes_whole(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    got = Got(queue, type_)
    await queue.add_job(type_, ["é" * 10_000_000, 1])
    assert await queue.run_jobs() == 1
    assert got.data == [["é" * 10_000_000, 1]]


async def test_typed_data_and_results_are_as_without_it(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    async def read(letter: Letter) -> int:
        return len(letter.text)

    read.__annotations__["letter"] = Letter
    queue.add_handler(type_, read)
    job = await queue.add_job(read, Letter(text=LONG))
    assert len(bulk.kept) == 1
    await queue.run_jobs()
    assert await job.result(10) == 200


async def test_nothing_is_inserted_if_data_cannot_be_set(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    for jobs in ([LONG], [LONG, "short", LONG]):
        bulk.trouble["set"] = [None] * (len(jobs) - 2) + [OSError("the disk is full")]
        with pytest.raises(kqs.BulkStoreError, match="could not keep a job's data: OSError: the disk is full"):
            await queue.add_jobs([{"type": type_, "data": data} for data in jobs])
    assert [one.id async for one in queue.records(type=type_)] == []
    assert bulk.kept == {}


async def test_a_run_whose_data_cannot_be_had_fails_and_is_retried(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    got = Got(queue, type_)
    job = await queue.add_job(type_, LONG, retry_delay=0.1)
    bulk.trouble["get"] = [ConnectionError("away")]
    assert await queue.run_jobs() == 1
    assert "could not be asked for the job's data" in await error_of(queue, job)
    assert "ConnectionError: away" in await error_of(queue, job)
    assert await queue.run_jobs(count_limit=1, time_limit_s=10) == 1
    assert (await job.wait(10)).failures == 1
    assert (got.data, bulk.kept) == ([LONG], {})


@pytest.mark.parametrize(
    ("found", "reason"), [(None, "is not in the bulk store any more"), (b'"x"', "is not what was set"), (b"", "not what was")]
)
async def test_data_that_is_gone_or_another_fails_the_run(
    queue: kqs.Queue, bulk: Shelf, type_: str, found: bytes | None, reason: str
) -> None:
    got = Got(queue, type_)
    job = await queue.add_job(type_, LONG, retries=0)
    (key,) = bulk.kept
    bulk.kept = {} if found is None else {key: found}
    assert await queue.run_jobs() == 1
    ended = await job.wait(10)
    assert (ended.state, got.data) == ("fail", [])
    assert reason in (ended.error or "")
    assert key in (ended.error or "")


async def test_a_failed_job_keeps_its_data_for_a_retry(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    got: list[Any] = []

    async def fails_first(data: Any, job: kqs.JobContext) -> None:
        got.append(data)
        if len(got) == 1:
            raise kqs.Fail("not yet", final=True)

    queue.add_handler(type_, fails_first)
    job = await queue.add_job(type_, LONG)
    await queue.run_jobs()
    assert (await job.wait(10)).state == "fail"
    assert len(bulk.kept) == 1
    await queue.retry(job.id)
    await queue.run_jobs()
    assert (got, bulk.kept) == ([LONG, LONG], {})


async def test_what_no_job_has_is_not_left(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    first = await queue.add_job(type_, LONG, id=f"{type_[:50]}.own".replace("[", ".").replace("]", "").replace(" ", "-"))
    kept = dict(bulk.kept)
    again = await queue.add_job(type_, LONG + "other", id=first.id)
    assert (again.id, again.created, bulk.kept) == (first.id, False, kept)
    with pytest.raises(CallError, match="prio"):
        await queue.add_job(type_, LONG, prio="sooner")
    with pytest.raises(CallError, match="id"):
        await queue.add_job(type_, LONG, id="no id at all")
    assert bulk.kept == kept
    got = Got(queue, type_)
    assert await queue.run_jobs(count_limit=1, time_limit_s=10) == 1
    assert got.data == [LONG]


async def test_a_job_that_is_joined_to_another_leaves_nothing(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    first = await queue.add_job(type_, LONG, unique="key", delay=60)
    kept = dict(bulk.kept)
    second = await queue.add_job(type_, LONG + "other", unique="key", delay=60)
    assert (first.created, second.created, second.id) == (True, False, first.id)
    with pytest.raises(CallError, match="key"):
        await queue.add_job(type_, LONG, unique="key", on_conflict="refuse")
    assert bulk.kept == kept


async def test_jobs_of_a_batch_and_its_last_have_their_data(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    got = Got(queue, type_)
    members = [{"type": type_, "data": LONG}, {"type": type_, "data": "short"}]
    batch_id = f"batch-{abs(hash(type_))}"
    for _ in range(2):  # the second time nothing is made, and nothing is left
        done = await queue.add_batch(members, then={"type": type_, "data": LONG + "last", "id": batch_id})
        assert done.id == batch_id
        assert len(bulk.kept) == 2
    opened = await queue.open_batch({"type": type_, "data": LONG + "opened"})
    await queue.close_batch(opened.id)
    assert await queue.run_jobs(count_limit=4, time_limit_s=10) == 4
    assert sorted(got.data) == ["short", LONG, LONG + "last", LONG + "opened"]
    assert bulk.kept == {}


async def test_a_run_by_hand_has_its_data(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    await queue.add_job(type_, {"text": LONG})
    (run,) = await queue.reserve(type_, 1, 10)
    assert run.data == {"text": LONG}
    await run.again(delay=0)
    (run,) = await queue.reserve(type_, 1, 10)
    await run.finish()
    await until_empty(bulk)


async def test_a_run_by_hand_without_its_data_fails(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    job = await queue.add_job(type_, LONG, retries=0)
    bulk.kept = {}
    assert await queue.reserve(type_, 1, 10) == []
    assert "any more" in await error_of(queue, job)


async def test_copies_for_subscribers_share_their_data_which_stays(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    one, two = f"{type_[:100]}-one", f"{type_[:100]}-two"
    got = Got(queue, one, two)
    for subscriber in (one, two):
        await queue.subscribe(type_, subscriber)
    await queue.add_job(type_, LONG)
    assert await queue.run_jobs(count_limit=2, time_limit_s=10) == 2
    assert got.data == [LONG, LONG]
    assert len(bulk.kept) == 1


async def test_data_in_the_form_of_a_reference_is_data(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    got = Got(queue, type_)
    told = {"kqs.bulk": {"key": "some.0123456789abcdef", "bytes": 1, "crc32c": 1}}
    await queue.add_job(type_, told)
    await queue.run_jobs()
    assert (got.data, bulk.kept) == ([told], {})


async def test_a_schedule_has_its_data_in_itself(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    name = f"tick-{abs(hash(type_))}"
    await queue.schedule(name, {"type": type_, "data": LONG}, every=3600)
    got = Got(queue, type_)
    await queue.fire(name)
    assert await queue.run_jobs(count_limit=1, time_limit_s=10) == 1
    await queue.unschedule(name)
    assert (got.data, bulk.kept) == ([LONG], {})


async def test_data_that_cannot_be_deleted_is_left(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    Got(queue, type_)
    job = await queue.add_job(type_, LONG)
    bulk.trouble["delete"] = [OSError("read only")]
    await queue.run_jobs()
    assert (await job.wait(10)).state == "success"
    assert len(bulk.kept) == 1


class FromBelowError(BaseException):
    """As a native extension may raise it."""


ANY_CLASS = [FromBelowError(), SystemExit(3), asyncio.CancelledError()]
IDS = ["a BaseException", "SystemExit", "a cancellation that nobody asked for"]


@pytest.mark.parametrize("method", ["get", "delete"])
@pytest.mark.parametrize("fault", ANY_CLASS, ids=IDS)
async def test_whatever_a_store_raises_the_queue_goes_on(
    queue: kqs.Queue, bulk: Shelf, type_: str, method: str, fault: BaseException
) -> None:
    got = Got(queue, type_)
    bulk.trouble[method] = [fault]
    job = await queue.add_job(type_, LONG, retries=0)
    await queue.run_jobs()
    assert (await job.wait(10)).state == ("fail" if method == "get" else "success")
    await queue.add_job(type_, LONG)
    assert await queue.run_jobs() == 1
    assert got.data[-1] == LONG


@pytest.mark.parametrize("fault", ANY_CLASS, ids=IDS)
async def test_whatever_set_raises_refuses_the_insert(queue: kqs.Queue, bulk: Shelf, type_: str, fault: BaseException) -> None:
    bulk.trouble["set"] = [fault]
    with pytest.raises(kqs.BulkStoreError, match=type(fault).__name__):
        await queue.add_job(type_, LONG)
    assert (bulk.kept, [one.id async for one in queue.records(type=type_)]) == ({}, [])


@pytest.mark.parametrize("given", ["x" * 202, 7, [1] * 202, object()], ids=["a text", "a number", "a list", "an object"])
async def test_what_is_no_bytes_fails_the_run(queue: kqs.Queue, bulk: Shelf, type_: str, given: Any) -> None:
    Got(queue, type_)
    job = await queue.add_job(type_, LONG, retries=0)
    by_hand = await queue.add_job(f"{type_}-by-hand", LONG, retries=0)
    bulk.kept = dict.fromkeys(bulk.kept, given)
    await queue.run_jobs()
    assert await queue.reserve(f"{type_}-by-hand", wait_s=10) == []
    for one in (job, by_hand):
        assert f"expected bytes, got {type(given).__name__}" in await error_of(queue, one)


async def test_a_store_whose_delete_hangs_holds_up_nobody(
    queue: kqs.Queue, bulk: Shelf, type_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.library.apart, "END_S", 0.05)
    Got(queue, type_)
    bulk.hanging = {"delete"}
    job = await queue.add_job(type_, LONG)
    async with asyncio.timeout(10):
        await queue.run_jobs()
    assert (await job.wait(10)).state == "success"
    bulk.asked.clear()
    bulk.trouble["set"] = [*[None] * 5, OSError("the disk is full")]
    async with asyncio.timeout(10):
        with pytest.raises(kqs.BulkStoreError, match="the disk is full"):
            await queue.add_jobs([{"type": type_, "data": LONG}] * 6)
    assert bulk.asked["delete"] == 1, "who does not answer is asked for no more"


async def test_a_store_that_cannot_be_closed_leaves_the_folder_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.library.apart, "END_S", 0.05)
    hangs, raises = Shelf(), Shelf()
    hangs.hanging = {"close"}
    raises.trouble["close"] = [FromBelowError("no more")]
    for shelf, told in ((hangs, "TimeoutError"), (raises, "FromBelowError: no more")):
        queue = kqs.open(tmp_path / "queue", bulk=shelf)
        await queue.open()
        with pytest.raises(kqs.BulkStoreError, match=f"could not be closed: {told}"):
            await asyncio.wait_for(queue.close(), 10)


async def test_a_store_that_cannot_be_closed_leaves_no_connection(server_port: int) -> None:
    shelf = Shelf()
    shelf.trouble["close"] = [OSError("away")]
    queue = kqs.connect(f"127.0.0.1:{server_port}", bulk=shelf)
    await queue.open()
    with pytest.raises(kqs.BulkStoreError, match="could not be closed: OSError: away"):
        await queue.close()
    with pytest.raises(ConnectionLostError):
        await queue.call("ping")


@pytest.mark.parametrize("queue", ["open"], indirect=True)
async def test_an_insert_of_which_nobody_knows_keeps_its_data(
    queue: kqs.Queue, bulk: Shelf, type_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_args: Any, **_kwargs: Any) -> None:
        raise ConnectionLostError("it went")

    monkeypatch.setattr(queue._client, "insert_many", lost)
    with pytest.raises(ConnectionLostError):
        await queue.add_job(type_, LONG)
    assert len(bulk.kept) == 1


@pytest.mark.parametrize("queue", ["open"], indirect=True)
async def test_a_cancelled_run_keeps_its_data(
    queue: kqs.Queue, bulk: Shelf, type_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def hangs(key: str) -> bytes | None:
        asked.set()
        await asyncio.Event().wait()
        return None

    got = Got(queue, type_)
    job = await queue.add_job(type_, LONG)
    monkeypatch.setattr(bulk, "get", hangs)
    running = asyncio.create_task(queue.run_jobs())
    await asked.wait()
    running.cancel()
    await asyncio.wait([running])
    monkeypatch.undo()
    assert await queue.run_jobs(count_limit=1, time_limit_s=10) == 1
    assert (got.data, (await job.wait(10)).failures) == ([LONG], 0)


async def test_a_queue_without_the_store_fails_the_run_and_says_why(tmp_path: Path) -> None:
    shelf = Shelf()
    async with kqs.open(tmp_path / "queue", bulk=shelf) as queue:
        job = await queue.add_job("mail", LONG, retries=0)
    assert shelf.closed == 1
    async with kqs.open(tmp_path / "queue") as queue:
        got = Got(queue, "mail")
        await queue.run_jobs()
        assert "this queue was given none" in await error_of(queue, job)
    assert got.data == []


async def test_what_is_set_outlives_the_program(tmp_path: Path) -> None:
    async with kqs.open(tmp_path / "queue", bulk=kqs.FolderBulk(tmp_path / "bulk", 100)) as queue:
        await queue.add_job("mail", LONG)
    async with kqs.open(tmp_path / "queue", bulk=kqs.FolderBulk(tmp_path / "bulk")) as queue:
        got = Got(queue, "mail")
        await queue.run_jobs()
    assert got.data == [LONG]
    assert [path.name for path in (tmp_path / "bulk").iterdir()] == []


async def test_a_queue_of_a_test_has_it_too() -> None:
    shelf = Shelf()
    async with kqs.testing.open(bulk=shelf) as queue:
        got = Got(queue, "mail")
        await queue.add_job("mail", LONG, delay=3600)
        assert await queue.advance(3600) == 1
        assert (got.data, shelf.kept, shelf.closed) == ([LONG], {}, 0)
    assert shelf.closed == 1


async def test_a_folder_keeps_gives_and_forgets(tmp_path: Path) -> None:
    store = kqs.FolderBulk(tmp_path / "deep" / "bulk")
    assert await store.get("a.0") is None
    await store.set("a.0", b"1")
    await store.set("a.0", b"12")
    assert await store.get("a.0") == b"12"
    await store.delete("a.0")
    await store.delete("a.0")
    assert await store.get("a.0") is None
    await store.close()


async def test_a_folder_on_a_full_disk_keeps_nothing_that_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = kqs.FolderBulk(tmp_path / "bulk")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        await store.set("a.0", b"1")
    assert list((tmp_path / "bulk").iterdir()) == []
    await store.close()


async def test_an_insert_that_is_cancelled_leaves_nothing_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, flush = asyncio.get_running_loop(), os.fsync
    is_writing, goes_on = asyncio.Event(), threading.Event()

    def waits(descriptor: int) -> None:
        if threading.current_thread().name.startswith("kqs-bulk"):
            loop.call_soon_threadsafe(is_writing.set)
            goes_on.wait(10)
        flush(descriptor)

    async with kqs.open(tmp_path / "queue", bulk=kqs.FolderBulk(tmp_path / "bulk")) as queue:
        monkeypatch.setattr(os, "fsync", waits)
        adding = asyncio.create_task(queue.add_job("mail", "x" * 100_000))
        await is_writing.wait()
        adding.cancel()
        loop.call_later(0, goes_on.set)
        await asyncio.wait([adding])
    assert list((tmp_path / "bulk").iterdir()) == []


@pytest.mark.parametrize("key", ["../../etc/passwd.0123456789abcdef", "a/b.0123456789abcdef", "a", "a.0", ""])
def test_what_names_no_key_is_data(key: str) -> None:
    assert reference_in(b'{"kqs.bulk":{"key":"%s","bytes":1,"crc32c":1}}' % key.encode()) is None
    assert reference_in(b'{"kqs.bulk":{"key":"a.0123456789abcdef","bytes":1,"crc32c":1}}') == Reference(
        "a.0123456789abcdef", 1, 1
    )
    assert reference_in(b'{"kqs.bulk":1}') is None


async def test_what_is_no_bulk_store_is_refused_at_once(tmp_path: Path) -> None:
    for make in (partial(kqs.open, tmp_path / "queue"), partial(kqs.connect, "127.0.0.1:1"), kqs.testing.open):
        with pytest.raises(TypeError, match=r"bulk: expected a kqs\.BulkStore, of"):
            make(bulk={})  # type: ignore[arg-type]  # as a checker says too
