"""The bytes of format 1.4: segment header, frame, record. Pure; docs/journal-format.md must change with this file.

    segment = header (128 bytes), frame*, zeros          one frame = one flush = one batch
    frame   = frame header (48 bytes), record*
    record  = record header (20 bytes), payload as the client sent it

Every integer is little-endian. Each checksum is a CRC-32C that begins with the segment's random id (its salt), so bytes of
another segment, or of a payload that imitates a frame, never look intact.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

import msgspec

from kqs.crc import crc32c
from kqs.errors import JournalError, JournalVersionError
from kqs.options import Job

MAGIC = b"KQSJRNL\n"
MAJOR = 1
MINOR = 4

#: frame mark; not zero, so a preallocated tail is the end of the log, and no byte of UTF-8 text begins it
SYNC = b"\xffKQ\xf1"

#: record flag: a reader that does not know the kind may pass the record over
IGNORABLE = 1
#: record flag: its jobs were claimed, each for attempt 1, as part of being journaled
CLAIMED = 2
#: record flag: its jobs are those of another server's journal, taken over
ADOPTED = 4

#: frame flag: written by repair over damage; its records are lost, its payload means nothing, their seqs stay taken
VOID = 1

#: so many records fit the number in a frame
MAX_FRAME_RECORDS = 0xFFFF_FFFF

#: a frame's length is 32 bits; one record may fill one
MAX_PAYLOAD_BYTES = 0x7FFF_FFFF

# magic, major, minor, node, number, segment id, journal id, first seq, previous id, previous end; 36 zero bytes; crc
_HEADER = struct.Struct("<8sHH4sQ16s16sQ16sQ36x")
# sync, payload length, first seq, record count, payload crc, first order, last order, flags; crc of these
_FRAME = struct.Struct("<4sIQIIQQI")
# kind, flags, zero, job count, payload length, first order
_RECORD = struct.Struct("<BBHIIQ")
_CRC = struct.Struct("<I")
_VERSION = struct.Struct("<8sH")
# before the payload of a record whose kind is TIMED: when it was accepted
_TIME = struct.Struct("<Q")

HEADER_BYTES = _HEADER.size + _CRC.size
FRAME_BYTES = _FRAME.size + _CRC.size
RECORD_BYTES = _RECORD.size
_FRAME_PLACE = bytes(FRAME_BYTES)
_NO_ORDER = 1 << 64


class Kind(IntEnum):
    """What a record's payload is. The numbers are stored: never renumber, only add."""

    CALLS = 1  # newline-terminated qrpc insert lines as received, one job a line; blank lines are possible
    JOBS = 2  # one JSON job object, or a JSON array of them, as received
    FANNED = 6  # as JOBS, behind a line that says which other types have copies of which jobs (kqs.journal.fanned)
    CLAIMS = 5  # which jobs of earlier records were claimed since, for attempt 1 (kqs.journal.claims); it has none of its own


#: such a record's kind plus this: its first order does not say when it was accepted, since the clock was behind the orders
_TIMED = 2
_KINDS = {int(kind): kind for kind in Kind}
_TIMED_KINDS = {kind + _TIMED: kind for kind in (Kind.CALLS, Kind.JOBS, Kind.FANNED)}


class Record(msgspec.Struct, gc=False):
    """Jobs that were accepted together; always whole, in one batch.

    count: jobs in it, copies included. first_order: their orders are first_order .. first_order + count - 1.
    payload: as received; of FANNED see kqs.journal.fanned.
    jobs: the decoded form, live path only, never written. done: called once on the loop when the batch has settled.
    seq: the record's number, dense from 0; -1 until it is durable. alone: its batch was flushed on the loop, and nothing in
    this tick comes before its answer.
    claimed: its jobs are run as soon as it is durable; who finds one in the journal and not in the store knows that it may
    have begun. accepted_us: when it was accepted, in microseconds since 1970; 0: that is its first order.
    adopted: its jobs were accepted by another server before; a replay of that one's journal may be repeated.
    """

    kind: Kind
    count: int
    first_order: int
    payload: bytes
    jobs: list[Job] | None = None
    done: Callable[[JournalError | None], None] | None = None
    seq: int = -1
    alone: bool = False
    claimed: bool = False
    accepted_us: int = 0
    adopted: bool = False

    @property
    def accepted_at(self) -> float:
        """Return when it was accepted by the clock of then, in Unix seconds."""
        return (self.accepted_us or self.first_order) / 1_000_000

    @property
    def size_bytes(self) -> int:
        """Return what it takes of a frame."""
        size = _RECORD.size + len(self.payload)
        return size if self.accepted_us in (self.first_order, 0) else size + _TIME.size

    @property
    def skew_us(self) -> int:
        """Return by how much the order of its last job tells another time than that of its acceptance."""
        return abs(self.last_order - (self.accepted_us or self.first_order))

    @property
    def last_order(self) -> int:
        """Return the order of the last job."""
        return self.first_order + self.count - 1


