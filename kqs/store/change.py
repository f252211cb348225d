"""What owners ask of many jobs at once, as the store is asked for it: slice by slice.

The bounds of a slice are read here when it is done, so that tests can lower them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

import msgspec

from kqs.filter import Filter
from kqs.job import Claim, Entry
from kqs.states import WAITING, State

#: what one slice changes, and what it looks at to find that, at most: no other operation waits long behind it
SLICE = 500
LOOKED = 5000
#: where jobs have a pattern in their data, a slice reads about so many bytes of it
LOOKED_BYTES = 4 * 1024 * 1024
#: and looks for it for so long at most, in s, but in one record at least
MATCH_S = 0.01


class Verb(IntEnum):
    """What is done with each job."""

    CANCEL = 0  # what waits ends as cancelled; what runs is marked
    RETRY = 1  # what has failed or was cancelled waits again
    DELETE = 2  # the record goes


#: of which states the jobs are that each verb changes, or tells of; None: of any
_STATES = {
    Verb.CANCEL: WAITING | {State.PROCESSING},
    Verb.RETRY: frozenset({State.FAIL, State.CANCELLED}),
    Verb.DELETE: None,
}


class Spans(msgspec.Struct, frozen=True):
    """A setting in s that jobs may have of their own: what it is by type, and for all others; None: none, or for ever."""

    otherwise: float | None = None
    by_type: Mapping[str, float | None] = {}

    def of(self, type_: str) -> float | None:
        """Return what it is for a job that sets nothing itself."""
        return self.by_type.get(type_, self.otherwise)


class Change(msgspec.Struct, frozen=True):
    """What is asked for; it is the same for all slices.

    now: when it was asked for, in Unix seconds. before_order: jobs of this server's journal from there on are passed over.
    reached: by the node of other servers, above which order what they have accepted is not to be cancelled or deleted.
    keep: how long records outlive their cancellation; expire: how long jobs that are retried may wait and run, anew. Both are
    overruled by what a job's own options say (keep: -1 is for ever).
    most: so many more jobs are changed at most, None: all. error: of those that are cancelled while they wait.
    is_forced: `delete` takes running jobs too. is_dry: nothing is changed, but all is told as if it were.
    body_bytes: as for `Store.ready`.
    """

    verb: Verb
    wanted: Filter
    now: float
    before_order: int
    keep: Spans = Spans()
    expire: Spans = Spans()
    is_forced: bool = False
    is_dry: bool = False
    body_bytes: int | None = None
    most: int | None = None
    error: str = State.CANCELLED.word
    reached: Mapping[str, int] = {}

    @property
    def slice_jobs(self) -> int:
        """Return how many jobs a slice changes at most."""
        return SLICE if self.most is None else min(SLICE, self.most)

    @property
    def meets_held_first(self) -> bool:
        """Tell whether jobs that wait for others are met before all else: what ends those would have them fail.

        The oldest are dropped (`most`) by age alone.
        """
        return self.verb is not Verb.RETRY and self.most is None

    @property
    def states(self) -> frozenset[State] | None:
        """Return of which states the jobs are that have to be looked at; None: any."""
        able, asked = _STATES[self.verb], self.wanted.states
        if able is None or asked is None:
            return able if asked is None else asked
        return able & asked


class Changed(msgspec.Struct, gc=False):
    """One job that was changed, as it was before. claim: of the run that it was in; None: it was in none.

    attempt: how many runs it has had, to people.
    """

    order: int
    id: str
    type: str
    prio: int
    state: State
    claim: Claim | None = None
    attempt: int = 0


class Slice(msgspec.Struct):
    """What one slice did. ready: jobs that it made ready, as the broker is to know them; expire_at: the first of them expires.

    skipped: ids of jobs that were passed over because they run. next: where to go on, for the store alone to understand; None:
    all is done.
    """

    changed: list[Changed]
    skipped: list[str]
    ready: list[Entry]
    next: object | None
    expire_at: float | None = None
