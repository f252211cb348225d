"""Long data in a bulk store of one's own, wherever the queue stands."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import kqs
import kqs.testing
from kqs.client import ConnectionLostError
from kqs.errors import CallError
from kqs.library.apart import Reference, reference_in

LONG = "x" * 200


class Shelf(kqs.BulkStore):
    """Keeps all in memory. trouble: what each method raises next, by its name; a list of such things, None for none."""

    over_bytes = 100

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.trouble: dict[str, list[Exception | None]] = {}
        self.closed = 0

    def _meet(self, name: str) -> None:
        troubles = self.trouble.get(name)
        if troubles and (trouble := troubles.pop(0)) is not None:
            raise trouble

    async def set(self, key: str, data: bytes) -> None:
        self._meet("set")
        self.kept[key] = data

    async def get(self, key: str) -> bytes | None:
        self._meet("get")
        return self.kept.get(key)

    async def delete(self, key: str) -> None:
        self._meet("delete")
        self.kept.pop(key, None)

    async def close(self) -> None:
        self.closed += 1


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
    while bulk.kept:  # noqa: ASYNC110 - what a run by hand leaves is deleted soon after
        await asyncio.sleep(0.001)


async def test_long_data_is_kept_apart_until_its_job_has_succeeded(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    got = Got(queue, type_)
    long, short = await queue.add_jobs([{"type": type_, "data": LONG}, {"type": type_, "data": "short"}])
    (key,) = bulk.kept
    assert key.rpartition(".")[0] == long.id
    assert bulk.kept[key] == b'"' + LONG.encode() + b'"'
    shown = [await queue.job(job.id) for job in (long, short)]
    assert [list(shown[0].data), shown[1].data] == [["kqs.bulk"], "short"]  # type: ignore[union-attr]
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
async def test_a_cancelled_run_keeps_its_data(queue: kqs.Queue, bulk: Shelf, type_: str) -> None:
    asked = asyncio.Event()

    async def hangs(_key: str) -> bytes | None:
        asked.set()
        await asyncio.Event().wait()
        return None

    got, get = Got(queue, type_), bulk.get
    job = await queue.add_job(type_, LONG)
    bulk.get = hangs  # type: ignore[method-assign]
    running = asyncio.create_task(queue.run_jobs())
    await asked.wait()
    running.cancel()
    await asyncio.wait([running])
    bulk.get = get  # type: ignore[method-assign]
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
            make(bulk={})
