"""What owners do with their jobs, as methods of the client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypedDict, Unpack

import msgspec

#: records of one page
PAGE_JOBS = 500


class Filters(TypedDict, total=False):
    """Which jobs are meant: all that is given must be so of them.

    state: one, or several. older_than: s since their acceptance. match: a regular expression of RE2 in the JSON of their data.
    """

    type: str
    state: str | Sequence[str]
    resource: str
    group: str
    older_than: float
    match: str


class Changed(msgspec.Struct, frozen=True):
    """What was done: to how many jobs, the ids of the first hundred, and how many were passed over because they run."""

    count: int
    ids: list[str]
    skipped: int


class OwnersCalls(ABC):
    """The client's part for owners. Raises: as `Client.call`, from each.

    ids: a job's id, or a list of up to 1,000 ids. Without ids or a filter the call is refused, unless `all` says so.
    dry_run: nothing is done, and told as if it had been. timeout_s: as for `call`; a million jobs take half a minute.
    """

    @abstractmethod
    async def call(self, name: str, arg: Any = None, *, timeout_s: float | None = None) -> Any:
        """See Client.call."""

    async def cancel(
        self,
        ids: str | Sequence[str] | None = None,
        *,
        all: bool = False,  # noqa: A002 - the call's field
        dry_run: bool = False,
        timeout_s: float | None = None,
        **filters: Unpack[Filters],
    ) -> Changed:
        """End jobs that wait as cancelled; tell those that run to end."""
        return await self._change("cancel", _argument(ids, filters, all=all, dry_run=dry_run), timeout_s)

    async def retry(
        self,
        ids: str | Sequence[str] | None = None,
        *,
        all: bool = False,  # noqa: A002 - the call's field
        dry_run: bool = False,
        timeout_s: float | None = None,
        **filters: Unpack[Filters],
    ) -> Changed:
        """Let failed and cancelled jobs wait again, with all their tries."""
        return await self._change("retry", _argument(ids, filters, all=all, dry_run=dry_run), timeout_s)

    async def delete(
        self,
        ids: str | Sequence[str] | None = None,
        *,
        force: bool = False,
        all: bool = False,  # noqa: A002 - the call's field
        dry_run: bool = False,
        timeout_s: float | None = None,
        **filters: Unpack[Filters],
    ) -> Changed:
        """Let jobs be gone; those that run only with `force`.

        Raises: CallError: `running`: the one job that was named runs.
        """
        return await self._change("delete", _argument(ids, filters, all=all, dry_run=dry_run, force=force), timeout_s)

    async def purge(
        self,
        type: str,  # noqa: A002 - the call's field
        regex: str | None = None,
        *,
        dry_run: bool = False,
        timeout_s: float | None = None,
    ) -> int:
        """Let all jobs of a type that wait be gone, or those whose data has the pattern; return how many."""
        argument = {"type": type, "dry_run": dry_run} | ({} if regex is None else {"regex": regex})
        count: int = await self.call("purge", argument, timeout_s=timeout_s)
        return count

    async def jobs(
        self, ids: str | Sequence[str] | None = None, *, newest: bool = False, **filters: Unpack[Filters]
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield jobs' records in order of acceptance, or the newest first, page by page."""
        cursor: str | None = ""
        asked = _argument(ids, filters, newest=newest) | {"limit": PAGE_JOBS}
        while cursor is not None:
            page = await self.call("jobs", {**asked, "cursor": cursor})
            for job in page["jobs"]:
                yield job
            cursor = page["cursor"]

    async def suspend(self, type: str) -> bool:  # noqa: A002 - the job's field
        """Let no job of this type begin, on any server of the store, until `resume`. Returns: False: it was so already."""
        return bool((await self.call("suspend", {"type": type}))["changed"])

    async def resume(self, type: str) -> bool:  # noqa: A002 - the job's field
        """Let jobs of this type begin again. Returns: False: it was not suspended."""
        return bool((await self.call("resume", {"type": type}))["changed"])

    async def limit(self, type: str, *, reset: bool = False, **limits: float | None) -> dict[str, Any]:  # noqa: A002 - the job's field
        """Limit how many jobs of this type run, or begin in a while; None lifts a limit. Returns: those that it has.

        Args: reset: have those of the configuration again. limits: concurrency, max_running, rate, per_s.
        """
        named = {**limits, "reset": True} if reset else limits
        return dict((await self.call("limit", {"type": type, **named}))["limits"])

    async def explain(self, job_id: str) -> dict[str, Any]:
        """Return why a job is where it is: `text`, a sentence, and its facts. Raises: CallError: `not_found`."""
        return dict(await self.call("explain", {"id": job_id}))

    async def types(self, *, after: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return how types stand, by name, beginning after the type `after`."""
        return list(await self.call("types", {"after": after, "limit": limit}))

    async def workers(self) -> list[dict[str, Any]]:
        """Return who runs jobs of the server."""
        return list(await self.call("workers"))

    async def _change(self, name: str, argument: dict[str, Any], timeout_s: float | None) -> Changed:
        return msgspec.convert(await self.call(name, argument, timeout_s=timeout_s), Changed)


def _argument(ids: str | Sequence[str] | None, filters: Filters, **flags: bool) -> dict[str, Any]:
    named = {} if ids is None else {"id": ids} if isinstance(ids, str) else {"ids": list(ids)}
    return {**named, **filters, **{name: True for name, is_set in flags.items() if is_set}}
