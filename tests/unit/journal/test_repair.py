from __future__ import annotations

from pathlib import Path

import pytest

from kqs.errors import JournalCorruptError, JournalError, JournalLockedError
from kqs.journal import checkpoint, claims_record
from kqs.journal.checkpoint import encode_checkpoint
from kqs.journal.format import FRAME_BYTES, HEADER_BYTES, RECORD_BYTES, encode_header
from kqs.journal.repair import repair
from kqs.journal.scan import scan
from kqs.journal.segment import read_header
from kqs.journal.survey import dump, verify
from tests.support.files import MemoryFiles
from tests.support.journal import DIR, a_disk_with, a_journal, a_record, all_records, all_settled, appended, records_in

#: a batch of one one-byte record
BATCH_BYTES = FRAME_BYTES + RECORD_BYTES + 1


def segment(number: int) -> Path:
    return DIR / f"{number:012d}.kqj"


async def a_disk() -> MemoryFiles:
    """Records 0 .. 8 in three segments of three batches each."""
    return await a_disk_with(*([str(index)] for index in range(9)), segment_bytes=HEADER_BYTES + 3 * BATCH_BYTES)


def damage(disk: MemoryFiles, path: Path, start: int, count: int = 4) -> None:
    data = bytearray(disk.data(path))
    data[start : start + count] = b"\xaa" * count
    disk.put(path, bytes(data))


def salvaged(disk: MemoryFiles) -> list[int]:
    """Return the payloads of a repaired journal, checked against their seqs."""
    records = records_in(disk, scan(disk, DIR))
    assert all(record.payload == str(record.seq).encode() for record in records)
    return [record.seq for record in records]


async def test_a_healthy_journal_is_left_alone() -> None:
    disk = await a_disk()
    before = disk.snapshot()
    report = repair(DIR, disk)
    assert (report.problems, report.lost, report.set_aside) == ([], [], [])
    assert (report.segments, report.batches, report.records, report.first_seq, report.end_seq) == (3, 9, 9, 0, 9)
    assert {path: data for path, data in disk.snapshot().items() if path.name != "lock"} == before


async def test_a_damaged_batch_is_replaced_by_a_hole_of_the_same_size() -> None:
    disk = await a_disk()
    damage(disk, segment(2), HEADER_BYTES + BATCH_BYTES + 60)
    report = repair(DIR, disk)
    assert (report.lost, report.problems) == ([(4, 5)], [])
    assert salvaged(disk) == [0, 1, 2, 3, 5, 6, 7, 8]
    aside = disk.data(DIR / report.set_aside[0])
    assert len(aside) == BATCH_BYTES
    assert b"\xaa" in aside


async def a_disk_of_orders() -> MemoryFiles:
    """Records 0 .. 5 in two segments of three batches; record `r` holds 10 jobs, with the orders from 100 * r + 1 on."""
    journal = a_journal(files := MemoryFiles(), segment_bytes=HEADER_BYTES + 3 * BATCH_BYTES)
    await journal.start()
    for index in range(6):
        await appended(journal, a_record(str(index), 100 * index + 1, 10))
    await journal.stop()
    return files


def told(disk: MemoryFiles) -> list[tuple[bool, int | None, list[int | None]]]:
    """Repair; return of each loss whether it is stored, how many jobs it is at most, and the orders that bound it."""

    def order(job_id: str | None) -> int | None:
        return None if job_id is None else int(job_id[:13], 16)

    lost = repair(DIR, disk).lost_jobs
    return [
        (jobs.is_stored, jobs.at_most, [*map(order, (jobs.first_id, jobs.last_id, jobs.after_id, jobs.before_id))])
        for jobs in lost
    ]


async def test_a_damaged_batch_whose_header_is_intact_tells_how_many_jobs_are_lost_and_their_ids() -> None:
    disk = await a_disk_of_orders()
    damage(disk, segment(2), HEADER_BYTES + FRAME_BYTES)
    damage(disk, segment(2), HEADER_BYTES + BATCH_BYTES + FRAME_BYTES)
    assert told(disk) == [(False, 20, [301, 410, 210, 501])]


async def test_a_damaged_batch_whose_header_is_not_tells_between_which_ids_its_jobs_are() -> None:
    disk = await a_disk_of_orders()
    damage(disk, segment(1), HEADER_BYTES)
    damage(disk, segment(2), HEADER_BYTES)
    assert told(disk) == [(False, None, [None, None, None, 101]), (False, None, [None, None, 210, 401])]


async def test_one_intact_header_of_two_tells_nothing() -> None:
    disk = await a_disk_of_orders()
    damage(disk, segment(1), HEADER_BYTES + FRAME_BYTES)
    damage(disk, segment(1), HEADER_BYTES + BATCH_BYTES)
    assert told(disk) == [(False, None, [None, None, None, 201])]


