"""One segment: its name, what is known of it, how it is born.

A segment gets its name only when it is whole: header (and, at a start, the batch that is flushed again) are written to
NAME.new and flushed, the file is renamed, the directory flushed. So a legal power cut never leaves a torn header.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

import msgspec

from kqs.errors import JournalCorruptError, JournalError, JournalVersionError
from kqs.journal import checkpoint
from kqs.journal.files import Files, read_all, write_all
from kqs.journal.format import (
    HEADER_BYTES,
    VOID,
    FrameHeader,
    MalformedError,
    SegmentHeader,
    decode_header,
    encode_header,
    salt_of,
)

#: in the name of whatever was a segment
SEGMENT_MARK = ".kqj"
_NAME = re.compile(r"([0-9]{12})\.kqj\Z")
_LEFTOVER = re.compile(r".*\.new\Z")

#: a mark every so many bytes lets a reader begin in the middle of a segment
_MARK_BYTES = 1 << 20


def segment_name(number: int) -> str:
    """Return the file name of a segment; names sort as numbers do."""
    return f"{number:012d}.kqj"


def segment_number(name: str) -> int | None:
    """Return the number in a segment's name, or None for any other name."""
    match = _NAME.match(name)
    return int(match[1]) if match else None


def is_leftover(name: str) -> bool:
    """Tell whether a file was being written aside when the server died."""
    return bool(_LEFTOVER.match(name))


def see_to_files(files: Files, directory: Path) -> None:
    """See to it that what has the name of a segment or of the checkpoint is a file.

    Else it would pass for one that is missing: at the journal's end for nothing at all, and what was answered would be lost.
    Raises: JournalError: it is a link, a folder or the like, which somebody has put there and knows how to take away.
    """
    for name in files.list_others(directory):
        if segment_number(name) is not None or name == checkpoint.NAME:
            raise JournalError(f"{directory / name} is no regular file: put the journal's own file back in its place")


def corrupt(directory: Path, name: str, offset: int, reason: str) -> JournalCorruptError:
    """Return the error for damage at `offset` of a file."""
    return JournalCorruptError(f"{directory / name}:{offset} {reason}")


def read_header(files: Files, directory: Path, name: str) -> SegmentHeader:
    """Return a segment's header. Raises: JournalCorruptError, JournalVersionError, OSError."""
    handle = files.open(directory / name)
    try:
        data = read_all(files, handle, HEADER_BYTES, 0)
    finally:
        files.close(handle)
    try:
        header = decode_header(data)
    except MalformedError as error:
        raise corrupt(directory, name, 0, str(error)) from None
    except JournalVersionError as error:
        raise JournalVersionError(f"{directory / name}: {error}") from None
    if segment_name(header.number) != name:
        raise corrupt(directory, name, 0, f"this is segment {header.number} under another name")
    return header


class Segment(msgspec.Struct):
    """What is durable in one segment.

    end: byte offset after the last flushed frame. end_seq: seq after its last record.
    last_order: the highest of its jobs, 0 while it holds none.
    marks: (first seq, offset) of some frames, at least a MiB apart, in order.
    """

    header: SegmentHeader
    salt: int
    end: int
    end_seq: int
    last_order: int = 0
    marks: list[tuple[int, int]] = msgspec.field(default_factory=list)

    @classmethod
    def empty(cls, header: SegmentHeader) -> Segment:
        """Return a segment that holds its header only."""
        return cls(header, salt_of(header.id), HEADER_BYTES, header.first_seq)

    @property
    def name(self) -> str:
        """Return the file's name."""
        return segment_name(self.header.number)

    def grow(self, frame: FrameHeader, end: int) -> None:
        """Take in a flushed frame that ends at byte offset `end`."""
        if not self.marks or self.end - self.marks[-1][1] >= _MARK_BYTES:
            self.marks.append((frame.first_seq, self.end))
        self.end = end
        self.end_seq = frame.first_seq + frame.records
        has_jobs = not frame.flags & VOID and frame.first_order <= frame.last_order
        if has_jobs and frame.last_order > self.last_order:
            self.last_order = frame.last_order

    def skip(self, end: int, end_seq: int) -> None:
        """Pass over what is damaged and not needed, up to `end`, where record `end_seq` stands."""
        self.end, self.end_seq = end, end_seq
        self.marks.append((end_seq, end))

    def seek(self, seq: int) -> tuple[int, int]:
        """Return (first seq, offset) of a frame at or before the one that holds record `seq`."""
        found = (self.header.first_seq, HEADER_BYTES)
        for mark in self.marks:
            if mark[0] > seq:
                break
            found = mark
        return found

    def bytes_from(self, seq: int) -> int:
        """Return how many flushed bytes hold records at or above `seq`, overcounted by a MiB at most."""
        return self.end - self.seek(seq)[1] if seq < self.end_seq else 0


def create_segment(files: Files, directory: Path, header: SegmentHeader, capacity: int, frame: bytes | bytearray) -> int:
    """Make a segment of `capacity` bytes that holds `header` and `frame`, durably, and return its handle.

    Raises: OSError: the name may exist or not, with nothing acknowledged in it; try again with the same number. What was
        written aside is taken away again, if it can be.
    """
    path = directory / segment_name(header.number)
    aside = path.with_name(path.name + ".new")
    handle = files.create(aside)
    try:
        _allocate(files, handle, max(capacity, HEADER_BYTES + len(frame)))
        write_all(files, handle, encode_header(header) + frame, 0)
        files.flush(handle)
        files.rename(aside, path)
        files.flush_dir(directory)
    except BaseException:
        with suppress(OSError):
            files.close(handle)
        with suppress(OSError):
            files.unlink(aside)
        raise
    return handle


def _allocate(files: Files, handle: int, count: int) -> None:
    """Reserve a segment's space. Raises: OSError: one for want of space says how much was asked for, and by which setting."""
    try:
        files.allocate(handle, count)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        asked = f"a segment of {count} bytes is allocated at a time ([journal] segment_bytes)"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {asked}") from error
