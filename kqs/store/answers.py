"""What the operations of a store return, beside records. Their promises are in base.py."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from kqs.job import Accepted, Claim, Entry, JobRecord, Run
from kqs.store.change import Changed


class Owner(NamedTuple):
    """The journal whose store it is: its id, 32 hex digits, and its node, 8, which all ids that its server makes end in."""

    journal_id: str
    node: str


class StoreInfo(msgspec.Struct, frozen=True):
    """What `open` found. fed_seq: the journal seq up to which (exclusive) this store has everything; 0 when new.

    epoch: this boot's number, durable before `open` returns, greater than every earlier one of any server.
    last_order: the highest order ever stored for this journal, 0 when none.
    store_id: names this store for ever, to all servers that share it.
    """

    epoch: int
    fed_seq: int
    last_order: int
    store_id: str = ""


class Looked(NamedTuple):
    """What `look` found. there: the ids of jobs that have a record. ended: records of those that have ended, without data.

    over: those of `there` that are over, which `job` does not show any more: nobody knows these jobs by their ids.
    """

    there: frozenset[str]
    ended: Sequence[JobRecord]
    over: frozenset[str] = frozenset()


class News(NamedTuple):
    """What other servers did. claims: of runs watched over here that were cancelled, or deleted; each is told once.

    is_more: types may be suspended that were not, or not be any more. question: somebody waits for its `answer`. deleted: the
    jobs of runs watched over here that were deleted, each told once, also where the run was cancelled before.
    """

    claims: Sequence[Claim]
    is_more: bool
    question: int | None
    deleted: Sequence[Changed] = ()


class Granted(list[Run]):
    """The runs that a claim granted, in entry order. left: entries that may be ready, whose data would have been too much."""

    def __init__(self, runs: Iterable[Run] = (), left: Sequence[Entry] = ()) -> None:
        super().__init__(runs)
        self.left = left


class Following(NamedTuple):
    """What a slice of `follow` has done. failed: the ids of jobs that failed, as others that they waited for had not succeeded.

    due_at: when the first is due of those that were let go and are not yet; None: none is. is_more: it has more to do.
    """

    failed: list[str]
    due_at: float | None
    is_more: bool


class Known(list[int]):
    """The orders of jobs that an insert did not store.

    parked: those of jobs that were stored, and have to wait for their resource or for others: neither claimed nor ready.
    joined: by order, the id of the waiting job that has the unique key of one that was not.
    made: those among the known that an attempt at the same insert has stored, whose answer was lost, and that others have
    changed since, by a run as a rule: new all the same, to whoever asks whether they are.
    """

    def __init__(
        self,
        orders: Iterable[int] = (),
        parked: Collection[int] = (),
        joined: Mapping[int, str] | None = None,
        made: Collection[int] = (),
    ) -> None:
        super().__init__(orders)
        self.parked = parked
        self.joined: Mapping[int, str] = joined or {}
        self.made = made

    @property
    def old(self) -> frozenset[int]:
        """Return the orders of those that are not new."""
        return frozenset(self).difference(self.made) if self.made else frozenset(self)


class Holder(NamedTuple):
    """Which job has a resource, and since when it runs, in Unix seconds."""

    id: str
    since: float


class Waiting(NamedTuple):
    """How many jobs wait of each type that is watched, and which jobs of these types inserts have taken in since the last."""

    counts: Mapping[str, int]
    taken: Sequence[Accepted]
