"""The journal as the server sees it: start, append, read back, checkpoint, stop.

Call from the loop thread. What is promised, and the bytes on disk: docs/journal-format.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kqs.clock import Clock
from kqs.config import JournalSection
from kqs.errors import JournalClosedError, JournalError
from kqs.journal import renewal
from kqs.journal.commit import GroupCommit
from kqs.journal.condition import Condition, Free
from kqs.journal.disk import Disk, measured
from kqs.journal.files import Files, OsFiles
from kqs.journal.flusher import IN_THREADS, ON_LOOP
from kqs.journal.format import JournalName, Record, SegmentHeader
from kqs.journal.kept import KeptSegments
from kqs.journal.listener import Listener
from kqs.journal.lock import LOCK_NAME, JournalLock
from kqs.journal.passing import PassingFiles
from kqs.journal.recovery import TORN, kept_aside, recover
from kqs.journal.scan import Found
from kqs.journal.segment import Segment
from kqs.journal.writer import Writer
from kqs.log import get_logger
from kqs.reasons import reason_with_file
from kqs.tasks import spawn

_log = get_logger("kqs.journal")

#: what a journal keeps open files under, as fnmatch has it
JOURNAL_FILES = (LOCK_NAME, "*.kqj", "*.kqj.*", "checkpoint", "checkpoint.*", "reserve")

_Done = TypeVar("_Done")


class Recovery(NamedTuple):
    """What `start` found.

    journal_id: 32 hex digits; node: 8, the end of every id this server makes. last_order: the highest order in any segment, 0
    when there is none. checkpoint_seq: records below it are in the store. is_cut: its end is damaged, so that a store may have
    more than it. is_as_stopped: a stop left it, with all of it in the store. is_renewed: it takes the place of one that is
    lost, until `settle_renewal`.
    """

    journal_id: str
    node: str
    next_seq: int
    last_order: int
    checkpoint_seq: int
    is_cut: bool = False
    is_as_stopped: bool = False
    is_renewed: bool = False


def _log_fault(error: BaseException) -> None:
    _log.error("journal met an unexpected error", exc_info=error)


class Journal:
    """See the module docstring. on_low: called each second while the disk is too full, for whoever can give something back.

    owed: asked, in any thread, how many bytes of the disk must be left for what was accepted and fed. on_fault: called with any
    error of the listener, or of the journal's own that nothing foresees: the node must stop, and the next start replays what
    was missed.
    is_passing: nothing in the folder need last; it is in memory, and all is done on the loop.
    """

    def __init__(
        self,
        settings: JournalSection,
        clock: Clock,
        files: Files | None = None,
        *,
        on_low: Callable[[], None] = lambda: None,
        owed: Callable[[], int] = lambda: 0,
        on_fault: Callable[[BaseException], None] = _log_fault,
        is_passing: bool = False,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._owed = owed
        self._on_fault = on_fault
        self._directory = Path(settings.dir)
        self._files: Files = files or (PassingFiles() if is_passing else OsFiles())
        work = ON_LOOP if is_passing else IN_THREADS
        self._make_flusher, self._offload = work
        self._kept = KeptSegments(self._files, self._directory, self._offload)
        self._commit = GroupCommit(settings, clock, self._kept, on_low, on_fault, self._offload)
        #: let a record join the open batch, and flush it now if it is alone there: see GroupCommit
        self.append, self.flush_if_alone = self._commit.append, self._commit.flush_if_alone
        self._lock: JournalLock | None = None
        self._writer: Writer | None = None
        self._stopping = asyncio.Lock()
        self._header: SegmentHeader | None = None
        self._torn: tuple[str, int] | None = None
        self._torn_files: list[tuple[str, int]] = []
        self._is_renewed = False

    async def start(self, lost: Callable[[], JournalName | None] = lambda: None) -> Recovery:
        """Lock the directory, recover what it holds, open a new segment; nothing is held if this raises.

        Args: lost: returns the name of the lost journal whose place this takes, or None: a new one; asked in a thread.
        Raises: JournalLockedError: another server has it. JournalVersionError: of a newer version; nothing was touched.
            JournalCorruptError: "file:offset reason"; nothing was touched. JournalError: not ours, or the disk refused.
        """
        assert self._lock is None, "started twice"
        flusher = None
        try:
            flusher = self._make_flusher(self._on_fault)
            found, segment, free, self._torn_files = await _in_full(self._offload(partial(self._recover, lost)))
        except BaseException as error:
            self._let_go()
            if flusher is not None:
                await flusher.stop()
            if isinstance(error, OSError):
                raise self._unusable(error) from error
            raise
        assert self._lock is not None
        assert self._writer is not None
        self._header = segment.header
        self._kept.load([*found.segments, segment], found.checkpoint_seq)
        now = self._clock.monotonic()
        disk = Disk(self._settings, self._files, self._kept, self._writer, self._lock, self._owed, now)
        self._commit.start(flusher, disk, free)
        if found.torn is not None:
            self._torn = (found.torn.name, found.torn.end - found.torn.start)
            _log.warning("journal had a torn tail, which was set aside", file=self._torn[0], bytes=self._torn[1])
        if self._torn_files:
            _log.info("torn tails are kept", files=self._torn_names(), bytes=self._torn_bytes())
        for damage in found.harmless:
            if damage == found.lost_end:
                _log.error("the journal has lost its end, which the store has", damage=damage)
            else:
                _log.warning("journal is damaged, and nothing is lost by it", damage=damage)
        return Recovery(
            segment.header.journal_id.hex(),
            segment.header.node.hex(),
            self.next_seq,
            self._kept.last_order,
            self._kept.checkpoint_seq,
            is_cut=found.next_seq > found.end_seq,
            is_as_stopped=found.next_seq == found.end_seq == found.checkpoint_seq,
            is_renewed=self._is_renewed,
        )

    async def settle_renewal(self) -> None:
        """Take in that the store goes on with this journal. Raises: JournalError: it does not last beyond this start."""
        try:
            await self._offload(partial(renewal.settle, self._files, self._directory))
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> JournalError:
        return JournalError(f"the journal in {self._directory} cannot be used: {reason_with_file(error)}")

    async def stop(self) -> None:
        """Settle what was appended, close, unlock. Idempotent; tolerates never started."""
        async with self._stopping:
            if self._lock is not None:
                await self._commit.stop()
                await self._kept.settle()
                self._let_go()

    def listen(self, listener: Listener) -> None:
        """Let `listener`, in place of nobody, hear of every batch from here on."""
        self._commit.listen(listener)

    def skip_to(self, seq: int) -> bool:
        """Let the next record be `seq`, where the store has all below it; blocks for a flush. False: something was appended.

        Raises: JournalError: the disk refused.
        """
        return self._commit.skip_to(seq)

    def read(self, from_seq: int) -> AsyncGenerator[list[Record], None]:
        """Yield the durable records from `from_seq` on, in order, about a MiB at a time; end at the durable end.

        They have payload and seq, but no jobs. Below the oldest segment it begins with that.
        Raises: JournalCorruptError: "file:offset" of damage that came after the start. JournalError: the disk refused.
        """
        return self._kept.read(from_seq)

    async def checkpoint(self, fed_seq: int) -> None:
        """Take in that the store durably has every record below `fed_seq`, and unlink the segments nobody needs now.

        Raises: JournalClosedError. JournalError: the checkpoint may not have moved, or segments are left for the next one.
        """
        if self._lock is None:
            raise JournalClosedError("the journal is closed")
        await self._kept.checkpoint(self._identity.journal_id, fed_seq, self._lock.check)

    @property
    def checkpoint_seq(self) -> int:
        """Return the first seq that the store may not have, as far as the disk knows."""
        return self._kept.checkpoint_seq

    @property
    def durable_seq(self) -> int:
        """Return the seq after the last durable record."""
        return self._kept.durable_seq

    @property
    def next_seq(self) -> int:
        """Return the seq the next record will get if everything appended before becomes durable."""
        return self._kept.durable_seq + self._commit.unsettled

    @property
    def backlog_bytes(self) -> int:
        """Return the bytes of records not below the checkpoint, overcounted by a MiB at most."""
        return self._kept.backlog_bytes

    @property
    def accepting(self) -> bool:
        """Tell whether `append` would take a record."""
        return self._commit.acceptance.condition is Condition.OPEN

    def stats(self) -> dict[str, int]:
        """Return plain numbers: this process' counts, and what stands on disk."""
        commit = self._commit
        return {
            "records": commit.records,
            "batches": commit.batches,
            "bytes": commit.bytes,
            "failures": commit.acceptance.failures,
            "segments": self._kept.count,
            "durable_seq": self.durable_seq,
            "checkpoint_seq": self.checkpoint_seq,
            "backlog_bytes": self.backlog_bytes,
            "free_bytes": commit.acceptance.space.free_bytes,
            "torn_bytes": self._torn[1] if self._torn else 0,
        }

    def problems(self) -> list[str]:
        """Return what is wrong now, one sentence each; [] when all is well."""
        return self._commit.acceptance.problems()

    def notes(self) -> list[str]:
        """Return what is worth a look and no trouble, one sentence each."""
        if not self._torn_files:
            return []
        return [f"torn tails of {self._torn_bytes()} bytes are kept in {self._directory}: {self._torn_names()}"]

    def _torn_names(self) -> str:
        return ", ".join(name for name, _ in self._torn_files)

    def _torn_bytes(self) -> int:
        return sum(size for _, size in self._torn_files)

    @property
    def _identity(self) -> SegmentHeader:
        assert self._header is not None, "not started"
        return self._header

    def _recover(self, lost: Callable[[], JournalName | None]) -> tuple[Found, Segment, Free, list[tuple[str, int]]]:
        """Do the disk's part of `start`; it is offloaded."""
        files, directory = self._files, self._directory
        files.make_dir(directory)
        self._lock = JournalLock(files, directory)
        self._is_renewed = renewal.is_renewed(files, directory)
        found, self._writer, segment = recover(files, self._settings, lost() if self._is_renewed else None)
        return found, segment, measured(files, directory), kept_aside(files, directory, TORN)

    def _let_go(self) -> None:
        """Close what `_recover` has opened. Idempotent."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


async def _in_full(work: Coroutine[Any, Any, _Done]) -> _Done:
    """Return what `work` returns; if cancelled, end when it has ended: the lock must not go while a thread works below it."""
    task = spawn(work, "journal")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
