"""A disk that flips one bit of a stored job: the job runs as it was accepted, or fails, and the store tells which."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kqs.config import StoreSection
from kqs.errors import StoreCorruptError
from kqs.job import Run
from kqs.states import State
from kqs.store.base import DAMAGED
from kqs.store.sqlite import SqliteStore
from tests.contract.store_contract import BULK_BYTES, FIRST, IDS, JOURNAL, NODE, a_job, an_entry
from tests.support.clock import FakeClock
from tests.support.supervising import StrictSupervisor

NOW = FakeClock().now()
JOBS = {
    "plain": a_job(5, data=b'{"plain":1}'),
    "with keys": a_job(5, resource="its-resource", group="its-group", unique="its-key", data=b'{"keys":1}'),
    "with everything": a_job(5, id="its-own-id", expire_at=NOW + 9.5, options=b'{"ttr":5}', data=b'{"everything":1}'),
}
BEHIND = b'{"behind":1}'


def a_store(path: Path) -> SqliteStore:
    return SqliteStore(path, StoreSection(bulk_bytes=BULK_BYTES), FakeClock(), StrictSupervisor())


def length_of(number: int) -> int:
    """Return in how many bytes SQLite keeps a number of more than two."""
    return next(length for length in (3, 4, 6, 8) if number < 1 << (8 * length - 1))


def cell_of(path: Path, job: str) -> range:
    """Return where the cell of the job's record stands in the file: between its neighbours, which came before and after it."""
    content = path.read_bytes()
    with closing(sqlite3.connect(path)) as db, db:
        rows = db.execute("select ord, crc32c, resource, grp, unique_key from jobs").fetchall()
        behind = {order: length_of(total) + sum(len(key or "") for key in keys) for order, total, *keys in rows}

    def end(n: int, data: bytes) -> int:
        return content.index(data) + len(data) + behind[FIRST + n]

    return range(end(9, BEHIND), end(5, JOBS[job].data))


def what_runs(run: Run) -> tuple[object, ...]:
    return run.type, run.data, run.options, run.claim.id, run.expire_at, run.resource, run.group


async def start_and_claim(path: Path) -> tuple[list[Run], dict[str, dict[State, int]], str | None]:
    store = a_store(path)
    try:
        await store.open(JOURNAL, NODE)
        entries = [entry for type_ in ("mail", "other") for entry in await store.ready(type_, None, 9)]
        runs = list(await store.claim([*entries, an_entry(5)], "w", NOW, 60.0))
        record = await store.job(IDS.of(FIRST + 5)) or await store.job("its-own-id")
        counts = await store.counts()
        assert await store.insert([a_job(99)], 9, "w", NOW) == []
        return runs, counts, None if record is None else record.error
    finally:
        await store.close()


@pytest.mark.parametrize("job", JOBS)
async def test_a_flipped_bit_alters_no_run(tmp_path: Path, job: str) -> None:
    path = tmp_path / "store.sqlite"
    store = a_store(path)
    await store.open(JOURNAL, NODE)
    # no single bit makes 5 one of these
    for one in (a_job(2, data=b'{"before":1}'), JOBS[job], a_job(9, data=BEHIND)):
        await store.insert([one], 1, "w", NOW)
    await store.close()
    whole, cells, told = path.read_bytes(), cell_of(path, job), set[str]()
    wanted = {run.claim.order: run for run in (await start_and_claim(path))[0]}
    for at in cells:
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            where = f"byte {at - whole.index(JOBS[job].data)}, bit {bit}"
            try:
                runs, counts, error = await start_and_claim(path)
            except StoreCorruptError:
                told.add("corrupt")
                continue
            for run in runs:
                whole_run = wanted.get(run.claim.order)
                assert whole_run is not None, where
                assert what_runs(run) == what_runs(whole_run), where
            assert {FIRST + 2, FIRST + 9} <= {run.claim.order for run in runs}, where
            if error is not None:
                assert sum(n for states in counts.values() for n in states.values()) == 3, where
            told.add(str(error))
    assert {DAMAGED, "None"} <= told


@pytest.mark.parametrize("column", ["type", "prio", "data", "id", "options", "expire_at", "crc32c"])
@pytest.mark.parametrize("value", [b"\xff\xfe", "text", 7, 0.5, None])
async def test_a_column_of_any_other_content_fails_its_job_alone(tmp_path: Path, column: str, value: object) -> None:
    path = tmp_path / "store.sqlite"
    store = a_store(path)
    await store.open(JOURNAL, NODE)
    await store.insert([a_job(1), JOBS["with everything"], a_job(9)], 1, "w", NOW)
    await store.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("pragma ignore_check_constraints = on")
        try:
            db.execute(f"update jobs set {column} = ? where ord = ?", (value, FIRST + 5))
        except sqlite3.IntegrityError:
            pytest.skip("the schema refuses it")
    runs, counts, error = await start_and_claim(path)
    assert {run.claim.order - FIRST for run in runs} == {1, 9}
    assert sum(n for states in counts.values() for n in states.values()) == 3
    assert error in (DAMAGED, "expired", None)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        *[(column, ["other", 0, None]) for column in ("resource", "grp", "unique_key")],
        *[(column, [1, 64, -128, 1 << 62]) for column in ("failures", "ghosts", "interrupted", "returned")],
        ("attempt", [-128]),
    ],
)
async def test_what_a_job_is_kept_apart_by_and_counts_of_its_runs_are_no_others(
    tmp_path: Path, column: str, values: list[object]
) -> None:
    path = tmp_path / "store.sqlite"
    for job in ("plain", "with keys"):
        for value in values:
            if job == "plain" and value is None:
                continue
            path.unlink(missing_ok=True)
            store = a_store(path)
            await store.open(JOURNAL, NODE)
            await store.insert([a_job(1), JOBS[job], a_job(9)], 1, "w", NOW)
            await store.close()
            alter(path, column, value)
            runs, _, error = await start_and_claim(path)
            assert {run.claim.order - FIRST for run in runs} == {1, 9}, (job, value)
            assert error == DAMAGED, (job, value)


@pytest.mark.parametrize(("column", "value"), [("epoch", 99), ("epoch", None), ("watcher", 99)])
async def test_a_run_of_a_boot_that_never_was_is_given_back_or_ended(tmp_path: Path, column: str, value: object) -> None:
    path = tmp_path / "store.sqlite"
    store = a_store(path)
    await store.open(JOURNAL, NODE)
    await store.insert([JOBS["plain"]], 1, "w", NOW)
    assert len(await store.claim([an_entry(5)], "w", NOW)) == 1
    await store.close()
    alter(path, column, value)
    store = a_store(path)
    await store.open(JOURNAL, NODE)
    runs = await store.orphans(9)
    record = await store.job(IDS.of(FIRST + 5))
    await store.close()
    assert record is not None
    assert [run.claim.order for run in runs] == [FIRST + 5] if value else record.error == DAMAGED


def alter(path: Path, column: str, value: object) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"update jobs set {column} = ? where ord = ?", (value, FIRST + 5))
