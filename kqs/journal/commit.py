"""Group commit: records become batches, batches become durable, and everybody hears of it.

Call from the loop thread, which owns every attribute; one writer operation is in flight at a time. A batch is what was
appended before its flush began. Invariants:
1. `done(None)` is called only after the flush of the record's batch returned, in the order of append.
2. After a failed write, flush or roll every record not yet settled fails, and nothing is accepted until a new segment is
   durable.
3. What a listener raises keeps no news from the others. An error that nothing foresees is told (`on_fault`), never dropped:
   whoever hears of it stops the node, and the next start reads from the journal what the listener missed.
4. Of each batch the listener hears `before_flush` and then either `flushed` or `failed`, and of no other in between.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kqs.clock import Clock
from kqs.errors import JournalClosedError, JournalError, JournalFailedError, NoSpaceError
from kqs.journal.files import Files
from kqs.journal.flusher import Flusher
from kqs.journal.format import FRAME_BYTES, MAX_PAYLOAD_BYTES, Record
from kqs.journal.kept import KeptSegments
from kqs.journal.listener import Listener, Nobody
from kqs.journal.lock import JournalLock
from kqs.journal.reserve import RESERVE_BYTES, keep_reserve
from kqs.journal.segment import Segment
from kqs.journal.settings import JournalSettings
from kqs.journal.space import LEAST_FREE_BYTES, SpaceGauge
from kqs.journal.writer import Flushed, Writer
from kqs.log import get_logger
from kqs.process.threads import in_thread
from kqs.trouble import Trouble

#: a lone record is flushed on the loop while flushes take less than this; the hop to the thread would cost a third of it
_INLINE_FLUSH_S = 0.001

#: so many ticks in a row with one record make the next lone ones go without waiting for their tick's end, all but each
#: `_PROBE_EVERY`th: a second client must be noticed, or every insert of many would have a flush of its own
_LONE_TICKS = 16
_PROBE_EVERY = 8

#: a flush of more bytes says nothing about the flush of one record
_SMALL_BATCH_BYTES = 16384

#: that folder and lock are still ours is seen to so often; that the segment has its name, before each answer
_CHECK_S = 1.0

#: free space is measured after so many bytes or seconds: a batch of one record must not pay for it each time
_MEASURE_BYTES = 1 << 17
_MEASURE_S = 1.0

_log = get_logger("kqs.journal")

_Result = TypeVar("_Result")
#: what is done with a batch when the thread is through with what was done for it: (result, None) or (None, error)
_Then = Callable[[list[Record], _Result | None, BaseException | None], None]


class Condition(StrEnum):
    """What the journal is doing, in the word `health` uses."""

    CLOSED = "closed"
    OPEN = "open"
    NO_SPACE = "no_space"
    FAILED = "failed"


class GroupCommit:
    """See the module docstring. on_fault: called with what the listener or this itself raised, for the node to stop."""

    #: waits before attempts at a new segment after a failure, in s: the first, doubling to the longest
    REOPEN_FIRST_S = 0.1
    REOPEN_LAST_S = 5.0

    def __init__(
        self,
        settings: JournalSettings,
        clock: Clock,
        files: Files,
        kept: KeptSegments,
        on_low: Callable[[], None],
        owed: Callable[[], int],
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._max_records = settings.batch_records
        self._max_bytes = settings.batch_bytes
        self._directory = Path(settings.dir)
        self._clock = clock
        self._files = files
        self._kept = kept
        self._on_low = on_low
        self._owed = owed
        self._reserve_bytes = min(RESERVE_BYTES, 4 * settings.segment_bytes)
        self._has_reserve = False
        self._on_fault = on_fault
        self._batch: list[Record] = []
        self._batch_bytes = FRAME_BYTES
        self._full: deque[tuple[list[Record], int]] = deque()
        self._under_way: list[Record] = []  # the batch that is being flushed, or for which a segment is begun
        self._is_offered = False  # that one was, to the listener
        self._is_away = False  # the thread has it
        self._ticking = False
        self._lone_ticks = 0
        self._busy = False
        self._began_at = 0.0
        self._flush_s = 0.0
        self._unmeasured_bytes = 0
        self._measured_at = 0.0
        self._checked_at = 0.0
        self._is_alone = True
        self._watch: asyncio.TimerHandle | None = None
        self._reopen_s = self.REOPEN_FIRST_S
        self._timer: asyncio.TimerHandle | None = None
        self._appended = 0
        self._settled = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._no_segment = Trouble(
            _log, "journal cannot begin a new segment, trying again", "journal has a new segment", clock.monotonic
        )
        self._unmeasured = Trouble(
            _log, "free space of the journal's disk is unknown", "free space of the journal's disk is known", clock.monotonic
        )
        self.listener: Listener = Nobody()
        self.condition = Condition.CLOSED
        self.failure = ""
        self.space = SpaceGauge(settings.min_free_bytes)
        self.batches = 0
        self.records = 0
        self.bytes = 0
        self.failures = 0

    def start(self, writer: Writer, lock: JournalLock) -> None:
        """Begin to accept; `writer` has an open segment, in the folder of `lock`."""
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._lock = lock
        self._flusher = Flusher()
        self.condition = Condition.OPEN
        self._checked_at = self._clock.monotonic()
        self._watch = self._loop.call_later(_CHECK_S, self._guard, self._check_in_quiet)
        self._measure_space()

    def skip_to(self, seq: int) -> bool:
        """See `Journal.skip_to`."""
        if self._appended or self.condition is Condition.CLOSED:
            return False
        try:
            for flushed in self._writer.skip_to(seq):
                self._kept.current.grow(flushed.frame, flushed.end)
        except OSError as error:
            self._fail(error)
            raise JournalFailedError(self.failure) from error
        return True

    def append(self, record: Record) -> None:
        """Let `record` join the open batch.

        Raises: NoSpaceError, JournalFailedError, JournalClosedError: it was not kept, and `done` will not be called.
        """
        if self.condition is not Condition.OPEN:
            raise self._refusal()
        size = record.size_bytes
        assert size <= MAX_PAYLOAD_BYTES, "a record longer than any frame"
        batch = self._batch
        if batch and (len(batch) >= self._max_records or self._batch_bytes + size > self._max_bytes):
            self._full.append((batch, self._batch_bytes))
            batch = self._batch = []
            self._batch_bytes = FRAME_BYTES
        batch.append(record)
        self._batch_bytes += size
        self._appended += 1
        if not self._busy:
            self._ask_for_tick()

    async def flush(self) -> None:
        """Return when every record appended before has been settled, durable or failed."""
        if self._settled < self._appended:
            waiter = self._loop.create_future()
            self._waiters.append((self._appended, waiter))
            await waiter

    async def stop(self) -> None:
        """Refuse new records, settle those that were appended, close the segment."""
        was_failed = self.condition is Condition.FAILED
        self.condition = Condition.CLOSED
        for timer in (self._timer, self._watch):
            if timer is not None:
                timer.cancel()
        await self.flush()
        if was_failed:  # what it waited for may have come: the store has what was lost
            self._flusher.submit(self._reopen, partial(self._guard, self._reopened))
        await self._flusher.stop()
        await in_thread(self._writer.close)

    @property
    def unsettled(self) -> int:
        """Return how many records were appended and are not settled."""
        return self._appended - self._settled

    def problems(self) -> list[str]:
        """Return what keeps new records out, one sentence each."""
        if self.condition in (Condition.OPEN, Condition.CLOSED):
            return []
        return [str(self._refusal())]

    def _refusal(self) -> JournalError:
        if self.condition is Condition.NO_SPACE:
            free, needed = self.space.free_bytes, self.space.needed_bytes
            return NoSpaceError(f"{free} bytes are free on the journal's disk, {needed} are needed")
        if self.condition is Condition.FAILED:
            return JournalFailedError(f"the journal failed and is trying a new segment: {self.failure}")
        return JournalClosedError("the journal is closed")

    def flush_if_alone(self) -> None:
        """Flush a lone record of one job now, without waiting for the tick to end, if lately no tick brought company.

        For whoever appends, after it has noted what it must about the record: `done` is called before this returns.
        """
        batch = self._batch
        if self._lone_ticks < _LONE_TICKS or self._under_way or self._full or len(batch) != 1 or batch[0].count != 1:
            return
        self._lone_ticks += 1
        if self._lone_ticks % _PROBE_EVERY and self._is_quick(batch, self._batch_bytes):
            self._batch, self._batch_bytes = [], FRAME_BYTES
            self._guard(self._flush_here, batch)

    def _is_quick(self, batch: list[Record], size: int) -> bool:
        """Tell whether to flush on the loop: the hop to the thread would take about as long."""
        is_small = len(batch) == 1 and size < _SMALL_BATCH_BYTES
        return is_small and self._flush_s < _INLINE_FLUSH_S and self._writer.fits(size)

    def _end_tick(self) -> None:
        """Start a flush of what this tick of the loop brought."""
        self._ticking = False
        assert not self._busy, "ticks are not asked for while a flush runs"
        if self._batch:
            self._lone_ticks = self._lone_ticks + 1 if len(self._batch) == 1 and not self._full else 0
            self._flush_next()

    def _flush_next(self) -> None:
        """Take the oldest batch: to a new segment if need be, on the loop if it is a lone record and flushes are quick."""
        batch, size = self._full.popleft() if self._full else (self._batch, self._batch_bytes)
        if batch is self._batch:
            self._batch = []
            self._batch_bytes = FRAME_BYTES
        if not self._writer.fits(size):
            self._busy = True
            self._under_way = batch
            self._hand_over(self._roll, self._rolled, batch)
        elif not self._batch and self._is_quick(batch, size):
            self._flush_here(batch)
        else:
            self._flush_there(batch)

    def _flush_here(self, batch: list[Record]) -> None:
        batch[0].alone = True
        self._offer(batch)
        self._began_at = self._clock.monotonic()
        try:
            flushed = self._write(batch)
        except Exception as error:
            self._fail(error)
        else:
            self._settle(batch, flushed)

    def _flush_there(self, batch: list[Record]) -> None:
        self._busy = True
        self._offer(batch)
        self._began_at = self._clock.monotonic()
        self._hand_over(lambda: self._write(batch), self._flushed, batch)

    def _hand_over(self, operation: Callable[[], _Result], then: _Then[_Result], batch: list[Record]) -> None:
        """Let the thread work for `batch`, and go on with what came of it."""

        def back(result: _Result | None, error: BaseException | None) -> None:
            self._is_away = False
            self._guard(then, batch, result, error)

        self._is_away = True
        self._flusher.submit(operation, back)

    def _offer(self, batch: list[Record]) -> None:
        """Let the listener claim of `batch` what it will."""
        self._under_way = batch
        self._is_offered = True
        try:
            self.listener.before_flush(batch)
        except Exception as error:
            for record in batch:
                record.claimed = False
            self._on_fault(error)

    def _take_back(self) -> list[Record]:
        """Return the batch under way, which failed; the listener hears of it, if it was offered."""
        batch, self._under_way = self._under_way, []
        if self._is_offered:
            self._is_offered = False
            try:
                self.listener.failed(batch)
            except Exception as error:
                self._on_fault(error)
        return batch

    def _write(self, batch: list[Record]) -> Flushed:
        """Flush a batch where a start will find it; called in either thread. Raises: as `Writer.commit`. JournalError."""
        if self._clock.monotonic() - self._checked_at >= _CHECK_S:
            self._check()
        return self._writer.commit(batch)

    def _check(self) -> None:
        """See to it that folder, lock and segment stand under their names.

        Raises: JournalError, OSError: one does not, and the segment is abandoned.
        """
        try:
            self._lock.check()
            self._writer.check()
        except BaseException:
            self._writer.abandon()
            raise
        self._checked_at = self._clock.monotonic()

    def _check_in_quiet(self) -> None:
        """Notice a journal that is gone before somebody inserts."""
        self._watch = self._loop.call_later(_CHECK_S, self._guard, self._check_in_quiet)
        if self._busy or self.condition not in (Condition.OPEN, Condition.NO_SPACE):
            return
        try:
            self._check()
        except Exception as error:
            self._fail(error)

    def _rolled(self, batch: list[Record], segment: Segment | None, error: BaseException | None) -> None:
        if segment is None:
            self._busy = False
            self._fail(error)
            return
        self._kept.add(segment)
        self._flush_there(batch)

    def _flushed(self, batch: list[Record], flushed: Flushed | None, error: BaseException | None) -> None:
        """Settle a batch that the thread flushed. What arrived meanwhile is the next one, except that a lone record
        waits for the end of the tick, which may bring it company."""
        if flushed is None:
            self._busy = False
            self._fail(error)
            return
        self._settle(batch, flushed)
        self._busy = False
        if self._full or len(self._batch) > 1:
            self._flush_next()
        elif self._batch:
            self._ask_for_tick()

    def _ask_for_tick(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._loop.call_soon(self._guard, self._end_tick)

    def _settle(self, batch: list[Record], flushed: Flushed) -> None:
        now = self._clock.monotonic()
        size = FRAME_BYTES + flushed.frame.length
        if size < _SMALL_BATCH_BYTES:
            self._flush_s += 0.2 * (now - self._began_at - self._flush_s)
        self._reopen_s = self.REOPEN_FIRST_S
        self._kept.current.grow(flushed.frame, flushed.end)
        self.batches += 1
        self.records += len(batch)
        self.bytes += size
        self._unmeasured_bytes += size
        seq = flushed.frame.first_seq
        for record in batch:
            record.seq = seq
            seq += 1
            if record.done is not None:
                _tell(record.done, None)
        self._is_offered = False
        try:
            self.listener.flushed(batch)
        except Exception as error:
            self._on_fault(error)
        self._under_way = []
        self._count_settled(len(batch))
        if self._unmeasured_bytes >= _MEASURE_BYTES or now - self._measured_at >= _MEASURE_S:
            self._measure_space()

    def _fail(self, error: BaseException | None) -> None:
        """Fail every record that is not settled, and begin to try new segments."""
        failed = [*self._take_back(), *self._take_waiting()]
        self.failures += 1
        self.failure = _told(error)
        _log.error("journal failed", segment=self._kept.current.name, records=len(failed), error=self.failure)
        if self.condition is not Condition.CLOSED:
            self.condition = Condition.FAILED
            self._try_to_reopen()
        self._tell_failed(failed)
        self._count_settled(len(failed))

    def _take_waiting(self) -> list[Record]:
        """Return the records whose batch nothing was begun with."""
        waiting = [*(record for full, _ in self._full for record in full), *self._batch]
        self._full.clear()
        self._batch = []
        self._batch_bytes = FRAME_BYTES
        return waiting

    def _tell_failed(self, records: list[Record]) -> None:
        told = JournalFailedError(f"writing the journal failed: {self.failure}")
        for record in records:
            if record.done is not None:
                _tell(record.done, told)

    def _try_to_reopen(self) -> None:
        """Try a new segment after the back-off, which only a flush that succeeds ends."""
        reopened = partial(self._guard, self._reopened)
        self._try_later(lambda: self._flusher.submit(self._reopen, reopened), self._reopen_s)
        self._reopen_s = min(self._reopen_s * 2, self.REOPEN_LAST_S)

    def _roll(self) -> Segment:
        self._check()
        return self._writer.roll()

    def _reopen(self) -> Segment:
        """Begin a new segment, if the folder is ours and nothing that is needed is missing from it.

        Raises: JournalError, OSError.
        """
        if self._lock.regain():
            self._is_alone = False
        if not self._is_alone:
            self._writer.check_alone()
            self._is_alone = True
        self._writer.check_unless_stored(self._kept.checkpoint_seq)
        return self._writer.roll()

    def _reopened(self, segment: Segment | None, error: BaseException | None) -> None:
        if segment is not None:
            self._kept.add(segment)
        if self.condition is Condition.CLOSED:
            return
        if segment is None:
            self.failure = _told(error)
            self._no_segment.met(error=self.failure)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                self._ask_for_space()
            self._try_to_reopen()
            return
        self.condition = Condition.OPEN
        self._no_segment.over()
        _log.info("journal works again", segment=segment.name)
        self._measure_space()

    def _measure_space(self) -> None:
        """Refuse, or accept again, by the space that is left. A measurement that fails says nothing."""
        self._unmeasured_bytes = 0
        self._measured_at = self._clock.monotonic()
        try:
            self.space.update(self._files.free_bytes(self._directory), self._kept.backlog_bytes, self._owed())
        except OSError as error:
            self._unmeasured.met(error=str(error))
        else:
            self._unmeasured.over()
        if self.space.is_low and self.condition is Condition.OPEN:
            self.condition = Condition.NO_SPACE
            _log.error(
                "journal refuses new jobs: the disk is nearly full",
                free_bytes=self.space.free_bytes,
                needed_bytes=self.space.needed_bytes,
            )
        elif self.condition is Condition.NO_SPACE and not self.space.is_low:
            self.condition = Condition.OPEN
            _log.info("journal accepts jobs again", free_bytes=self.space.free_bytes)
        if self.condition is Condition.NO_SPACE:
            self._ask_for_space()
            self._try_later(self._measure_space, _MEASURE_S)
        if not self._has_reserve and self.space.free_bytes >= LEAST_FREE_BYTES + self._reserve_bytes:
            self._has_reserve = True
            self._flusher.submit(
                lambda: keep_reserve(self._files, self._directory, self._reserve_bytes), lambda _result, _error: None
            )

    def _ask_for_space(self) -> None:
        try:
            self._on_low()
        except Exception:
            _log.exception("a journal callback failed")

    def _try_later(self, action: Callable[[], None], delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._guard, action)

    def _guard(self, step: Callable[..., None], *news: Any) -> None:
        """Take a step that the loop asks for, where an error would be lost: nobody waits for what it returns."""
        try:
            step(*news)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Accept no more after an error that nothing here foresees, which leaves the state in doubt.

        What the thread has in hand comes back and is settled as ever; everything else fails, so that nobody waits for it.
        """
        self.condition = Condition.FAILED
        self.failure = f"{type(error).__name__}: {error}"
        failed = self._take_waiting()
        if not self._is_away:
            failed = [*(record for record in self._take_back() if record.seq < 0), *failed]
        self._tell_failed(failed)
        self._count_settled(self.unsettled - len(self._under_way))
        self._on_fault(error)

    def _count_settled(self, count: int) -> None:
        self._settled += count
        while self._waiters and self._waiters[0][0] <= self._settled:
            waiter = self._waiters.popleft()[1]
            if not waiter.done():
                waiter.set_result(None)


def _told(error: BaseException | None) -> str:
    return str(error) if isinstance(error, JournalError) else f"{type(error).__name__}: {error}"


def _tell(done: Callable[[JournalError | None], None], news: JournalError | None) -> None:
    """Call `done`; one client's fault must not keep the news from the others."""
    try:
        done(news)
    except Exception:
        _log.exception("a journal callback failed")
