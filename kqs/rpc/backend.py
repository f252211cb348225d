"""What the calls need from the rest of the server, as a protocol: the core supplies it, tests bring an in-memory one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from kqs.filter import Filter
from kqs.inserter import Inserter
from kqs.job import JobRecord, Returned
from kqs.outcome import Outcome
from kqs.queue.changes import Done
from kqs.queue.ends import Told
from kqs.queue.events import Events
from kqs.remote import Desk
from kqs.remote.tokens import Named
from kqs.rpc.parameters import JobsQuery, TypesQuery
from kqs.store.base import Verb
from kqs.store.ticks import Plan


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

    async def report_unwatched(self, named: Named, end: Outcome | Returned | None) -> bool:
        """Take the end of a run that is not watched over here; tell whether it was taken, or has ended the run before.

        Args: end: None: it never began.
        """
        ...

    async def stats(self) -> dict[str, int | float]:
        """Return plain numbers by name; the server adds its own counters."""
        ...

    async def health(self, *, draining: bool) -> dict[str, Any]:
        """Return a verdict and what is wrong."""
        ...

    async def limit(self, type_: str, named: Mapping[str, Any] | None) -> dict[str, Any]:
        """Have limits of a type above those of the configuration, or those again (None). Raises: CallError."""
        ...

    async def configure(self, type_: str | None, named: Mapping[str, Any] | None) -> dict[str, Any]:
        """Have options of a type, or of all, above those of the configuration, or those again (None). Raises: CallError."""
        ...

    async def suspend(self, type_: str) -> dict[str, Any]:
        """Let no job of a type begin; tell whether that changed anything."""
        ...

    async def resume(self, type_: str) -> dict[str, Any]:
        """Let jobs of a type begin again; tell whether that changed anything."""
        ...

    async def put_schedule(self, name: str, plan: Plan) -> dict[str, Any]:
        """Keep a checked schedule; return it as `schedules` shows it."""
        ...

    async def remove_schedule(self, name: str, *, is_forced: bool) -> dict[str, Any]:
        """Keep a schedule no more. is_forced: also one that another server's config has."""
        ...

    async def suspend_schedule(self, name: str) -> dict[str, Any]:
        """Let a schedule tick no more; tell whether that changed anything."""
        ...

    async def resume_schedule(self, name: str) -> dict[str, Any]:
        """Let a schedule tick again; tell whether that changed anything."""
        ...

    async def fire(self, name: str) -> str:
        """Insert a schedule's job now; return its id."""
        ...

    async def schedule_names(self) -> list[str]:
        """Return the names of all schedules, in order."""
        ...

    async def schedules(self, names: list[str], next_count: int) -> list[dict[str, Any]]:
        """Return schedules by their names, with so many of their next instants; those that are gone are left out."""
        ...

    async def close_batch(self, batch_id: str) -> dict[str, Any] | None:
        """Let no more jobs into a batch; return how it stands, None: there is none of this id."""
        ...

    async def subscribe(self, type_: str, subscriber: str) -> dict[str, Any]:
        """Let a type have copies of what is inserted of another; tell whether that changed anything."""
        ...

    async def unsubscribe(self, type_: str, subscriber: str) -> dict[str, Any]:
        """Let it have no more of them; tell whether that changed anything."""
        ...

    async def job(self, job_id: str) -> dict[str, Any] | None:
        """Return all that is known of one job, or None."""
        ...

    async def explain(self, job_id: str) -> dict[str, Any] | None:
        """Return why a job is where it is, or None: nobody knows it."""
        ...

    async def types(self, query: TypesQuery) -> list[dict[str, Any]]:
        """Return how types stand, by name, beginning after `query.after`."""
        ...

    async def workers(self) -> list[dict[str, Any]]:
        """Return who runs jobs here."""
        ...

    def shown(self, record: JobRecord) -> dict[str, Any]:
        """Return a record as `job` does."""
        ...

    @property
    def events(self) -> Events:
        """Return where it is told what happens to jobs."""
        ...

    def options(self, type_: str, own: bytes | None, prio: int) -> dict[str, Any]:
        """Return the resolved options of a job as `job` shows them."""
        ...

    @property
    def has_waits(self) -> bool:
        """Tell whether inserts of jobs of any type wait for their end without saying so."""
        ...

    def default_wait_s(self, type_: str) -> float:
        """Return how long an insert of a job of this type waits for its end if it does not say."""
        ...

    def wait(self, job_id: str, told: Told) -> None:
        """Have `told` called when this job has ended, unless `forget` comes before."""
        ...

    def forget(self, job_id: str, told: Told) -> None:
        """Let somebody wait no more. Idempotent."""
        ...

    def seen(self, job_id: str, told: Told) -> None:
        """Take in that a job was seen, which had not ended, since somebody waits for it: it is deleted where it is no more."""
        ...

    def search(self, job_ids: Sequence[str]) -> None:
        """Tell those who wait for jobs that the store knows, if these have ended."""
        ...

    async def settle(self) -> None:
        """Return when the ends of all runs that are over are durable, and told."""
        ...

    async def jobs(self, query: JobsQuery) -> tuple[Sequence[Any], int | None]:
        """Return jobs in order of acceptance, from where `query` says on, and the order to go on from; None: there are no more.

        They are up to `query.limit`, or with a cursor what was found of those in a while.
        """
        ...

    async def change(
        self,
        verb: Verb,
        wanted: Filter,
        *,
        is_forced: bool = False,
        is_dry: bool = False,
        on_slice: Callable[[Done], None] | None = None,
    ) -> Done:
        """Do with all jobs that fit what their owner asks, also with those that are accepted but not fed yet.

        They are durable when this returns. Args: on_slice: told now and then what is done so far.
        """
        ...
