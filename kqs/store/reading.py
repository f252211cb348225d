"""What a store tells of jobs to whoever asks: a part of the store port, which changes nothing.

The bounds of what is told are in base.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kqs.filter import Filter
from kqs.job import Entry, JobRecord
from kqs.states import State
from kqs.store.answers import Holder, Looked


class ReadingPort(Protocol):
    """See the module docstring. It sees all that was asked of the store before, and raises as the store port says."""

    async def job(self, job_id: str) -> JobRecord | None:
        """Return one record, or None when there is none or it is over: an insert of its id would be a new job.

        It is over when its drop_at has come (`now` is the store's clock), unless another server's journal could bring it back.
        """
        ...

    async def page(
        self, wanted: Filter, after: int | None, limit: int, *, newest_first: bool = False
    ) -> tuple[list[JobRecord], int | None]:
        """Return the next of the records that fit, up to `limit`, after the order `after`, as far as one slice looks: a few ms.

        They come by order, descending if `newest_first`; they may be fewer, or none, although there are more. For an overview,
        so that a page stays small: data, results and progress over LISTED_BYTES, and bulk data, are left out (None), and of the
        runs there is only the last.
        Returns: the records, and the order to go on from; None: there are no more.
        """
        ...

    async def look(self, job_ids: Sequence[str]) -> Looked:
        """Return which of these jobs have a record, and how up to MOST_ENDS of them have ended: one question for all.

        An ended record that is over, and that `job` does not show any more, is told as long as it stands.
        """
        ...

    async def counts(self) -> dict[str, dict[State, int]]:
        """Return {type: {state: how many}}; zero counts may be left out. Cost must not grow with the number of jobs."""
        ...

    async def before(self, type_: str, rank: tuple[int, int], most: int, group: str | None = None) -> int:
        """Return how many ready jobs of a type come before the rank (prio, order); `most` if they are so many or more.

        Of a job with a group only those of that group are counted, of one without only those without.
        """
        ...

    async def first_in_line(self, type_: str, most: int) -> list[str]:
        """Return the ids of up to `most` ready jobs of a type that have stood in line for longest, whatever their priority.

        By order, as `oldest`. Where they have more than LINE_PRIOS priorities, or groups, it takes time in proportion to all
        of them.
        """
        ...

    async def oldest(self, types: Sequence[str], prios: int) -> dict[str, float]:
        """Return for each type when the oldest of its ready jobs was accepted, in Unix seconds; a type without any is left out.

        Only those of the `prios` foremost priorities at which a type has ready jobs are looked at, and, of those with a group,
        the first of the first `prios` groups. By order, which is age on one server; of several servers it is as right as their
        clocks.
        """
        ...

    async def holder(self, resource: str) -> Holder | None:
        """Return which job has a resource now, were it deleted; None: none."""
        ...

    async def turn(self, record: JobRecord) -> Entry | None:
        """Return the first job that is called to take the resource that a parked one needs; None: it is not parked."""
        ...

    async def batches(self, ids: Sequence[str]) -> dict[str, bool]:
        """Return which of these are batches, and whether more jobs may join them; however many have, it costs the same."""
        ...
