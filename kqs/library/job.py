"""Jobs as programs have them: one that was inserted, and what is known of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec


class PastRun(msgspec.Struct, frozen=True):
    """One run of a job. Instants are Unix seconds; ended_at: None while it lasts. state: `processing`, or how it ended."""

    attempt: int
    worker: str
    started_at: float
    ended_at: float | None = None
    state: str = "processing"
    error: str | None = None


class JobRecord(msgspec.Struct, frozen=True):
    """All that is known of a job. Source: docs/protocol.md, "job". Instants are Unix seconds.

    data, result, progress: as JSON says them. options: its settings as they hold. error: of the run that failed last.
    """

    id: str
    type: str
    state: str
    data: Any
    options: dict[str, Any]
    accepted_at: float
    attempt: int
    failures: int
    ghosts: int
    interrupted: int
    runs: list[PastRun]
    unique: str | None = None
    group: str | None = None
    due_at: float | None = None
    expire_at: float | None = None
    ended_at: float | None = None
    drop_at: float | None = None
    cancel_at: float | None = None
    progress: Any = None
    result: Any = None
    error: str | None = None

    @property
    def has_ended(self) -> bool:
        """Tell whether it runs no more: it succeeded, failed for good, or was cancelled."""
        return self.state in ("success", "fail", "cancelled")


def record_of(shown: dict[str, Any]) -> JobRecord:
    """Return what the call `job` shows. Fields of a newer server are passed over. Raises: msgspec.ValidationError."""
    return msgspec.convert(shown, JobRecord)


class Job:
    """A job that was inserted, or joined to one that waits.

    id: its id. created: whether this insert made it.
    """

    __slots__ = ("_wait", "created", "id")

    def __init__(self, job_id: str, created: bool, wait: Callable[[str, float], Awaitable[JobRecord]]) -> None:
        self.id = job_id
        self.created = created
        self._wait = wait

    async def wait(self, seconds: float) -> JobRecord:
        """Return its record once it has ended, however it did.

        Raises: CallError: `timeout`: it has not within so many seconds, and goes on; `not_found`: its record is gone.
        """
        return await self._wait(self.id, seconds)

    def __repr__(self) -> str:
        return f"Job({self.id!r})"
