"""Jobs whose types have subscribers: each ends at once, and its subscribers have copies of it in its place.

The job goes into the store before its copies, with its end, and by that it shows whether its id is known: then there are none.
A kill, or a store that goes away in between, leaves the job without copies; they are stored when the journal is read again,
where its result tells that the job is the same. Copies have the ids that their orders make, so none is stored twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kqs.job import Accepted, Report, Run, first_run
from kqs.store.base import MOST_ENDS, Known, Store
from kqs.store.keyed import aliases_of, led_on

#: judges the success of a run: its result
Judged = Callable[[Run, bytes], Report]


def parted(jobs: Sequence[Accepted]) -> tuple[list[Accepted], list[Accepted]]:
    """Part jobs, by age, into those that are stored first and those after them.

    What has copies is stored before all else. Where an older job brought the same id and has none, that is to have it: so the
    younger one has to wait until it is stored.
    """
    ids: set[str] = set()
    first: list[Accepted] = []
    behind: list[Accepted] = []
    for job in jobs:
        is_fanned = job.result is not None
        if job.given_id and not is_fanned:
            ids.add(job.id)
        (behind if is_fanned and job.id in ids else first).append(job)
    return first, behind


class Joins:
    """Which jobs of a batch were joined to others of their unique keys, where what waits for them is stored by a later call.

    Within a call the store sees to it: see Store.insert.
    """

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def note(self, jobs: Sequence[Accepted], found: Known) -> None:
        """Take in what the store has made of jobs."""
        if found.joined:
            self._ids |= aliases_of(jobs, found.joined)

    def heed(self, jobs: Sequence[Accepted]) -> None:
        """Let jobs that wait for such as were joined wait for those that these were joined to."""
        for job in jobs if self._ids else ():
            if job.after is not None and not self._ids.keys().isdisjoint(job.after.ids):
                job.after = job.after._replace(ids=tuple(led_on(job.after.ids, self._ids)))


class _Inserted(NamedTuple):
    """What the store has made of jobs, by their orders, and the ends that they went in with."""

    orders: Sequence[int]
    found: Known
    ends: Sequence[tuple[Run, Report]]


class Multicast:
    """See the module docstring. One `store` at a time; one that failed is repeated with the same jobs."""

    def __init__(self, store: Store, judged: Judged, worker: str) -> None:
        self._store = store
        self._judged = judged
        self._worker = worker
        #: of jobs that are stored, and not looked at yet: a second insert of them would call all of them known
        self._inserted: _Inserted | None = None

    async def store(self, jobs: Sequence[Accepted], epoch: int, now: float) -> tuple[Known, list[tuple[Run, Report]], set[int]]:
        """Store jobs that have a `result`, and nothing of their copies.

        Returns: what the store makes of them; the ends of those that are new; the orders of those whose copies are to be
            stored: new ones, and such as an earlier attempt has stored.
        Raises: StoreUnavailableError: it may be repeated.
        """
        orders = [job.order for job in jobs]
        if self._inserted is None or self._inserted.orders != orders:
            self._inserted = await self._insert(jobs, orders, epoch, now)
        _, found, ends = self._inserted
        known = frozenset(found)
        old = [job for job in jobs if job.order in known and job.order not in found.joined]
        ours = {job.order for job in old if not job.given_id}
        given = [job for job in old if job.given_id]
        for n in range(0, len(given), MOST_ENDS):
            ours |= await self._stored_by_us(given[n : n + MOST_ENDS])
        self._inserted = None
        new = {job.order for job in jobs} - known
        return found, [(run, end) for run, end in ends if run.claim.order in new], new | ours

    async def _insert(self, jobs: Sequence[Accepted], orders: Sequence[int], epoch: int, now: float) -> _Inserted:
        ends: list[tuple[Run, Report]] = []
        for job in jobs:
            job.claimed_at = now
            run = first_run(job, epoch)
            assert job.result is not None, "it is not run"
            job.end = self._judged(run, job.result)
            ends.append((run, job.end))
        return _Inserted(orders, await self._store.insert(jobs, 0, self._worker, now), ends)

    async def _stored_by_us(self, jobs: Sequence[Accepted]) -> set[int]:
        looked = await self._store.look([job.id for job in jobs])
        results = {record.id: record.result for record in looked.ended}
        return {job.order for job in jobs if results.get(job.id) == job.result}
