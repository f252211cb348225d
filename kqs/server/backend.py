"""What the calls need from the rest of the server, as a protocol: the daemon supplies it, tests bring an in-memory one."""

from __future__ import annotations

from typing import Any, Protocol

from kqs.ids import Ids
from kqs.journal.format import Record
from kqs.server.parameters import JobsQuery


class JournalPort(Protocol):
    """The part of the journal that an insert touches."""

    def append(self, record: Record) -> None:
        """Take one record for the next flush; `record.done` is called on the loop thread after it.

        Raises: JournalError: nothing was taken, `done` will not be called. The error's `code` is the answer.
        """
        ...

    def flush_if_alone(self) -> None:
        """Flush a lone record now, if that looks best; `record.done` is called before this returns."""
        ...


class Backend(Protocol):
    """See the module docstring. Everything is called from the loop thread."""

    @property
    def ids(self) -> Ids:
        """Return what makes the server's ids."""
        ...

    @property
    def journal(self) -> JournalPort:
        """Return the journal."""
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

    async def jobs(self, query: JobsQuery) -> list[dict[str, Any]]:
        """Return up to `query.limit` jobs in order of acceptance, beginning after the job `query.after`."""
        ...

    def request_stop(self) -> None:
        """Begin the orderly stop that SIGTERM begins. Returns at once."""
        ...
