"""Which jobs were in records that are gone: how many at most, and between which ids. Pure.

A damaged batch whose own header is intact names the first and last order of its jobs; of any other, it is known that its orders
lie between those of the jobs that still stand before and after it. An id is made of an order, unless a client gave its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from kqs.ids import Ids
from kqs.journal.format import FrameHeader


class Loss(NamedTuple):
    """Records first_seq .. end_seq (exclusive; None: to the journal's end, unknown how many) are gone.

    batches: the headers of theirs, if they are intact, else ().
    """

    first_seq: int
    end_seq: int | None
    batches: Sequence[FrameHeader] = ()


class LostJobs(msgspec.Struct):
    """What is known of the jobs of records first_seq .. end_seq (exclusive; None: to the journal's end, unknown how many).

    is_stored: the store has them all. at_most: how many they are at most. first_id, last_id: theirs are in this range.
    after_id, before_id: theirs are behind the one and before the other, which belong to jobs that still stand. None: not known.
    """

    first_seq: int
    end_seq: int | None
    is_stored: bool
    at_most: int | None = None
    first_id: str | None = None
    last_id: str | None = None
    after_id: str | None = None
    before_id: str | None = None


def lost_jobs(losses: Iterable[Loss], kept: Sequence[FrameHeader], node: str, checkpoint_seq: int | None) -> list[LostJobs]:
    """Return what is known of each loss.

    Args: kept: the batches that still stand. node: of the journal, 8 hex digits. checkpoint_seq: the store has all below.
    """
    ids = Ids(node)
    return [_jobs_of(loss, kept, ids, checkpoint_seq or 0) for loss in losses]


def _jobs_of(loss: Loss, kept: Sequence[FrameHeader], ids: Ids, checkpoint_seq: int) -> LostJobs:
    end_seq = math.inf if loss.end_seq is None else loss.end_seq
    jobs = LostJobs(loss.first_seq, loss.end_seq, end_seq <= checkpoint_seq)
    before = [batch.last_order for batch in kept if batch.end_seq <= loss.first_seq]
    after = [batch.first_order for batch in kept if batch.first_seq >= end_seq]
    if before:
        jobs.after_id = ids.of(max(before))
    if after:
        jobs.before_id = ids.of(min(after))
    if loss.batches:
        jobs.at_most = sum(batch.last_order - batch.first_order + 1 for batch in loss.batches)
        jobs.first_id = ids.of(min(batch.first_order for batch in loss.batches))
        jobs.last_id = ids.of(max(batch.last_order for batch in loss.batches))
    return jobs
