"""A flipped bit anywhere in a journal: refused, or a torn tail, or harmless; never an altered payload.

The last batch of the last segment is the stated limit: rot there and a torn write cannot be told apart.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kqs.errors import JournalCorruptError, JournalVersionError
from kqs.journal.checkpoint import write_checkpoint
from kqs.journal.format import FRAME_BYTES, HEADER_BYTES
from kqs.journal.scan import scan
from tests.support.files import MemoryFiles
from tests.support.journal import DIR, a_disk_with, records_in, recovered

FIRST = DIR / "000000000001.kqj"
BATCHES = [["alpha"], ["beta", "gamma"], ["delta"], ["omega"]]
PAYLOADS = [text.encode() for batch in BATCHES for text in batch]


def flipped(names: dict[Path, bytes], path: Path, at: int, bit: int) -> MemoryFiles:
    data = bytearray(names[path])
    data[at] ^= 1 << bit
    return MemoryFiles({**names, path: bytes(data)})


def judge(files: MemoryFiles) -> str:
    try:
        found = scan(files, DIR)
    except (JournalCorruptError, JournalVersionError) as error:
        return "refused" if str(error).startswith(str(DIR)) else f"refused without a place: {error}"
    payloads = [record.payload for record in records_in(files, found)]
    assert payloads == PAYLOADS[: len(payloads)]
    return "identical" if payloads == PAYLOADS and found.torn is None else "torn"


@pytest.mark.parametrize("bit", [0, 7])
async def test_every_flipped_bit_of_the_last_segment_is_seen(bit: int) -> None:
    disk = await a_disk_with(*BATCHES, segment_bytes=700)
    names = disk.snapshot()
    found = scan(disk, DIR)
    assert found.last_frame is not None
    for at in range(len(names[FIRST])):
        verdict = judge(flipped(names, FIRST, at, bit))
        assert verdict == ("refused" if at < found.last_frame.offset else "torn"), at


async def test_every_flipped_bit_of_an_earlier_segment_refuses() -> None:
    disk = await a_disk_with(["alpha"], ["beta", "gamma"], ["delta"], ["omega"], segment_bytes=300)
    names = disk.snapshot()
    segments = scan(disk, DIR).segments
    assert len(segments) == 2
    for at in range(len(names[FIRST])):
        assert judge(flipped(names, FIRST, at, 3)) == ("refused" if at < segments[0].end else "identical"), at


async def test_a_torn_tail_is_set_aside_and_the_rest_recovered() -> None:
    disk = await a_disk_with(*BATCHES)
    found = scan(disk, DIR)
    assert found.last_frame is not None
    whole = disk.data(FIRST)
    disk.put(FIRST, whole[: found.last_frame.end - 3])
    assert [record.payload for record in recovered(disk)] == PAYLOADS[:-1]
    torn = disk.data(FIRST.with_name(FIRST.name + ".torn"))
    assert torn == whole[found.last_frame.offset : found.last_frame.end - 3]


async def test_damage_names_file_and_offset_and_changes_nothing() -> None:
    disk = await a_disk_with(*BATCHES)
    damaged = flipped(disk.snapshot(), FIRST, HEADER_BYTES + FRAME_BYTES + 3, 0)
    before = damaged.snapshot()
    with pytest.raises(JournalCorruptError, match=rf"^{FIRST}:{HEADER_BYTES} batch checksum differs, yet record 1 stands"):
        recovered(damaged)
    assert damaged.snapshot() == before


async def test_a_payload_that_holds_journal_bytes_fakes_no_frame() -> None:
    disk = await a_disk_with(*BATCHES)
    stolen = disk.data(FIRST)[HEADER_BYTES:500].decode("latin-1")
    other = await a_disk_with(["alpha"], [stolen])
    found = scan(other, DIR)
    assert found.last_frame is not None
    torn = other.data(FIRST)[: found.last_frame.end - 1]
    assert [record.payload for record in recovered(MemoryFiles({FIRST: torn}))] == [b"alpha"]


async def a_long_disk() -> MemoryFiles:
    return await a_disk_with(*([f"{index}"] for index in range(8)), segment_bytes=300)


async def test_a_missing_segment_refuses() -> None:
    disk = await a_long_disk()
    disk.unlink(DIR / "000000000002.kqj")
    with pytest.raises(JournalCorruptError, match="segment 2 is missing"):
        recovered(disk)


async def test_a_segment_of_another_journal_refuses() -> None:
    disk = await a_long_disk()
    disk.put(DIR / "000000000002.kqj", (await a_long_disk()).data(DIR / "000000000002.kqj"))
    with pytest.raises(JournalCorruptError, match="another journal"):
        recovered(disk)


async def test_a_segment_under_another_name_refuses() -> None:
    disk = await a_disk_with(["one"])
    disk.rename(FIRST, DIR / "000000000009.kqj")
    with pytest.raises(JournalCorruptError, match="under another name"):
        recovered(disk)


async def test_a_journal_that_ends_before_its_checkpoint_goes_on_behind_it() -> None:
    disk = await a_disk_with(["one"])
    put_checkpoint(disk, 2)
    assert scan(disk, DIR).harmless == [
        f"{DIR} ends at record 1 before the checkpoint 2; the store has what is missing up to there, "
        "and whether more stood behind it cannot be told"
    ]
    assert [record.payload for record in recovered(disk)] == [b"one"]
    assert (scan(disk, DIR).end_seq, scan(disk, DIR).harmless) == (2, [])


def put_checkpoint(disk: MemoryFiles, seq: int) -> None:
    write_checkpoint(disk, DIR, scan(disk, DIR).segments[0].header.journal_id, seq)


async def test_segments_missing_after_the_checkpoint_refuse() -> None:
    disk = await a_long_disk()
    put_checkpoint(disk, 1)
    for number in (1, 2):
        disk.unlink(DIR / f"{number:012d}.kqj")
    with pytest.raises(JournalCorruptError, match="but the checkpoint is 1"):
        recovered(disk)


async def test_a_checkpoint_without_segments_refuses() -> None:
    disk = await a_disk_with(["one"])
    put_checkpoint(disk, 1)
    disk.unlink(FIRST)
    with pytest.raises(JournalCorruptError, match="no segment"):
        recovered(disk)


@pytest.mark.parametrize("damage", [b"", b"kqs-checkpoint 1 nonsense\n", b"\0" * 90])
async def test_a_damaged_checkpoint_replays_everything(damage: bytes) -> None:
    disk = await a_disk_with(*BATCHES)
    disk.put(DIR / "checkpoint", damage)
    assert scan(disk, DIR).checkpoint_seq is None
    assert [record.payload for record in recovered(disk)] == PAYLOADS


@pytest.mark.parametrize("torn", [b"", b"KQSJ", bytes(4096)])
async def test_a_last_segment_without_a_header_is_a_torn_tail(torn: bytes) -> None:
    disk = await a_disk_with(*BATCHES)
    disk.put(DIR / "000000000002.kqj", torn)
    assert [record.payload for record in recovered(disk)] == PAYLOADS


async def test_a_lone_segment_without_a_header_refuses_unless_it_is_the_first() -> None:
    assert recovered(MemoryFiles({FIRST: b""})) == []
    with pytest.raises(JournalCorruptError, match="no intact segment"):
        recovered(MemoryFiles({DIR / "000000000007.kqj": b""}))


async def test_the_refused_tail_of_an_abandoned_segment_is_not_read() -> None:
    disk = await a_disk_with(["one"], ["two"])
    assert [record.payload for record in recovered(disk)] == [b"one", b"two"]
    data = bytearray(disk.data(FIRST))
    end = scan(disk, DIR).segments[0].end
    data[end : end + 5] = b"junk!"
    disk.put(FIRST, bytes(data))
    assert [record.payload for record in recovered(disk)] == [b"one", b"two"]


async def test_two_damaged_batches_at_the_end_are_no_torn_tail() -> None:
    disk = await a_disk_with(*BATCHES)
    found = scan(disk, DIR)
    assert found.last_frame is not None
    first = disk.data(FIRST).index(b"delta")
    damaged = flipped(flipped(disk.snapshot(), FIRST, first, 0).snapshot(), FIRST, found.last_frame.end - 1, 0)
    with pytest.raises(JournalCorruptError, match=f"batch checksum differs, yet record 4 stands at {found.last_frame.offset}"):
        scan(damaged, DIR)
