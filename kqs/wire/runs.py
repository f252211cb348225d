"""A run as it is given over the wire. Source: docs/protocol.md, "The worker's calls"."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from msgspec import UNSET, Raw, UnsetType

from kqs.options import Options

#: types of one `reserve` or `work`
MAX_TYPES = 1000
#: runs that one `reserve` gives
MAX_RUNS = 1000
#: runs of one `work` that may be open, so also those that one `touch`, `release` or `finish` may name
MAX_ROOM = 10_000


class GivenRun(msgspec.Struct, gc=False, omit_defaults=True):
    """One run of a job, as it is told to whoever asked for it.

    token: names the run in all that is said of it. raw: the job's data as its client sent it. attempt: which run of the job it
    is, from 1. failures, ghosts: earlier runs that failed, and that vanished. ttr: seconds that it may go without a touch or a
    report. auto_touch: its worker touches for it. time_limit: seconds it may last, touched or not. raw_progress: what was said
    last in earlier runs of the job, as it was said; UNSET: nothing. resource: the key that no other run has meanwhile.
    raw_batch: of the `then` of a batch, how its jobs have ended.
    """

    token: str = msgspec.field(name="run")
    id: str
    type: str
    raw: Raw = msgspec.field(name="data")
    attempt: int
    failures: int
    ghosts: int
    ttr: float
    auto_touch: bool = False
    time_limit: float | None = None
    raw_progress: Raw | UnsetType = msgspec.field(name="progress", default=UNSET)
    resource: str | None = None
    raw_batch: Raw | UnsetType = msgspec.field(name="batch", default=UNSET)

    @property
    def options(self) -> Options:
        """Return the job's settings, as far as its worker heeds them: all others are the defaults."""
        return _options(self.ttr, self.auto_touch, self.time_limit)


@lru_cache(1000)
def _options(ttr: float, auto_touch: bool, time_limit: float | None) -> Options:
    return Options(ttr=ttr, auto_touch=auto_touch, time_limit=time_limit)
