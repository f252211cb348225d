"""What decides when and in whose turn jobs run, by the client's methods, against a real server."""

from __future__ import annotations

import pytest

from kqs.client import Client
from kqs.errors import CallError


async def test_schedules_are_kept_shown_fired_suspended_and_gone(client: Client) -> None:
    job = {"type": "report", "data": {"days": 1}}
    kept = await client.schedule("nightly", job, cron="30 2 * * 1-5", tz="Europe/Berlin", catch_up="skip")
    assert (kept.name, kept.cron, kept.tz, kept.catch_up, kept.job) == ("nightly", "30 2 * * 1-5", "Europe/Berlin", "skip", job)
    assert (kept.last, kept.suspended_at, kept.origin) == (None, None, "call")
    assert [len(one.next) for one in await client.schedules("nightly", next=3)] == [3]
    assert (await client.call("job", await client.fire("nightly")))["data"] == {"days": 1}
    assert [await client.suspend_schedule("nightly"), await client.suspend_schedule("nightly")] == [True, False]
    assert (await client.schedules())[0].next == []
    assert [await client.resume_schedule("nightly"), await client.resume_schedule("nightly")] == [True, False]
    await client.unschedule("nightly")
    with pytest.raises(CallError) as gone:
        await client.fire("nightly")
    assert gone.value.call_code == "not_found"


async def test_schedules_come_by_name_from_where_one_left_off(client: Client) -> None:
    for name in ("c", "a", "b"):
        await client.schedule(name, {"type": "report"}, every=3600, from_="2020-01-01T00:00:00Z", overlap="skip")
    assert [one.name for one in await client.schedules(limit=2)] == ["a", "b"]
    (last,) = await client.schedules(after="b")
    assert (last.name, last.every, last.from_, last.overlap) == ("c", 3600, 1577836800, "skip")


async def test_options_of_a_type_are_set_shown_and_taken_back(client: Client) -> None:
    assert (await client.configure("mail", ttr=120, retries=5)).by_call == {"ttr": 120, "retries": 5}
    configured = await client.configure("mail", ttr=None)
    assert (configured.options["ttr"], configured.by_call, configured.changed) == (30, {"retries": 5}, True)
    assert not (await client.configure("mail")).changed
    assert (await client.configure(keep=7)).options["keep"] == 7
    assert (await client.configure("mail", reset=True)).by_call == {}


async def test_subscribers_come_and_go(client: Client) -> None:
    assert [await client.subscribe("order", "bill"), await client.subscribe("order", "bill")] == [True, False]
    await client.insert("order", 7)
    assert [job["type"] async for job in client.jobs(state="new")] == ["bill"]
    assert [await client.unsubscribe("order", "bill"), await client.unsubscribe("order", "bill")] == [True, False]


async def test_refused_rules_change_nothing(client: Client) -> None:
    with pytest.raises(CallError, match="every: expected"):
        await client.schedule("often", {"type": "report"}, every=0.01)
    with pytest.raises(CallError, match='the nearest known one is "ttr"'):
        await client.configure("mail", ttl=5)
    assert (await client.schedules(), (await client.configure("mail")).by_call) == ([], {})
