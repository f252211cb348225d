from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import pytest

from kqs.broker.base import Broker
from kqs.job import Entry
from kqs.queue.admission import Admission
from kqs.queue.consumer import Consumer
from kqs.queue.seeker import BUSY_FACTOR, Seeker
from kqs.store.base import Store
from tests.support.ready_jobs import ReadyJobs, an_entry


class Surroundings:
    """Store, broker and one consumer, as a seeker sees them."""

    def __init__(self) -> None:
        self.jobs = ReadyJobs()
        self.known: set[str] = set()
        self.rechecked: list[str] = []
        self.grouped: list[str] = []
        self.consumer = Consumer("w", ["mail"], 1, lambda _runs: None)
        self.admission = Admission(self.backlog, {}, lambda: 0.0)
        self.admission.enter(self.consumer)

    async def ready(self, type_: str, after: tuple[int, int] | None, limit: int) -> list[Entry]:
        return await self.jobs.refill(type_, after, limit)

    async def grouped_types(self, among: Collection[str]) -> list[str]:
        return [type_ for type_ in self.grouped if type_ in among]

    def backlog(self, type_: str) -> bool:
        return type_ in self.known

    async def recheck(self, types: Sequence[str]) -> None:
        self.rechecked += types

    def seeker(self, looks: int) -> Seeker:
        return Seeker(cast("Store", self), cast("Broker", self), self.admission, looks)


@pytest.fixture
def around() -> Surroundings:
    return Surroundings()


async def test_jobs_of_groups_are_missing_at_once_where_none_are_known(around: Surroundings) -> None:
    around.grouped = ["mail", "taken-by-nobody"]
    await around.seeker(2).look()
    assert around.rechecked == ["mail"]
    around.known = {"mail"}
    await around.seeker(2).look()
    assert around.rechecked == ["mail"]


async def look(seeker: Seeker, times: int) -> None:
    for _ in range(times):
        await seeker.look()


@pytest.mark.parametrize("looks", [1, 2])
async def test_a_job_is_missing_after_so_many_looks(around: Surroundings, looks: int) -> None:
    around.jobs.add(an_entry(1), an_entry(2, "other"))
    seeker = around.seeker(looks)
    await look(seeker, looks - 1)
    assert around.rechecked == []
    await seeker.look()
    assert around.rechecked == ["mail"]


async def test_jobs_that_move_on_are_in_the_shared_broker(around: Surroundings) -> None:
    seeker = around.seeker(2)
    for number in range(9):
        around.jobs.entries.clear()
        around.jobs.add(an_entry(number))
        await seeker.look()
    assert around.rechecked == []


@pytest.mark.parametrize("looks", [1, 2])
@pytest.mark.parametrize("has_room", [False, True], ids=["no room", "a backlog"])
async def test_without_room_or_behind_others_a_job_may_wait_longer(around: Surroundings, looks: int, has_room: bool) -> None:
    around.jobs.add(an_entry(1))
    if has_room:
        around.known.add("mail")
    else:
        around.consumer.reserve(1)
    seeker = around.seeker(looks)
    await look(seeker, looks * BUSY_FACTOR - 1)
    assert around.rechecked == []
    await look(seeker, looks * BUSY_FACTOR)
    assert around.rechecked == ["mail"]


async def test_a_store_of_our_own_is_not_looked_into(around: Surroundings) -> None:
    around.jobs.add(an_entry(1))
    await look(around.seeker(0), 9)
    assert around.jobs.asked == []
