"""What stands in a journal: whole, harmlessly damaged, or corrupt. Blocking; only reads.

Torn or corrupt? At most one flush is in flight, so only the last batch of the last segment can be torn; an intact frame after a
damaged one, or any damage elsewhere, is corruption. But nobody needs a record below the checkpoint, which the store has: damage
that hit no other is told and passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from kqs.errors import JournalCorruptError
from kqs.journal import checkpoint
from kqs.journal.files import Files, opened, read_all
from kqs.journal.format import (
    FRAME_BYTES,
    HEADER_BYTES,
    MINOR,
    RECORD_BYTES,
    FrameHeader,
    MalformedError,
    SegmentHeader,
    mended_header,
)
from kqs.journal.reader import Frame, Gap, find_frame, walk, written_end
from kqs.journal.segment import Segment, corrupt, read_header, see_to_files, segment_name, segment_number

#: as one was read, or why it was not
_Header = SegmentHeader | JournalCorruptError


class TornTail(NamedTuple):
    """Bytes start .. end of a file that a power cut left of an unacknowledged batch."""

    name: str
    start: int
    end: int


class Found(NamedTuple):
    """segments: oldest first. last_frame: the last intact frame of the last one; whether it was flushed is not known.

    harmless: damage to what the store has, one sentence each. end_seq: after the last record that stands here. next_seq: a new
    record may get no lower one, since the store may have one of that number already. lost_end: the one of `harmless` that tells
    that the journal ends too soon: whether anything stood behind what the store has, nobody can tell.
    """

    segments: list[Segment]
    checkpoint_seq: int | None
    last_frame: Frame | None
    torn: TornTail | None
    harmless: list[str]
    end_seq: int
    next_seq: int
    lost_end: str | None = None


class _Last(NamedTuple):
    """The last segment, as Found has it. end_seq: no record of a higher one was ever in it."""

    segment: Segment
    frame: Frame | None
    torn: TornTail | None
    end_seq: int


def scan(files: Files, directory: Path, *, everything: bool = False) -> Found:
    """Read and check every segment and the checkpoint; change nothing.

    everything: what the store has is needed too.
    Raises: JournalCorruptError: "file:offset reason". JournalVersionError. JournalError: something there is no file. OSError.
    """
    see_to_files(files, directory)
    return _Scan(files, directory, everything=everything).found()


class _Scan:
    """The steps of `scan`. Damage to records below `_stored_seq` is harmless."""

    def __init__(self, files: Files, directory: Path, *, everything: bool) -> None:
        self._files = files
        self._directory = directory
        self._names = files.list(directory)
        self._checkpoint = checkpoint.read_checkpoint(files, directory)
        self._stored_seq = 0 if everything or self._checkpoint is None else self._checkpoint.seq
        self._harmless: list[str] = []
        self._lost_end: str | None = None

    def found(self) -> Found:
        """See `scan`."""
        names = [name for name in self._names if segment_number(name) is not None]
        torn = self._headless(names[-1]) if names else None
        headers = [(name, self._header(name)) for name in (names if torn is None else names[:-1])]
        if not headers:
            return self._nothing(torn)
        mended = self._mended_last(*headers[-1])
        if mended is not None:
            self._harmless.append(f"{headers[-1][1]}; the store has all that it holds")
            headers[-1] = (headers[-1][0], mended)
        if not any(isinstance(header, SegmentHeader) and self._is_ours(header) for _, header in headers):
            self._stored_seq = 0
        first = self._first_needed(headers)
        needed = self._sound(headers[first:])
        segments = [self._sealed(one, other) for one, other in pairwise(needed)]
        last = self._last(needed[-1])
        segments = [*self._older(headers[:first], needed[0]), *segments, last.segment]
        checkpoint_seq = self._checkpoint_in(segments)
        next_seq = max(last.end_seq, checkpoint_seq or 0)
        end_seq = last.segment.end_seq
        return Found(segments, checkpoint_seq, last.frame, last.torn or torn, self._harmless, end_seq, next_seq, self._lost_end)

    def _nothing(self, torn: TornTail | None) -> Found:
        if checkpoint.NAME in self._names:
            raise corrupt(self._directory, checkpoint.NAME, 0, "there is a checkpoint but no segment")
        if torn is not None and torn.name != segment_name(1):
            raise corrupt(self._directory, torn.name, 0, "no intact segment stands before this empty one")
        return Found([], None, None, torn, [], 0, 0)

    def _headless(self, name: str) -> TornTail | None:
        """Return a last segment without room or bytes for any frame, which is a torn tail."""
        with opened(self._files, self._directory / name) as handle:
            size = self._files.size(handle)
            end = written_end(self._files, handle, 0, size)
        return TornTail(name, 0, end) if size < HEADER_BYTES or end == 0 else None

    def _header(self, name: str) -> _Header:
        try:
            return read_header(self._files, self._directory, name)
        except JournalCorruptError as error:
            return error

    def _mended_last(self, name: str, header: _Header) -> SegmentHeader | None:
        """Return what the damaged header of the last segment was, if that is certain and the store has all behind it."""
        if self._checkpoint is None or isinstance(header, SegmentHeader):
            return None
        with opened(self._files, self._directory / name) as handle:
            mended = mended_header(read_all(self._files, handle, HEADER_BYTES, 0))
        if mended is None or segment_name(mended.number) != name or mended.journal_id != self._checkpoint.journal_id:
            return None
        told = len(self._harmless)
        try:
            is_stored = self._last(mended).segment.end_seq <= self._stored_seq
        except JournalCorruptError:
            is_stored = False
        del self._harmless[told:]
        return mended if is_stored else None

    def _first_needed(self, headers: list[tuple[str, _Header]]) -> int:
        """Return the index of the last segment before whose end all is stored."""
        for index in range(len(headers) - 1, 0, -1):
            header = headers[index][1]
            if isinstance(header, SegmentHeader) and self._is_ours(header) and header.first_seq <= self._stored_seq:
                return index
        return 0

    def _is_ours(self, header: SegmentHeader) -> bool:
        return self._checkpoint is not None and header.journal_id == self._checkpoint.journal_id

    def _sound(self, headers: list[tuple[str, _Header]]) -> list[SegmentHeader]:
        """Return the headers, all of one journal. Raises: JournalCorruptError."""
        sound = []
        for _, header in headers:
            if isinstance(header, JournalCorruptError):
                raise header
            sound.append(header)
        ours = [header for header in sound if self._is_ours(header)] or sound
        ids = [header.journal_id for header in ours]
        journal_id = max(ids, key=ids.count)
        for header in sound:
            if header.journal_id != journal_id:
                raise corrupt(self._directory, segment_name(header.number), 0, "it belongs to another journal")
        return sound

    def _older(self, headers: list[tuple[str, _Header]], follower: SegmentHeader) -> list[Segment]:
        """Return the segments before `follower`, of which nobody needs any, as far as they are whole."""
        segments: list[Segment] = []
        while headers:
            header = headers[-1][1]
            try:
                if isinstance(header, JournalCorruptError):
                    raise header
                segments.insert(0, self._sealed(header, follower))
            except JournalCorruptError as error:
                self._harmless.append(f"{error}; the store has all that stood there")
                break
            headers, follower = headers[:-1], header
        self._harmless += [
            f"{self._directory / name} is not needed; the store has all that it held" for name, _ in headers[:-1]
        ]
        return segments

    def _sealed(self, header: SegmentHeader, follower: SegmentHeader) -> Segment:
        """Read a segment as far as its follower says that it was flushed."""
        _check_follower(self._directory, header, follower)
        segment = Segment.empty(header)
        with opened(self._files, self._directory / segment.name) as handle:
            _, gap = self._fill(segment, handle, follower.previous_end)
        if gap is not None:
            raise corrupt(self._directory, segment.name, gap.start, gap.reason)
        if segment.end != follower.previous_end or segment.end_seq != follower.first_seq:
            raise corrupt(self._directory, segment.name, segment.end, f"sequence gap before record {follower.first_seq}")
        return segment

    def _last(self, header: SegmentHeader) -> _Last:
        """Read the last segment up to the end of its log, and judge what stands behind that."""
        segment = Segment.empty(header)
        with opened(self._files, self._directory / segment.name) as handle:
            size = self._files.size(handle)
            frame, gap = self._fill(segment, handle, size)
            if gap is None:
                return _Last(segment, frame, None, segment.end_seq)
            return _Last(segment, frame, *self._judge_tail(segment, handle, size, gap.reason))

    def _fill(self, segment: Segment, handle: int, end: int) -> tuple[Frame | None, Gap | None]:
        """Take every frame into `segment`; return the last, and what is damaged behind it. Raises: JournalCorruptError."""
        frame = None
        for part in walk(self._files, handle, segment.salt, end, segment.header.first_seq):
            if isinstance(part, Frame):
                self._parse(segment, part)
                segment.grow(part.header, part.end)
                frame = part
            elif part.end_seq is None:
                return frame, part
            elif part.end_seq <= self._stored_seq:
                self._tell_gap(segment, part)
                segment.skip(part.end, part.end_seq)
            else:
                reason = f"{part.reason}, yet record {part.end_seq} stands at {part.end}"
                raise corrupt(self._directory, segment.name, part.start, reason)
        return frame, None

    def _parse(self, segment: Segment, frame: Frame) -> None:
        """See to it that this version knows what a newer one wrote. Raises: JournalCorruptError, JournalVersionError."""
        if segment.header.minor > MINOR:
            try:
                frame.records()
            except MalformedError as error:
                raise corrupt(self._directory, segment.name, frame.offset, str(error)) from None

    def _tell_gap(self, segment: Segment, gap: Gap) -> None:
        what = f"{gap.reason}; the store has records {gap.first_seq} .. {(gap.end_seq or 0) - 1}, which stood there"
        self._harmless.append(str(corrupt(self._directory, segment.name, gap.start, what)))

    def _judge_tail(self, segment: Segment, handle: int, size: int, reason: str) -> tuple[TornTail | None, int]:
        """Tell what the bytes after the last intact batch are: nothing, a torn tail, or (raised) proof of corruption.

        Return with it the seq after the last record that can have stood there.
        """
        start, seq = segment.end, segment.end_seq
        end = written_end(self._files, handle, start, size)
        headers = list(_frame_headers(self._files, handle, segment.salt, start, min(size, end + FRAME_BYTES)))
        later = headers[1:] if headers and headers[0][0] == start and headers[0][1].first_seq == seq else headers
        if later and later[-1][1].first_seq > self._stored_seq:
            reason = f"{reason}, yet record {later[0][1].first_seq} stands at {later[0][0]}"
            raise corrupt(self._directory, segment.name, start, reason)
        torn = TornTail(segment.name, start, end) if end > start else None
        for at, header in headers:
            start, seq = at + FRAME_BYTES + header.length, max(seq, header.end_seq)
        return torn, seq + max(0, end - start) // RECORD_BYTES

    def _checkpoint_in(self, segments: list[Segment]) -> int | None:
        """Return the checkpoint, if it is this journal's. Raises: JournalCorruptError: what is above it is missing."""
        first, last = segments[0], segments[-1]
        if self._checkpoint is None or self._checkpoint.journal_id != last.header.journal_id:
            return None
        seq = self._checkpoint.seq
        if first.header.first_seq > seq:
            reason = f"it begins at record {first.header.first_seq}, but the checkpoint is {seq}"
            raise corrupt(self._directory, first.name, 0, reason)
        if last.end_seq < seq:
            self._lost_end = (
                f"{self._directory} ends at record {last.end_seq} before the checkpoint {seq}; the store has what is missing "
                "up to there, and whether more stood behind it cannot be told"
            )
            self._harmless.append(self._lost_end)
        return seq


def _check_follower(directory: Path, header: SegmentHeader, follower: SegmentHeader) -> None:
    name = segment_name(follower.number)
    if follower.number != header.number + 1:
        raise corrupt(directory, name, 0, f"segment {header.number + 1} is missing before it")
    if follower.journal_id != header.journal_id:
        raise corrupt(directory, name, 0, "it belongs to another journal")
    if follower.previous_id != header.id:
        raise corrupt(directory, name, 0, f"it follows another segment {header.number} than the one here")


def _frame_headers(files: Files, handle: int, salt: int, start: int, end: int) -> Iterator[tuple[int, FrameHeader]]:
    """Yield every intact frame header in start .. end, and its offset."""
    while (found := find_frame(files, handle, salt, start, end)) is not None:
        yield found
        start = found[0] + 1
