"""Damage to what the store has already hinders no start; damage to what only the journal has still refuses.

Oracle: verify and a start agree, before a repair and after it, each twice; no new record gets a number that the store knows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kqs.errors import JournalCorruptError
from kqs.journal import Journal
from kqs.journal.checkpoint import encode_checkpoint
from kqs.journal.format import FRAME_BYTES, HEADER_BYTES, RECORD_BYTES
from kqs.journal.repair import repair
from kqs.journal.scan import scan
from kqs.journal.survey import verify
from tests.support.clock import FakeClock
from tests.support.files import FaultyFiles, MemoryFiles
from tests.support.journal import DIR, a_disk_with, a_journal, a_record, a_section, all_records, appended, records_in

SEGMENTS, BATCHES = 3, 2
RECORDS = SEGMENTS * BATCHES
#: each checkpoint has other bytes damaged
STEP = 5
BATCH_BYTES = FRAME_BYTES + RECORD_BYTES + 1
Names = dict[Path, bytes]


def segment(number: int) -> Path:
    return DIR / f"{number:012d}.kqj"


async def a_folder(seq: int) -> Names:
    """Six records in three segments, of which the store has those below `seq`; none is dropped yet."""
    disk = await a_disk_with(*([str(n)] for n in range(RECORDS)), segment_bytes=HEADER_BYTES + BATCHES * BATCH_BYTES)
    names = {path: data for path, data in disk.snapshot().items() if path.suffix == ".kqj"}
    journal_id = scan(disk, DIR).segments[0].header.journal_id
    return names | ({DIR / "checkpoint": encode_checkpoint(journal_id, seq)} if seq else {})


def flipped(names: Names, path: Path, *bits: int) -> Names:
    data = bytearray(names[path])
    for bit in bits:
        data[bit >> 3] ^= 1 << (bit & 7)
    return {**names, path: bytes(data)}


def would_start(files: MemoryFiles) -> bool:
    try:
        found = scan(files, DIR)
    except JournalCorruptError:
        assert verify(DIR, files).problems
        return False
    report = verify(DIR, files)
    assert (report.problems, report.harmless) == ([], found.harmless)
    return True


async def start(files: MemoryFiles, seq: int) -> list[bytes]:
    """Start, insert, start again; return what is there of what the store does not have."""
    journal = a_journal(files)
    recovery = await journal.start()
    assert recovery.next_seq >= seq
    await appended(journal, a_record("new"))
    await journal.stop()
    journal = a_journal(files)
    await journal.start()
    payloads = [record.payload for record in await all_records(journal, seq)]
    await journal.stop()
    assert payloads.pop() == b"new"
    return payloads


async def check(names: Names, seq: int, lost: set[int]) -> bool:
    """Tell whether it starts; see to it that it does after a repair, without the records `lost` at most."""
    starts = would_start(MemoryFiles(names))
    needed = {str(n).encode() for n in range(seq, RECORDS) if n not in lost}
    if starts:
        files = MemoryFiles(names)
        assert needed <= set(await start(files, seq))
        assert would_start(files)
    repaired = MemoryFiles(names)
    for _ in range(2):
        assert repair(DIR, repaired).problems == []
        assert would_start(repaired)
    assert needed <= set(await start(repaired, seq))
    return starts


@pytest.mark.parametrize("seq", range(RECORDS + 1))
async def test_a_flipped_bit_stops_a_start_unless_it_hit_what_is_stored_or_the_end(seq: int) -> None:
    names = await a_folder(seq)
    for number in range(1, SEGMENTS + 1):
        first = (number - 1) * BATCHES
        for at in range(seq % STEP, HEADER_BYTES + BATCHES * BATCH_BYTES, STEP):
            hit = first + max(0, at - HEADER_BYTES) // BATCH_BYTES
            in_header = at < HEADER_BYTES
            is_stored = first + BATCHES <= seq if in_header else hit < seq
            is_torn = hit == RECORDS - 1 and not in_header
            lost = set() if in_header else {hit}
            starts = await check(flipped(names, segment(number), 8 * at + at % 8), seq, lost)
            assert starts == (is_stored or is_torn), (number, at)


@pytest.mark.parametrize("seq", range(RECORDS + 1))
async def test_a_last_segment_that_is_cut_short_stops_no_start(seq: int) -> None:
    names = await a_folder(seq)
    whole = names[segment(SEGMENTS)]
    for length in range(0, len(whole), 7):
        hit = RECORDS - BATCHES + max(0, length - HEADER_BYTES) // BATCH_BYTES
        for tail in (b"", bytes(100)) if length >= HEADER_BYTES else (b"",):
            cut = {**names, segment(SEGMENTS): whole[:length] + tail}
            assert await check(cut, seq, set(range(hit, RECORDS)))


@pytest.mark.parametrize("seq", range(RECORDS + 1))
@pytest.mark.parametrize("number", range(1, SEGMENTS + 1))
async def test_a_missing_segment_stops_a_start_where_it_leaves_a_hole_that_is_not_stored(seq: int, number: int) -> None:
    names = await a_folder(seq)
    del names[segment(number)]
    first = (number - 1) * BATCHES
    starts = await check(names, seq, set(range(first, first + BATCHES)))
    assert starts == (first + BATCHES <= seq or number == SEGMENTS or (number == 1 and seq == 0))


@pytest.mark.parametrize("seq", [3, 4, 5, RECORDS])
async def test_damage_in_two_places_stops_no_start_where_both_are_stored(seq: int) -> None:
    names = await a_folder(seq)
    size = HEADER_BYTES + BATCHES * BATCH_BYTES
    places = [(number, at) for number in range(1, SEGMENTS + 1) for at in (5, 30, 100, *range(HEADER_BYTES, size, 23))]
    for number, at in places:
        for other, too in places:
            if (other, too) <= (number, at):
                continue
            hits = {
                (one - 1) * BATCHES + n
                for one, place in ((number, at), (other, too))
                for n in ([0, 1] if place < HEADER_BYTES else [(place - HEADER_BYTES) // BATCH_BYTES])
            }
            if number == other and at < HEADER_BYTES and too < HEADER_BYTES:
                continue  # two bits of a header: its segment is given up
            damaged = flipped(flipped(names, segment(number), 8 * at), segment(other), 8 * too + 3)
            starts = await check(damaged, seq, hits)
            if max(hits) < seq:
                assert starts, (number, at, other, too)


async def test_two_flipped_bits_of_the_last_header_refuse_and_are_repaired() -> None:
    names = flipped(await a_folder(RECORDS), segment(SEGMENTS), 8 * 30, 8 * 100)
    assert not await check(names, RECORDS, set())


async def test_damage_to_what_only_the_journal_has_is_refused_beside_damage_that_is_harmless() -> None:
    names = flipped(await a_folder(3), segment(1), 8 * HEADER_BYTES)
    names = flipped(names, segment(2), 8 * (HEADER_BYTES + BATCH_BYTES))
    assert not await check(names, 3, {3})


async def test_a_checkpoint_of_another_journal_makes_nothing_harmless() -> None:
    names = await a_folder(0)
    names[DIR / "checkpoint"] = encode_checkpoint(bytes(16), RECORDS)
    assert not would_start(MemoryFiles(flipped(names, segment(1), 8 * HEADER_BYTES)))


async def test_a_replay_of_everything_needs_what_the_store_has_too() -> None:
    files = MemoryFiles(flipped(await a_folder(RECORDS), segment(1), 8 * HEADER_BYTES))
    scan(files, DIR)
    with pytest.raises(JournalCorruptError, match=f"{segment(1)}:{HEADER_BYTES} "):
        scan(files, DIR, everything=True)


async def test_records_of_a_torn_batch_leave_their_numbers_to_nobody() -> None:
    disk = await a_disk_with(["a"], ["b", "c", "d"])
    whole = disk.data(segment(1)).rstrip(b"\0")
    for damaged in (whole[:-1] + b"?", whole[: whole.rindex(b"b")], whole[: len(whole) - 110] + b"?" * 110):
        files = MemoryFiles({segment(1): damaged})
        journal = a_journal(files)
        recovery = await journal.start()
        assert (recovery.next_seq >= 4, recovery.is_cut, recovery.is_as_stopped) == (True, True, False)
        await appended(journal, a_record("new"))
        assert [record.payload for record in await all_records(journal)] == [b"a", b"new"]
        await journal.stop()
        assert [record.payload for record in records_in(files, scan(files, DIR))] == [b"a", b"new"]


async def test_a_stop_in_order_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    for expected in (False, True):
        journal = a_journal(files)
        recovery = await journal.start()
        assert (recovery.is_cut, recovery.is_as_stopped) == (False, expected)
        await appended(journal, a_record())
        await journal.checkpoint(journal.durable_seq)
        await journal.stop()


async def test_numbers_that_the_store_knows_are_skipped_before_the_first_record() -> None:
    files = MemoryFiles()
    journal = Journal(a_section(), FakeClock(), files)
    assert not journal.skip_to(5)
    await journal.start()
    assert journal.skip_to(2**33)
    await appended(journal, a_record())
    assert not journal.skip_to(2**34)
    assert [record.seq for record in await all_records(journal)] == [2**33]
    await journal.stop()
    assert scan(files, DIR).next_seq == 2**33 + 1


async def test_numbers_that_cannot_be_skipped_say_why() -> None:
    files = FaultyFiles(MemoryFiles())
    journal = a_journal(files)
    await journal.start()
    files.plan = lambda _index, name: OSError(5, "gone") if name == "flush" else None
    with pytest.raises(Exception, match="gone"):
        journal.skip_to(5)
    files.plan = lambda _index, _name: None
    await journal.stop()