async def test_a_damaged_hole_tells_no_jobs() -> None:
    disk = await a_disk_of_orders()
    damage(disk, segment(1), HEADER_BYTES + BATCH_BYTES)
    repair(DIR, disk)
    damage(disk, segment(1), HEADER_BYTES + BATCH_BYTES + FRAME_BYTES)
    assert told(disk) == [(False, None, [None, None, 10, 201])]


async def test_lost_records_below_the_checkpoint_are_in_the_store() -> None:
    disk = await a_disk_of_orders()
    disk.put(DIR / "checkpoint", encode_checkpoint(scan(disk, DIR).segments[0].header.journal_id, 2))
    damage(disk, segment(1), HEADER_BYTES + BATCH_BYTES + FRAME_BYTES)
    damage(disk, segment(2), HEADER_BYTES + FRAME_BYTES)
    assert [is_stored for is_stored, _, _ in told(disk)] == [True, False]


async def test_a_repaired_journal_starts_and_goes_on() -> None:
    disk = await a_disk()
    disk.unlink(segment(2))
    repair(DIR, disk)
    journal = a_journal(disk)
    assert (await journal.start()).next_seq == 9
    await appended(journal, a_record("9"))
    assert [record.seq for record in await all_records(journal)] == [0, 1, 2, *range(6, 10)]
    await journal.stop()


async def test_damage_at_the_end_of_an_earlier_segment_is_filled_up_to_the_next() -> None:
    disk = await a_disk()
    damage(disk, segment(1), HEADER_BYTES + 2 * BATCH_BYTES)
    assert repair(DIR, disk).lost == [(2, 3)]
    assert salvaged(disk) == [0, 1, *range(3, 9)]


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_damaged_header_is_rebuilt(number: int) -> None:
    disk = await a_disk()
    damage(disk, segment(number), 100)
    report = repair(DIR, disk)
    assert (report.lost, report.problems) == ([], [])
    assert salvaged(disk) == [*range(9)]


async def test_a_wholly_lost_header_is_rebuilt_from_its_neighbours() -> None:
    disk = await a_disk()
    damage(disk, segment(2), 0, HEADER_BYTES)
    assert repair(DIR, disk).lost == []
    assert salvaged(disk) == [*range(9)]


async def test_a_lost_header_and_first_batch_are_rebuilt() -> None:
    disk = await a_disk()
    damage(disk, segment(2), 0, HEADER_BYTES + 20)
    assert repair(DIR, disk).lost == [(3, 4)]
    assert salvaged(disk) == [0, 1, 2, *range(4, 9)]


async def test_a_last_segment_without_a_header_is_set_aside() -> None:
    disk = await a_disk()
    damage(disk, segment(3), 0, 64)
    report = repair(DIR, disk)
    assert report.set_aside == ["000000000003.kqj.0.damaged"]
    assert salvaged(disk) == [*range(6)]


async def test_what_a_last_segment_without_a_header_held_is_lost() -> None:
    disk = await a_disk_of_orders()
    damage(disk, segment(2), 0, 64)
    assert told(disk) == [(False, None, [None, None, 210, None])]


async def test_a_last_segment_that_held_nothing_loses_nothing() -> None:
    disk = await a_disk_of_orders()
    disk.put(segment(3), b"KQSJRNL\n" + bytes(600))
    assert told(disk) == []


@pytest.mark.parametrize("missing", [[2], [2, 3]])
async def test_missing_segments_become_holes(missing: list[int]) -> None:
    disk = await a_disk_with(*([str(index)] for index in range(12)), segment_bytes=HEADER_BYTES + 3 * BATCH_BYTES)
    for number in missing:
        disk.unlink(segment(number))
    end = 3 + 3 * len(missing)
    assert repair(DIR, disk).lost == [(3, end)]
    assert salvaged(disk) == [0, 1, 2, *range(end, 12)]


async def test_a_missing_segment_without_records_is_made_again() -> None:
    disk = await a_disk_with(["0"])
    for _ in range(2):
        disk.locked.clear()
        journal = a_journal(disk)
        await journal.start()
        await journal.stop()
    names = disk.snapshot()
    assert len([name for name in names if name.suffix == ".kqj"]) == 3
    disk.unlink(segment(2))
    assert repair(DIR, disk).lost == []
    assert salvaged(disk) == [0]


