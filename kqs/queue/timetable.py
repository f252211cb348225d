"""What happens at an instant: a waiting job comes due, or expires, or its resource becomes free."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from kqs.errors import StoreUnavailableError
from kqs.filter import Filter
from kqs.job import Entry, JobRecord
from kqs.log import get_logger
from kqs.queue.alarm import Alarm
from kqs.queue.basis import Basis
from kqs.queue.jumps import JumpWatch
from kqs.queue.rules import rescheduled, whole_ms
from kqs.states import WAITING, State
from kqs.store.base import CALL_S
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

#: how many records one store operation touches at most, so that no other waits long behind it
SLICE = 1000
#: as above, of those that are changed one by one
REVISED = 100
_WAITING = Filter(states=WAITING)
#: how long to wait before asking a store that refused again, in s
RETRY_WAIT_S = 1.0


class Timetable:
    """Moves what is due to the broker, and ends what has expired. Own a task for each of its `services`."""

    def __init__(self, basis: Basis) -> None:
        self._store = basis.store
        self._broker = basis.broker
        self._cascade = basis.cascade
        self._clock = clock = basis.clock
        #: whether the clock that times were computed by was set back since
        self.jumps = JumpWatch(clock)
        #: takes the instant from which a wait was computed, in Unix seconds
        self.note_instant = self.jumps.note
        self._retention = basis.retention
        self._events = basis.events
        monotonic = clock.monotonic
        self._due_trouble = Trouble(log, "cannot wake what is due, trying again", "wakes what is due again", monotonic)
        self._expiry_trouble = Trouble(log, "cannot end what expired, trying again", "ends what expired again", monotonic)
        self._due = Alarm(clock, self._wake_due)
        self._expiring = Alarm(clock, self._expire)
        self._calls_trouble = Trouble(log, "cannot call parked jobs, trying again", "calls parked jobs again", monotonic)
        self._uncalled = Alarm(clock, self._call_on)
        self._follow_trouble = Trouble(log, "cannot follow the ends of jobs, trying again", "follows them again", monotonic)
        self._following = Alarm(clock, self._follow)
        self._called: list[Entry] = []
        self._has_called = asyncio.Event()

    def services(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Return the bodies of the tasks that serve it, by name; they run for ever."""
        return {
            "queue-due": self._due.run(),
            "queue-expire": self._expiring.run(),
            "queue-called": self._put_called(),
            "queue-follow": self._following.run(),
            "queue-uncalled": self._uncalled.run(),
        }

    @property
    def next_at(self) -> float:
        """Return when it has something to do next, as far as it knows, in Unix seconds; -math.inf: it is at it."""
        return min(alarm.next_at for alarm in self._alarms)

    def look_again(self) -> None:
        """Look at the clock, which was set."""
        for alarm in self._alarms:
            alarm.look_again()

    @property
    def _alarms(self) -> tuple[Alarm, ...]:
        return (self._due, self._expiring, self._uncalled, self._following)

    def called(self, entries: list[Entry]) -> None:
        """Take jobs that may have their resource now. See Store.on_called."""
        self._events.woken(entries)
        self._called += entries
        self._has_called.set()
        self._uncalled.note(self._clock.now() + CALL_S)

    def followed(self) -> None:
        """Take in that jobs have ended that others wait for. See Store.on_followed."""
        self._following.note(self._clock.now())

    def note(self, due_at: float, expire_at: float | None) -> None:
        """Take in when a waiting job is due (0.0: it is) and when it expires (None: never), in Unix seconds."""
        if due_at:
            self._due.note(due_at)
        if expire_at is not None:
            self._expiring.note(expire_at)

    async def look(self) -> None:
        """Take in what stands in the store. Raises: StoreUnavailableError."""
        if (due_at := await self._store.next_due_at()) is not None:
            self._due.note(due_at)  # 0.0 stands for a claim that was taken back: it is due, and nobody's broker has it
        self.note(0.0, await self._store.next_expire_at())
        self._uncalled.note(self._clock.now())
        self._following.note(self._clock.now())

    async def revise(self) -> int:
        """Shorten the waits that a clock made too long which was ahead; return how many. Raises: StoreUnavailableError."""
        count, after = 0, None
        while True:
            records, after = await self._store.page(_WAITING, after, REVISED)
            now, resolve = self._clock.now(), self._cascade.resolve
            waiting = [await self._with_runs(record, now) for record in records]
            changes = [rescheduled(record, resolve(record.type, record.options), now) for record in waiting]
            if found := [change for change in changes if change is not None]:
                await self._store.reschedule(found)
                count += len(found)
            if after is None:
                break
        await self.look()
        return count

    async def _with_runs(self, record: JobRecord, now: float) -> JobRecord:
        """Return a record of which a listing may have left out what its wait counts from: the end of the last run."""
        if record.attempt and record.due_at > now:
            return await self._store.job(record.id) or record
        return record

    async def _wake_due(self) -> float | None:
        try:
            while entries := await self._wake():
                await self._broker.put(entries)
            next_at = await self._store.next_due_at()
        except StoreUnavailableError as error:
            self._due_trouble.met(error=str(error))
            return self._clock.now() + RETRY_WAIT_S
        self._due_trouble.over()
        return next_at

    async def _wake(self) -> list[Entry]:
        with self._events.letting_run() as bookmark:
            entries = await self._store.wake(self._clock.now(), SLICE, self._broker.body_bytes)
            self._events.woken(entries, bookmark)
        return entries

    async def _put_called(self) -> None:
        """Offer what is called, for ever."""
        while True:
            await self._has_called.wait()
            self._has_called.clear()
            called, self._called = self._called, []
            await self._broker.put(called)

    async def _call_on(self) -> float | None:
        try:
            following = await self._store.call_on(self._clock.now())
        except StoreUnavailableError as error:
            self._calls_trouble.met(error=str(error))
            return self._clock.now() + RETRY_WAIT_S
        self._calls_trouble.over()
        return following

    async def _follow(self) -> float | None:
        """Do what the ends of jobs mean for those that wait for them, a slice at a time."""
        drop_after_s = self._retention.drop_at(State.FAIL, self._cascade.base.keep, 0.0)
        by_type = self._cascade.keep_by_type()
        try:
            is_more = True
            while is_more:
                following = await self._store.follow(whole_ms(self._clock.now()), drop_after_s, by_type)
                is_more = following.is_more
                if following.due_at is not None:
                    self._due.note(following.due_at)
                if following.failed:
                    log.info("jobs failed as others had not succeeded", count=len(following.failed))
                    self._events.failed_unrun(following.failed)
        except StoreUnavailableError as error:
            self._follow_trouble.met(error=str(error))
            return self._clock.now() + RETRY_WAIT_S
        self._follow_trouble.over()
        return None

    async def _expire(self) -> float | None:
        keep = self._cascade.base.keep
        drop_after_s = self._retention.drop_at(State.FAIL, keep, 0.0)
        by_type = self._cascade.keep_by_type()
        try:
            while ended := await self._store.expire(whole_ms(self._clock.now()), SLICE, drop_after_s, by_type):
                log.info("jobs expired", count=len(ended))
                self._events.expired(ended)
            next_at = await self._store.next_expire_at()
        except StoreUnavailableError as error:
            self._expiry_trouble.met(error=str(error))
            return self._clock.now() + RETRY_WAIT_S
        self._expiry_trouble.over()
        return next_at
