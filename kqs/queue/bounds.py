"""How many jobs of a type may wait: what the door asks before it takes more.

Of each type with a `max_waiting` it is known what waits in the store, which says so with every change, and what is on its way
there: taken in by the door, and not stored yet. A job counts from its acceptance on, since nobody can say before whether it
meets a free lane; as soon as it is claimed in the journal it waits no more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from kqs.config import TakingSection
from kqs.errors import CallError
from kqs.job import Accepted
from kqs.options import Job
from kqs.store.base import Waiting


class Bounds:
    """See the module docstring. Call from the loop thread.

    limits: {TYPE: most jobs that wait}; empty: there is nothing to ask. dropping: those of them of which the oldest go, and no
    new one is refused. over: more of these wait in the store than may. is_known: the store has all that the journal held at
    the start, so that all that waits is counted.
    """

    def __init__(self, taking: Mapping[str, TakingSection]) -> None:
        self.limits = {type_: section.max_waiting for type_, section in taking.items() if section.max_waiting}
        self.dropping = frozenset(type_ for type_ in self.limits if taking[type_].drop == "oldest")
        self.over = asyncio.Event()
        self.is_known = False
        #: jobs of this boot begin there; earlier ones come out of the journal without having been asked for here
        self.first_order = 1 << 62
        #: by type, how many jobs were refused, and how many had to go
        self.refused: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._stored: Mapping[str, int] = {}
        self._coming: Counter[str] = Counter()
        self._begun: set[int] = set()  # orders of jobs that run, and that the store does not have

    def waiting(self, type_: str) -> int:
        """Return how many jobs of a type with a limit wait, those on their way included."""
        return self._stored.get(type_, 0) + self._coming[type_]

    def has_room(self, jobs: Sequence[Job]) -> bool:
        """Tell whether all these may be taken in."""
        return all(self._refusal(type_, count) is None for type_, count in self._counted(jobs).items())

    def enter(self, jobs: Sequence[Job], copies: Sequence[str] = (), *, is_forced: bool = False) -> Mapping[str, int]:
        """Count jobs that are about to be journaled; return how many of which types they are, for `leave`.

        Args: copies: the types of copies of these. is_forced: whatever waits: they were accepted elsewhere.
        Raises: CallError: busy; they would be too many, and none is counted.
        """
        counts = self._counted(jobs)
        counts.update([type_ for type_ in copies if type_ in self.limits])
        for type_, count in counts.items():
            refusal = None if is_forced else self._refusal(type_, count)
            if refusal is not None:
                self.refused[type_] += count
                raise CallError(refusal, "busy")
        self._coming.update(counts)
        return counts

    def leave(self, counts: Mapping[str, int]) -> None:
        """Forget jobs that are not journaled after all."""
        self._coming.subtract(counts)

    def begun(self, jobs: Sequence[Accepted]) -> None:
        """Take in that jobs run which the store does not have yet."""
        for job in jobs:
            if job.type in self.limits and job.order >= self.first_order:
                self._coming[job.type] -= 1
                self._begun.add(job.order)

    def stored(self, news: Waiting) -> None:
        """Take in what the store says. See Store.on_waiting."""
        self._stored = news.counts
        for job in news.taken:
            if job.order in self._begun:
                self._begun.discard(job.order)
            elif job.order >= self.first_order:
                self._coming[job.type] -= 1
        if self.dropping and self.excess():
            self.over.set()

    def unmade(self, jobs: Sequence[Accepted]) -> None:
        """Take in that jobs are not stored: copies of one that is known already."""
        self.stored(Waiting(self._stored, [job for job in jobs if job.type in self.limits]))

    def excess(self) -> dict[str, int]:
        """Return how many jobs too many wait in the store, by type, of those of which the oldest go."""
        stored, limits = self._stored, self.limits
        return {type_: n for type_ in self.dropping if (n := stored.get(type_, 0) - limits[type_]) > 0}

    def shown(self, type_: str) -> dict[str, int | str]:
        """Return the limit of a type as people see it, and what it has led to; nothing, if there is none."""
        if type_ not in self.limits:
            return {}
        drop = "oldest" if type_ in self.dropping else "new"
        counts = {"refused": self.refused[type_], "dropped": self.dropped[type_]}
        return {"max_waiting": self.limits[type_], "drop": drop, **counts}

    def _counted(self, jobs: Sequence[Job]) -> Counter[str]:
        limits = self.limits
        return Counter([job.type for job in jobs if job.type in limits])

    def _refusal(self, type_: str, count: int) -> str | None:
        """Return why so many more jobs of a type may not be taken in; None: they may."""
        limit, waiting = self.limits[type_], self.waiting(type_)
        if type_ in self.dropping:
            return None
        if not self.is_known:
            return f"how many jobs of type {type_!r} wait, which has max_waiting = {limit}, is not known yet; try again later"
        if waiting + count <= limit:
            return None
        more = "" if count == 1 else f", and {count} more would be too many"
        return f"type {type_!r} has max_waiting = {limit}: {waiting} of its jobs wait{more}; try again later"
