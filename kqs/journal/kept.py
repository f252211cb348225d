"""The durable segments: what they hold, reading them back, and letting them go. Call from the loop thread.

Disk work is offloaded; the list itself changes on the loop only.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path

from kqs.errors import JournalError
from kqs.journal.checkpoint import keep_spare, write_checkpoint
from kqs.journal.files import Files
from kqs.journal.format import MalformedError, Record
from kqs.journal.reader import SLICE_BYTES, FrameReader
from kqs.journal.segment import Segment, corrupt
from kqs.process.threads import Offload, in_thread
from kqs.reasons import reason_of, reason_with_file


class KeptSegments:
    """Oldest first, numbered without a gap; the last is the one being written."""

    def __init__(self, files: Files, directory: Path, offload: Offload = in_thread) -> None:
        self._files = files
        self._offload = offload
        self._directory = directory
        self._segments: list[Segment] = []
        #: the segment that is being written, once one is
        self.current: Segment
        self._changing = asyncio.Lock()
        self.checkpoint_seq = 0

    def load(self, segments: list[Segment], checkpoint_seq: int | None) -> None:
        """Take over what a start found. A lost checkpoint means that everything kept is replayed."""
        self._segments = segments
        self.current = segments[-1]
        self.checkpoint_seq = segments[0].header.first_seq if checkpoint_seq is None else checkpoint_seq

    def add(self, segment: Segment) -> None:
        """Take in a segment that was just begun; it may stand in place of an empty one of its number."""
        if self._segments[-1].header.number == segment.header.number:
            del self._segments[-1]
        self._segments.append(segment)
        self.current = segment

    @property
    def count(self) -> int:
        """Return how many segments there are."""
        return len(self._segments)

    @property
    def durable_seq(self) -> int:
        """Return the seq after the last durable record."""
        return self._segments[-1].end_seq if self._segments else 0

    @property
    def backlog_bytes(self) -> int:
        """Return the bytes that hold records not below the checkpoint, overcounted by a MiB at most."""
        return sum(segment.bytes_from(self.checkpoint_seq) for segment in self._segments)

    @property
    def last_order(self) -> int:
        """Return the highest order in any segment, 0 when there is none."""
        return max((segment.last_order for segment in self._segments), default=0)

    async def read(self, from_seq: int) -> AsyncGenerator[list[Record], None]:
        """Yield the durable records from `from_seq` on, in order, a MiB of them at a time; end at the durable end.

        Raises: JournalCorruptError: "file:offset" of damage that came after the start. JournalError: the disk refused.
        """
        while (segment := self._holding(from_seq)) is not None:
            path = self._directory / segment.name
            seq, offset = segment.seek(from_seq)
            try:
                handle = await self._offload(self._files.open, path)
                try:
                    reader = FrameReader(self._files, handle, segment.salt, offset, segment.end, seq)
                    while not reader.at_end:
                        records = await self._offload(reader.take, SLICE_BYTES)
                        if records and records[0].seq < from_seq:
                            records = [record for record in records if record.seq >= from_seq]
                        if records:
                            yield records
                    from_seq = reader.seq
                finally:
                    self._files.close(handle)
            except MalformedError as error:
                raise corrupt(self._directory, segment.name, reader.offset, str(error)) from None
            except OSError as error:
                raise JournalError(f"{path} cannot be read: {reason_of(error)}") from error

    async def checkpoint(self, journal_id: bytes, fed_seq: int, check: Callable[[], None]) -> None:
        """Make durable that every record below `fed_seq` is in the store, then unlink the segments wholly below it.

        Args: check: raises what is wrong with the folder, of which nothing is touched then; it asks the disk.
        Raises: JournalError: the checkpoint may or may not have moved, and segments may be left for the next one.
        """
        assert fed_seq <= self.durable_seq, f"checkpoint {fed_seq} is beyond the durable end {self.durable_seq}"
        async with self._changing:
            try:
                await self._offload(check)
                if fed_seq > self.checkpoint_seq:
                    await self._offload(write_checkpoint, self._files, self._directory, journal_id, fed_seq)
                    self.checkpoint_seq = fed_seq
                while len(self._segments) > 1 and self._segments[0].end_seq <= self.checkpoint_seq:
                    await self._offload(self._unlink, self._segments[0].name)
                    del self._segments[0]
                await self._offload(keep_spare, self._files, self._directory)
            except OSError as error:
                raise JournalError(f"the checkpoint in {self._directory} failed: {reason_with_file(error)}") from error

    async def settle(self) -> None:
        """Return when no checkpoint is being written."""
        async with self._changing:
            pass

    def _holding(self, seq: int) -> Segment | None:
        """Return the first segment with a record at or above `seq`, or None."""
        at = bisect_right(self._segments, seq, key=lambda segment: segment.end_seq)
        return self._segments[at] if at < len(self._segments) else None

    def _unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):  # an earlier attempt got this far, but its directory flush failed
            self._files.unlink(self._directory / name)
        self._files.flush_dir(self._directory)
