"""A run that somebody elsewhere has in hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kqs.job import NO_PROGRESS, Run
from kqs.queue.consumer import LONG_BYTES
from kqs.queue.leases import Lease

if TYPE_CHECKING:
    from kqs.remote.party import Order, Party


class OpenRun:
    """One run.

    party: who has it, and takes it along when it is lost; None: it is held, and that has happened. order: what it was asked for
    by, which has room for another when this is over; None: nothing has.
    is_cancelled: its job was cancelled, or deleted: whoever has it should end it.
    data, progress: the job's, until it was given: thousands of runs may be open for hours, and `run` is without what is long.
    """

    __slots__ = ("data", "is_cancelled", "lease", "order", "party", "progress", "run", "token")

    def __init__(self, run: Run, token: str, party: Party | None, order: Order | None) -> None:
        self.data = run.data
        self.progress = run.progress
        if run.progress is not None:
            run = replace(run, progress=NO_PROGRESS)
        self.run = run if len(run.data) <= LONG_BYTES else replace(run, data=b"")
        self.token = token
        self.is_cancelled = run.is_cancelled
        self.party = party
        self.order = order
        self.lease: Lease
