from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from kqs.backend import ServerBackend
from kqs.errors import CallError, StoreUnavailableError
from kqs.queue.housekeeping import CHILDREN_S
from kqs.rpc.parameters import JobsQuery
from tests.support.jobs import an_accepted
from tests.support.parts import parts_of
from tests.support.queueing import Rig


class Lag:
    """A feeder whose store is behind, for as long as `records` says so."""

    lag_records = 0

    async def catch_up(self, *, unflushed: bool = False) -> None:
        if self.lag_records:
            raise StoreUnavailableError("1 records behind")


def a_backend(rig: Rig, feeder: Lag) -> ServerBackend:
    return ServerBackend(parts_of(rig.queue, feeder=feeder))


def naming(*asked: str, askers: Sequence[str] = ()) -> Any:
    return SimpleNamespace(asked=list(asked), batches=[], askers=list(askers))


async def test_a_record_that_is_over_stays_until_the_child_is_stored_that_was_told_of_it(rig: Rig) -> None:
    backend, hand = a_backend(rig, Lag()), rig.hand(1)
    await rig.accept(parent := an_accepted(1))
    await hand.end(await hand.take())
    rig.clock.advance(3599)
    await backend.check_order(naming(parent.id))
    rig.clock.advance(2)
    assert await rig.queue.house.sweep() == 0
    with pytest.raises(CallError, match="no job has the id"):
        await backend.check_order(naming(parent.id))
    rig.clock.advance(CHILDREN_S)
    assert await rig.queue.house.sweep() == 1


async def test_who_asks_under_the_id_of_a_job_that_is_over_would_make_one_and_is_refused(rig: Rig) -> None:
    backend, hand = a_backend(rig, Lag()), rig.hand(1)
    await rig.accept(job := an_accepted(1))
    await hand.end(await hand.take())
    await backend.check_order(naming("nobody", askers=[job.id]))
    rig.clock.advance(3601)
    with pytest.raises(CallError, match="no job has the id 'nobody'"):
        await backend.check_order(naming("nobody", askers=[job.id]))


async def test_who_asks_for_a_job_hears_that_the_store_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise StoreUnavailableError("disk I/O error")

    monkeypatch.setattr(rig.store, "job", refuse)
    with pytest.raises(CallError, match="the store cannot be asked now") as caught:
        await a_backend(rig, Lag()).job("a")
    assert caught.value.call_code == "busy"


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