class JournalName(NamedTuple):
    """What all segments of a journal have in common. journal_id: 16 random bytes; node: 4, which its ids end in."""

    journal_id: bytes
    node: bytes


class SegmentHeader(NamedTuple):
    """The first 128 bytes of a segment.

    number: dense from 1. id, journal_id: 16 random bytes. node: 4 random bytes, drawn with the journal.
    first_seq: the seq of its first record. previous_id: the segment before it (zeros: none).
    previous_end: byte offset up to which that one was flushed; what stands behind it was never acknowledged.
    """

    number: int
    id: bytes
    journal_id: bytes
    node: bytes
    first_seq: int
    previous_id: bytes
    previous_end: int
    minor: int = MINOR


class FrameHeader(msgspec.Struct, frozen=True, gc=False):
    """The first 48 bytes of a frame. length: bytes after them. records: how many. flags: 0 or VOID."""

    length: int
    first_seq: int
    records: int
    payload_crc: int
    first_order: int
    last_order: int
    flags: int = 0

    @property
    def end_seq(self) -> int:
        """Return the seq after the last record."""
        return self.first_seq + self.records


class MalformedError(Exception):
    """These bytes are not what they should be; the caller knows the file and offset."""


def salt_of(segment_id: bytes) -> int:
    """Return the value every checksum of a segment begins with."""
    return crc32c(segment_id)


def encode_header(header: SegmentHeader) -> bytes:
    """Return the 128 bytes that open a segment."""
    number, id_, journal_id, node, first_seq, previous_id, previous_end, minor = header
    fields = _HEADER.pack(MAGIC, MAJOR, minor, node, number, id_, journal_id, first_seq, previous_id, previous_end)
    return fields + _CRC.pack(crc32c(fields))


