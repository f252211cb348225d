"""In which order the jobs of a batch that have unique keys are decided: as if they had come one by one, many at a time.

An engine stores the `first` of them that its records let, then `decided` says whose verdict that is, and the next round
follows.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from kqs.job import Accepted

#: a type and a key
Pair = tuple[str, str]


def pair_of(job: Accepted) -> Pair:
    """Return what no two waiting jobs share, of a job with a unique key."""
    assert job.unique is not None, "it has a key"
    return job.type, job.unique


def first(jobs: Sequence[Accepted]) -> dict[Pair, Accepted]:
    """Return the first job of each key, but for those that must wait for others of their id. There is one at least."""
    found: dict[Pair, Accepted] = {}
    waiting: set[Pair] = set()
    ids: set[str] = set()
    for job in jobs:
        pair = pair_of(job)
        if pair not in found and pair not in waiting:
            if job.id in ids:
                waiting.add(pair)
            else:
                found[pair] = job
        ids.add(job.id)
    return found


def decided(jobs: Sequence[Accepted], asked: Container[int], holders: Container[Pair]) -> tuple[list[Accepted], list[Accepted]]:
    """Part the jobs that were not `asked` for by their orders: those whose key a holder has, and those that are left.

    Who must wait for others of its id is left.
    """
    conflicting: list[Accepted] = []
    left: list[Accepted] = []
    ids: set[str] = set()
    for job in jobs:
        if job.order in asked:
            continue
        if pair_of(job) in holders and job.id not in ids:
            conflicting.append(job)
        else:
            left.append(job)
            ids.add(job.id)
    return conflicting, left
