"""All that a running journal asks of its disk on the way in, each with the looks that belong to it.

One user at a time: the flush thread, or the loop thread while that has nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kqs.config import JournalSection
from kqs.journal.condition import Free
from kqs.journal.files import Files
from kqs.journal.format import FRAME_BYTES, Record
from kqs.journal.kept import KeptSegments
from kqs.journal.lock import JournalLock
from kqs.journal.reserve import RESERVE_BYTES, keep_reserve
from kqs.journal.segment import Segment
from kqs.journal.space import LEAST_FREE_BYTES
from kqs.journal.writer import Flushed, Writer

#: free space is measured after so many bytes too: a fast disk takes a hundred MiB between two looks
MEASURE_BYTES = 1 << 17


class Disk:
    """Owns the writer and looks after folder, lock and space."""

    #: so often, in s, it is seen to that folder and lock are still ours and how much is free; that the segment has its name,
    #: before each write
    LOOK_S = 1.0

    def __init__(
        self,
        settings: JournalSection,
        files: Files,
        kept: KeptSegments,
        writer: Writer,
        lock: JournalLock,
        owed: Callable[[], int],
        now: float,
    ) -> None:
        """Args: writer: with an open segment, in the folder of `lock`. owed: see Journal. now: monotonic, in s."""
        self._files = files
        self._directory = Path(settings.dir)
        self._kept = kept
        self._writer = writer
        self._lock = lock
        self._looked_at = now
        self._unmeasured_bytes = 0
        self._owed = owed
        #: as it was at the last look: it changes slowly, and in a flood the thread waits for its turn after each question
        self.owed_bytes = owed()
        self._reserve_bytes = min(RESERVE_BYTES, 4 * settings.segment_bytes)
        self._has_reserve = False
        self._is_alone = True
        self.fits = writer.fits
        self.skip_to = writer.skip_to
        self.close = writer.close

    def write(
        self, batch: list[Record], now: float, meanwhile: Callable[[], None] | None = None
    ) -> tuple[Flushed, Free | None]:
        """Flush a batch where a start will find it; return what is free, if that was looked at.

        Args and Raises: as `Writer.commit`. JournalError.
        """
        is_due = now - self._looked_at >= self.LOOK_S
        if is_due:
            self._look()
            self._looked_at = now
        flushed = self._writer.commit(batch, meanwhile)
        self._unmeasured_bytes += FRAME_BYTES + flushed.frame.length
        if is_due or self._unmeasured_bytes >= MEASURE_BYTES:
            return flushed, self.measure()
        return flushed, None

    def look(self) -> Free:
        """Do what `write` does besides writing. Raises: as `check`."""
        self._look()
        return self.measure()

    def _look(self) -> None:
        self.check()
        self.owed_bytes = self._owed()

    def check(self) -> None:
        """See to it that folder, lock and segment stand under their names.

        Raises: JournalError, OSError: one does not, and the segment is abandoned.
        """
        try:
            self._lock.check()
            self._writer.check()
        except BaseException:
            self._writer.abandon()
            raise

    def measure(self) -> Free:
        """Return how much is free."""
        self._unmeasured_bytes = 0
        return measured(self._files, self._directory)

    def roll(self) -> Segment:
        """Begin the next segment. Raises: as `check`, `Writer.roll`."""
        self.check()
        return self._begin()

    def reopen(self) -> tuple[Segment, Free]:
        """Begin a new segment after a failure, if the folder is ours and nothing that is needed is missing from it.

        Raises: JournalError, OSError.
        """
        if self._lock.regain():
            self._is_alone = False
        if not self._is_alone:
            self._writer.check_alone()
            self._is_alone = True
        self._writer.check_unless_stored(self._kept.checkpoint_seq)
        return self._begin(), self.measure()

    def _begin(self) -> Segment:
        """Begin the next segment, and see that this was in the folder that is ours: it may have been replaced meanwhile."""
        segment = self._writer.roll()
        try:
            self._lock.check_folder()
        except BaseException:
            self._writer.abandon()
            raise
        return segment

    def reserve(self, free: Free) -> Callable[[], None] | None:
        """Return how to keep room for the next start, if there is plenty and none is kept; it takes the disk some time."""
        if self._has_reserve or isinstance(free, OSError) or free < LEAST_FREE_BYTES + self._reserve_bytes:
            return None
        self._has_reserve = True
        return lambda: keep_reserve(self._files, self._directory, self._reserve_bytes)


def measured(files: Files, directory: Path) -> Free:
    """Return how much is free on the disk of a folder, or why that cannot be told."""
    try:
        return files.free_bytes(directory)
    except OSError as error:
        return error
