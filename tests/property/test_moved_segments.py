"""Segments that are copied, moved, swapped, linked, put back or brought from elsewhere, in every way there is; then repaired.

Oracle: verify and a start agree before and after; after one repair a start finds every record that still stood in some file, in
order; a second repair changes nothing; no intact header is written.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from kqs.errors import JournalCorruptError
from kqs.journal.checkpoint import encode_checkpoint
from kqs.journal.format import FRAME_BYTES, HEADER_BYTES, RECORD_BYTES, MalformedError, decode_header
from kqs.journal.names import put_names_right
from kqs.journal.recovery import recover
from kqs.journal.repair import repair
from kqs.journal.scan import scan
from kqs.journal.survey import verify
from tests.support.files import Disk as Power
from tests.support.files import MemoryFiles, PowerLossFiles
from tests.support.journal import DIR, a_disk_with, a_journal, a_record, a_section, appended, records_in

BATCH_BYTES = FRAME_BYTES + RECORD_BYTES + 1
SEGMENTS = 4
RECORDS = 2 * SEGMENTS
Names = dict[Path, bytes]


def segment(number: int) -> Path:
    return DIR / f"{number:012d}.kqj"


async def a_folder(count: int = RECORDS) -> Names:
    """Records 0, 1, ... in segments of two batches each."""
    disk = await a_disk_with(*([str(n)] for n in range(count)), segment_bytes=HEADER_BYTES + 2 * BATCH_BYTES)
    return {path: data for path, data in disk.snapshot().items() if path.suffix == ".kqj"}


def with_checkpoint(names: Names, seq: int | None) -> Names:
    """Say that the store has all below `seq`, and drop what a server would have dropped."""
    if seq is None:
        return names
    header = decode_header(names[segment(1)])
    kept = {path: data for path, data in names.items() if path == max(names) or (int(path.stem) * 2) > seq}
    return kept | {DIR / "checkpoint": encode_checkpoint(header.journal_id, seq)}


def copied(one: int, other: int, names: Names) -> Names:
    return {**names, segment(other): names[segment(one)]}


def moved(one: int, other: int, names: Names) -> Names:
    rest = {path: data for path, data in names.items() if path != segment(one)}
    return {**rest, segment(other): names[segment(one)]}


def in_order(order: Sequence[int], names: Names) -> Names:
    return names | {segment(to): names[segment(one)] for one, to in zip(order, sorted(order), strict=True)}


def copies(numbers: list[int], to: Iterable[int]) -> Iterator[tuple[str, Callable[[Names], Names]]]:
    for one, other in itertools.product(numbers, to):
        if one == other:
            continue
        yield f"cp {one} {other}", partial(copied, one, other)
        yield f"mv {one} {other}", partial(moved, one, other)


def permutations(numbers: list[int]) -> Iterator[tuple[str, Callable[[Names], Names]]]:
    for order in itertools.permutations(numbers):
        yield f"order {order}", partial(in_order, order)


def judged(files: MemoryFiles) -> bool:
    """Tell whether a start would go on, and see to it that verify says the same."""
    try:
        scan(files, DIR)
    except JournalCorruptError:
        assert verify(DIR, files).problems
        return False
    assert verify(DIR, files).problems == []
    return True


def headers(names: Names) -> set[bytes]:
    found = set()
    for data in names.values():
        try:
            decode_header(data)
        except MalformedError:
            continue
        found.add(data[:HEADER_BYTES])
    return found


def check(names: Names, wanted: set[int], own: Names) -> None:
    """Start, repair twice, start; `wanted`: the records that must be there then, if the store does not have them."""
    files = MemoryFiles(names)
    judged(files)
    assert {path: data for path, data in files.snapshot().items() if path.name != "lock"} == names
    first = repair(DIR, files)
    assert first.problems == []
    assert headers(names) <= headers(files.snapshot())
    before = files.snapshot()
    assert repair(DIR, files).problems == []
    assert files.snapshot() == before
    assert judged(files)
    found = scan(files, DIR)
    assert (
        found.segments[-1].header.journal_id
        == decode_header(own[max(path for path in own if path.suffix == ".kqj")]).journal_id
    )
    records = records_in(files, found)
    assert all(record.payload == str(record.seq).encode() for record in records)
    seqs = [record.seq for record in records]
    assert seqs == sorted(set(seqs))
    assert wanted - set(range(found.checkpoint_seq or 0)) <= set(seqs)
    recover(files, a_section())
    again = scan(files, DIR)
    assert again.next_seq >= found.next_seq
    assert wanted - set(range(found.checkpoint_seq or 0)) <= {record.seq for record in records_in(files, again)}


def still_there(names: Names, own: Names) -> set[int]:
    """Return the records whose segment stands whole under some name."""
    whole = set(names.values())
    return {
        seq
        for number in range(1, SEGMENTS + 1)
        if own.get(segment(number)) in whole
        for seq in (2 * number - 2, 2 * number - 1)
    }


CHECKPOINTS = pytest.mark.parametrize("seq", [None, 1, 2, 3, 5, 6, RECORDS])


@CHECKPOINTS
async def test_any_copy_or_move_of_one_segment(seq: int | None) -> None:
    own = with_checkpoint(await a_folder(), seq)
    numbers = [int(path.stem) for path in own if path.suffix == ".kqj"]
    for what, change in copies(numbers, [*range(1, SEGMENTS + 1), 7, 99]):
        names = change(own)
        try:
            check(names, still_there(names, own), own)
        except Exception as error:
            error.add_note(what)
            raise


@CHECKPOINTS
async def test_any_order_of_the_segments(seq: int | None) -> None:
    own = with_checkpoint(await a_folder(), seq)
    for what, change in permutations([int(path.stem) for path in own if path.suffix == ".kqj"]):
        try:
            check(change(own), set(range(RECORDS)), own)
        except Exception as error:
            error.add_note(what)
            raise


@CHECKPOINTS
async def test_any_two_changes(seq: int | None) -> None:
    own = with_checkpoint(await a_folder(), seq)
    numbers = [int(path.stem) for path in own if path.suffix == ".kqj"]
    targets = [*range(1, SEGMENTS + 1), 7]
    pairs = itertools.product(copies(numbers, targets), repeat=2)
    for (what, change), (what_else, change_too) in itertools.islice(pairs, (seq or 0) % 5, None, 5):
        names = change(own)
        try:
            names = change_too(names)
        except KeyError:  # it was moved away
            continue
        try:
            check(names, still_there(names, own), own)
        except Exception as error:
            error.add_note(f"{what}; {what_else}")
            raise


@CHECKPOINTS
async def test_a_dropped_segment_that_is_put_back(seq: int | None) -> None:
    whole = await a_folder()
    own = with_checkpoint(whole, seq)
    for number, place in itertools.product(range(1, SEGMENTS + 1), [*range(1, SEGMENTS + 1), 7]):
        if segment(place) not in own:
            names = {**own, segment(place): whole[segment(number)]}
            check(names, set(range(RECORDS)), own)


@CHECKPOINTS
async def test_a_segment_of_another_journal(seq: int | None) -> None:
    own, foreign = with_checkpoint(await a_folder(), seq), await a_folder()
    for number, place in itertools.product(range(1, SEGMENTS + 1), [*range(1, SEGMENTS + 1), 7]):
        names = {**own, segment(place): foreign[segment(number)]}
        files = MemoryFiles(names)
        if segment(place) not in own and place >= SEGMENTS:
            with pytest.raises(JournalCorruptError, match=segment(place).name):
                scan(files, DIR)
        if any(path.suffix == ".kqj" and names[path] == data for path, data in own.items()):
            check(names, still_there(names, own), own)
            repair(DIR, files)
            assert foreign[segment(number)] in files.snapshot().values()


async def test_a_segment_of_a_copy_of_this_journal_that_went_on_elsewhere() -> None:
    own = await a_folder()
    files = MemoryFiles(own)
    recover(files, a_section())
    forked = files.data(segment(SEGMENTS + 1))
    other = MemoryFiles(own)
    recover(other, a_section())
    ours = {path: data for path, data in other.snapshot().items() if path.suffix == ".kqj"}
    for place in (1, 3, SEGMENTS + 1, SEGMENTS + 2, 9):
        names = {**ours, segment(place): forked}
        check(names, still_there(names, ours), ours)


async def test_segments_of_several_starts_which_begin_at_the_same_record() -> None:
    files = MemoryFiles()
    for start in range(5):
        journal = a_journal(files)
        await journal.start()
        for _ in range(start % 2 * 2):
            await appended(journal, a_record(str(journal.durable_seq)))
        await journal.stop()
    own = {path: data for path, data in files.snapshot().items() if path.suffix == ".kqj"}
    numbers = [int(path.stem) for path in own]
    ends = {one.name: one.end_seq for one in scan(MemoryFiles(own), DIR).segments}
    for what, change in [*copies(numbers, [*numbers, 9]), *permutations(numbers)]:
        names = change(own)
        lost = [name for name in ends if own[DIR / name] not in names.values()]
        try:
            check(names, set() if lost else set(range(4)), own)
        except Exception as error:
            error.add_note(what)
            raise
    for number in numbers:
        names = {path: data for path, data in own.items() if path != segment(number)}
        repaired = MemoryFiles(names)
        assert repair(DIR, repaired).problems == []
        assert headers(names) == headers({path: repaired.data(path) for path in names})


async def test_what_is_set_aside_keeps_its_bytes_and_its_neighbours() -> None:
    own = await a_folder()
    files = MemoryFiles({**own, segment(7): own[segment(2)]})
    report = repair(DIR, files)
    assert report.set_aside == ["000000000007.kqj.stray"]
    assert (report.lost, report.lost_jobs) == ([], [])
    assert files.data(DIR / "000000000007.kqj.stray") == own[segment(2)]
    assert {path: data for path, data in files.snapshot().items() if path in own} == own
    files.put(segment(7), own[segment(2)])
    assert repair(DIR, files).set_aside == ["000000000007.kqj.stray2"]


async def test_a_segment_under_no_segments_name_fills_its_hole() -> None:
    own = await a_folder()
    for name in ("2.bak", "000000000002.kqj.stray"):
        files = MemoryFiles({path: data for path, data in own.items() if path != segment(2)} | {DIR / name: own[segment(2)]})
        assert repair(DIR, files).lost == []
        assert {path: data for path, data in files.snapshot().items() if path.suffix == ".kqj"} == own


async def test_a_repair_that_power_ends_goes_on_the_next_time() -> None:
    own = await a_folder()
    for order in itertools.permutations(range(1, SEGMENTS + 1)):
        files = PowerLossFiles({segment(to): own[segment(one)] for one, to in enumerate(order, 1)})
        begun = len(files.ops)
        put_names_right(files, DIR)
        disk = Power()
        for index, op in enumerate(files.ops):
            disk.take(op)
            if index < begun:
                continue
            for state in disk.states(random.Random(index), 2):
                again = MemoryFiles(state)
                assert repair(DIR, again).problems == []
                assert {path: data for path, data in again.snapshot().items() if path.suffix == ".kqj"} == own
