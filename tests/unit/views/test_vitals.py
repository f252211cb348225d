"""How a server says that it is."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from kqs.errors import StoreUnavailableError
from kqs.outcome import Failed
from kqs.states import State
from kqs.views import views as views_module
from kqs.views.views import Views
from kqs.views.vitals import Vitals
from tests.support.jobs import an_accepted
from tests.support.parts import parts_of
from tests.support.queueing import Rig


def vitals(rig: Rig, journal: object | None = None, *, only_accepts: bool = False) -> Vitals:
    named = {} if journal is None else {"journal": journal}
    parts = parts_of(rig.queue, only_accepts=only_accepts, **named)
    return Vitals(parts, Views(parts, rig.queue.reads.job))


async def test_all_is_well_when_nothing_complains(rig: Rig) -> None:
    assert await vitals(rig).health(draining=False) == {"ok": True, "verdict": "ok", "problems": [], "notes": []}


async def test_a_journal_that_takes_nothing_makes_the_verdict_failing(rig: Rig) -> None:
    journal = SimpleNamespace(accepting=False, problems=lambda: ["too few bytes are free"], notes=list)
    health = await vitals(rig, journal).health(draining=False)
    assert (health["verdict"], health["problems"]) == ("failing", ["too few bytes are free"])


async def test_a_server_that_stops_is_failing_and_says_so(rig: Rig) -> None:
    await rig.accept(an_accepted(1))
    health = await vitals(rig).health(draining=True)
    assert (health["verdict"], health["problems"], health["notes"]) == (
        "failing",
        ["the server is stopping: inserts are refused"],
        [],
    )


@pytest.mark.parametrize(
    ("only_accepts", "notes"), [(False, ["1 job of type 'mail' waits, and no handler takes it"]), (True, [])]
)
async def test_a_server_that_only_accepts_names_no_type_without_a_handler(
    rig: Rig, only_accepts: bool, notes: list[str]
) -> None:
    await rig.accept(an_accepted(1))
    told = vitals(rig, only_accepts=only_accepts)
    assert (await told.health(draining=False))["notes"] == notes


async def test_health_is_told_while_the_store_cannot_be_asked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse() -> None:
        raise StoreUnavailableError("disk I/O error")

    monkeypatch.setattr(rig.store, "counts", refuse)
    health = await vitals(rig).health(draining=False)
    assert (health["verdict"], health["problems"]) == ("degraded", ["disk I/O error"])


async def test_a_job_that_runs_is_not_told_as_one_that_nobody_takes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def counts() -> dict[str, dict[State, int]]:
        return {"mail": {State.PROCESSING: 4, State.SUCCESS: 1}, "resize": {State.NEW: 2, State.PROCESSING: 4, State.GHOST: 1}}

    monkeypatch.setattr(rig.store, "counts", counts)
    health = await vitals(rig).health(draining=False)
    assert health["notes"] == ["3 jobs of type 'resize' wait, and no handler takes them"]


async def test_health_does_not_wait_for_a_store_that_hangs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_module, "ANSWERS_WITHIN_S", 0.01)
    monkeypatch.setattr(rig.store, "counts", asyncio.Event().wait)
    health = await vitals(rig).health(draining=False)
    assert health["problems"] == ["the store has not answered for 0.01 s"]


async def test_stats_leave_out_what_only_a_store_that_hangs_knows(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    all_names = set(await vitals(rig).stats())
    monkeypatch.setattr(views_module, "ANSWERS_WITHIN_S", 0.01)
    monkeypatch.setattr(rig.store, "counts", asyncio.Event().wait)
    stats = await vitals(rig).stats()
    assert {name for name in all_names - set(stats) if not name.startswith("jobs_")} == {"types"}
    assert stats["running"] == 0


async def test_who_asks_at_a_time_shares_a_question_to_the_store(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.accept(*(an_accepted(n, f"type{n % 10}") for n in range(30)))
    questions, told, count = 0, vitals(rig), rig.store.counts

    async def counts() -> dict[str, dict[State, int]]:
        nonlocal questions
        questions += 1
        return await count()

    monkeypatch.setattr(rig.store, "counts", counts)
    stats = await asyncio.gather(*(told.stats() for _ in range(100)))
    assert {(each["jobs_new"], each["jobs_without_handler"], each["types"]) for each in stats} == {(30, 30, 10)}
    await asyncio.gather(*(told.health(draining=False) for _ in range(100)))
    assert questions <= 4


async def test_jobs_that_failed_for_good_are_spoken_of(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take(), Failed("no good", final=True))
    assert (await vitals(rig).health(draining=False))["notes"] == ["1 job failed for good and is kept"]
    assert (await rig.until(1, State.FAIL)).error == "no good"
