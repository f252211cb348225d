import json
from pathlib import Path
from typing import Any

import pytest

from kqs.cli import run
from kqs.cli.replay import JournalJobs
from kqs.errors import JournalCorruptError, JournalError, JournalLockedError
from kqs.ids import Ids
from kqs.journal import Kind, OsFiles, Record
from kqs.journal.stopped import stopped_journal
from tests.support.files import MemoryFiles
from tests.support.journal import DIR, a_journal, appended

ORDER = 1_800_000_000_000_000
NOW = ORDER / 1_000_000 + 100

CALLS = b'{"n":"insert","m":{"type":"a","data":1e400}}\n\n{"id":2,"v":1,"n":"insert",\r"m":{"type":"a","id":"mine"}}\r\n'
ARRAY = b'[{"type":"b","delay":30,"id":null},{"type":"b","expire":130,"data":null}]'


async def written(files: MemoryFiles, *records: Record) -> Ids:
    journal = a_journal(files)
    recovery = await journal.start()
    for record in records:
        await appended(journal, record)
    await journal.stop()
    return Ids(recovery.node)


async def jobs_of(files: MemoryFiles, everything: bool = False) -> dict[str, dict[str, Any]]:
    """Return {id: job} of all that would be inserted, in order."""
    with stopped_journal(DIR, files, everything=everything) as held:
        source = JournalJobs(held, lambda: NOW)
        found = [json.loads(source.job(*one)) for one in await source.read()]
        assert await source.read() == []
    return {job["id"]: job for job in found}


def alter(folder: Path, old: bytes, new: bytes) -> None:
    (segment,) = (path for path in folder.iterdir() if old in path.read_bytes())
    segment.write_bytes(segment.read_bytes().replace(old, new, 1))


async def test_each_job_keeps_its_bytes_and_the_id_that_was_answered() -> None:
    files = MemoryFiles()
    ids = await written(files, Record(Kind.CALLS, 2, ORDER, CALLS), Record(Kind.JOBS, 1, ORDER + 2, b'{"type":"c"}'))
    with stopped_journal(DIR, files) as held:
        source = JournalJobs(held, lambda: NOW)
        jobs = [source.job(*one) for one in await source.read()]
    assert jobs == [
        b'{"type":"a","data":1e400,"id":"%b"}' % ids.of(ORDER).encode(),
        b'{"type":"a","id":"mine"}',
        b'{"type":"c","id":"%b"}' % ids.of(ORDER + 2).encode(),
    ]


async def test_times_count_from_the_acceptance() -> None:
    files = MemoryFiles()
    ids = await written(files, Record(Kind.JOBS, 2, ORDER, ARRAY))
    jobs = await jobs_of(files)
    assert jobs[ids.of(ORDER)] == {"type": "b", "id": ids.of(ORDER), "at": ORDER / 1_000_000 + 30}
    assert jobs[ids.of(ORDER + 1)] == {"type": "b", "id": ids.of(ORDER + 1), "expire": pytest.approx(30), "data": None}


async def test_times_count_from_the_clock_of_then_though_the_orders_were_ahead_of_it() -> None:
    files = MemoryFiles()
    at = ORDER - 7_200_000_000
    ids = await written(files, Record(Kind.JOBS, 2, ORDER, ARRAY, accepted_us=at))
    assert (await jobs_of(files))[ids.of(ORDER)]["at"] == at / 1_000_000 + 30


async def test_a_job_that_has_expired_still_ends_as_expired() -> None:
    files = MemoryFiles()
    ids = await written(files, Record(Kind.JOBS, 1, ORDER, b'{"type":"b","expire":1}'))
    assert 0 < (await jobs_of(files))[ids.of(ORDER)]["expire"] < 0.000_01


async def test_nobody_waits_for_the_end_of_a_job_any_more() -> None:
    files = MemoryFiles()
    await written(files, Record(Kind.JOBS, 1, ORDER, b'{"type":"c","wait":5,"keep":7}'))
    (job,) = (await jobs_of(files)).values()
    assert "wait" not in job
    assert job["keep"] == 7


async def test_it_begins_above_the_checkpoint_unless_asked_for_everything() -> None:
    files = MemoryFiles()
    journal = a_journal(files)
    recovery = await journal.start()
    for n in range(3):
        await appended(journal, Record(Kind.JOBS, 1, ORDER + n, b'{"type":"a"}'))
    await journal.checkpoint(2)
    await journal.stop()
    ids = Ids(recovery.node)
    assert list(await jobs_of(files)) == [ids.of(ORDER + 2)]
    assert list(await jobs_of(files, everything=True)) == [ids.of(ORDER + n) for n in range(3)]


async def test_the_journal_is_left_as_it_was_and_held_meanwhile() -> None:
    files = MemoryFiles()
    await written(files, Record(Kind.JOBS, 1, ORDER, b'{"type":"a"}'))
    before = files.snapshot()
    with stopped_journal(DIR, files), pytest.raises(JournalLockedError):
        await a_journal(files).start()
    assert {path: data for path, data in files.snapshot().items() if path.name != "lock"} == {
        path: data for path, data in before.items() if path.name != "lock"
    }


async def test_of_a_damaged_journal_nothing_is_inserted(tmp_path: Path) -> None:
    journal = a_journal(OsFiles(), dir=tmp_path)
    await journal.start()
    for n in range(2):
        await appended(journal, Record(Kind.JOBS, 1, ORDER + n, b'{"type":"first"}'))
    await journal.stop()
    alter(tmp_path, b"first", b"worst")
    with pytest.raises(JournalCorruptError), stopped_journal(tmp_path):
        pass


async def test_what_is_no_journal_is_said() -> None:
    files = MemoryFiles()
    files.make_dir(DIR)
    with pytest.raises(JournalError, match="no journal"), stopped_journal(DIR, files):
        pass


def test_a_folder_without_a_journal_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["journal", "replay", str(tmp_path), "--to", "localhost:1"]) == 74
    assert "there is no journal" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


async def test_tick_of_a_schedule_is_a_job_with_its_id() -> None:
    files = MemoryFiles()
    job_id = "report:2026-11-30T01:30:00Z"
    await written(files, Record(Kind.JOBS, 1, ORDER, f'{{"id":"{job_id}","tick":1796002200.0,"type":"c"}}'.encode()))
    assert await jobs_of(files) == {job_id: {"id": job_id, "type": "c"}}


async def test_a_job_with_copies_says_under_which_ids_it_had_them() -> None:
    files = MemoryFiles()
    text = b'{"order":["bill","ship"]}\n[{"type":"order","id":"mine","data":1},{"type":"mail"},{"type":"order"}]'
    adopted = b'{}\n{"type":"order","id":"old","copies":{"bill":"x"}}'
    ids = await written(files, Record(Kind.FANNED, 7, ORDER, text), Record(Kind.FANNED, 2, ORDER + 7, adopted, adopted=True))
    of = [ids.of(ORDER + n) for n in range(7)]
    assert await jobs_of(files) == {
        "mine": {"type": "order", "id": "mine", "data": 1, "copies": {"bill": of[3], "ship": of[4]}},
        of[1]: {"type": "mail", "id": of[1]},
        of[2]: {"type": "order", "id": of[2], "copies": {"bill": of[5], "ship": of[6]}},
        "old": {"type": "order", "id": "old", "copies": {"bill": "x"}},
    }
