"""Who waits for whom, as the oracle knows it: what the ends of jobs mean for others, and how batches count theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kqs.job import Tally
from kqs.states import ENDED, WAITING, State

DELETED = "deleted"
_NAMES = {State.SUCCESS: "success", State.FAIL: "fail", State.CANCELLED: "cancelled"}


class Tied(Protocol):
    """What a job of the oracle says of others. awaits: those that it waits for still; `@ID` stands for a batch."""

    id: str
    state: State
    after: tuple[str, ...]
    is_any_end: bool
    awaits: set[str]
    batch: str | None


@dataclass
class Batch:
    """How a batch stands. living: its members that have not ended."""

    is_open: bool
    living: set[str] = field(default_factory=set)
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*_NAMES.values(), DELETED), 0))
    is_complete: bool = False

    def tally(self, batch_id: str) -> Tally:
        count = len(self.living) + sum(self.ended.values())
        return Tally(batch_id, count, is_open=self.is_open, **self.ended)


def parent_of(batch_id: str) -> str:
    return f"@{batch_id}"


def state_of(job: Tied | None) -> State | None:
    """Return how a job has ended, or that it has not; None: it is not there."""
    return None if job is None else job.state


def is_done(child: Tied, parent: State | None) -> bool | None:
    """Tell whether a job need not wait for one that stands so; None: it never may begin."""
    if parent is State.SUCCESS or (child.is_any_end and (parent is None or parent in ENDED)):
        return True
    return None if parent is None or parent in ENDED else False


@dataclass
class Batches:
    """All batches, by the ids of their `then`s, and what ends mean. It is told of each end once, and tells who fails by it."""

    batches: dict[str, Batch] = field(default_factory=dict)

    def enter(self, job: Tied) -> None:
        """Take in a new job, a member or none."""
        batch = self.batches.get(job.batch or "")
        if batch is None or batch.is_complete:
            job.batch = None
        else:
            batch.living.add(job.id)

    def stand(self, job: Tied, jobs: Mapping[str, Tied]) -> bool:
        """Let a job wait for whom it must; False: it cannot any more."""
        done = {id_: is_done(job, state_of(jobs.get(id_))) for id_ in job.after}
        batch = self.batches.get(job.id)
        job.awaits = {id_ for id_, one in done.items() if one is False}
        if batch is not None and not batch.is_complete:
            job.awaits.add(parent_of(job.id))
        return None not in done.values()

    def ended(self, ended: Iterable[Tied], jobs: Mapping[str, Tied], *, are_deleted: bool = False) -> list[Tied]:
        """Take in that jobs have ended, or are gone; return those that fail by that, of which it must be told again."""
        failed: dict[str, Tied] = {}
        for job in ended:
            self._count(job, are_deleted=are_deleted)
            job.awaits = set()
            for child in jobs.values():
                if job.id in child.awaits and child.state in WAITING and child.id not in failed:
                    child.awaits.discard(job.id)
                    if is_done(child, None if are_deleted else job.state) is None:
                        failed[child.id] = child
        self.complete(jobs)
        return list(failed.values())

    def _count(self, job: Tied, *, are_deleted: bool) -> None:
        batch, job.batch = self.batches.get(job.batch or ""), None
        if batch is not None and job.id in batch.living:
            batch.living.discard(job.id)
            batch.ended[DELETED if are_deleted else _NAMES[job.state]] += 1

    def complete(self, jobs: Mapping[str, Tied]) -> None:
        """Let the `then`s go of batches of which nobody is left."""
        for batch_id, batch in self.batches.items():
            if not batch.is_open and not batch.living:
                batch.is_complete = True
            if batch.is_complete and batch_id in jobs:
                jobs[batch_id].awaits.discard(parent_of(batch_id))
