"""In which order the jobs of a batch that have unique keys are decided: as if they had come one by one, many at a time.

An engine stores the `first` of them that its records let, then `decided` says whose verdict that is, and the next round
follows. A job without a key is among them if one with a key, before it in the batch, has its id. Whoever waits for a job that
is joined to another waits for that one (`led_on`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kqs.job import Accepted

#: a type and a key
Pair = tuple[str, str]


def pair_of(job: Accepted) -> Pair:
    """Return what no two waiting jobs share, of a job with a unique key."""
    assert job.unique is not None, "it has a key"
    return job.type, job.unique


def pairs_of(jobs: Sequence[Accepted]) -> dict[Pair, None]:
    """Return the pairs of those of some jobs that have a key."""
    return {(job.type, job.unique): None for job in jobs if job.unique is not None}


def holders_of(made: Sequence[Accepted]) -> dict[Pair, str]:
    """Return who has which key of jobs that were just stored: a job that is stored with its end has none."""
    return {pair_of(job): job.id for job in made if job.unique is not None and job.end is None}


def aliases_of(jobs: Iterable[Accepted], joined: Mapping[int, str]) -> dict[str, str]:
    """Return, by the ids of those of some jobs that were joined to others, the ids of these. joined: as `Known` has it."""
    return {job.id: joined[job.order] for job in jobs if job.order in joined}


def led_on(ids: Iterable[str], aliases: Mapping[str, str]) -> list[str]:
    """Return the jobs that are waited for, each once, where `ids` were meant."""
    return list(dict.fromkeys([aliases.get(id_, id_) for id_ in ids]))


def in_turn(jobs: Sequence[Accepted]) -> Iterator[Sequence[Accepted]]:
    """Part jobs so that no `then` of a batch, which is stored before the others, passes one with its id or its key."""
    start = 0
    names: set[str | Pair] = set()
    for place, job in enumerate(jobs):
        own: set[str | Pair] = {job.id} if job.unique is None else {job.id, pair_of(job)}
        if job.members is not None and not names.isdisjoint(own):
            yield jobs[start:place]
            start, names = place, set()
        names |= own
    yield jobs[start:] if start else jobs


def parted(jobs: Sequence[Accepted]) -> tuple[Sequence[Accepted], list[Accepted]]:
    """Part the jobs of a batch into those that may all be stored first, and those that are decided as this module says."""
    if not any(job.unique is not None for job in jobs):
        return jobs, []
    free: list[Accepted] = []
    others: list[Accepted] = []
    ids: set[str] = set()
    for job in jobs:
        if job.unique is None and job.id not in ids:
            free.append(job)
        else:
            others.append(job)
            ids.add(job.id)
    return free, others


def first(jobs: Sequence[Accepted]) -> list[Accepted]:
    """Return the first job of each key, but for those that must wait for others of their id. There is one at least."""
    found: list[Accepted] = []
    seen: set[Pair] = set()
    ids: set[str] = set()
    for job in jobs:
        if job.unique is None or (pair := pair_of(job)) not in seen:
            if job.unique is not None:
                seen.add(pair)
            if job.id not in ids:
                found.append(job)
        ids.add(job.id)
    return found


class Round(NamedTuple):
    """Jobs that were not asked for in a round. conflicting: a holder has their key. repeated: their id was asked for."""

    conflicting: list[Accepted]
    repeated: list[Accepted]
    left: list[Accepted]


def decided(jobs: Sequence[Accepted], asked: Sequence[Accepted], holders: Container[Pair]) -> Round:
    """Part the jobs that were not `asked` for. Who must wait for others of its id is repeated, or left."""
    conflicting, repeated, left = found = Round([], [], [])
    orders = {job.order for job in asked}
    ids_asked = {job.id for job in asked}
    ids_left: set[str] = set()
    for job in jobs:
        if job.order in orders:
            continue
        if job.id in ids_asked:
            repeated.append(job)
        elif job.unique is not None and pair_of(job) in holders and job.id not in ids_left:
            conflicting.append(job)
        else:
            left.append(job)
            ids_left.add(job.id)
    return found


def undecided(found: Round, ids_known: Container[str]) -> list[Accepted]:
    """Return those of a round that are for the next, when these ids are known, in their order."""
    return sorted([*found.left, *(job for job in found.repeated if job.id not in ids_known)], key=lambda job: job.order)
