"""What a start finds on disk, and what it mends. Blocking; call from a thread while the lock is held.

`scan` only reads: it either says what stands in the journal or refuses (JournalCorruptError, JournalVersionError).
`mend` then sets a torn tail aside, `recover` does both and goes on. Torn or corrupt? At most one flush is in flight, so only
the last batch of the last segment can be torn; an intact frame after a damaged one, or any damage elsewhere, is corruption.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from kqs.errors import JournalError
from kqs.journal import checkpoint
from kqs.journal.files import Files, read_all, write_whole
from kqs.journal.format import HEADER_BYTES, MINOR, MalformedError, SegmentHeader
from kqs.journal.reader import Frame, FrameReader, find_frame, written_end
from kqs.journal.segment import Segment, corrupt, is_leftover, read_header, segment_name, segment_number
from kqs.journal.writer import Writer


class TornTail(NamedTuple):
    """Bytes start .. end of a file that a power cut left of an unacknowledged batch."""

    name: str
    start: int
    end: int


class Found(NamedTuple):
    """segments: oldest first. last_frame: the last intact frame of the last one; whether it was flushed is not known."""

    segments: list[Segment]
    checkpoint_seq: int | None
    last_frame: Frame | None
    torn: TornTail | None


def scan(files: Files, directory: Path) -> Found:
    """Read and check every segment and the checkpoint; change nothing.

    Raises: JournalCorruptError: "file:offset reason". JournalVersionError. OSError.
    """
    names = files.list(directory)
    headers, torn = _read_headers(files, directory, [name for name in names if segment_number(name) is not None])
    if not headers:
        if checkpoint.NAME in names:
            raise corrupt(directory, checkpoint.NAME, 0, "there is a checkpoint but no segment")
        if torn is not None and torn.name != segment_name(1):
            raise corrupt(directory, torn.name, 0, "no intact segment stands before this empty one")
        return Found([], None, None, torn)
    segments = []
    for header, follower in pairwise(headers):
        _check_follower(directory, header, follower)
        segments.append(_read_sealed(files, directory, header, follower))
    last, frame, tail = _read_last(files, directory, headers[-1])
    segments.append(last)
    checkpoint_seq = checkpoint.load_checkpoint(files, directory, last.header.journal_id)
    _check_checkpoint(directory, segments, checkpoint_seq)
    return Found(segments, checkpoint_seq, frame, tail or torn)


def mend(files: Files, directory: Path, found: Found) -> None:
    """Copy a torn tail to NAME.torn and cut it off, durably; take away what else a killed server left behind."""
    if found.torn is not None:
        _set_aside(files, directory, found.torn)
    elif found.segments:
        last = found.segments[-1]
        _cut(files, directory / last.name, last.end)
    for name in files.list(directory):
        if is_leftover(name):
            files.unlink(directory / name)


def recover(files: Files, directory: Path, segment_bytes: int) -> tuple[Found, Writer, Segment]:
    """Scan, mend, open a new segment, in which the last batch is flushed again, and take the next checkpoint's space.

    Raises: what `scan` raises; then nothing was touched. OSError: the next start begins anew.
    """
    found = scan(files, directory)
    mend(files, directory, found)
    writer = Writer(files, directory, segment_bytes)
    segment = writer.start(found.segments[-1] if found.segments else None, found.last_frame)
    checkpoint.keep_spare(files, directory)
    return found, writer, segment


def absent(directory: Path) -> JournalError:
    """Return the error for a folder that holds no journal."""
    return JournalError(f"there is no journal in {directory}")


def _set_aside(files: Files, directory: Path, torn: TornTail) -> None:
    handle = files.open(directory / torn.name, writable=True)
    try:
        data = read_all(files, handle, torn.end - torn.start, torn.start)
        write_whole(files, directory / (torn.name + ".torn"), data)
        files.truncate(handle, torn.start)
        files.flush(handle)
    finally:
        files.close(handle)


def _cut(files: Files, path: Path, end: int) -> None:
    """Give back preallocated space behind the end of the log; nothing depends on it, so it is not flushed."""
    handle = files.open(path, writable=True)
    try:
        files.truncate(handle, end)
    finally:
        files.close(handle)


def _read_headers(files: Files, directory: Path, names: list[str]) -> tuple[list[SegmentHeader], TornTail | None]:
    """Return all headers; a last segment without room or bytes for any frame is a torn tail."""
    torn = _headless(files, directory, names[-1]) if names else None
    if torn is not None:
        names = names[:-1]
    return [read_header(files, directory, name) for name in names], torn


def _headless(files: Files, directory: Path, name: str) -> TornTail | None:
    handle = files.open(directory / name)
    try:
        size = files.size(handle)
        end = written_end(files, handle, 0, size)
    finally:
        files.close(handle)
    return TornTail(name, 0, end) if size < HEADER_BYTES or end == 0 else None


def _check_follower(directory: Path, header: SegmentHeader, follower: SegmentHeader) -> None:
    name = segment_name(follower.number)
    if follower.number != header.number + 1:
        raise corrupt(directory, name, 0, f"segment {header.number + 1} is missing before it")
    if follower.journal_id != header.journal_id:
        raise corrupt(directory, name, 0, "it belongs to another journal")
    if follower.previous_id != header.id:
        raise corrupt(directory, name, 0, f"it follows another segment {header.number} than the one here")


def _read_sealed(files: Files, directory: Path, header: SegmentHeader, follower: SegmentHeader) -> Segment:
    """Read a segment as far as its follower says that it was flushed."""
    segment = Segment.empty(header)
    handle = files.open(directory / segment.name)
    try:
        reader = FrameReader(files, handle, segment.salt, HEADER_BYTES, follower.previous_end, header.first_seq)
        _fill(segment, reader)
    except MalformedError as error:
        raise corrupt(directory, segment.name, reader.offset, str(error)) from None
    finally:
        files.close(handle)
    if segment.end != follower.previous_end or segment.end_seq != follower.first_seq:
        raise corrupt(directory, segment.name, segment.end, f"sequence gap before record {follower.first_seq}")
    return segment


def _read_last(files: Files, directory: Path, header: SegmentHeader) -> tuple[Segment, Frame | None, TornTail | None]:
    """Read the last segment up to the end of its log, and judge what stands behind that."""
    segment = Segment.empty(header)
    handle = files.open(directory / segment.name)
    try:
        size = files.size(handle)
        reader = FrameReader(files, handle, segment.salt, HEADER_BYTES, size, header.first_seq)
        frame, torn = None, None
        try:
            frame = _fill(segment, reader)
        except MalformedError as error:
            frame = reader.last
            torn = _judge_tail(files, directory, segment, handle, size, str(error))
    finally:
        files.close(handle)
    return segment, frame, torn


def _fill(segment: Segment, reader: FrameReader) -> Frame | None:
    """Take every frame into `segment`; return the last."""
    must_parse = segment.header.minor > MINOR
    for frame in reader:
        if must_parse:
            frame.records()
        segment.grow(frame.header, frame.end)
    return reader.last


def _judge_tail(files: Files, directory: Path, segment: Segment, handle: int, size: int, reason: str) -> TornTail | None:
    """Tell what the bytes after the last intact batch are: nothing, a torn tail, or (raised) proof of corruption."""
    start = segment.end
    later = find_frame(files, handle, segment.salt, start, size)
    if later is not None and later[0] == start and later[1].first_seq == segment.end_seq:
        later = find_frame(files, handle, segment.salt, start + 1, size)
    if later is not None:
        raise corrupt(directory, segment.name, start, f"{reason}, yet record {later[1].first_seq} stands at {later[0]}")
    end = written_end(files, handle, start, size)
    return TornTail(segment.name, start, end) if end > start else None


def _check_checkpoint(directory: Path, segments: list[Segment], seq: int | None) -> None:
    if seq is None:
        return
    first, last = segments[0], segments[-1]
    if first.header.first_seq > seq:
        raise corrupt(directory, first.name, 0, f"it begins at record {first.header.first_seq}, but the checkpoint is {seq}")
    if last.end_seq < seq:
        raise corrupt(directory, last.name, last.end, f"the journal ends at record {last.end_seq} before the checkpoint {seq}")