async def test_records_before_the_checkpoint_need_not_be_there_but_those_after_are_lost() -> None:
    disk = await a_disk()
    disk.put(DIR / "checkpoint", encode_checkpoint(scan(disk, DIR).segments[0].header.journal_id, 2))
    disk.unlink(segment(1))
    report = repair(DIR, disk)
    assert (report.lost, report.problems) == ([(2, 3)], [])
    assert salvaged(disk) == [3, 4, 5, 6, 7, 8]
    found = scan(disk, DIR)
    # no further than the store is, which would pass for older than its journal
    assert (found.segments[0].header.first_seq, found.checkpoint_seq, found.harmless) == (2, 2, [])


async def test_a_repair_that_makes_up_for_the_first_segments_goes_on_where_it_was_cut_off() -> None:
    disk = await a_disk_with(["0"], ["1"])
    disk.put(DIR / "checkpoint", encode_checkpoint(scan(disk, DIR).segments[0].header.journal_id, 0))
    for _ in range(2):  # each start writes the last batch once more, so the second segment is left empty
        journal = a_journal(disk)
        await journal.start()
        await journal.stop()
    disk.unlink(segment(1))
    disk.unlink(segment(2))
    assert repair(DIR, disk).lost == [(0, 1)]
    disk.unlink(segment(1))
    assert repair(DIR, disk).lost == [(0, 1)]
    found = scan(disk, DIR)
    assert ([one.header.first_seq for one in found.segments], found.checkpoint_seq) == ([0, 1, 1], 0)
    assert salvaged(disk) == [1]


async def test_a_journal_that_ends_before_its_checkpoint_is_filled_up() -> None:
    disk = await a_disk()
    disk.put(DIR / "checkpoint", encode_checkpoint(scan(disk, DIR).segments[0].header.journal_id, 8))
    disk.unlink(segment(3))
    assert repair(DIR, disk).lost == [(6, 8)]
    found = scan(disk, DIR)
    assert (found.segments[-1].end_seq, found.checkpoint_seq) == (8, 8)


async def test_a_repair_that_is_run_again_keeps_the_first_copy() -> None:
    disk = await a_disk()
    damage(disk, segment(2), HEADER_BYTES + 60)
    repair(DIR, disk)
    first = disk.data(DIR / f"000000000002.kqj.{HEADER_BYTES}.damaged")
    damage(disk, segment(2), HEADER_BYTES + 60, 2)
    repair(DIR, disk)
    assert disk.data(DIR / f"000000000002.kqj.{HEADER_BYTES}.damaged") == first


async def test_repair_refuses_while_a_server_runs() -> None:
    disk = await a_disk()
    journal = a_journal(disk)
    await journal.start()
    with pytest.raises(JournalLockedError):
        repair(DIR, disk)
    assert verify(DIR, disk).problems == []
    await journal.stop()


async def test_nothing_to_salvage_says_so() -> None:
    disk = await a_disk_with(["0"])
    damage(disk, segment(1), 0, HEADER_BYTES)
    with pytest.raises(JournalCorruptError, match="no segment that could be salvaged"):
        repair(DIR, disk)


def test_checkpoint_alone_is_nothing_to_salvage_from() -> None:
    disk = MemoryFiles()
    disk.put(DIR / checkpoint.NAME, b"")
    with pytest.raises(JournalCorruptError, match="no segment that could be salvaged"):
        repair(DIR, disk)


def test_folder_without_a_journal_is_left_as_it_is() -> None:
    disk = MemoryFiles()
    disk.make_dir(DIR)
    with pytest.raises(JournalError, match="there is no journal"):
        repair(DIR, disk)
    assert disk.list(DIR) == []


async def test_records_without_a_place_are_refused() -> None:
    disk = await a_disk()
    taken = disk.data(segment(1))
    disk.put(segment(1), taken[: HEADER_BYTES + BATCH_BYTES] + taken[HEADER_BYTES + 2 * BATCH_BYTES :])
    with pytest.raises(JournalCorruptError, match="have no place"):
        repair(DIR, disk)


async def test_verify_tells_a_torn_tail_apart() -> None:
    disk = await a_disk()
    damage(disk, segment(3), HEADER_BYTES + 2 * BATCH_BYTES + 60)
    report = verify(DIR, disk)
    assert report.torn == ("000000000003.kqj", BATCH_BYTES)
    assert (report.problems, report.end_seq) == ([], 8)


async def test_verify_tells_each_damage_once() -> None:
    disk = await a_disk()
    damage(disk, segment(2), HEADER_BYTES + BATCH_BYTES + 60)
    damage(disk, segment(3), HEADER_BYTES + 60)
    assert verify(DIR, disk).problems == [
        f"{segment(2)}:{HEADER_BYTES + BATCH_BYTES} batch checksum differs; {BATCH_BYTES} bytes from record 4 on are damaged",
        f"{segment(3)}:{HEADER_BYTES} batch checksum differs; {BATCH_BYTES} bytes from record 6 on are damaged",
    ]


