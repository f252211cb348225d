"""What the calls need from the rest of the server, as a protocol: the core supplies it, tests bring an in-memory one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kqs.filter import Filter
from kqs.handlers import Outcome
from kqs.inserter import Inserter
from kqs.job import Returned
from kqs.queue.changes import Done
from kqs.remote import Desk
from kqs.remote.tokens import Named
from kqs.server.parameters import JobsQuery
from kqs.store.base import Verb


class Backend(Protocol):
    """See the module docstring. Everything is called from the loop thread."""

    @property
    def inserter(self) -> Inserter:
        """Return the way of jobs into the journal."""
        ...

    @property
    def desk(self) -> Desk:
        """Return where remote workers are served."""
        ...

    async def report_unwatched(self, named: Named, end: Outcome | Returned) -> bool:
        """Take the end of a run that is not watched over here; tell whether it was taken, or has ended the run before."""
        ...

    async def stats(self) -> dict[str, int | float]:
        """Return plain numbers by name; the server adds its own counters."""
        ...

    async def health(self, *, draining: bool) -> dict[str, Any]:
        """Return a verdict and what is wrong."""
        ...

    async def job(self, job_id: str) -> dict[str, Any] | None:
        """Return all that is known of one job, or None."""
        ...

    async def jobs(self, query: JobsQuery) -> tuple[Sequence[Any], int | None]:
        """Return jobs in order of acceptance, from where `query` says on, and the order to go on from; None: there are no more.

        They are up to `query.limit`, or with a cursor what was found of those in a while.
        """
        ...

    async def change(self, verb: Verb, wanted: Filter, *, is_forced: bool = False, is_dry: bool = False) -> Done:
        """Do with all jobs that fit what their owner asks, also with those that are accepted but not fed yet.

        They are durable when this returns.
        """
        ...