def decode_header(data: bytes) -> SegmentHeader:
    """Read the 128 bytes that open a segment.

    Raises: MalformedError: not a segment, or damaged. JournalVersionError: written by a newer major version.
    """
    if len(data) >= _VERSION.size:
        magic, major = _VERSION.unpack_from(data)
        if magic == MAGIC and major > MAJOR and mended_header(data) is None:
            raise JournalVersionError(f"journal format {major} is newer than {MAJOR}")
    if len(data) < HEADER_BYTES:
        raise MalformedError(f"segment header cut off after {len(data)} bytes")
    if not data.startswith(MAGIC):
        raise MalformedError("not a journal segment")
    if crc32c(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
        raise MalformedError("segment header checksum differs")
    return parse_header(data)


def mended_header(data: bytes) -> SegmentHeader | None:
    """Return the header that these bytes were before one bit of them flipped; None if they are no such."""
    if len(data) < HEADER_BYTES:
        return None
    bits = bytearray(data[:HEADER_BYTES])
    for at in range(8 * HEADER_BYTES):
        bits[at >> 3] ^= 1 << (at & 7)
        if crc32c(memoryview(bits)[: _HEADER.size]) == _CRC.unpack_from(bits, _HEADER.size)[0] and _is_ours(bits):
            return parse_header(bytes(bits))
        bits[at >> 3] ^= 1 << (at & 7)
    return None


def _is_ours(data: bytes | bytearray) -> bool:
    magic, major = _VERSION.unpack_from(data)
    return bool(magic == MAGIC and major <= MAJOR)


def parse_header(data: bytes) -> SegmentHeader:
    """Read the fields of a header without a look at magic, version and checksum: for salvage."""
    _, _, minor, node, number, id_, journal_id, first_seq, previous_id, previous_end = _HEADER.unpack_from(data)
    return SegmentHeader(number, id_, journal_id, node, first_seq, previous_id, previous_end, minor)


def encode_frame(records: Sequence[Record], first_seq: int, salt: int) -> tuple[FrameHeader, bytearray]:
    """Return one frame that holds `records`, numbered from `first_seq`, and its header."""
    parts = [_FRAME_PLACE]
    pack = _RECORD.pack
    first_order, end_order = _NO_ORDER, 0
    for record in records:
        payload = record.payload
        order = record.first_order
        flags = (CLAIMED if record.claimed else 0) | (ADOPTED if record.adopted else 0)
        if record.kind is Kind.CLAIMS:
            flags |= IGNORABLE
        if record.accepted_us in (order, 0):
            parts.append(pack(record.kind, flags, 0, record.count, len(payload), order))
        else:
            parts.append(pack(record.kind + _TIMED, flags, 0, record.count, _TIME.size + len(payload), order))
            parts.append(_TIME.pack(record.accepted_us))
        parts.append(payload)
        if not record.count:
            continue
        if order < first_order:
            first_order = order
        if order + record.count > end_order:
            end_order = order + record.count
    if not end_order:  # there is no job in it, so its last order is below its first
        first_order = end_order = records[0].first_order
    return _seal_frame(bytearray().join(parts), first_seq, len(records), first_order, end_order - 1, 0, salt)


def reseal_frame(header: FrameHeader, payload: bytes, salt: int) -> tuple[FrameHeader, bytearray]:
    """Return an intact frame again, with the checksums of another segment."""
    frame = bytearray().join((_FRAME_PLACE, payload))
    return _seal_frame(frame, header.first_seq, header.records, header.first_order, header.last_order, header.flags, salt)


def encode_void(first_seq: int, end_seq: int, size: int, salt: int) -> bytearray:
    """Return a frame of exactly `size` bytes that says that records first_seq .. end_seq (exclusive) are lost."""
    return seal_void(first_seq, end_seq, size, salt)[1]


def seal_void(first_seq: int, end_seq: int, size: int, salt: int) -> tuple[FrameHeader, bytearray]:
    """As `encode_void`, with its header."""
    return _seal_frame(bytearray(size), first_seq, end_seq - first_seq, 0, 0, VOID, salt)


def _seal_frame(
    frame: bytearray, first_seq: int, records: int, first_order: int, last_order: int, flags: int, salt: int
) -> tuple[FrameHeader, bytearray]:
    """Fill in the header's place in `frame`, and return it with its header."""
    with memoryview(frame) as view:
        fields = (
            len(frame) - FRAME_BYTES,
            first_seq,
            records,
            crc32c(view[FRAME_BYTES:], salt),
            first_order,
            last_order,
            flags,
        )
        _FRAME.pack_into(frame, 0, SYNC, *fields)
        _CRC.pack_into(frame, _FRAME.size, crc32c(view[: _FRAME.size], salt))
    return FrameHeader(*fields), frame


def decode_frame_header(data: bytes, at: int, salt: int) -> FrameHeader | None:
    """Read the frame header at `at`; None when no intact one stands there.

    Raises: JournalVersionError: it is intact, but has a flag this version does not know.
    """
    if len(data) - at < FRAME_BYTES or not data.startswith(SYNC, at):
        return None
    if crc32c(data[at : at + _FRAME.size], salt) != _CRC.unpack_from(data, at + _FRAME.size)[0]:
        return None
    header = FrameHeader(*_FRAME.unpack_from(data, at)[1:])
    if header.flags & ~VOID:
        raise JournalVersionError(
            f"batch of record {header.first_seq} has flags {header.flags:#x}, which this version does not know"
        )
    return header


def payload_is_intact(header: FrameHeader, payload: bytes, salt: int) -> bool:
    """Tell whether `payload` is what the frame was written with."""
    return len(payload) == header.length and crc32c(payload, salt) == header.payload_crc


def decode_records(header: FrameHeader, payload: bytes) -> list[Record]:
    """Return the records of an intact frame; unknown ones that a newer minor version marked ignorable are left out.

    Raises: MalformedError: the lengths do not add up. JournalVersionError: a kind this version must not pass over.
    """
    records: list[Record] = []
    if header.flags & VOID:
        return records
    at = 0
    for seq in range(header.first_seq, header.end_seq):
        if len(payload) - at < RECORD_BYTES:
            raise MalformedError(f"record {seq} is cut off")
        kind, flags, _, count, length, first_order = _RECORD.unpack_from(payload, at)
        at += RECORD_BYTES
        if length > len(payload) - at:
            raise MalformedError(f"record {seq} is longer than its frame")
        data, us = payload[at : at + length], 0
        if kind in _TIMED_KINDS:
            if length < _TIME.size:
                raise MalformedError(f"record {seq} is too short for its time")
            (us,) = _TIME.unpack_from(data)
            data = data[_TIME.size :]
        if (known := _KINDS.get(kind) or _TIMED_KINDS.get(kind)) is not None:
            claimed, adopted = bool(flags & CLAIMED), bool(flags & ADOPTED)
            records.append(Record(known, count, first_order, data, seq=seq, claimed=claimed, accepted_us=us, adopted=adopted))
        elif not flags & IGNORABLE:
            raise JournalVersionError(f"record {seq} is of kind {kind}, which this version does not know")
        at += length
    if at != len(payload):
        raise MalformedError(f"{len(payload) - at} bytes after the last record")
    return records
