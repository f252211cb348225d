"""Salvaging a damaged journal. Blocking; takes the lock.

An intact batch is never moved: damaged bytes are copied aside, then overwritten in place by a void frame of the same
length that holds the seqs of the lost records; headers are rebuilt from their neighbours, intact ones are never written. It can
be run again.
"""

from __future__ import annotations

import secrets
from itertools import pairwise
from pathlib import Path

from kqs.errors import JournalCorruptError
from kqs.journal import checkpoint
from kqs.journal.checkpoint import load_checkpoint
from kqs.journal.files import Files, OsFiles, opened, read_all, write_all, write_whole
from kqs.journal.format import (
    FRAME_BYTES,
    HEADER_BYTES,
    VOID,
    FrameHeader,
    SegmentHeader,
    encode_header,
    encode_void,
    mended_header,
    parse_header,
    salt_of,
)
from kqs.journal.lock import JournalLock
from kqs.journal.lost import Loss, LostJobs, lost_jobs
from kqs.journal.names import put_names_right
from kqs.journal.reader import Frame, Gap, find_frame, walk, written_end
from kqs.journal.recovery import absent
from kqs.journal.segment import (
    SEGMENT_MARK,
    corrupt,
    create_segment,
    read_header,
    see_to_files,
    segment_name,
    segment_number,
)
from kqs.journal.survey import Report, segment_names, verify


def repair(directory: Path, files: Files | None = None) -> Report:
    """Make a damaged journal one that a server starts with, and say what is lost.

    Raises: JournalError: there is none, or something in it is no file. JournalLockedError: a server is running.
        JournalVersionError. JournalCorruptError: there is nothing to salvage from. OSError.
    Whatever is raised, every intact batch still stands where it stood.
    """
    files = files or OsFiles()
    see_to_files(files, directory)
    if not any(SEGMENT_MARK in name or name == checkpoint.NAME for name in files.list(directory)):
        raise absent(directory)
    lock = JournalLock(files, directory)
    try:
        mender = _Mender(files, directory)
        mender.set_aside += put_names_right(files, directory)
        mender.restore_headers()
        mender.fill_missing()
        mender.fill_gaps()
        mender.join_checkpoint()
        mender.tell_lost_end()
        report = verify(directory, files)
        report.lost = [(loss.first_seq, loss.end_seq) for loss in mender.lost if loss.end_seq is not None]
        report.lost_jobs = mender.lost_jobs()
        report.set_aside = mender.set_aside
        return report
    finally:
        lock.release()


