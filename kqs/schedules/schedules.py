"""The schedules of a node: those of its config and those that were called for, as one set with all servers of its store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any

from kqs.clock import Clock
from kqs.errors import CallError, KqsError, StoreUnavailableError
from kqs.inserter import Inserter
from kqs.log import get_logger
from kqs.schedules.roster import Entry, Roster
from kqs.schedules.ticker import ALL_S, BEHIND_S, Ticker
from kqs.service import Service
from kqs.store.base import Store
from kqs.store.ticks import Origin, Plan, Schedule
from kqs.supervisor import Supervisor
from kqs.tasks import side_by_side

log = get_logger("kqs.schedules")

#: all are held in memory, with their jobs
MAX_SCHEDULES = 20_000
#: after a start nobody who asks for a schedule waits longer until they have been read, in s
READ_WITHIN_S = 5.0
#: schedules that are taken in, in one turn of the loop; and changes that the store is asked for at a time: it flushes these
#: together
_TURN = 100


class Schedules(Service):
    """All schedules of a node. Call from the loop thread. Its methods raise StoreError where they ask the store."""

    def __init__(
        self,
        plans: Mapping[str, Plan],
        store: Store,
        inserter: Inserter,
        clock: Clock,
        supervisor: Supervisor,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        """Args: plans: those of the config, checked. catch_up: the store has all that is journaled when it returns."""
        self._plans = plans
        self._store = store
        self._inserter = inserter
        self._clock = clock
        self.catch_up = catch_up
        self._turn = asyncio.Lock()
        self._roster = Roster()
        self._seen = -1
        self._is_read = asyncio.Event()
        self._read_at = clock.monotonic()
        self.ticker = Ticker(self, self._roster, store, inserter, clock, supervisor)
        self.problems = self.ticker.problems

    async def start(self) -> None:
        """Begin to tick."""
        await self.ticker.start()

    async def stop(self) -> None:
        """Tick no more. Idempotent."""
        await self.ticker.stop()

    @property
    def names(self) -> list[str]:
        """Return the names of all, in order."""
        return self._roster.names

    def stats(self) -> dict[str, int | float]:
        """Return plain numbers by name."""
        ticker = self.ticker
        return {
            "schedules": len(self._roster),
            "ticks_inserted": ticker.inserted_count,
            "ticks_missed": ticker.missed_count,
            "ticks_skipped": ticker.skipped_count,
        }

    async def put(self, name: str, plan: Plan) -> Schedule:
        """Keep a checked schedule, in the place of the one of that name. One that says just the same stays as it is.

        Raises: CallError: it stands in a config; or there are too many.
        """
        await self._until_read()
        async with self._turn:
            await self._read([name])
            old = self._roster.get(name)
            if old is None and len(self._roster) >= MAX_SCHEDULES:
                raise CallError(f"there are {MAX_SCHEDULES} schedules, which is the most; unschedule some first", "busy")
            if old is not None:
                self._refuse_of_config(old)
                if _stays(old, plan, self._clock.now()):
                    return old.schedule
            return await self._put(name, plan, "call")

    async def remove(self, name: str, *, is_forced: bool = False) -> None:
        """Keep a schedule no more. is_forced: also one that another server's config has.

        Raises: CallError: there is none, or it stands in a config.
        """
        await self._until_read()
        async with self._turn:
            await self._read([name])
            entry = self._known(name)
            if not is_forced or name in self._plans:
                self._refuse_of_config(entry)
            self._roster.remove(name)
            try:
                await self._store.remove_schedule(name)
            except BaseException:
                self._roster.put(entry.schedule, self._clock.now())  # it may be gone or not: what reads it next tells
                raise

    async def suspend(self, name: str) -> bool:
        """Let a schedule tick no more until `resume`. False: it was so already. Raises: CallError: there is none."""
        return await self._set_suspended(name, self._clock.now())

    async def resume(self, name: str) -> bool:
        """Let a schedule tick again, from now on. False: it was not suspended. Raises: CallError: there is none."""
        return await self._set_suspended(name, None)

    async def fire(self, name: str) -> str:
        """Insert a schedule's job now, whatever it ticks; return the id. Raises: CallError, JournalError."""
        await self._until_read()
        if self._roster.get(name) is None:
            await self._read([name])
        entry = self._known(name)
        (job_id,) = await self._inserter.insert(entry.schedule.plan.job.encode())
        return job_id

    async def shown(self, names: list[str]) -> list[Entry]:
        """Return schedules by their names, as they stand now; those that are gone are left out."""
        await self._until_read()
        await self._read(names)
        return [entry for name in names if (entry := self._roster.get(name)) is not None]

    async def settle(self) -> None:
        """Return when all schedules there are have been taken in. Raises: StoreUnavailableError."""
        await self._until_read()
        if self._store.is_shared:
            await self.look()

    async def look(self) -> None:
        """Take in what other servers have changed."""
        async with self._turn:
            seen = await self._store.schedule_changes()
            if seen != self._seen or self._clock.monotonic() - self._read_at >= ALL_S:
                await self._read_all()
                self._seen = seen

    async def _set_suspended(self, name: str, at: float | None) -> bool:
        await self._until_read()
        async with self._turn:
            await self._read([name])
            was_suspended = self._known(name).schedule.suspended_at is not None
            found = await self._store.suspend_schedule(name, at, self._clock.now())
            if found is None:
                self._roster.remove(name)
                raise _unknown(name)
            self._roster.refresh(found, self._clock.now())
            self.ticker.wake()
            return was_suspended is (at is None)

    async def begin(self) -> None:
        """Read all there are, once the store has what was journaled before, and bring them in line with the config."""
        await self.catch_up()
        async with self._turn:
            seen = await self._store.schedule_changes()
            await self._read_all()
            node = self._inserter.ids.node
            kept = [entry.schedule for entry in self._roster.entries]
            await _all_done(
                partial(self._store.remove_schedule, one.name, node)
                for one in kept
                if node in one.nodes and one.name not in self._plans
            )
            says_so = {one.name for one in kept if node in one.nodes and one.plan == self._plans.get(one.name)}
            await _all_done(
                partial(self._put, name, plan, "config") for name, plan in self._plans.items() if name not in says_so
            )
            await self._read_all()
        self._seen = seen
        self._is_read.set()

    async def _put(self, name: str, plan: Plan, origin: Origin) -> Schedule:
        now = self._clock.now()
        old = self._roster.get(name)
        created_at, since, revision = now, now, self._inserter.ids.take(1, now)
        if old is not None and _stays(old, plan, now):
            created_at, since, revision = old.schedule.created_at, old.schedule.since, old.schedule.revision
        node = self._inserter.ids.node if origin == "config" else None
        kept = await self._store.put_schedule(Schedule(name, plan, origin, created_at, since, revision), node)
        self._roster.put(kept, now)
        self.ticker.wake()
        return kept

    async def _read_all(self) -> None:
        found = await self._store.schedules()
        self._read_at = self._clock.monotonic()
        for gone in set(self._roster.names).difference(one.name for one in found):
            self._roster.remove(gone)
        for index, schedule in enumerate(found):
            self._roster.refresh(schedule, self._clock.now())
            if index % _TURN == 0:
                await asyncio.sleep(0)
        self.ticker.wake()

    async def _until_read(self) -> None:
        try:
            async with asyncio.timeout(READ_WITHIN_S):
                await self._is_read.wait()
        except TimeoutError:
            raise StoreUnavailableError("the schedules have not been read yet") from None

    async def _read(self, names: list[str]) -> None:
        """Take in some schedules as they stand."""
        await self.catch_up()
        self._roster.take_in(names, await self._store.schedules(names), self._clock.now())
        self.ticker.wake()

    def _known(self, name: str) -> Entry:
        entry = self._roster.get(name)
        if entry is None:
            raise _unknown(name)
        return entry

    def _refuse_of_config(self, entry: Entry) -> None:
        schedule = entry.schedule
        if schedule.origin == "config":
            whose = "the config" if schedule.name in self._plans else f"the config of node {', '.join(sorted(schedule.nodes))}"
            raise CallError(f"the schedule {schedule.name!r} stands in {whose}, and is changed there")


def _stays(old: Entry, plan: Plan, now: float) -> bool:
    """Tell whether a schedule that says the same goes on as it is; clocks of servers, and of one over time, differ a little."""
    return old.schedule.plan == plan and old.passed_at <= now + BEHIND_S


async def _all_done(works: Iterable[Callable[[], Coroutine[Any, Any, object]]]) -> None:
    """Do all of it, _TURN at a time. Raises: KqsError: what one of them has raised, when those beside it are over."""
    waiting = iter(works)
    while some := list(islice(waiting, _TURN)):
        for error in await side_by_side(map(_tried, some), "schedules"):
            if error is not None:
                raise error


async def _tried(work: Callable[[], Coroutine[Any, Any, object]]) -> KqsError | None:
    try:
        await work()
    except KqsError as error:
        return error
    return None


def _unknown(name: str) -> CallError:
    return CallError(f"no schedule has the name {name!r}", "not_found")
