"""Which jobs the jobs of an insert wait for: positions and ids, checked against each other. Pure.

A job may only wait for what is known. So a cycle can only be made by jobs of one array, and is found here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kqs.errors import CallError
from kqs.options import Job, JobFields
from kqs.wire.jobtext import place_of
from kqs.wire.steps import JOBS_A_STEP, Steps

#: of all jobs of an insert together, so many may be waited for: each is a row of the store, which takes them at once
MOST_TIES = 10_000
#: jobs in an array of which some wait for others of it: they are stored at once
MOST_TIED = 4000

_AFTER = b'"after"'
#: how the record of a batch begins, and no other: what a client sends cannot name that field
_MEMBERS = b'[{"members":'


def is_ordered(job: Job) -> bool:
    """Tell whether a job waits for others, or is a member of a batch."""
    return isinstance(job, JobFields) and (job.after is not None or job.batch is not None)


def asked_of(jobs: Sequence[Job], text: bytes, *, is_array: bool, before: int = 0) -> Steps[tuple[list[str], list[str]]]:
    """Check in steps which jobs these wait for.

    Args: text: what they were decoded from. before: how many jobs stand before the one that has the position 0.
    Returns: the ids of other jobs that must be known, and of batches that must be open.
    Raises: CallError: bad_job, too_large.
    """
    waiting: list[tuple[int, JobFields]] = []
    batches: dict[str, None] = {}
    count = 0
    for index, job in enumerate(jobs):
        if isinstance(job, JobFields):
            if job.after:
                waiting.append((index, job))
                count += len(job.after)
                if count > MOST_TIES:
                    raise CallError(f"expected at most {MOST_TIES} jobs in all `after` of one insert", "too_large")
            if job.batch is not None:
                batches[job.batch] = None
        if index % JOBS_A_STEP == JOBS_A_STEP - 1:
            yield
    own = (yield from _places(jobs)) if waiting else {}
    asked, ties = _asked_and_ties(waiting, own, len(jobs), before, is_array=is_array)
    if ties:
        if len(jobs) > MOST_TIED:
            raise CallError(f"expected at most {MOST_TIED} jobs in an array of which some wait for others of it", "too_large")
        if _AFTER not in text:
            raise CallError("after: expected its name without escapes", "bad_job")
        _refuse_cycles(ties)
    return list(asked), list(batches)


def _places(jobs: Sequence[Job]) -> Steps[dict[str, int]]:
    """Return in steps where each id of some jobs stands first."""
    own: dict[str, int] = {}
    for index, job in enumerate(jobs):
        if job.id is not None:
            own.setdefault(job.id, index)
        if index % JOBS_A_STEP == JOBS_A_STEP - 1:
            yield
    return own


def _asked_and_ties(
    waiting: Sequence[tuple[int, JobFields]], own: Mapping[str, int], count: int, before: int, *, is_array: bool
) -> tuple[dict[str, None], dict[int, list[int]]]:
    """Return the ids of others that some of `count` jobs wait for; and, by index, which of their own array they do.

    own: the ids of the array, and where each stands first.
    """
    asked: dict[str, None] = {}
    ties: dict[int, list[int]] = {}
    for index, job in waiting:
        place = place_of(index, is_array=is_array)
        for parent in job.after or ():
            if isinstance(parent, str):
                tied = own.get(parent)
            else:
                tied = before + _position(parent, count - before, place, is_array=is_array)
            if parent == job.batch or (tied is not None and tied < before <= index):
                raise CallError(f"{place}after: the job would wait for its own batch, which waits for it", "bad_job")
            if tied is None:
                asked[str(parent)] = None
            elif tied == index:
                raise CallError(f"{place}after: the job would wait for itself", "bad_job")
            else:
                ties.setdefault(index, []).append(tied)
    return asked, ties


def askers_of(jobs: Sequence[Job], before: int) -> Steps[list[str]]:
    """Return in steps the ids of the jobs that make nothing, and so ask for nothing, if they are known: [] if one has no own.

    Args: before: 1: the first is the `then` of a batch, which makes nothing without it.
    """
    ids: list[str] = []
    for index, job in enumerate(jobs[:before] or jobs):
        if before or is_ordered(job):
            if job.id is None:
                return []
            ids.append(job.id)
        if index % JOBS_A_STEP == JOBS_A_STEP - 1:
            yield
    return ids


def _position(position: int, count: int, place: str, *, is_array: bool) -> int:
    if not is_array:
        raise CallError(f"after: expected ids, got the position {position} in no array", "bad_job")
    if position >= count:
        raise CallError(f"{place}after: expected positions from 0 to {count - 1}, got {position}", "bad_job")
    return position


def _refuse_cycles(ties: dict[int, list[int]]) -> None:
    """Raise a CallError that names the jobs of a cycle, if there is one. ties: by position, those that each waits for."""
    is_done: dict[int, bool] = {}
    for start in ties:
        if start in is_done:
            continue
        path, ways = [start], [iter(ties[start])]
        is_done[start] = False
        while path:
            parent = next(ways[-1], None)
            if parent is None:
                is_done[path.pop()] = True
                ways.pop()
            elif is_done.get(parent) is False:
                cycle = [*path[path.index(parent) :], parent]
                shown = " → ".join(map(str, cycle[:20])) + (" → …" if len(cycle) > 20 else "")
                raise CallError(f"job {parent}: after: the jobs {shown} would wait for each other", "bad_job")
            elif parent not in is_done and parent in ties:
                is_done[parent] = False
                path.append(parent)
                ways.append(iter(ties[parent]))


def batch_text(jobs: bytes, count: int) -> bytes:
    """Return the payload of a batch. jobs: an array, of its `then` and behind that `count` jobs; -1: it is open."""
    assert jobs.startswith(b"[{"), "nothing stands before the first"
    return b"%b%d,%b" % (_MEMBERS, count, jobs[2:])


def is_batch(payload: bytes) -> bool:
    """Tell whether a record is a batch: its first job waits for the others."""
    return payload.startswith(_MEMBERS)


def may_be_tied(payload: bytes) -> bool:
    """Tell whether some jobs of a record may wait for others of it, so that it must be stored at once."""
    return _AFTER in payload
