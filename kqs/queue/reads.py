"""What is known of jobs, for whoever asks; nothing here changes anything of a job, but `taken` who watches over its run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from kqs.errors import StoreCorruptError, StoreUnavailableError
from kqs.filter import Filter
from kqs.job import Claim, Entry, JobRecord, Run
from kqs.states import State
from kqs.store.base import Holder, Looked, Store
from kqs.supervisor import Supervisor

Answer = TypeVar("Answer")

#: who asks waits no longer, in s, for a store that neither answers nor refuses, as one on a disk that hangs
ANSWERS_WITHIN_S = 5.0


class Reads:
    """Answers from the store. Raises: StoreUnavailableError, from each; where it takes too long too, but for `taken`."""

    def __init__(self, store: Store, supervisor: Supervisor) -> None:
        """Args: supervisor: told of damage, which ends the server, whoever meets it first."""
        self._store = store
        self._supervisor = supervisor

    async def job(self, job_id: str) -> JobRecord | None:
        """Return what the store knows of a job."""
        return await self._told(self._store.job(job_id))

    async def page(
        self, wanted: Filter, after: int | None, limit: int, *, newest_first: bool
    ) -> tuple[list[JobRecord], int | None]:
        """Return records that fit, as far as one slice of the store goes, and where to go on."""
        return await self._told(self._store.page(wanted, after, limit, newest_first=newest_first))

    async def look(self, job_ids: Sequence[str]) -> Looked:
        """Return which of these jobs there are, and how they have ended."""
        return await self._told(self._store.look(job_ids))

    async def batches(self, ids: Sequence[str]) -> dict[str, bool]:
        """Return which of these are batches, and whether more jobs may join them."""
        return await self._told(self._store.batches(ids))

    async def counts(self) -> dict[str, dict[State, int]]:
        """Return {type: {state: how many}}."""
        return await self._told(self._store.counts())

    async def check(self) -> None:
        """See Store.check."""
        await self._told(self._store.check())

    async def before(self, record: JobRecord, most: int) -> int:
        """Return how many ready jobs of its type come before a job that is ready; `most` if they are so many or more."""
        return await self._told(self._store.before(record.type, (record.prio, record.order), most, record.group))

    async def oldest(self, types: Sequence[str], prios: int) -> dict[str, float]:
        """Return for each type that has ready jobs when the oldest was accepted; see Store.oldest."""
        return await self._told(self._store.oldest(types, prios))

    async def holder(self, resource: str) -> Holder | None:
        """Return which job has a resource now, None: none."""
        return await self._told(self._store.holder(resource))

    async def turn(self, record: JobRecord) -> Entry | None:
        """Return which job is to have the resource that a waiting one needs; see Store.turn."""
        return await self._told(self._store.turn(record))

    async def taken(self, claim: Claim) -> Run | None:
        """Return a held run that is ours to watch over from now on, under this claim; None: it is over."""
        return await self._heeding(self._store.take(claim))

    async def _told(self, answer: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                return await self._heeding(answer)
        except TimeoutError:
            raise StoreUnavailableError(f"the store has not answered for {ANSWERS_WITHIN_S:g} s") from None

    async def _heeding(self, answer: Awaitable[Answer]) -> Answer:
        try:
            return await answer
        except StoreCorruptError as error:
            self._supervisor.fault("queue", error)
            raise
