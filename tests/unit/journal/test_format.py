from __future__ import annotations

import struct
from pathlib import Path

import pytest
from crc32c import crc32c

from kqs.errors import JournalVersionError
from kqs.journal.claims import claims_record
from kqs.journal.format import (
    FRAME_BYTES,
    HEADER_BYTES,
    IGNORABLE,
    RECORD_BYTES,
    FrameHeader,
    Kind,
    MalformedError,
    Record,
    SegmentHeader,
    decode_frame_header,
    decode_header,
    decode_records,
    encode_frame,
    encode_header,
    encode_void,
    salt_of,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "journal"
HEADER = SegmentHeader(7, bytes(range(16)), bytes(range(16, 32)), b"node", 40, bytes(range(32, 48)), 4711)
RECORDS = [
    Record(Kind.JOBS, 1, 0x6000000000001, b'[{"type":"ping"}]'),
    Record(Kind.CALLS, 2, 0x6000000000002, b'{"n":"insert","m":{"type":"a"}}\n\n{"n":"insert","m":{"type":"b"}}\n'),
]


CLAIMED_RECORD = Record(Kind.JOBS, 1, 0x6000000000004, b'{"type":"ping"}', claimed=True)
#: accepted while the clock was two hours behind the orders
TIMED_RECORDS = [
    Record(Kind.JOBS, 1, 0x6000000000005, b'{"type":"ping"}', claimed=True, accepted_us=0x6000000000005 - 7_200_000_000),
    Record(Kind.CALLS, 1, 0x6000000000006, b'{"n":"insert","m":{"type":"a"}}\n', accepted_us=0x6000000000006 - 7_200_000_000),
    Record(Kind.JOBS, 1, 0x6000000000007, b'{"type":"ping"}', accepted_us=0x6000000000007, adopted=True),
]


#: two jobs of which one has two copies; and one with one, accepted while the clock was behind
FANNED_RECORDS = [
    Record(Kind.FANNED, 4, 0x6000000000008, b'{"order":["bill","ship"]}\n[{"type":"order"},{"type":"ping"}]'),
    Record(
        Kind.FANNED,
        2,
        0x600000000000C,
        b'{"order":["bill"]}\n{"type":"order","id":"mine"}',
        accepted_us=0x600000000000C - 7_200_000_000,
    ),
]


#: it claims two jobs of the first record and one of the second, in a frame of its own and beside a job
CLAIMS = claims_record([0x6000000000001, 0x6000000000002, 0x6000000000006])


def golden_bytes() -> bytes:
    """Return the newest segment of tests/golden/journal, written by this version."""
    salt = salt_of(HEADER.id)
    batches = ((RECORDS, 40), ([CLAIMED_RECORD], 42), (TIMED_RECORDS, 43), ([CLAIMS], 46), ([CLAIMS, CLAIMED_RECORD], 47))
    frames = [encode_frame(records, seq, salt)[1] for records, seq in (*batches, (FANNED_RECORDS, 49))]
    return encode_header(HEADER) + b"".join(frames) + encode_void(51, 53, 60, salt) + bytes(64)


def test_the_bytes_of_format_1_4_never_change() -> None:
    assert golden_bytes() == (GOLDEN / "1.4.kqj").read_bytes()


def test_claims_count_for_no_order_of_their_batch_and_are_passed_over_by_an_older_reader() -> None:
    alone, beside = (encode_frame(records, 0, 0)[0] for records in ([CLAIMS], [CLAIMS, CLAIMED_RECORD]))
    assert alone.last_order < alone.first_order
    assert (beside.first_order, beside.last_order) == (0x6000000000004, 0x6000000000004)
    frame = encode_frame([CLAIMS], 0, 0)[1]
    kind, flags = frame[FRAME_BYTES : FRAME_BYTES + 2]
    assert (kind, flags) == (Kind.CLAIMS, IGNORABLE)


def test_a_record_says_when_it_was_accepted_whatever_its_orders() -> None:
    data = (GOLDEN / "1.4.kqj").read_bytes()
    start = HEADER_BYTES
    for seq in (40, 42, 43):
        header = decode_frame_header(data, start, salt_of(HEADER.id))
        assert header is not None
        assert header.first_seq == seq
        records = decode_records(header, data[start + FRAME_BYTES : start + FRAME_BYTES + header.length])
        start += FRAME_BYTES + header.length
    assert [(r.kind, r.payload, r.claimed, r.adopted, r.accepted_at) for r in records] == [
        (r.kind, r.payload, r.claimed, r.adopted, r.accepted_us / 1e6) for r in TIMED_RECORDS
    ]


def test_a_timed_record_too_short_for_its_time_is_malformed() -> None:
    payload = payload_of_kind(4, 0)
    with pytest.raises(MalformedError, match="too short"):
        decode_records(FrameHeader(len(payload), 5, 1, 0, 9, 9), payload)


@pytest.mark.parametrize("record", [*RECORDS, CLAIMED_RECORD, *TIMED_RECORDS, CLAIMS, *FANNED_RECORDS])
def test_a_record_knows_what_it_takes_of_a_frame(record: Record) -> None:
    assert len(encode_frame([record], 0, 0)[1]) == FRAME_BYTES + record.size_bytes


@pytest.mark.parametrize(("version", "claimed"), [("1.0", False), ("1.1", True), ("1.2", True), ("1.3", True), ("1.4", True)])
def test_the_golden_segments_are_read(version: str, claimed: bool) -> None:
    data = (GOLDEN / f"{version}.kqj").read_bytes()
    assert decode_header(data) == HEADER._replace(minor=int(version[-1]))
    header = decode_frame_header(data, HEADER_BYTES, salt_of(HEADER.id))
    assert header is not None
    start = HEADER_BYTES + FRAME_BYTES
    records = decode_records(header, data[start : start + header.length])
    assert [(r.seq, r.kind, r.count, r.payload) for r in records] == [
        (40, Kind.JOBS, 1, RECORDS[0].payload),
        (41, Kind.CALLS, 2, RECORDS[1].payload),
    ]
    assert records[1].last_order == 0x6000000000003
    start += header.length
    second = decode_frame_header(data, start, salt_of(HEADER.id))
    assert second is not None
    start += FRAME_BYTES
    (record,) = decode_records(second, data[start : start + second.length])
    assert (record.seq, record.kind, record.claimed) == (42, Kind.JOBS, claimed)


def with_version(major: int, minor: int) -> bytes:
    fields = bytearray(encode_header(HEADER)[:-4])
    struct.pack_into("<HH", fields, 8, major, minor)
    return bytes(fields) + struct.pack("<I", crc32c(fields))


def test_a_newer_major_is_refused_whatever_follows() -> None:
    with pytest.raises(JournalVersionError):
        decode_header(with_version(2, 0)[:20])


def test_a_newer_minor_is_read() -> None:
    assert decode_header(with_version(1, 9)).minor == 9


@pytest.mark.parametrize("data", [b"", b"KQSJRNL\n", b"X" * HEADER_BYTES, bytes(HEADER_BYTES), b"KQSJRNL\n\1\0" + bytes(200)])
def test_what_is_no_header_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_header(data)


def test_zeros_are_no_frame() -> None:
    assert decode_frame_header(bytes(FRAME_BYTES), 0, 0) is None


def test_a_frame_of_another_segment_is_no_frame() -> None:
    frame = bytes(encode_frame(RECORDS, 0, salt_of(b"one"))[1])
    assert decode_frame_header(frame, 0, salt_of(b"other")) is None


def test_an_unknown_frame_flag_is_refused() -> None:
    frame = bytearray(encode_frame(RECORDS, 0, 5)[1])
    struct.pack_into("<I", frame, 40, 6)
    struct.pack_into("<I", frame, 44, crc32c(bytes(frame[:44]), 5))
    with pytest.raises(JournalVersionError):
        decode_frame_header(bytes(frame), 0, 5)


def payload_of_kind(kind: int, flags: int) -> bytes:
    return struct.pack("<BBHIIQ", kind, flags, 0, 1, 2, 9) + b"{}"


def test_an_unknown_ignorable_record_is_passed_over() -> None:
    payload = payload_of_kind(77, IGNORABLE) + payload_of_kind(2, 0)
    records = decode_records(FrameHeader(len(payload), 5, 2, 0, 9, 9), payload)
    assert [record.seq for record in records] == [6]


def test_an_unknown_record_is_refused() -> None:
    with pytest.raises(JournalVersionError, match="kind 77"):
        decode_records(FrameHeader(RECORD_BYTES + 2, 5, 1, 0, 9, 9), payload_of_kind(77, 0))


@pytest.mark.parametrize(
    ("payload", "count", "complaint"),
    [(b"", 1, "cut off"), (payload_of_kind(2, 0)[:-1], 1, "longer"), (payload_of_kind(2, 0) + b"!", 1, "after the last")],
)
def test_lengths_that_do_not_add_up_are_malformed(payload: bytes, count: int, complaint: str) -> None:
    with pytest.raises(MalformedError, match=complaint):
        decode_records(FrameHeader(len(payload), 5, count, 0, 9, 9), payload)
