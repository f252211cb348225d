"""Looking into a journal: verify it, print it, find what is damaged. Blocking; only reads.

May be used beside a running server, whose last batch may then look torn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from kqs.errors import JournalCorruptError, JournalError
from kqs.journal.files import Files, OsFiles, opened
from kqs.journal.format import VOID, salt_of
from kqs.journal.lost import LostJobs
from kqs.journal.names import STRAY
from kqs.journal.reader import Frame, Gap, walk, written_end
from kqs.journal.recovery import TORN, kept_aside
from kqs.journal.scan import scan
from kqs.journal.segment import read_header, see_to_files, segment_name, segment_number


class Report(msgspec.Struct):
    """What stands in a journal.

    problems: one sentence each, "file:offset ..." where there is a place; [] when a server would start.
    harmless: likewise, what hinders no start, since the store has all that was lost by it.
    lost: ranges (first seq, end seq exclusive) of records that are gone. lost_jobs: what is known of the jobs of each, and
    of those lost at the journal's end, whose range is not known.
    set_aside: files with bytes that were replaced.
    torn: file and bytes of an unacknowledged last batch, which the next start sets aside.
    kept_aside: files and bytes of what starts and repairs set aside, this one included.
    """

    segments: int = 0
    batches: int = 0
    records: int = 0
    bytes: int = 0
    first_seq: int = 0
    end_seq: int = 0
    checkpoint_seq: int | None = None
    torn: tuple[str, int] | None = None
    problems: list[str] = msgspec.field(default_factory=list)
    harmless: list[str] = msgspec.field(default_factory=list)
    lost: list[tuple[int, int]] = msgspec.field(default_factory=list)
    lost_jobs: list[LostJobs] = msgspec.field(default_factory=list)
    set_aside: list[str] = msgspec.field(default_factory=list)
    kept_aside: list[tuple[str, int]] = msgspec.field(default_factory=list)


def verify(directory: Path, files: Files | None = None) -> Report:
    """Check every byte of a journal, change nothing. Raises: JournalVersionError, JournalError, OSError."""
    files = files or OsFiles()
    report = Report(kept_aside=kept_aside(files, directory, TORN, ".damaged", STRAY))
    try:
        found = scan(files, directory)
        report.checkpoint_seq = found.checkpoint_seq
        report.harmless = found.harmless
        if found.torn is not None:
            report.torn = (found.torn.name, found.torn.end - found.torn.start)
    except JournalCorruptError as error:
        report.problems.append(str(error))
    would_start = not report.problems
    _count(files, directory, report)
    if would_start:  # whatever was met on the way is among what is harmless
        report.problems = []
    return report


def dump(directory: Path, files: Files | None = None) -> Iterator[str]:
    """Yield a journal as lines for people: each segment, batch and record, and each gap. Raises: OSError."""
    files = files or OsFiles()
    for name in segment_names(files, directory):
        try:
            header = read_header(files, directory, name)
        except JournalError as error:
            yield f"{name} DAMAGED {error}"
            continue
        yield (
            f"{name} segment {header.number} id {header.id.hex()} journal {header.journal_id.hex()} node {header.node.hex()} "
            f"first record {header.first_seq} after {header.previous_id.hex()} up to {header.previous_end}"
        )
        with opened(files, directory / name) as handle:
            for part in walk(files, handle, salt_of(header.id), files.size(handle), header.first_seq):
                if isinstance(part, Gap):
                    yield _gap_line(files, handle, name, part)
                else:
                    yield from _frame_lines(name, part)


def segment_names(files: Files, directory: Path) -> list[str]:
    """Return the names of the segments in a directory, in order. Raises: JournalError: one of them is no file. OSError."""
    see_to_files(files, directory)
    return [name for name in files.list(directory) if segment_number(name) is not None]


def _count(files: Files, directory: Path, report: Report) -> None:
    """Fill in what stands in the segments, as far as their headers can be read."""
    names = segment_names(files, directory)
    report.segments = len(names)
    headers = []
    for name in names:
        try:
            headers.append(read_header(files, directory, name))
        except JournalCorruptError as error:
            if str(error) not in report.problems:
                report.problems.append(str(error))
    ends = {header.previous_id: header for header in headers}
    for header in headers:
        follower = ends.get(header.id)
        name = segment_name(header.number)
        with opened(files, directory / name) as handle:
            end = files.size(handle) if follower is None else follower.previous_end
            for part in walk(files, handle, salt_of(header.id), end, header.first_seq):
                _count_part(report, directory / name, part, is_last=follower is None)
    report.first_seq = headers[0].first_seq if headers else 0


def _count_part(report: Report, path: Path, part: Frame | Gap, *, is_last: bool) -> None:
    if isinstance(part, Gap):
        if part.end_seq is None and is_last:
            return
        place = f"{path}:{part.start} "
        told = f"{part.reason}; {part.end - part.start} bytes from record {part.first_seq} on are damaged"
        report.problems = [problem for problem in report.problems if not problem.startswith(place)] + [place + told]
        return
    report.end_seq = part.header.end_seq
    if part.header.flags & VOID:
        return
    report.batches += 1
    report.records += part.header.records
    report.bytes += part.end - part.offset


def _gap_line(files: Files, handle: int, name: str, gap: Gap) -> str:
    if written_end(files, handle, gap.start, gap.end) == gap.start:
        return f"{name}:{gap.start} preallocated up to {gap.end}"
    return f"{name}:{gap.start} no batch up to {gap.end}: {gap.reason}"


def _frame_lines(name: str, frame: Frame) -> Iterator[str]:
    header = frame.header
    if header.flags & VOID:
        yield f"{name}:{frame.offset} lost records {header.first_seq} .. {header.end_seq - 1}"
        return
    yield f"{name}:{frame.offset} batch of {header.records} records, {header.length} bytes"
    for record in frame.records():
        text = record.payload.decode("utf-8", "backslashreplace").rstrip("\r\n")
        orders = f"{record.first_order:x} .. {record.last_order:x}"
        claimed = " claimed" if record.claimed else ""
        if not record.count:
            yield f"  record {record.seq} {record.kind.name.lower()}: {text!r}"
            continue
        yield f"  record {record.seq} {record.kind.name.lower()} jobs {record.count} orders {orders}{claimed}: {text!r}"
