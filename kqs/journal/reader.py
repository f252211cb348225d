"""Frames of one segment, in order, checked. Reads in slices of a MiB; call from any thread but the loop's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kqs.journal.files import Files, read_all
from kqs.journal.format import (
    FRAME_BYTES,
    HEADER_BYTES,
    SYNC,
    FrameHeader,
    MalformedError,
    Record,
    decode_frame_header,
    decode_records,
    payload_is_intact,
)

#: read at a time, and so what a file of any length takes in memory beside its longest frame
SLICE_BYTES = 1 << 20


class Frame(NamedTuple):
    """An intact frame and where it stands."""

    offset: int
    header: FrameHeader
    payload: bytes

    @property
    def end(self) -> int:
        """Return the byte offset after it."""
        return self.offset + FRAME_BYTES + self.header.length

    def records(self) -> list[Record]:
        """Return its records. Raises: MalformedError, JournalVersionError."""
        return decode_records(self.header, self.payload)


class Gap(NamedTuple):
    """Bytes start .. end without an intact frame; records first_seq .. end_seq stood there (None: not known how many)."""

    start: int
    end: int
    first_seq: int
    end_seq: int | None
    reason: str


class FrameReader:
    """Walks frames from `offset` up to `end`, expecting them to be numbered from `seq` without a gap."""

    def __init__(self, files: Files, handle: int, salt: int, offset: int, end: int, seq: int) -> None:
        self._files = files
        self._handle = handle
        self._salt = salt
        self._end = end
        self._slice = b""
        self._slice_at = offset
        self.offset = offset
        self.seq = seq
        self.last: Frame | None = None

    @property
    def at_end(self) -> bool:
        """Tell whether every frame has been read."""
        return self.offset >= self._end

    def next(self) -> Frame | None:
        """Return the next frame, or None at `end`.

        Raises: MalformedError: no intact frame stands at `offset`, or another than the one expected. OSError.
        """
        if self.at_end:
            return None
        header = decode_frame_header(self._window(FRAME_BYTES), self.offset - self._slice_at, self._salt)
        if header is None:
            raise MalformedError("no intact frame")
        if header.first_seq != self.seq:
            raise MalformedError(f"sequence gap: expected record {self.seq}, found {header.first_seq}")
        if header.length > self._end - self.offset - FRAME_BYTES:
            raise MalformedError(f"a frame of {header.length} bytes ends beyond the segment")
        window = self._window(FRAME_BYTES + header.length)
        start = self.offset - self._slice_at + FRAME_BYTES
        payload = window[start : start + header.length]
        if not payload_is_intact(header, payload, self._salt):
            raise MalformedError("batch checksum differs")
        frame = Frame(self.offset, header, payload)
        self.offset = frame.end
        self.seq = header.end_seq
        self.last = frame
        return frame

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.next, None)

    def take(self, limit_bytes: int) -> list[Record]:
        """Return the records of the next frames, until they have `limit_bytes` of payload; [] at the end."""
        records: list[Record] = []
        taken = 0
        while taken < limit_bytes and (frame := self.next()) is not None:
            records += frame.records()
            taken += len(frame.payload)
        return records

    def _window(self, count: int) -> bytes:
        """Return a slice that holds `count` bytes from `offset`, fewer only where the file ends."""
        if self.offset + count > self._slice_at + len(self._slice):
            count = min(max(count, SLICE_BYTES), self._end - self.offset)
            self._slice = read_all(self._files, self._handle, count, self.offset)
            self._slice_at = self.offset
        return self._slice


def walk(files: Files, handle: int, salt: int, end: int, seq: int, start: int = HEADER_BYTES) -> Iterator[Frame | Gap]:
    """Yield the intact frames of a segment in order, and what stands between them."""
    while True:
        reader = FrameReader(files, handle, salt, start, end, seq)
        try:
            yield from reader
            return
        except MalformedError as error:
            intact = _next_intact(files, handle, salt, reader, end)
            if intact is None:
                yield Gap(reader.offset, end, reader.seq, None, str(error))
                return
            yield Gap(reader.offset, intact.offset, reader.seq, intact.header.first_seq, str(error))
            start, seq = intact.offset, intact.header.first_seq


def _next_intact(files: Files, handle: int, salt: int, reader: FrameReader, end: int) -> Frame | None:
    """Return the first wholly intact frame at or behind the reader's place whose seq is not lower than expected."""
    at = reader.offset
    last = min(end, written_end(files, handle, at, end) + FRAME_BYTES)  # a header may end in zeros, and behind it all is
    while (found := find_frame(files, handle, salt, at, last)) is not None:
        at, header = found
        if header.first_seq >= reader.seq:
            try:
                return FrameReader(files, handle, salt, at, end, header.first_seq).next()
            except MalformedError:
                pass
        at += 1
    return None


def find_frame(files: Files, handle: int, salt: int, start: int, end: int) -> tuple[int, FrameHeader] | None:
    """Return offset and header of the first intact frame header in start .. end, or None.

    An intact header suffices: its checksum is salted, so nothing but this segment's own writer made it.
    """
    overlap = FRAME_BYTES - 1
    while start < end:
        data = read_all(files, handle, min(SLICE_BYTES + overlap, end - start), start)
        at = data.find(SYNC)
        while at >= 0:
            if (header := decode_frame_header(data, at, salt)) is not None:
                return start + at, header
            at = data.find(SYNC, at + 1)
        start += SLICE_BYTES
    return None


def written_end(files: Files, handle: int, start: int, end: int) -> int:
    """Return the offset after the last byte in start .. end that is not zero; `start` when all are."""
    zeros = bytes(SLICE_BYTES)
    while end > start:
        begin = max(start, end - SLICE_BYTES)
        data = read_all(files, handle, end - begin, begin)
        if data != zeros[: len(data)]:  # a hundred times as fast as rstrip, on most of a segment that was just begun
            return begin + len(data.rstrip(b"\0"))
        end = begin
    return start
