"""Frames onto the disk: commit, roll to a new segment, abandon one that failed.

One user at a time: the flush thread, or the loop thread while no flush is in flight. Invariants:
1. Nothing is written behind a frame before that frame was flushed.
2. After a failed write or flush the handle is closed and never used again; only `roll` leads on.
3. A number is used up only when its segment is durable, so a creation that failed half-way leaves no gap.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from kqs.config import JournalSection
from kqs.errors import JournalError
from kqs.journal.files import Files, Identity, opened, write_all
from kqs.journal.format import (
    FRAME_BYTES,
    MAX_FRAME_RECORDS,
    FrameHeader,
    JournalName,
    Record,
    SegmentHeader,
    encode_frame,
    reseal_frame,
    seal_void,
)
from kqs.journal.reader import Frame
from kqs.journal.segment import Segment, create_segment, read_header, segment_number
from kqs.journal.space import kept_free_bytes

_NO_SEGMENT = bytes(16)

#: on a full disk a segment is no longer than this and what it must hold
_SHORTEST_BYTES = 16 * 1024


class Flushed(msgspec.Struct, frozen=True, gc=False):
    """A batch that is durable; `end` is the byte offset after it."""

    frame: FrameHeader
    end: int


class Writer:
    """Owns the segment that is being written. See the module docstring."""

    def __init__(self, files: Files, settings: JournalSection) -> None:
        self._files = files
        self._directory = settings.dir
        self._settings = settings
        self._capacity = settings.segment_bytes
        self._handle: int | None = None
        self._header: SegmentHeader | None = None
        self._salt = 0
        self._end = 0
        self._seq = 0
        self._path = settings.dir
        self._identity: Identity | None = None
        self._name: str | None = None
        self._length = 0  # that the current segment's file has at least
        self._drawn: set[bytes] = set()

    def start(
        self, previous: Segment | None, last_frame: Frame | None, next_seq: int = 0, name: JournalName | None = None
    ) -> Segment:
        """Open a segment after `previous` (None: the first of a new journal), and flush `last_frame` again in it.

        Whether that batch was flushed before is not known; its old place counts no more, so `previous` ends before it.
        next_seq: of the first record to come; those before it that are not here are void. name: of a new journal; None: one
        that no other has.
        Raises: OSError: for the next start, nothing has changed.
        """
        if previous is None:
            journal_id, node = name or JournalName(_random_id(), secrets.token_bytes(4))
            header = SegmentHeader(1, _random_id(), journal_id, node, 0, _NO_SEGMENT, 0)
        else:
            if last_frame is not None:
                previous.end, previous.end_seq = last_frame.offset, last_frame.header.first_seq
            header = _follower(previous.header, previous.end_seq, previous.end)
        return self._create(header, last_frame, next_seq)

    def skip_to(self, next_seq: int) -> list[Flushed]:
        """Void the records up to `next_seq`, which are not here, so that no new one gets their numbers.

        Raises: as `commit`.
        """
        return [self._append(header, frame) for header, frame in _voids(self._seq, next_seq, self._salt)]

    def fits(self, size: int) -> bool:
        """Tell whether a batch of `size` bytes may join the current segment; an empty one takes any."""
        assert self._header is not None
        return self._end + size <= self._capacity or self._seq == self._header.first_seq

    def commit(self, records: list[Record], meanwhile: Callable[[], None] | None = None) -> Flushed:
        """Write one batch, see to it that a start would find the segment, and flush it.

        Args: meanwhile: called while the disk writes, which is told to begin before. Given for a lone record, since that hides
            30 us of what is done until the flush, and costs 5: large batches would come 0.9 times as fast.
        Raises: OSError, JournalError, or whatever went wrong: the batch may or may not survive, and the segment is abandoned.
        """
        return self._append(*encode_frame(records, self._seq, self._salt), meanwhile)

    def _append(self, header: FrameHeader, frame: bytearray, meanwhile: Callable[[], None] | None = None) -> Flushed:
        handle = self._handle
        assert handle is not None, "commit on an abandoned segment"
        try:
            write_all(self._files, handle, frame, self._end)
            if meanwhile is not None:
                self._files.begin_flush(handle, len(frame), self._end)
                meanwhile()
            self._check_name(handle)
            self._files.flush(handle)
        except BaseException:
            self._let_go(handle)
            raise
        self._end += len(frame)
        self._seq = header.first_seq + header.records
        return Flushed(header, self._end)

    def roll(self) -> Segment:
        """Begin the next segment; the current one, unless it failed, is cut to its length.

        A current one that never took a batch is replaced, under its number: a disk that fails every flush is not filled.
        Raises: OSError: no batch can be committed before a roll succeeds, since the new name may stand on the disk already
            and say where the current segment ends.
        """
        assert self._header is not None
        self.close()
        if self._seq == self._header.first_seq:
            header = self._header._replace(id=_random_id())
        else:
            header = _follower(self._header, self._seq, self._end)
        return self._create(header)

    def check(self) -> None:
        """Raises: JournalError: no start would find the current segment, or not all of it. OSError.

        A file that was emptied under us has its length back with the next write, but not what was allocated.
        """
        if self._files.identity_of(self._path) != self._identity:
            raise JournalError(f"the segment {self._path} was removed or replaced")
        if self._size() < self._length:
            raise JournalError(f"the segment {self._path} was cut short")

    def _size(self) -> int:
        """Return how long the current segment's file is; one that is open needs no descriptor more, which there may not be."""
        if self._handle is not None:
            return self._files.size(self._handle)
        with opened(self._files, self._path) as handle:
            return self._files.size(handle)

    def _check_name(self, handle: int) -> None:
        """As `check`, where the system tells an open file's name without a stat.

        Asked before a flush: after it this would take four times as long, for the processor has forgotten the way. What is
        removed during a flush takes with it what was acknowledged before, whether or not this batch is. Since Linux 6.13 the
        first write after a stat has to note its time exactly, and its flush takes 50 us longer.
        """
        if self._name is None or self._files.name_of(handle) != self._name:
            self.check()

    def check_unless_stored(self, stored_seq: int) -> None:
        """As `check`, unless nobody needs the current segment: the store has all below `stored_seq`."""
        assert self._header is not None
        if self._seq > max(stored_seq, self._header.first_seq):
            self.check()

    def check_alone(self) -> None:
        """Raises: JournalError: a segment that we did not write stands behind the current one. OSError."""
        assert self._header is not None
        for name in self._files.list(self._directory):
            is_later = (segment_number(name) or 0) > self._header.number
            if is_later and read_header(self._files, self._directory, name).id not in self._drawn:
                raise JournalError(f"another server has written {self._directory / name}; start this one again")

    def abandon(self) -> None:
        """Never write to the current segment again; only `roll` leads on."""
        if self._handle is not None:
            self._let_go(self._handle)

    def close(self) -> None:
        """Cut the current segment to its length and close it. Every batch was flushed before, so nothing can be lost."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        self._length = self._end
        with suppress(OSError):  # it is merely longer then
            self._files.truncate(handle, self._end)
        with suppress(OSError):
            self._files.close(handle)

    def _create(self, header: SegmentHeader, last_frame: Frame | None = None, next_seq: int = 0) -> Segment:
        segment = Segment.empty(header)
        data = bytearray()
        if last_frame is not None:
            frame_header, frame = reseal_frame(last_frame.header, last_frame.payload, segment.salt)
            segment.grow(frame_header, segment.end + len(frame))
            data += frame
        for frame_header, frame in _voids(segment.end_seq, next_seq, segment.salt):
            segment.grow(frame_header, segment.end + len(frame))
            data += frame
        self._drawn.add(header.id)
        self._capacity = self._affordable()
        handle = create_segment(self._files, self._directory, header, self._capacity, data)
        try:
            self._identity = self._files.identity(handle)
            self._name = self._files.name_of(handle)
        except OSError:
            self._let_go(handle)
            raise
        self._handle, self._drawn = handle, {header.id}
        self._path = self._directory / segment.name
        self._length = max(self._capacity, segment.end)
        self._header, self._salt, self._end, self._seq = header, segment.salt, segment.end, segment.end_seq
        return segment

    def _affordable(self) -> int:
        """Return how long a segment may be without taking the disk's last room."""
        longest = self._settings.segment_bytes
        try:
            free = self._files.free_bytes(self._directory)
        except OSError:
            return longest
        return min(longest, max(_SHORTEST_BYTES, free - kept_free_bytes(self._settings.min_free_bytes)))

    def _let_go(self, handle: int) -> None:
        """Close without flushing: a second flush could succeed after the kernel dropped the pages."""
        self._handle = None
        with suppress(OSError):
            self._files.close(handle)


def _follower(header: SegmentHeader, seq: int, end: int) -> SegmentHeader:
    return SegmentHeader(header.number + 1, _random_id(), header.journal_id, header.node, seq, header.id, end)


def _voids(seq: int, end_seq: int, salt: int) -> Iterator[tuple[FrameHeader, bytearray]]:
    """Yield frames that say that records seq .. end_seq (exclusive) are not here; none if there are no such."""
    while seq < end_seq:
        part_end_seq = min(end_seq, seq + MAX_FRAME_RECORDS)
        yield seal_void(seq, part_end_seq, FRAME_BYTES, salt)
        seq = part_end_seq


def _random_id() -> bytes:
    return secrets.token_bytes(16)