async def test_verify_of_an_empty_directory_finds_nothing() -> None:
    report = verify(DIR, MemoryFiles())
    assert (report.segments, report.problems) == (0, [])


async def test_verify_names_a_damaged_header() -> None:
    disk = await a_disk()
    damage(disk, segment(1), 100)
    damage(disk, segment(2), 100)
    assert [problem.split()[0] for problem in verify(DIR, disk).problems] == [f"{segment(1)}:0", f"{segment(2)}:0"]


async def test_dump_prints_every_segment_batch_and_record() -> None:
    disk = await a_disk()
    lines = list(dump(DIR, disk))
    assert len(lines) == 3 + 2 * 9
    assert lines[0].startswith("000000000001.kqj segment 1 id ")
    assert lines[2] == "  record 0 jobs jobs 1 orders 1 .. 1: '0'"


async def test_dump_prints_claims() -> None:
    files = MemoryFiles()
    journal = a_journal(files)
    await journal.start()
    await appended(journal, claims_record([0x6000000000001, 0x6000000000002]))
    await journal.stop()
    assert "  record 0 claims: '6000000000001-6000000000002'" in list(dump(DIR, files))


async def test_claims_stand_in_any_record_of_a_batch_and_survive_a_repair() -> None:
    disk = MemoryFiles()
    journal = a_journal(disk, before_flush=lambda batch: setattr(batch[-1], "claimed", True))
    await journal.start()
    for batch in ("damaged", "ab"):
        for text in batch:
            journal.append(a_record(text, count=2))
        await all_settled(journal)
    names = disk.snapshot()
    await journal.stop()
    disk = MemoryFiles({path: data for path, data in names.items() if path.name != "lock"})
    damage(disk, segment(1), HEADER_BYTES + 60)
    assert repair(DIR, disk).lost == [(0, 7)]
    told = [line for line in dump(DIR, disk) if line.startswith("  record")]
    assert [" claimed: " in line for line in told] == [False, True]
    assert [(record.count, record.claimed) for record in records_in(disk, scan(disk, DIR))] == [(2, False), (2, True)]


async def test_dump_tells_what_is_preallocated_from_what_is_torn() -> None:
    disk = await a_disk_with(["0"])
    end = scan(disk, DIR).segments[-1].end
    assert list(dump(DIR, disk))[-1] == f"000000000001.kqj:{end} preallocated up to 4096"
    damage(disk, segment(1), end)
    assert list(dump(DIR, disk))[-1] == f"000000000001.kqj:{end} no batch up to 4096: no intact frame"


async def test_dump_prints_damage_and_lost_records() -> None:
    disk = await a_disk()
    damage(disk, segment(1), HEADER_BYTES)
    repair(DIR, disk)
    damage(disk, segment(2), HEADER_BYTES)
    damage(disk, segment(3), 0)
    text = "\n".join(dump(DIR, disk))
    assert "lost records 0 .. 0" in text
    assert f"000000000002.kqj:{HEADER_BYTES} no batch up to {HEADER_BYTES + BATCH_BYTES}" in text
    assert "000000000003.kqj DAMAGED" in text


async def test_a_batch_that_stands_twice_is_taken_once() -> None:
    disk = await a_disk()
    data = bytearray(disk.data(segment(2)))
    data[HEADER_BYTES + BATCH_BYTES : HEADER_BYTES + 2 * BATCH_BYTES] = data[HEADER_BYTES : HEADER_BYTES + BATCH_BYTES]
    disk.put(segment(2), bytes(data))
    assert repair(DIR, disk).lost == [(4, 5)]
    assert salvaged(disk) == [0, 1, 2, 3, 5, 6, 7, 8]


async def test_a_missing_segment_that_was_too_short_for_its_records_is_refused() -> None:
    disk = await a_disk()
    disk.unlink(segment(2))
    header = read_header(disk, DIR, segment(3).name)
    disk.put(segment(3), encode_header(header._replace(previous_end=HEADER_BYTES)) + disk.data(segment(3))[HEADER_BYTES:])
    with pytest.raises(JournalCorruptError, match="have no place"):
        repair(DIR, disk)


async def test_first_segments_that_were_too_few_for_their_records_are_not_made_up_for() -> None:
    disk = await a_disk()
    disk.put(DIR / "checkpoint", encode_checkpoint(scan(disk, DIR).segments[0].header.journal_id, 0))
    disk.unlink(segment(1))
    header = read_header(disk, DIR, segment(2).name)
    disk.put(segment(2), encode_header(header._replace(previous_end=HEADER_BYTES)) + disk.data(segment(2))[HEADER_BYTES:])
    with pytest.raises(JournalCorruptError, match="have no place"):
        repair(DIR, disk)
