"""What owners ask of many jobs at once: slice by slice, so that inserts, runs and answers go on in between.

What a slice did stays done, whatever becomes of the rest; asked again, the same change goes on with what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from kqs.errors import StoreCorruptError, StoreUnavailableError
from kqs.filter import Filter
from kqs.job import Claim, Entry
from kqs.log import get_logger
from kqs.queue.basis import Basis
from kqs.queue.bookmarks import Bookmark
from kqs.queue.rules import CANCELLED, whole_ms
from kqs.queue.timetable import Timetable
from kqs.states import WAITING, State
from kqs.store import change as bounds
from kqs.store.base import Change, Slice, Spans, Verb

log = get_logger("kqs.queue")

#: above every order: whatever was accepted, by whomever, and is stored
_ALL_ORDERS = 1 << 62
#: of so many changed jobs the ids are told
TOLD_IDS = 100
#: a store that refuses a slice is asked again so often, and no longer than so, in s
RETRY_WAIT_S = 0.1
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of jobs. before_order: of this server's, those are meant that come before it, and they are in the store.

    reached, is_forced, is_dry, most, error: as for `Change`.
    """

    verb: Verb
    wanted: Filter
    before_order: int = _ALL_ORDERS
    reached: Mapping[str, int] = field(default_factory=dict)
    is_forced: bool = False
    is_dry: bool = False
    most: int | None = None
    error: str = CANCELLED


class Done(msgspec.Struct):
    """What a change has done. ids: the first TOLD_IDS. skipped: how many were passed over because they run."""

    count: int = 0
    ids: list[str] = []
    skipped: int = 0

    def add(self, part: Slice) -> None:
        """Take in what one slice did."""
        self.count += len(part.changed)
        self.skipped += len(part.skipped)
        if len(self.ids) < TOLD_IDS:
            self.ids += [one.id for one in part.changed[: TOLD_IDS - len(self.ids)]]


class Changes:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, basis: Basis, timetable: Timetable, call_off: Callable[[Sequence[Claim]], None]) -> None:
        """Args: timetable: of jobs that wait again. call_off: ends runs."""
        self._store = basis.store
        self._broker = basis.broker
        self._cascade = basis.cascade
        self._clock = basis.clock
        self._retention = basis.retention
        self._events = basis.events
        self._supervisor = basis.supervisor
        self._timetable = timetable
        self._call_off = call_off

    async def do(
        self, request: Request, take_orders: Callable[[int], int], on_slice: Callable[[Done], None] | None = None
    ) -> Done:
        """Do it with all jobs that fit; they are durable when this returns.

        Args: take_orders: returns the first of so many new orders. on_slice: told what is done so far.
        Raises: StoreUnavailableError: some of it may have been done.
        """
        change = self._change(request)
        revives = request.verb is Verb.RETRY and not request.is_dry
        done, after = Done(), None
        while True:
            with self._events.letting_run() as bookmark:
                part = await self._slice(change, after, take_orders(bounds.SLICE) if revives else 0)
                done.add(part)
                if request.most is not None:
                    change = replace(change, most=request.most - done.count)
                if not request.is_dry:
                    await self._follow(change, part, bookmark)
            after = part.next
            if after is None or change.most == 0:
                break
            if on_slice is not None:
                on_slice(done)
        if done.count and not request.is_dry:
            await self._store.sync()
            if request.error == CANCELLED:
                log.info("jobs were changed by their owner", verb=request.verb.name.lower(), count=done.count)
        return done

    async def _slice(self, change: Change, after: object | None, first_order: int) -> Slice:
        """Do a slice, for a while as often as it must be tried: a full disk that has no room for many may have it for some."""
        until = self._clock.monotonic() + PATIENCE_S
        while True:
            try:
                return await self._store.change(change, after, first_order)
            except StoreCorruptError as error:
                self._supervisor.fault("queue", error)
                raise
            except StoreUnavailableError:
                if self._clock.monotonic() >= until:
                    raise
            await asyncio.sleep(RETRY_WAIT_S)

    def _change(self, request: Request) -> Change:
        cascade = self._cascade
        keep_s = self._retention.drop_at(State.CANCELLED, cascade.base.keep, 0.0)
        return Change(
            request.verb,
            request.wanted,
            whole_ms(self._clock.now()),
            request.before_order,
            Spans(keep_s, cascade.keep_by_type()),
            Spans(cascade.base.expire, cascade.expire_by_type()),
            request.is_forced,
            request.is_dry,
            self._broker.body_bytes,
            request.most,
            request.error,
            request.reached,
        )

    async def _follow(self, change: Change, part: Slice, bookmark: Bookmark) -> None:
        """Let the others know what a slice has done."""
        if claims := [one.claim for one in part.changed if one.claim is not None]:
            self._call_off(claims)
        if part.expire_at is not None:
            self._timetable.note_instant(change.now)
            self._timetable.note(0.0, part.expire_at)
        if part.changed and self._events.hears_ends:
            self._tell(change, part, bookmark)
        if part.ready:
            await self._broker.put(part.ready)
        if gone := [Entry(one.order, one.id, one.type, one.prio) for one in part.changed if one.state in WAITING]:
            await self._broker.forget(gone)

    def _tell(self, change: Change, part: Slice, bookmark: Bookmark) -> None:
        """Tell what has happened to jobs; that a run has ended is told when it has."""
        if change.verb is Verb.DELETE:
            self._events.deleted(part.changed)
        elif change.verb is Verb.CANCEL:
            self._events.cancelled([one for one in part.changed if one.claim is None], change.error)
        else:
            self._events.woken(part.ready, bookmark)
