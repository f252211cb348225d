"""Jobs as programs have them: one that was inserted, and what is known of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeVar

import msgspec

from kqs.errors import CallError
from kqs.job import RunRecord
from kqs.library.data import result_of

R = TypeVar("R")


class JobRecord(msgspec.Struct, frozen=True):
    """All that is known of a job. Source: docs/protocol.md, "job". Instants are Unix seconds.

    data, result, progress: as JSON says them. options: its settings as they hold. error: of the run that failed last.
    after: which jobs it waits for, or has waited for; awaits: which of them have not ended. batch: of which it is a member; of
    the `then` of one, how that stands.
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
    runs: list[RunRecord]
    unique: str | None = None
    group: str | None = None
    due_at: float | None = None
    expire_at: float | None = None
    ended_at: float | None = None
    drop_at: float | None = None
    cancel_at: float | None = None
    after: list[str] | None = None
    after_any_end: bool = False
    awaits: list[str] | None = None
    batch: str | dict[str, Any] | None = None
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


class Job(str, Generic[R]):
    """A job that was inserted, or joined to one that waits: its id, with methods, so that it goes wherever an id does.

    created: whether this insert made it.
    """

    __slots__ = ("_target", "_wait", "created")

    created: bool
    _wait: Callable[[str, float], Awaitable[JobRecord]]
    _target: str | Callable[..., object]

    def __new__(
        cls,
        job_id: str,
        created: bool,
        wait: Callable[[str, float], Awaitable[JobRecord]],
        target: str | Callable[..., object] = "",
    ) -> Self:
        """Args: target: the handler whose annotation says what its result is, or the type."""
        self = super().__new__(cls, job_id)
        self.created = created
        self._wait = wait
        self._target = target
        return self

    @property
    def id(self) -> str:
        """Return its id."""
        return str(self)

    async def wait(self, seconds: float) -> JobRecord:
        """Return its record once it has ended, however it did.

        Raises: CallError: `timeout`: it has not within so many seconds, and goes on; `deleted`; `not_found`: its record
            is gone.
        """
        return await self._wait(self.id, seconds)

    async def result(self, seconds: float) -> R:
        """Return what its handler has returned, once it has: as the annotation of the handler says that was given to `add_job`.

        Raises: CallError: as `wait`; `job_failed`, with its last error: it has failed for good; `cancelled`.
            ValueError: the result does not fit the annotation.
        """
        ended = await self.wait(seconds)
        if ended.state != "success":
            code = "cancelled" if ended.state == "cancelled" else "job_failed"
            raise CallError(ended.error or f"job {self.id}: {ended.state}", code)
        result: R = result_of(self._target, ended.result)
        return result

    def __repr__(self) -> str:
        return f"Job({self.id!r})"