class _Mender:
    """The steps of `repair`, in order; each leaves the journal no worse."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._headers: list[SegmentHeader] = []
        self._kept: list[FrameHeader] = []
        self._checkpoint_seq: int | None = None
        self._given_up = 0  # the last segment that held something and is only kept aside
        self.lost: list[Loss] = []
        self.set_aside: list[str] = []

    def lost_jobs(self) -> list[LostJobs]:
        """Return what is known of the jobs that are lost, after all steps."""
        return lost_jobs(self.lost, self._kept, self._headers[-1].node.hex(), self._checkpoint_seq)

    def restore_headers(self) -> None:
        """Read every header; rebuild the damaged ones from the raw bytes and the neighbours."""
        names = segment_names(self._files, self._directory)
        intact: dict[str, SegmentHeader] = {}
        for name in names:
            try:
                intact[name] = read_header(self._files, self._directory, name)
            except JournalCorruptError:
                continue
        for before, name, after in zip([None, *names], names, [*names[1:], None], strict=False):
            if name not in intact:
                rebuilt = self._rebuild(name, intact.get(before or ""), intact.get(after or ""))
                if rebuilt is None:
                    continue
                intact[name] = rebuilt
            self._headers.append(intact[name])
        if not self._headers:
            way_out = "`kqs journal renew` begins a new journal for the store"
            raise JournalCorruptError(f"{self._directory}:0 holds no segment that could be salvaged; {way_out}")

    def fill_missing(self) -> None:
        """Put a segment of lost records in each place where some are missing."""
        for before, after in list(pairwise(self._headers)):
            if after.number > before.number + 1:
                self._fill_between(before, after)
        self._headers.sort()

    def fill_gaps(self) -> None:
        """Overwrite what is damaged between intact batches."""
        for header, follower in zip(self._headers, [*self._headers[1:], None], strict=True):
            with opened(self._files, self._directory / segment_name(header.number)) as handle:
                end = self._files.size(handle) if follower is None else follower.previous_end
                parts = list(walk(self._files, handle, salt_of(header.id), end, header.first_seq))
            self._kept += [part.header for part in parts if isinstance(part, Frame) and not part.header.flags & VOID]
            for gap in [part for part in parts if isinstance(part, Gap)]:
                end_seq = follower.first_seq if gap.end_seq is None and follower is not None else gap.end_seq
                if end_seq is not None:
                    self._void(header, gap.start, gap.end, gap.first_seq, end_seq)

    def join_checkpoint(self) -> None:
        """Close what is missing between the checkpoint and either end of the journal."""
        first, last = self._headers[0], self._headers[-1]
        seq = self._checkpoint_seq = load_checkpoint(self._files, self._directory, last.journal_id)
        if seq is None:
            return
        if first.first_seq > seq:
            self._fill_before(first, seq)
        end, end_seq = self._intact_end(last, None)
        if end_seq < seq:
            self._void(last, end, end + FRAME_BYTES, end_seq, seq, cut=True)

    def tell_lost_end(self) -> None:
        """Note that what was behind the last segment is lost, if it was given up; how many records it held is not known."""
        last = self._headers[-1]
        if self._given_up > last.number:
            self.lost.append(Loss(max(self._intact_end(last, None)[1], self._checkpoint_seq or 0), None))

    def _rebuild(self, name: str, before: SegmentHeader | None, after: SegmentHeader | None) -> SegmentHeader | None:
        """Return the header of a segment whose own is damaged, after writing it; None (set aside) if its id is lost."""
        number = segment_number(name)
        assert number is not None
        with opened(self._files, self._directory / name) as handle:
            data = read_all(self._files, handle, HEADER_BYTES, 0)
            if (mended := mended_header(data)) is not None and mended.number == number:
                return self._put_header(name, mended)
            raw = parse_header(data.ljust(HEADER_BYTES, b"\0"))
            id_ = after.previous_id if after is not None else raw.id
            size = self._files.size(handle)
            found = find_frame(self._files, handle, salt_of(id_), HEADER_BYTES, size)
            is_written = written_end(self._files, handle, HEADER_BYTES, size) > HEADER_BYTES
        if found is None:
            if is_written:
                self._given_up = number
            self._copy_aside(name, 0, None)
            self._files.unlink(self._directory / name)
            self._files.flush_dir(self._directory)
            return None
        neighbour = before or after or raw
        first_seq = found[1].first_seq if found[0] == HEADER_BYTES else raw.first_seq
        previous_id, previous_end = raw.previous_id, raw.previous_end
        if before is not None:
            previous_id = before.id
            previous_end, end_seq = self._intact_end(before, found[1].first_seq)
            first_seq = first_seq if found[0] == HEADER_BYTES else end_seq
        header = SegmentHeader(number, id_, neighbour.journal_id, neighbour.node, first_seq, previous_id, previous_end)
        return self._put_header(name, header)

    def _put_header(self, name: str, header: SegmentHeader) -> SegmentHeader:
        self._copy_aside(name, 0, HEADER_BYTES)
        self._overwrite(name, 0, encode_header(header))
        return header

    def _fill_between(self, before: SegmentHeader, after: SegmentHeader) -> None:
        end, seq = self._intact_end(before, after.first_seq)
        size = after.previous_end - HEADER_BYTES
        if seq < after.first_seq and size < FRAME_BYTES:
            raise corrupt(
                self._directory, segment_name(after.number), 0, f"records {seq} .. {after.first_seq - 1} have no place"
            )
        previous_id, previous_end = before.id, end
        for number in range(before.number + 1, after.number):
            is_last = number == after.number - 1
            id_ = after.previous_id if is_last else secrets.token_bytes(16)
            header = SegmentHeader(number, id_, after.journal_id, after.node, seq, previous_id, previous_end)
            frame = encode_void(seq, after.first_seq, size, salt_of(id_)) if is_last and size else b""
            self._files.close(create_segment(self._files, self._directory, header, 0, frame))
            self._headers.append(header)
            previous_id, previous_end = id_, HEADER_BYTES
        if seq < after.first_seq:
            self.lost.append(Loss(seq, after.first_seq))

    def _fill_before(self, first: SegmentHeader, seq: int) -> None:
        """Put segments of lost records from `seq` on before the first; the checkpoint stays, for the store has no more."""
        size = first.previous_end - HEADER_BYTES
        has_room = size >= FRAME_BYTES
        if first.number < (2 if has_room else 3):
            reason = f"records {seq} .. {first.first_seq - 1} have no place"
            raise corrupt(self._directory, segment_name(first.number), 0, reason)
        if not has_room:  # the one before it was empty, so they stood in the one before that
            empty = first._replace(
                number=first.number - 1,
                id=first.previous_id,
                previous_id=secrets.token_bytes(16),
                previous_end=HEADER_BYTES + FRAME_BYTES,
            )
            self._put_before(empty, b"")
            first, size = empty, FRAME_BYTES
        frame = encode_void(seq, first.first_seq, size, salt_of(first.previous_id))
        header = SegmentHeader(
            first.number - 1, first.previous_id, first.journal_id, first.node, seq, secrets.token_bytes(16), HEADER_BYTES
        )
        self._put_before(header, frame)
        self.lost.append(Loss(seq, first.first_seq))

    def _put_before(self, header: SegmentHeader, frame: bytes | bytearray) -> None:
        self._files.close(create_segment(self._files, self._directory, header, 0, frame))
        self._headers.insert(0, header)

    def _intact_end(self, header: SegmentHeader, before_seq: int | None) -> tuple[int, int]:
        """Return (offset, seq) after the last intact frame of a segment, of those that end at or below `before_seq`."""
        found = (HEADER_BYTES, header.first_seq)
        with opened(self._files, self._directory / segment_name(header.number)) as handle:
            for part in walk(self._files, handle, salt_of(header.id), self._files.size(handle), header.first_seq):
                if isinstance(part, Frame) and (before_seq is None or part.header.end_seq <= before_seq):
                    found = (part.end, part.header.end_seq)
        return found

    def _void(self, header: SegmentHeader, start: int, end: int, first_seq: int, end_seq: int, *, cut: bool = False) -> None:
        """Replace bytes start .. end by the statement that these records are lost; `cut`: what is behind goes aside too."""
        name = segment_name(header.number)
        if end - start < FRAME_BYTES:
            raise corrupt(self._directory, name, start, f"records {first_seq} .. {end_seq - 1} have no place")
        self._copy_aside(name, start, None if cut else end - start)
        self.lost.append(Loss(first_seq, end_seq, self._batches(header, start, first_seq, end_seq)))
        self._overwrite(name, start, encode_void(first_seq, end_seq, end - start, salt_of(header.id)), cut=cut)

    def _batches(self, header: SegmentHeader, at: int, seq: int, end_seq: int) -> list[FrameHeader]:
        """Return the headers of the damaged batches from `at` on that held records seq .. end_seq; [] unless all are intact."""
        batches: list[FrameHeader] = []
        with opened(self._files, self._directory / segment_name(header.number)) as handle:
            while seq < end_seq:
                found = find_frame(self._files, handle, salt_of(header.id), at, at + FRAME_BYTES)
                if found is None or found[1].first_seq != seq or found[1].flags & VOID:
                    return []
                batches.append(found[1])
                at += FRAME_BYTES + found[1].length
                seq = found[1].end_seq
        return batches if seq == end_seq else []

    def _overwrite(self, name: str, start: int, data: bytes | bytearray, *, cut: bool = False) -> None:
        with opened(self._files, self._directory / name, writable=True) as handle:
            if cut:
                self._files.truncate(handle, start)
            write_all(self._files, handle, data, start)
            self._files.flush(handle)

    def _copy_aside(self, name: str, start: int, count: int | None) -> None:
        """Keep the damaged bytes as NAME.OFFSET.damaged; a copy from an earlier run is the true one."""
        aside = f"{name}.{start}.damaged"
        self.set_aside.append(aside)
        if aside in self._files.list(self._directory):
            return
        with opened(self._files, self._directory / name) as handle:
            data = read_all(self._files, handle, self._files.size(handle) - start if count is None else count, start)
        write_whole(self._files, self._directory / aside, data)
