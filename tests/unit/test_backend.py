from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

import kqs.backend
from kqs.backend import ServerBackend
from kqs.errors import CallError, StoreUnavailableError
from kqs.ids import Ids
from kqs.job import State
from kqs.outcome import Failed
from kqs.rpc.parameters import JobsQuery
from tests.support.jobs import an_accepted
from tests.support.queueing import Rig


class Lag:
    """A feeder whose store is behind, for as long as `records` says so."""

    lag_records = 0

    def problems(self) -> list[str]:
        return ["the store refuses new jobs"] if self.lag_records else []

    async def catch_up(self, *, unflushed: bool = False) -> None:
        if self.lag_records:
            raise StoreUnavailableError("1 records behind")


def a_backend(rig: Rig, feeder: Lag, journal: object | None = None, *, only_accepts: bool = False) -> ServerBackend:
    journal = journal or SimpleNamespace(accepting=True, problems=list, notes=list, stats=dict)
    worker = SimpleNamespace(busy_count=0, done_count=0, failed_count=0, problems=list)
    desk = SimpleNamespace(runs_count=0, done_count=0, failed_count=0)
    parts: tuple[Any, Any, Any, Any, Any] = (journal, feeder, rig.queue, worker, desk)
    inserter: Any = SimpleNamespace(ids=Ids("0000beef"))
    return ServerBackend(*parts, inserter, rig.clock, only_accepts=only_accepts)


async def test_all_is_well_when_nothing_complains(rig: Rig) -> None:
    assert await a_backend(rig, Lag()).health(draining=False) == {"ok": True, "verdict": "ok", "problems": [], "notes": []}


async def test_a_journal_that_takes_nothing_makes_the_verdict_failing(rig: Rig) -> None:
    journal = SimpleNamespace(accepting=False, problems=lambda: ["too few bytes are free"], notes=list)
    health = await a_backend(rig, Lag(), journal).health(draining=False)
    assert (health["verdict"], health["problems"]) == ("failing", ["too few bytes are free"])


async def test_a_server_that_stops_is_failing_and_says_so(rig: Rig) -> None:
    await rig.accept(an_accepted(1))
    health = await a_backend(rig, Lag()).health(draining=True)
    assert (health["verdict"], health["problems"], health["notes"]) == (
        "failing",
        ["the server is stopping: inserts are refused"],
        [],
    )


@pytest.mark.parametrize(
    ("only_accepts", "notes"), [(False, ["1 jobs of type 'mail' wait, and no handler takes them"]), (True, [])]
)
async def test_a_server_that_only_accepts_names_no_type_without_a_handler(
    rig: Rig, only_accepts: bool, notes: list[str]
) -> None:
    await rig.accept(an_accepted(1))
    backend = a_backend(rig, Lag(), only_accepts=only_accepts)
    assert (await backend.health(draining=False))["notes"] == notes


async def test_who_asks_for_a_job_hears_that_the_store_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise StoreUnavailableError("disk I/O error")

    monkeypatch.setattr(rig.store, "job", refuse)
    with pytest.raises(CallError, match="the store cannot be asked now") as caught:
        await a_backend(rig, Lag()).job("a")
    assert caught.value.call_code == "busy"


async def test_health_is_told_while_the_store_cannot_be_asked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse() -> None:
        raise StoreUnavailableError("disk I/O error")

    monkeypatch.setattr(rig.store, "counts", refuse)
    health = await a_backend(rig, Lag()).health(draining=False)
    assert (health["verdict"], health["problems"]) == ("degraded", ["disk I/O error"])


async def test_a_job_that_runs_is_not_told_as_one_that_nobody_takes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def counts() -> dict[str, dict[State, int]]:
        return {"mail": {State.PROCESSING: 4, State.SUCCESS: 1}, "resize": {State.NEW: 2, State.PROCESSING: 4, State.GHOST: 1}}

    monkeypatch.setattr(rig.store, "counts", counts)
    health = await a_backend(rig, Lag()).health(draining=False)
    assert health["notes"] == ["3 jobs of type 'resize' wait, and no handler takes them"]


async def test_health_does_not_wait_for_a_store_that_hangs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.backend, "ANSWERS_WITHIN_S", 0.01)
    monkeypatch.setattr(rig.store, "counts", asyncio.Event().wait)
    health = await a_backend(rig, Lag()).health(draining=False)
    assert health["problems"] == ["the store has not answered for 0.01 s"]


async def test_stats_leave_out_what_only_a_store_that_hangs_knows(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    all_names = set(await a_backend(rig, Lag()).stats())
    monkeypatch.setattr(kqs.backend, "ANSWERS_WITHIN_S", 0.01)
    monkeypatch.setattr(rig.store, "counts", asyncio.Event().wait)
    stats = await a_backend(rig, Lag()).stats()
    assert {name for name in all_names - set(stats) if not name.startswith("jobs_")} == {"types"}
    assert stats["running"] == 0


async def test_many_types_are_counted_in_several_turns_of_the_loop(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.accept(*(an_accepted(n, f"type{n % 10}") for n in range(30)))
    backend = a_backend(rig, Lag())
    whole = await backend.stats()
    assert (whole["jobs_new"], whole["jobs_without_handler"], whole["types"]) == (30, 30, 10)
    counts = await rig.queue.reads.counts()
    for at_once, turns in ((1000, 0), (3, 6)):  # of which half look for those that nobody takes
        monkeypatch.setattr(kqs.backend, "TYPES_AT_ONCE", at_once)
        stats = backend._job_stats(counts)
        for _ in range(turns):
            assert stats.send(None) is None
        with pytest.raises(StopIteration) as over:
            stats.send(None)
        assert over.value.value.items() <= whole.items()


async def test_jobs_that_failed_for_good_are_spoken_of(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take(), Failed("no good", final=True))
    assert (await a_backend(rig, Lag()).health(draining=False))["notes"] == ["1 jobs failed for good and are kept"]
    assert (await rig.until(1, State.FAIL)).error == "no good"


async def test_what_the_store_does_not_know_yet_is_refused_as_busy(rig: Rig) -> None:
    feeder = Lag()
    feeder.lag_records = 1
    backend = a_backend(rig, feeder)
    for asked in (backend.job("none"), backend.jobs(JobsQuery())):
        with pytest.raises(CallError) as refused:
            await asked
        assert refused.value.call_code == "busy"


async def test_a_job_that_is_stored_while_the_store_is_asked_is_found(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    feeder, ask, job = Lag(), rig.queue.reads.job, an_accepted(1)
    feeder.lag_records = 1

    async def just_before(job_id: str) -> Any:
        found = await ask(job_id)
        if feeder.lag_records:
            await rig.accept(job)
            feeder.lag_records = 0
        return found

    monkeypatch.setattr(rig.queue.reads, "job", just_before)
    assert (await a_backend(rig, feeder).job(job.id) or {})["id"] == job.id
