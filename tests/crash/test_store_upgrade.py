"""A store that a version before made: it opens, runs what it holds, and can be set back as docs/operations.md says.

The files were written by versions 1 to 7: jobs 0 to 8 of the contract's `a_job`, as told below.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kqs.filter import Filter
from kqs.job import Entry, Progress
from kqs.states import State
from kqs.store.base import DAMAGED, Change, Verb
from kqs.store.checksum import checksum
from kqs.store.rotation import Terms, Turn
from kqs.store.sqlite import SqliteStore, tables, upgrades
from tests.contract.store_contract import FIRST, IDS, JOURNAL, NODE, a_job, a_report, an_entry, numbers
from tests.support.clock import FakeClock
from tests.support.jobs import listed

ROOT = Path(__file__).parents[2]
NOW = FakeClock().now()
STATES = [
    State.NEW,  # 0
    State.NEW,  # 1: id mine, expires in 1000.123456 s, options {"ttr":5}
    State.DELAYED,  # 2: by 50 s
    State.NEW,  # 3: 2002 bytes, in bulk
    State.PROCESSING,  # 4: from 6 on in a group
    State.SUCCESS,  # 5: {"r":1}
    State.FAIL,  # 6: "no"
    State.RETRY,  # 7: failed once
    State.NEW,  # 8
]


@pytest.fixture(params=range(1, tables.SCHEMA_VERSION))
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def path(tmp_path: Path, version: int) -> Path:
    path = tmp_path / "store.sqlite"
    shutil.copy(ROOT / f"tests/golden/store/version-{version}.sqlite", path)
    return path


async def states(store: SqliteStore) -> list[State]:
    return [record.state for record in await listed(store)]


async def test_all_of_it_is_there_and_runs(make_store: Callable[[], SqliteStore]) -> None:
    store = make_store()
    info = await store.open(JOURNAL, NODE)
    assert (info.epoch, info.fed_seq, info.last_order) == (2, 2, FIRST + 8)
    assert await states(store) == STATES
    (orphan,) = await store.orphans(9)
    assert numbers([orphan]) == [4]
    await store.wake(NOW + 50, 9)
    entries = await store.ready("mail", None, 9)
    runs = await store.claim(entries, "w2", NOW)
    assert numbers(runs) == [0, 1, 2, 3, 7, 8]
    assert (runs[1].claim.id, runs[1].options, runs[1].expire_at) == ("mine", b'{"ttr":5}', NOW + 1000.123456)
    assert runs[3].data == b'"' + b"b" * 2000 + b'"'
    assert (runs[4].claim.attempt, runs[4].failures) == (2, 1)
    assert await store.report([a_report(run.claim, at=NOW) for run in [*runs, orphan]]) == [True] * 7
    assert await store.counts() == {"mail": {State.SUCCESS: 8, State.FAIL: 1}}
    record = await store.job(IDS.of(FIRST + 5))
    assert record is not None
    assert (record.result, record.error) == (b'{"r":1}', None)


async def test_what_is_stored_since_is_checked(path: Path, make_store: Callable[[], SqliteStore]) -> None:
    store = make_store()
    await store.open(JOURNAL, NODE)
    await store.insert([a_job(9)], 3, "w", NOW)
    await store.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("update jobs set data = '7', crc32c = null where ord = ?", (FIRST + 9,))
    again = make_store()
    await again.open(JOURNAL, NODE)
    assert numbers(await again.claim([an_entry(8), an_entry(9)], "w", NOW)) == [8]
    record = await again.job(IDS.of(FIRST + 9))
    assert record is not None
    assert record.error == DAMAGED


async def test_a_step_that_fails_leaves_the_old_version(
    path: Path, version: int, make_store: Callable[[], SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with closing(sqlite3.connect(path)) as db, db:
        before = db.execute("select sql from sqlite_schema").fetchall()
    monkeypatch.setattr(upgrades, "_STEPS", (*upgrades._STEPS, fail))
    monkeypatch.setattr(tables, "SCHEMA_VERSION", tables.SCHEMA_VERSION + 1)
    with pytest.raises(Exception, match="I/O"):
        await make_store().open(JOURNAL, NODE)
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("pragma user_version").fetchone() == (version,)
        assert db.execute("select sql from sqlite_schema").fetchall() == before


def set_back(path: Path, version: int) -> None:
    command = re.search(r"^python3 -c '[^']*user_version[^']*'$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert command is not None
    text = command[0].replace("journal/store.sqlite", str(path)).replace("version = 1\n", f"version = {version}\n")
    subprocess.run(["sh", "-c", text], check=True, timeout=30)


@pytest.mark.parametrize("known", range(8, 10))
async def test_a_file_that_is_told_no_older_version_is_left_as_it_is(
    tmp_path: Path, known: int, make_store: Callable[[], SqliteStore]
) -> None:
    store = make_store()
    await store.open(JOURNAL, NODE)
    await store.insert([a_job(1, group="g")], 1, "w", NOW)
    await store.close()
    before = (tmp_path / "store.sqlite").read_bytes()
    with pytest.raises(subprocess.CalledProcessError):
        set_back(tmp_path / "store.sqlite", known)
    assert (tmp_path / "store.sqlite").read_bytes() == before
    again = make_store()
    await again.open(JOURNAL, NODE)
    assert numbers(await again.claim([an_entry(1)], "w", NOW)) == [1]


async def test_it_can_be_set_back_and_forth(path: Path, version: int, make_store: Callable[[], SqliteStore]) -> None:
    store = make_store()
    await store.open(JOURNAL, NODE)
    await store.insert([a_job(9), a_job(11, group="g", unique="k")], 3, "w", NOW)
    await store.close()
    set_back(path, version)
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("pragma user_version").fetchone() == (version,)
        if version < 7:
            (total,) = db.execute("select crc32c from jobs where ord = ?", (FIRST + 11,)).fetchone()
            assert total == checksum(FIRST + 11, "mail", 10000, b'{"n":11}', None, None, None)
        # as that version does
        total = {} if version == 1 else {"crc32c": checksum(FIRST + 10, "mail", 10000, b"10", None, None, None)}
        columns = {"ord": FIRST + 10, "type": "mail", "prio": 10000, "data": b"10", **total}
        db.execute(f"insert into jobs ({','.join(columns)}) values ({','.join('?' * len(columns))})", [*columns.values()])
        db.execute("update meta set last_order = ?, fed_seq = 4", (FIRST + 11,))
    again = make_store()
    assert (await again.open(JOURNAL, NODE)).fed_seq == 4
    assert numbers(await again.claim([an_entry(n) for n in (0, 9, 10, 11)], "w", NOW)) == [0, 9, 10, 11]


@pytest.mark.parametrize("version", range(1, 7), indirect=True)  # in files of 7 it is checked of all
async def test_what_keeps_jobs_apart_is_checked_of_those_that_are_stored_or_retried_since(
    path: Path, make_store: Callable[[], SqliteStore]
) -> None:
    store = make_store()
    await store.open(JOURNAL, NODE)
    await store.insert([a_job(9)], 3, "w", NOW)
    await store.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("update jobs set grp = 'g' where ord in (?, ?, ?)", (FIRST, FIRST + 6, FIRST + 9))
    again = make_store()
    await again.open(JOURNAL, NODE)
    await again.change(Change(Verb.RETRY, Filter(ids=(IDS.of(FIRST + 6),)), NOW, 2**62), None, FIRST + 20)
    assert numbers(await again.claim([an_entry(0), an_entry(9)], "w", NOW)) == [0]
    await again.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("update jobs set grp = 'h' where ord = ?", (FIRST + 20,))
    last = make_store()
    await last.open(JOURNAL, NODE)
    assert numbers(await last.claim([an_entry(20)], "w", NOW)) == []


@pytest.mark.parametrize("version", range(1, 6), indirect=True)  # from 6 on they are left where they are
async def test_jobs_that_wait_for_their_resource_are_ready_in_older_versions(
    path: Path, version: int, make_store: Callable[[], SqliteStore]
) -> None:
    store = make_store()
    await store.open(JOURNAL, NODE)
    await store.insert([a_job(n, resource="r") for n in (9, 10)], 3, "w", NOW)
    assert numbers(await store.claim([an_entry(9), an_entry(10)], "w", NOW)) == [9]
    await store.close()
    set_back(path, version)
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("select place from jobs where ord = ?", (FIRST + 10,)).fetchone() == (tables.Place.READY,)
        db.execute("update jobs set place = 3, state = 5 where ord = ?", (FIRST + 10,))  # as that version runs it
    again = make_store()
    await again.open(JOURNAL, NODE)
    await again.insert([a_job(n, resource="r") for n in (11, 12)], 4, "w", NOW)
    assert numbers(await again.claim([an_entry(n) for n in (10, 11, 12)], "w", NOW)) == []  # job 9 runs still
    (nine,) = [run for run in await again.orphans(9) if run.claim.order == FIRST + 9]
    called = _calls_of(again)
    assert await again.report([a_report(nine.claim, at=NOW)]) == [True]
    assert numbers(called) == [11]
    assert numbers(await again.claim([an_entry(12), an_entry(11)], "w", NOW)) == [11]


def _calls_of(store: SqliteStore) -> list[Entry]:
    called: list[Entry] = []
    store.on_called = called.extend
    return called


@pytest.mark.parametrize("version", range(1, 4), indirect=True)  # from 4 on none deletes a job without its progress
async def test_progress_whose_job_an_older_version_deleted_is_gone(
    path: Path, version: int, make_store: Callable[[], SqliteStore]
) -> None:
    store = make_store()
    await store.open(JOURNAL, NODE)
    runs = await store.claim([an_entry(0), an_entry(8)], "w", NOW)
    assert await store.save([Progress(run.claim, b"1") for run in runs], durable=False) == [True, True]
    await store.close()
    set_back(path, version)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("delete from jobs where ord = ?", (FIRST,))
    again = make_store()
    await again.open(JOURNAL, NODE)
    record = await again.job(IDS.of(FIRST + 8))
    assert record is not None
    assert record.progress == b"1"
    await again.close()
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute("select ord from progress").fetchall() == [(FIRST + 8,)]


@pytest.fixture
def with_groups(path: Path) -> Path:
    """Written by version 6: jobs 3, 0, 1 and 2 of group a, in that order, 4 and 5 of group b, of which 4 runs, and 6."""
    shutil.copy(ROOT / "tests/golden/store/version-6-groups.sqlite", path)
    return path


async def in_turn(store: SqliteStore) -> list[int]:
    return numbers((await store.in_turn("mail", Turn(), 9, Terms())).entries)


@pytest.mark.parametrize("version", [6], indirect=True)
@pytest.mark.usefixtures("with_groups")
async def test_groups_keep_their_turns(make_store: Callable[[], SqliteStore]) -> None:
    store = make_store()
    await store.open(JOURNAL, NODE)
    assert await in_turn(store) == [3, 5, 0, 1, 2]
    (orphan,) = await store.orphans(9)
    assert await store.report([a_report(orphan.claim, State.GHOST, at=NOW)]) == [True]
    assert await in_turn(store) == [3, 4, 0, 5, 1, 2]
    assert numbers(await store.ready("mail", None, 9)) == [6]


@pytest.mark.parametrize("version", [6], indirect=True)
async def test_lines_are_right_after_a_time_with_the_older_version(
    with_groups: Path, make_store: Callable[[], SqliteStore]
) -> None:
    store = make_store()
    await store.open(JOURNAL, NODE)
    assert numbers(await store.claim([an_entry(3), an_entry(0)], "w", NOW)) == [3, 0]
    await store.close()
    set_back(with_groups, 6)
    with closing(sqlite3.connect(with_groups)) as db, db:
        ready = "select ord from jobs indexed by grouped where place = -1 and type = 'mail' order by grp, prio, ord"
        assert [order - FIRST for (order,) in db.execute(ready)] == [1, 2, 5]
        assert db.execute("select name from sqlite_schema where type in ('trigger', 'view') or name = 'line'").fetchall() == []
        # as that version does: one is claimed, one becomes ready
        db.execute("update jobs set place = 2, state = 2, attempt = 1, epoch = 3 where ord = ?", (FIRST + 1,))
        db.execute("update jobs set place = -1, state = 0 where ord = ?", (FIRST + 3,))
    again = make_store()
    await again.open(JOURNAL, NODE)
    assert await in_turn(again) == [3, 5, 2]


@pytest.mark.parametrize("version", [1, 5], indirect=True)
async def test_jobs_of_groups_are_ready_in_older_versions(
    with_groups: Path, version: int, make_store: Callable[[], SqliteStore]
) -> None:
    store = make_store()
    await store.open(JOURNAL, NODE)
    await store.close()
    set_back(with_groups, version)
    again = make_store()
    await again.open(JOURNAL, NODE)
    assert numbers(await again.ready("mail", None, 9)) == [3, 0, 1, 2, 5, 6]
    assert await in_turn(again) == []
    await again.insert([a_job(9, group="a")], 3, "w", NOW)
    assert await in_turn(again) == [9]
