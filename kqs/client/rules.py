"""What decides when and in whose turn jobs run, as methods of the client: schedules, options and subscribers.

Source: docs/protocol.md, "schedule, unschedule, schedules, fire", "configure", "Types with subscribers".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec

from kqs.options import CatchUp, Overlap


class LastTick(msgspec.Struct, frozen=True):
    """The last tick that was inserted. at: Unix seconds. id, state: of its job; None: that has no record any more."""

    at: float
    id: str
    state: str | None


class Schedule(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """A schedule as the store has it. All instants are Unix seconds.

    cron, every: one of them; every: s. from_: where `every` counts from, if that was said. job: as it was given. origin: `call`
    or `config`. suspended_at: None: it is not. next: its next instants, as many as were asked for. missed, skipped: ticks that
    were not inserted, as they came too late, or as the job of the last one had not ended.
    """

    name: str
    cron: str | None
    every: float | None
    from_: float | None
    tz: str
    catch_up: CatchUp
    overlap: Overlap
    job: dict[str, Any]
    origin: str
    created_at: float
    suspended_at: float | None
    next: list[float]
    last: LastTick | None
    missed: int
    skipped: int


class Configured(msgspec.Struct, frozen=True):
    """Options that hold for a type, or for all. by_call: those that calls have said. changed: False: it was so already."""

    options: dict[str, Any]
    by_call: dict[str, Any]
    changed: bool


class RulesCalls(ABC):
    """The client's part for what decides in whose turn jobs run. Raises: as `Client.call`, from each."""

    @abstractmethod
    async def call(self, name: str, arg: Any = None, *, timeout_s: float | None = None) -> Any:
        """See Client.call."""

    async def schedule(
        self,
        name: str,
        job: Mapping[str, Any],
        *,
        cron: str | None = None,
        every: float | None = None,
        from_: float | str | None = None,
        tz: str = "UTC",
        catch_up: CatchUp = "one",
        overlap: Overlap = "allow",
    ) -> Schedule:
        """Insert `job` at each instant of `cron` in the time zone `tz`, or `every` so many seconds; replace one of that name.

        Args: job: fields as `insert` takes them, with `type`, and without `id`, `at`, `wait` and `answer`. from_: where `every`
            counts from, Unix seconds or RFC 3339; None: its creation. catch_up, overlap: see docs/schedules.md.
        """
        rule = {"cron": cron, "every": every, "from": from_, "tz": tz, "catch_up": catch_up, "overlap": overlap}
        return msgspec.convert(await self.call("schedule", {"name": name, **rule, "job": job}), Schedule)

    async def unschedule(self, name: str, *, force: bool = False) -> None:
        """Keep a schedule no more. force: also one that only other servers' configurations have.

        Raises: CallError: `not_found`.
        """
        await self.call("unschedule", {"name": name, "force": force})

    async def schedules(
        self,
        name: str | None = None,
        *,
        next: int = 1,  # noqa: A002 - the call's field
        after: str | None = None,
        limit: int = 100,
    ) -> list[Schedule]:
        """Return up to `limit` (1 … 1,000) schedules by name, beginning after the name `after`; or the one of that name.

        Args:   next: how many of its next instants each is to have, 0 … 100.
        Raises: CallError: `not_found`: there is none of that name.
        """
        asked = {"name": name, "next": next, "after": after, "limit": limit}
        return msgspec.convert(await self.call("schedules", asked), list[Schedule])

    async def fire(self, name: str) -> str:
        """Insert a schedule's job now, beside its ticks; return its id. Raises: CallError: `not_found`."""
        return str(await self.call("fire", {"name": name}))

    async def suspend_schedule(self, name: str) -> bool:
        """Let a schedule insert nothing until `resume_schedule`. Returns: False: it was so already."""
        return bool((await self.call("suspend", {"schedule": name}))["changed"])

    async def resume_schedule(self, name: str) -> bool:
        """Let a schedule go on; the ticks of the time between are lost. Returns: False: it was not suspended."""
        return bool((await self.call("resume", {"schedule": name}))["changed"])

    async def configure(self, /, type: str | None = None, *, reset: bool = False, **options: Any) -> Configured:  # noqa: A002 - the job's field
        """Set what jobs of a type get that say nothing themselves, or, without `type`, those of all types.

        Args: options: fields as `insert` takes them; None takes one back; what is not named stays. reset: take back all.
        """
        asked: dict[str, Any] = {} if type is None else {"type": type}
        asked |= {"options": options} if options else {}
        asked |= {"reset": True} if reset else {}
        return msgspec.convert(await self.call("configure", asked), Configured)

    async def subscribe(self, type: str, subscriber: str) -> bool:  # noqa: A002 - the job's field
        """Let jobs of `type` become jobs of the type `subscriber`, too. Returns: False: it was so already."""
        return bool((await self.call("subscribe", {"type": type, "subscriber": subscriber}))["changed"])

    async def unsubscribe(self, type: str, subscriber: str) -> bool:  # noqa: A002 - the job's field
        """Let them become such jobs no more. Returns: False: it was so already."""
        return bool((await self.call("unsubscribe", {"type": type, "subscriber": subscriber}))["changed"])
