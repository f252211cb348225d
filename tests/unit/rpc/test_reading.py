"""What is shown of jobs and of the server."""

from __future__ import annotations

import pytest

from tests.support.conversing import Conversing


async def test_stats_are_plain_numbers_of_backend_and_server() -> None:
    stats = await Conversing().ask("stats")
    assert {"jobs_new", "connections", "calls_stats"} <= stats.keys()
    assert all(isinstance(value, int | float) for value in stats.values())


async def test_health_is_the_backends_verdict() -> None:
    assert (await Conversing().ask("health"))["verdict"] == "ok"


@pytest.mark.parametrize("argument", ['"mine"', '{"id":"mine"}'])
async def test_job_shows_one_job_with_its_data_as_sent(argument: str) -> None:
    talk = Conversing()
    await talk.settled(b'{"n":"insert","m":{"type":"x","id":"mine","data":[1]}}\n')
    assert (await talk.ask("job", argument))["data"] == [1]


async def test_an_unknown_job_is_not_found() -> None:
    assert (await Conversing().ask("job", '"nobody"'))["code"] == "not_found"


async def test_jobs_goes_on_after_the_last_one_seen() -> None:
    talk = Conversing()
    await talk.settled(b'{"n":"insert","m":[{"type":"x","id":"a"},{"type":"y","id":"b"},{"type":"x","id":"c"}]}\n')
    assert [job["id"] for job in await talk.ask("jobs")] == ["a", "b", "c"]
    assert [job["id"] for job in await talk.ask("jobs", '{"type":"x","state":"new","after":"a","limit":1}')] == ["c"]
