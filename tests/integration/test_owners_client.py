"""What owners do with their jobs, by the client's methods, against a real server."""

from __future__ import annotations

import pytest

from kqs.client import Changed, Client
from kqs.client import owners as calls
from kqs.client.runs import Run
from kqs.errors import CallError


async def test_jobs_are_cancelled_retried_deleted_and_purged(client: Client) -> None:
    ids = await client.insert_many([{"type": "mail", "data": n} for n in range(4)])
    assert await client.cancel(ids[0]) == Changed(1, [ids[0]], 0)
    assert (await client.cancel(ids[:2])).ids == [ids[1]]
    assert (await client.cancel(type="mail", dry_run=True)).count == 2
    assert (await client.retry(state=["fail", "cancelled"])).count == 2
    assert (await client.delete(match="^[12]$", type="mail")).count == 2
    assert await client.purge("mail", regex="^0$", dry_run=True) == 1
    assert await client.purge("mail") == 2
    assert (await client.delete(all=True)).count == 0
    with pytest.raises(CallError, match="name jobs"):
        await client.delete()


async def test_running_job_is_deleted_by_force_and_its_worker_hears_of_it(client: Client) -> None:
    job_id = await client.insert("mail")
    (run,) = await client.reserve(["mail"], wait_s=10)
    with pytest.raises(CallError) as refused:
        await client.delete(job_id)
    assert refused.value.call_code == "running"
    assert (await client.delete(older_than=0)).skipped == 1
    assert (await client.delete(job_id, force=True)).count == 1
    over: list[Run] = []
    client.on_over = over.append
    await client.touch(run)
    assert [job async for job in client.jobs()] == []
    assert (over, run.is_over) == ([run], True)


async def test_records_come_page_by_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAGE_JOBS", 7)
    ids = await client.insert_many([{"type": "mail", "resource": "r"}] * 30)
    assert [job["id"] async for job in client.jobs(resource="r")] == ids
    assert [job["id"] async for job in client.jobs(newest=True, state="new")] == ids[::-1]
    assert [job["id"] async for job in client.jobs(ids[3:5])] == ids[3:5]
    assert [job async for job in client.jobs(type="none")] == []
