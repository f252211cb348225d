"""Inserts the ticks of all schedules as their instants come, once each, whatever is killed, repeated or set back.

What is known here says when to insert, and the store what is true: it moves a schedule on as it stores the job of a tick, and
stores none of an instant that the schedule has passed. So a tick may be journaled twice, by several servers or after a kill,
and is stored once. What is decided without a job, ticks that are missed or skipped, is kept first, and only by whoever knows
how far the schedule is. Of several servers the first one ticks; the others do when it has not for TAKE_OVER_S, and then
at once for DOUBT_S.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from kqs.clock import Clock
from kqs.errors import StoreUnavailableError
from kqs.inserter import Inserter
from kqs.log import get_logger
from kqs.queue.jumps import JumpWatch
from kqs.schedules.decision import Decision, decide
from kqs.schedules.journaling import Journaling, Tick
from kqs.schedules.roster import Entry, Roster
from kqs.service import Service
from kqs.store.base import MOST_ENDS, Store
from kqs.store.ticks import Passed, tick_of
from kqs.supervisor import Supervisor
from kqs.trouble import Trouble

log = get_logger("kqs.schedules")

#: the wall clock may be set: with a tick to come it is looked at so often, in s
LOOK_S = 5.0
#: a store that others share is asked so often whether they have changed a schedule, in s
CHANGES_S = 1.0
#: all schedules are read from it so often: a server may die after a change, before it has said so
ALL_S = 60.0
#: how long the first server has for a tick before the others insert it, in s
TAKE_OVER_S = 2.0
#: a first server that left a tick to the others is not waited for again for so long, in s: ticks that come oftener than
#: TAKE_OVER_S would be missed. By then it is taken for dead, if it is (store/mongo: 30 s)
DOUBT_S = 40.0
#: what could not be inserted, or asked of the store, is tried again after so long, in s
RETRY_S = 0.5
#: the store is not waited for longer, in s: ticks of other schedules need it less
STORE_S = 2.0
#: schedules that are looked at in one turn of the loop
TURN = 200
#: what is decided about schedules has the loop for so long at a time, in s: to count the ticks of years takes a while
SLICE_S = 0.005
#: how far the clock may be behind the last tick of a schedule, or its beginning, before that is told, in s
BEHIND_S = 60.0


class Keeper(Protocol):
    """Who keeps the schedules that tick. All it is asked raises StoreError."""

    def begin(self) -> Awaitable[None]:
        """Read all schedules."""
        ...

    def look(self) -> Awaitable[None]:
        """Take in what other servers have changed."""
        ...

    def catch_up(self) -> Awaitable[None]:
        """Return when the store has all that is journaled."""
        ...


class Ticker(Service):
    """Ticks. `Keeper.begin` is awaited before the first tick, and again until it succeeds."""

    def __init__(
        self, keeper: Keeper, roster: Roster, store: Store, inserter: Inserter, clock: Clock, supervisor: Supervisor
    ) -> None:
        self._keeper = keeper
        self._roster = roster
        self._store = store
        self._journaling = Journaling(inserter, roster)
        self._clock = clock
        self._supervisor = supervisor
        self._changed = asyncio.Event()
        self._is_ticking = False
        self._task: asyncio.Task[None] | None = None
        self._looked = clock.monotonic()
        self._jumps = JumpWatch(clock)
        self._doubted_until = -math.inf
        self._trouble = Trouble(log, "schedules cannot tick, trying again", "schedules tick again", clock.monotonic)
        self._failed: dict[str, str] = {}  # by name, why a tick could not be inserted
        self.missed_count = 0
        self.skipped_count = 0

    async def start(self) -> None:
        """Begin in the background, where the store is read first."""
        self._task = self._supervisor.spawn(self._run(), "schedules")

    async def stop(self) -> None:
        """Insert no more."""
        task, self._task = self._task, None
        await self._supervisor.end(task)

    @property
    def next_at(self) -> float:
        """Return when the next tick comes, in Unix seconds; math.inf: none does; -math.inf: it ticks."""
        if self._is_ticking:
            return -math.inf
        return math.inf if self._roster.next_at is None else self._roster.next_at

    @property
    def inserted_count(self) -> int:
        """Return how many ticks were inserted."""
        return self._journaling.inserted_count

    def wake(self) -> None:
        """Look again when the next tick comes: a schedule was changed."""
        self._changed.set()

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        found = []
        failed = [name for name in self._failed if self._roster.get(name) is not None]
        if failed:
            found.append(f"{_some(failed)} cannot insert: {self._failed[failed[0]]}")
        entries = self._roster.entries
        if broken := [entry for entry in entries if entry.trouble is not None]:
            names = [entry.schedule.name for entry in broken]
            found.append(f"{_some(names)} cannot be read here: {broken[0].trouble}")
        behind = self._clock.now() + BEHIND_S
        waits = "ahead of the clock, which was set back, and waits until it comes there again"
        if ticked := [entry.schedule.name for entry in entries if entry.ticked_at > behind]:
            found.append(f"{_some(ticked)} ticked {waits}")
        if begun := [entry.schedule.name for entry in entries if entry.ticked_at <= behind < entry.passed_at]:
            found.append(f"{_some(begun)} began {waits}")
        return found

    async def _run(self) -> None:
        while True:
            if await self._try_to(self._keeper.begin, within_s=None):
                break
            await asyncio.sleep(RETRY_S)
        while True:
            self._changed.clear()
            await self._sleep()
            if self._jumps.back_s():
                self._roster.plan_all(self._clock.now())
            if self._store.is_shared and self._clock.monotonic() - self._looked >= CHANGES_S:
                await self._try_to(self._keeper.look)
                self._looked = self._clock.monotonic()
            while due := self._roster.pop(self._clock.now(), TURN):
                self._is_ticking = True
                await self._tick([entry for entry in due if entry.schedule.plan.overlap == "allow"])
                await self._tick([entry for entry in due if entry.schedule.plan.overlap == "skip"])
                await asyncio.sleep(0)
            self._is_ticking = False

    async def _sleep(self) -> None:
        next_at = self._roster.next_at
        wait_s = CHANGES_S if self._store.is_shared else None if next_at is None else LOOK_S
        if next_at is not None:
            wait_s = max(0.0, min(wait_s or LOOK_S, next_at - self._clock.now()))
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _tick(self, due: list[Entry]) -> None:
        """Decide about schedules of which an instant has come, and plan each of them again."""
        if due and self._store.is_shared and not self._store.is_first:
            due = await self._left_by_the_first(due)
        busy = await self._busy([entry for entry in due if entry.schedule.plan.overlap == "skip"])
        now = self._clock.now()
        if busy is None:
            self._plan_again(due, now)
            return
        ticks: list[Tick] = []
        passed: list[tuple[Entry, Decision]] = []
        turn_at = self._clock.monotonic()
        for entry in due:
            if self._clock.monotonic() - turn_at >= SLICE_S:
                await asyncio.sleep(0)
                turn_at = self._clock.monotonic()
            plan, calendar = entry.schedule.plan, entry.calendar
            if calendar is None or not self._roster.stands(entry):
                continue
            is_busy = entry.schedule.name in busy
            decision = decide(calendar, plan.catch_up, plan.overlap, entry.passed_at, now, is_busy=is_busy)
            if decision.missed or decision.skipped:
                passed.append((entry, decision))
            elif decision.insert:
                ticks += [Tick(entry, at) for at in decision.insert]
            else:
                self._roster.plan(entry)
        await self._insert(ticks)
        if passed:
            await self._insert(await self._passed(passed, now))

    async def _left_by_the_first(self, due: list[Entry]) -> list[Entry]:
        """Return those of some due schedules that the first server has not ticked within its time."""
        now, since = self._clock.now(), self._clock.monotonic()
        within_s = 0.0 if since < self._doubted_until else TAKE_OVER_S
        overdue = self._overdue(due, now, within_s)
        if overdue and not await self._try_to(self._reload, overdue):
            self._plan_again(overdue, now)
            return []
        left = self._overdue(overdue, now, within_s)
        if left and within_s:
            self._doubted_until = since + DOUBT_S
        return left

    def _overdue(self, due: list[Entry], now: float, within_s: float) -> list[Entry]:
        """Return those whose tick the first server should have inserted by now, and plan when that is for the others."""
        found = []
        for entry in due:
            next_at = entry.next_at()
            if next_at is not None and now >= next_at + within_s:
                found.append(entry)
            elif next_at is not None:
                self._roster.plan(entry, next_at + within_s)
        return found

    async def _busy(self, due: list[Entry]) -> set[str] | None:
        """Return the names of those whose last tick's job has not ended; None: the store does not say."""
        busy: set[str] = set()

        async def look() -> None:
            await self._keeper.catch_up()
            await self._reload(due)
            last = {tick_of(one.schedule.name, one.schedule.tick_at): one for one in due if one.schedule.tick_at}
            ids = list(last)
            for first in range(0, len(ids), MOST_ENDS):
                looked = await self._store.look(ids[first : first + MOST_ENDS])
                going_on = looked.there - {record.id for record in looked.ended}
                busy.update(last[job_id].schedule.name for job_id in going_on)

        return busy if not due or await self._try_to(look) else None

    async def _passed(self, decided: list[tuple[Entry, Decision]], now: float) -> list[Tick]:
        """Keep what is decided without a job; return the ticks that are to be inserted after that."""
        ticks: list[Tick] = []
        undecided = {entry for entry, _ in decided}

        async def keep() -> None:
            await self._keeper.catch_up()
            done = await self._store.pass_ticks([_passed(entry, decision) for entry, decision in decided])
            for (entry, decision), is_done in zip(decided, done, strict=True):
                if is_done:
                    undecided.remove(entry)
                    self._note_passed(entry, decision)
                    ticks.extend(Tick(entry, at) for at in decision.insert)
                    if not decision.insert:
                        self._roster.plan(entry)  # its next instant may come before anything is tried again
            await self._reload(list(undecided))

        await self._try_to(keep)
        self._plan_again(list(undecided), now)
        return ticks

    def _note_passed(self, entry: Entry, decision: Decision) -> None:
        self.missed_count += decision.missed
        self.skipped_count += decision.skipped
        entry.schedule = msgspec.structs.replace(
            entry.schedule,
            passed_at=decision.passed_at,
            missed=entry.schedule.missed + decision.missed,
            skipped=entry.schedule.skipped + decision.skipped,
        )
        name, until = entry.schedule.name, decision.passed_at
        missed, skipped = entry.take_untold(decision.missed, decision.skipped, self._clock.monotonic())
        if missed:
            log.warning("ticks of a schedule were missed", schedule=name, count=missed, until=tick_of("", until)[1:])
        if skipped:
            log.info("ticks of a schedule were skipped, its job goes on", schedule=name, count=skipped)

    async def _insert(self, ticks: list[Tick]) -> None:
        """Journal ticks, those that still stand, and plan their schedules again."""
        now = self._clock.now()
        try:
            await self._journaling.insert(ticks)
        finally:
            failed = False
            for entry, last in {tick.entry: tick for tick in ticks}.items():
                name = entry.schedule.name
                if last.error is not None:
                    failed = True
                    self._failed[name] = last.error
                    self._plan_again([entry], now)
                else:
                    self._failed.pop(name, None)
                    self._roster.plan(entry)
            if failed:
                self._trouble.met(error=next(reversed(self._failed.values())))
            elif ticks:
                self._trouble.over()

    async def _reload(self, entries: list[Entry]) -> None:
        """Take in how far schedules are. Raises: StoreError."""
        names = [entry.schedule.name for entry in entries]
        if names:
            self._roster.take_in(names, await self._store.schedules(names), self._clock.now())

    def _plan_again(self, entries: list[Entry], now: float) -> None:
        self._jumps.note(now)  # who waits for an instant after this one waits too long if the clock is set back before it
        for entry in entries:
            self._roster.plan(entry, now + RETRY_S)

    async def _try_to(self, ask: Callable[..., Awaitable[None]], *args: object, within_s: float | None = STORE_S) -> bool:
        """Ask something of the store; tell whether it did that in time."""
        try:
            async with asyncio.timeout(within_s):
                await ask(*args)
        except (StoreUnavailableError, TimeoutError) as error:
            self._trouble.met(error=str(error) or f"the store has not answered for {STORE_S:g} s")
            return False
        return True


def _passed(entry: Entry, decision: Decision) -> Passed:
    """Return what is to be kept, once the store has all that was journaled here."""
    expected = max(entry.schedule.passed_at, entry.journaled_at)
    name, revision = entry.schedule.name, entry.schedule.revision
    return Passed(name, revision, expected, decision.passed_at, decision.missed, decision.skipped)


def _some(names: list[str]) -> str:
    return f"the schedule {names[0]!r}" + (f" (and {len(names) - 1} others)" if len(names) > 1 else "")
