"""Group commit: records become batches, batches become durable, and everybody hears of it.

Call from the loop thread, which owns every attribute; one operation of the disk is in flight at a time. A batch is what was
appended before its flush began. Invariants:
1. `done(None)` is called only after the flush of the record's batch returned, in the order of append. That of a lone job
   which begins with its flush is called in the next turn of the loop, behind what the listener had the loop call: a run goes
   before the answer.
2. After a failed write, flush or roll every record not yet settled fails, and nothing is accepted until a new segment is
   durable (kqs.journal.condition).
3. What a listener raises keeps no news from the others. An error that nothing foresees is told (`on_fault`), never dropped:
   whoever hears of it stops the node, and the next start reads from the journal what the listener missed.
4. Of each batch the listener hears `before_flush` and then either `flushed` or `failed`, and of no other in between.
5. Whatever waits (kqs.journal.open_batch) is begun with at the end of a phase that is not IDLE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from errno import ENOSPC
from typing import Any, TypeVar

from kqs.clock import Clock
from kqs.config import JournalSection
from kqs.errors import JournalError, JournalFailedError
from kqs.journal.condition import Acceptance, Condition, Event, Free
from kqs.journal.disk import Disk
from kqs.journal.flusher import Flusher
from kqs.journal.format import FRAME_BYTES, Record
from kqs.journal.inline import Inline
from kqs.journal.kept import KeptSegments
from kqs.journal.listener import Hearing, Listener
from kqs.journal.open_batch import OpenBatch
from kqs.journal.segment import Segment
from kqs.journal.tally import Tally
from kqs.journal.writer import Flushed
from kqs.log import get_logger
from kqs.process.threads import Offload

_log = get_logger("kqs.journal")

_Result = TypeVar("_Result")
#: what is done when the thread is through with something: (result, None) or (None, error)
_Then = Callable[[_Result | None, BaseException | None], None]


class Phase(Enum):
    """Who is busy, and what comes next.

    IDLE: nobody, and nothing waits. A record leads to TICK; a look at the disk to AWAY.
    TICK: the loop was asked to call at the end of its tick, which leads to HERE. A lone record may go before, by HERE to TICK,
        or to IDLE if that leaves nothing to be called for.
    HERE: the loop flushes a lone record, or settles a batch. Then: AWAY if more than one record waits; TICK if one does, for
        the tick may bring it company; IDLE.
    AWAY: the thread rolls, flushes, looks or reopens. Its end leads to HERE.
    """

    IDLE = 0
    TICK = 1
    HERE = 2
    AWAY = 3


_IDLE, _TICK, _HERE, _AWAY = Phase  # a member that is looked up in its class takes four times as long
_OPEN = Condition.OPEN


class GroupCommit:
    """See the module docstring. on_fault: called with what the listener or this itself raised, for the node to stop."""

    def __init__(
        self,
        settings: JournalSection,
        clock: Clock,
        kept: KeptSegments,
        on_low: Callable[[], None],
        on_fault: Callable[[BaseException], None],
        offload: Offload,
    ) -> None:
        self._clock = clock
        self._kept = kept
        self._on_low = on_low
        self._on_fault = on_fault
        self._offload = offload
        self._hearing = Hearing(on_fault)
        self._open = OpenBatch(settings.batch_records, settings.batch_bytes)
        self._inline = Inline()
        self._tally = Tally()
        self._phase = _IDLE
        self._under_way: list[Record] = []  # what is being flushed, or waits for the segment that is begun for it
        self._untold: list[Record] = []  # durable, and whose `done` is called in the next turn
        self._began_at = 0.0
        self._tick: asyncio.Handle
        self._watch: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self.acceptance = Acceptance(settings.min_free_bytes, clock.monotonic)
        self.batches = 0
        self.records = 0
        self.bytes = 0

    def start(self, flusher: Flusher, disk: Disk, free: Free) -> None:
        """Begin to accept. Args: flusher, disk: stopped with this. free: on that disk."""
        self._loop = asyncio.get_running_loop()
        self._disk = disk
        self._flusher = flusher
        self.acceptance.take(Event.STARTED)
        self._watch = self._loop.call_later(self._disk.LOOK_S, self._guard, self._look_in_quiet)
        self._measured(free)

    def listen(self, listener: Listener) -> None:
        """See `Journal.listen`."""
        self._hearing.listener = listener

    def skip_to(self, seq: int) -> bool:
        """See `Journal.skip_to`."""
        if self._tally.appended or self.acceptance.condition is Condition.CLOSED:
            return False
        if self.acceptance.condition in (Condition.FAILED, Condition.BROKEN):
            raise self.acceptance.refusal()
        try:
            for flushed in self._flusher.wait_for(lambda: self._disk.skip_to(seq)):
                self._kept.current.grow(flushed.frame, flushed.end)
        except (OSError, JournalError) as error:
            raise self._fail(error) from error
        return True

    def append(self, record: Record) -> None:
        """Let `record` join the open batch.

        Raises: NoSpaceError, JournalFailedError, JournalClosedError: it was not kept, and `done` will not be called.
        """
        if self.acceptance.condition is not _OPEN:
            raise self.acceptance.refusal()
        self._open.add(record)
        self._tally.appended += 1
        if self._phase is _IDLE:
            self._ask_for_tick()

    async def flush(self) -> None:
        """Return when every record appended before has been settled, durable or failed."""
        await self._tally.all_settled()

    async def stop(self) -> None:
        """Refuse new records, settle those that were appended, close the segment."""
        was_failed = self.acceptance.condition in (Condition.FAILED, Condition.BROKEN)
        self.acceptance.take(Event.STOPPED)
        for timer in (self._retry, self._watch):
            if timer is not None:
                timer.cancel()
        if self._phase is _IDLE and self._open:  # a signal's handler has raised amid an append
            self._ask_for_tick()
        await self.flush()
        if was_failed:  # what it waited for may have come: the store has what was lost
            self._hand_over(self._disk.reopen, self._reopened)
        await self._flusher.stop()
        await self._offload(self._disk.close)

    @property
    def unsettled(self) -> int:
        """Return how many records were appended and are not settled."""
        return self._tally.unsettled

    def flush_if_alone(self) -> None:
        """Flush a lone record of one job now, without waiting for the tick to end, if lately no tick brought company.

        For whoever appends, after it has noted what it must about the record: `done` may be called before this returns.
        """
        if self._phase is not _TICK:
            return
        size = self._open.lone_job_bytes
        if size and self._inline.goes_at_once(size) and self._disk.fits(size):
            self._phase = _HERE
            self._guard(self._flush_here, self._open.take())
            self._phase = _TICK
            if not self._open:
                self._tick.cancel()
                self._phase = _IDLE

    def _ask_for_tick(self) -> None:
        self._phase = _TICK
        self._tick = self._loop.call_soon(self._guard, self._end_tick)

    def _end_tick(self) -> None:
        """Begin with what this tick of the loop brought, if it has not gone before."""
        self._phase = _HERE
        if self._open:
            self._inline.end_tick(is_lone=self._open.is_lone)
            self._flush_next()
        if self._phase is _HERE:
            self._rest()

    def _go_on(self) -> None:
        """Begin with what came while the thread was busy, but for a lone record, which the tick may bring company."""
        if self._open and not self._open.is_lone:
            self._flush_next()
        else:
            self._rest()

    def _rest(self) -> None:
        self._phase = _IDLE
        if self._open:
            self._ask_for_tick()

    def _flush_next(self) -> None:
        """Take the oldest batch: to a new segment if need be, on the loop if it is a lone record and flushes are quick."""
        size = self._open.next_bytes
        is_lone = self._open.is_lone
        batch = self._open.take()
        if not self._disk.fits(size):
            self._under_way = batch
            self._hand_over(self._disk.roll, self._rolled)
        elif is_lone and self._inline.decide(size):
            self._flush_here(batch)
        else:
            self._flush_there(batch)

    def _flush_here(self, batch: list[Record]) -> None:
        self._under_way = batch
        self._hearing.offer(batch)
        batch[0].alone = True
        self._began_at = self._clock.monotonic()
        try:
            flushed, free = self._disk.write(batch, self._began_at, self._hearing.prepare)
        except Exception as error:
            self._fail(error)
        else:
            self._settle(flushed, free)

    def _flush_there(self, batch: list[Record]) -> None:
        self._under_way = batch
        self._hearing.offer(batch)
        now = self._began_at = self._clock.monotonic()
        self._hand_over(lambda: self._disk.write(batch, now), self._flushed)
        self._hearing.prepare()

    def _hand_over(self, operation: Callable[[], _Result], then: _Then[_Result]) -> None:
        """Let the thread do something, and go on with what came of it."""

        def back(result: _Result | None, error: BaseException | None) -> None:
            self._phase = _HERE
            self._guard(then, result, error)

        self._phase = _AWAY
        self._flusher.submit(operation, back)

    def _rolled(self, segment: Segment | None, error: BaseException | None) -> None:
        if segment is None:
            self._fail(error)
            self._rest()
            return
        self._kept.add(segment)
        self._flush_there(self._under_way)

    def _flushed(self, written: tuple[Flushed, Free | None] | None, error: BaseException | None) -> None:
        if written is None:
            self._fail(error)
        else:
            self._settle(*written)
        self._go_on()

    def _look_in_quiet(self) -> None:
        """Notice a journal that is gone before somebody inserts, and space that there is again."""
        self._watch = self._loop.call_later(self._disk.LOOK_S, self._guard, self._look_in_quiet)
        if self._phase is _IDLE and self.acceptance.condition in (Condition.OPEN, Condition.NO_SPACE):
            self._hand_over(self._disk.look, self._looked)

    def _looked(self, free: Free | None, error: BaseException | None) -> None:
        if free is None:
            self._fail(error)
        else:
            self._measured(free)
        self._go_on()

    def _settle(self, flushed: Flushed, free: Free | None) -> None:
        self._tell_untold()
        batch = self._under_way
        size = FRAME_BYTES + flushed.frame.length
        self._inline.observe(size, self._clock.monotonic() - self._began_at)
        if self.acceptance.backs_off:
            self.acceptance.flushed()
        self._kept.current.grow(flushed.frame, flushed.end)
        self.batches += 1
        self.records += len(batch)
        self.bytes += size
        seq = flushed.frame.first_seq
        is_claimed = False
        for record in batch:
            record.seq = seq
            seq += 1
            is_claimed = is_claimed or record.claimed
        self._under_way = []
        if not is_claimed:
            self._tell(batch)
            self._hearing.flushed(batch)
        else:
            self._hearing.flushed(batch)
            if batch[0].alone:
                self._untold = batch
                self._loop.call_soon(self._guard, self._tell_untold)
            else:
                self._tell(batch)
        if free is not None:
            self._measured(free)

    def _tell_untold(self) -> None:
        if self._untold:
            batch, self._untold = self._untold, []
            self._tell(batch)

    def _tell(self, records: list[Record], error: JournalFailedError | None = None) -> None:
        """Tell those who wait for records that they are durable, or not kept."""
        for record in records:
            if (done := record.done) is not None:
                try:
                    done(error)
                except Exception:
                    _log.exception("a journal callback failed")
        self._tally.settle(len(records))

    def _fail(self, error: BaseException | None) -> JournalFailedError:
        """Fail every record that is not settled, and begin to try new segments."""
        self._tell_untold()
        batch, self._under_way = self._under_way, []
        records = [*batch, *self._open.take_all()]
        told = self.acceptance.fail(error)
        if self.acceptance.condition is Condition.FAILED:
            self._try_to_reopen()
        self._hearing.failed()
        self._tell(records, told)
        self.acceptance.tell_failure(self._kept.current.name, len(records))
        return told

    def _try_to_reopen(self) -> None:
        """Try a new segment after the back-off, which only a flush that succeeds ends."""
        if self._retry is not None:
            self._retry.cancel()
        wait_s = self.acceptance.next_wait_s()
        self._retry = self._loop.call_later(wait_s, self._guard, self._hand_over, self._disk.reopen, self._reopened)

    def _reopened(self, opened: tuple[Segment, Free] | None, error: BaseException | None) -> None:
        if opened is not None:
            self._kept.add(opened[0])
            self.acceptance.reopen(opened[0].name)
            self._measured(opened[1])
        elif self.acceptance.condition is Condition.FAILED:
            self.acceptance.stay_failed(error)
            if isinstance(error, OSError) and error.errno == ENOSPC:
                self._ask_for_space()
            self._try_to_reopen()
        self._rest()

    def _measured(self, free: Free) -> None:
        """Refuse, or accept again, by the space that is left."""
        self.acceptance.measure(free, self._kept.backlog_bytes, self._disk.owed_bytes)
        if self.acceptance.condition is Condition.NO_SPACE:
            self._ask_for_space()
        if (reserve := self._disk.reserve(free)) is not None:
            self._flusher.submit(reserve, self._reserved)

    def _reserved(self, _result: None, error: BaseException | None) -> None:
        if error is not None:
            self._on_fault(error)  # whatever a disk may refuse is none

    def _ask_for_space(self) -> None:
        try:
            self._on_low()
        except Exception:
            _log.exception("a journal callback failed")

    def _guard(self, step: Callable[..., None], *news: Any) -> None:
        """Take a step that the loop asks for, where an error would be lost: nobody waits for what it returns.

        What is no Exception comes from a signal's handler, as in a program, and goes on its way.
        """
        try:
            step(*news)
        except BaseException as error:
            self._give_up(error)
            if not isinstance(error, Exception):
                raise

    def _give_up(self, error: BaseException) -> None:
        """Accept no more after an error that nothing here foresees, which leaves the state in doubt.

        What the thread has in hand comes back and is settled as ever; everything else fails, so that nobody waits for it.
        """
        self._tell_untold()
        told = self.acceptance.give_up(error)
        records = self._open.take_all()
        if self._phase is not _AWAY:
            batch, self._under_way = self._under_way, []
            records = [*(record for record in batch if record.seq < 0), *records]
            self._hearing.failed()
            self._phase = _IDLE
        self._tell(records, told)
        self._tally.settle(self._tally.unsettled - len(self._under_way))
        self._on_fault(error)
