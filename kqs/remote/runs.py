"""A run that somebody elsewhere has in hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from kqs.job import NO_PROGRESS, Run
from kqs.queue.consumer import LONG_BYTES
from kqs.queue.leases import Lease

if TYPE_CHECKING:
    from kqs.remote.party import Order, Party


class OpenRun(msgspec.Struct, gc=False, eq=False):
    """One run. It is out of all that leads to it when it is over, so that no circle of objects holds it.

    party: who has it, and takes it along when it is lost; None: it is held, and that has happened. order: what it was asked for
    by, which has room for another when this is over; None: nothing has.
    is_cancelled: its job was cancelled, or deleted: whoever has it should end it.
    worker: who had it first, as its record says; None: nobody that is known here.
    data, progress: the job's, until it was given: thousands of runs may be open for hours, and `run` is without what is long.
    """

    run: Run
    token: str
    lease: Lease
    data: bytes
    progress: bytes | None
    party: Party | None
    order: Order | None
    worker: str | None
    is_cancelled: bool


def without_long(run: Run) -> Run:
    """Return a run without what may be long of it."""
    if run.progress is not None:
        run = replace(run, progress=NO_PROGRESS)
    return run if len(run.data) <= LONG_BYTES else replace(run, data=b"")
