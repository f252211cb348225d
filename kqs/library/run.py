"""A run that a program has reserved, and what it may say of it."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from kqs.client import Client, Run
from kqs.client.values import decoded
from kqs.library.apart import Apart


class TakenRun:
    """One run of a job, which nobody else has until it is reported, given back or lost. Raises: as `Client.call`, from each."""

    __slots__ = ("_apart", "_client", "_data", "_run")

    def __init__(self, client: Client, run: Run, apart: Apart, data: bytes | None) -> None:
        """Args: data: what is kept apart, as JSON; None: the run has its data."""
        self._client = client
        self._run = run
        self._apart = apart
        self._data = data

    @property
    def id(self) -> str:
        """Return the job's id."""
        return self._run.id

    @property
    def type(self) -> str:
        """Return the job's type."""
        return self._run.type

    @property
    def data(self) -> Any:
        """Return the job's data."""
        return self._run.data if self._data is None else decoded(self._data)

    @property
    def attempt(self) -> int:
        """Return which run of the job it is, from 1."""
        return self._run.attempt

    @property
    def failures(self) -> int:
        """Return how many earlier runs have failed."""
        return self._run.failures

    @property
    def ttr(self) -> float:
        """Return how many seconds it may go without a touch or a report."""
        return self._run.ttr

    @property
    def progress(self) -> Any:
        """Return what earlier runs of the job said last of how far they were; None: nothing."""
        return self._run.progress

    @property
    def is_over(self) -> bool:
        """Tell whether it was taken away: whatever is said of it is refused as `stale`."""
        return self._run.is_over

    async def touch(self, progress: Any = UNSET) -> float:
        """Have its `ttr` anew, and keep how far it is; return how many seconds it has. None takes back what was said."""
        return await self._client.touch(self._run, progress)

    async def finish(self, result: Any = None) -> None:
        """Report that it succeeded; return when that is durable."""
        await self._client.finish(self._run, result)
        self._apart.succeeded(self._run)

    async def again(self, delay: float | None = None) -> None:
        """Report that the job is to run once more, at no cost."""
        await self._client.again(self._run, delay)

    async def fail(self, reason: str, *, final: bool = False, delay: float | None = None) -> None:
        """Report that it failed. final: no retry can help. delay: s until the retry; None: as the job's options say."""
        await self._client.fail(self._run, reason, final=final, delay=delay)

    async def release(self, prio: int | str | None = None, delay: float | None = None) -> None:
        """Give it back unfinished, at no cost. prio: the job's from then on. delay: s until it may run again."""
        await self._client.release(self._run, delay, prio=prio)

    def __repr__(self) -> str:
        return f"TakenRun({self._run.id!r}, attempt={self._run.attempt})"
