"""A full disk, a locked or damaged file, a killed process: the store says so, and loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kqs.config import StoreSection
from kqs.errors import StoreCorruptError, StoreDoubtError, StoreError, StoreUnavailableError
from kqs.job import Accepted, Claim
from kqs.states import State
from kqs.store.sqlite import SqliteStore, connection
from kqs.store.sqlite.session import Session
from tests.contract.store_contract import (
    BULK_BYTES,
    FIRST,
    IDS,
    JOURNAL,
    NODE,
    a_job,
    a_report,
    an_ended,
    an_entry,
    some_jobs,
    without_end,
)
from tests.support.clock import FakeClock
from tests.support.jobs import listed
from tests.support.supervising import StrictSupervisor

T = TypeVar("T")

NOW = FakeClock().now()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
async def store(make_store: Callable[[], SqliteStore]) -> SqliteStore:
    store = make_store()
    await store.open(JOURNAL, NODE)
    return store


async def on_thread(store: SqliteStore, run: Callable[[Session], Any]) -> Any:
    return await store._runner.call(run)


async def limit_pages(store: SqliteStore, beyond_now: int) -> None:
    def limit(session: Session) -> None:
        (pages,) = session.db.execute("pragma page_count").fetchone()
        session.db.execute(f"pragma max_page_count = {pages + beyond_now}")

    await on_thread(store, limit)


def content(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def copied(path: Path) -> Callable[[], None]:
    """Copy the file and its WAL; the answer puts them back."""
    files = {file: file.read_bytes() for file in (path, path.with_name(path.name + "-wal"))}

    def put_back() -> None:
        for file, old in files.items():
            file.write_bytes(old)

    return put_back


class FailingConnection:
    """A connection whose next statement that begins with `prefix` fails as the disk would make it fail."""

    def __init__(self, db: sqlite3.Connection, prefix: str, code: int) -> None:
        self._db = db
        self._prefix: str | None = prefix
        self._code = code

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if self._prefix is not None and sql.startswith(self._prefix):
            self._prefix = None
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = self._code
            raise error
        return self._db.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def fail_next(store: SqliteStore, prefix: str, code: int = sqlite3.SQLITE_IOERR_FSYNC) -> None:
    session = store._session
    failing: Any = FailingConnection(session.db, prefix, code)
    session._db = failing


async def test_full_disk_refuses_whole_batches_and_passes(store: SqliteStore) -> None:
    await store.insert([a_job(0, claimed_at=NOW)], 1, "w", NOW)
    await limit_pages(store, 2)
    with pytest.raises(StoreUnavailableError, match="full"):
        await store.insert([a_job(n, data=b"x" * 900) for n in range(1, 100)], 2, "w", NOW)
    assert await store.counts() == {"mail": {State.PROCESSING: 1}}
    assert await store.sync() == 1
    await limit_pages(store, 1000)
    assert await store.insert(some_jobs(100), 2, "w", NOW) == [FIRST]
    assert await store.sync() == 2


async def test_running_jobs_finish_on_a_full_disk_beside_refused_inserts(store: SqliteStore) -> None:
    await store.insert(some_jobs(3, claimed_at=NOW), 1, "w", NOW)
    await limit_pages(store, 2)
    refused, reported, found = await asyncio.gather(
        store.insert([a_job(n, data=b"x" * 900) for n in range(10, 100)], 2, "w", NOW),
        store.report([a_report(Claim(FIRST, "x", 1, 1), at=NOW)]),
        store.job(IDS.of(FIRST + 1)),
        return_exceptions=True,
    )
    assert isinstance(refused, StoreUnavailableError)
    assert reported == [True]
    assert found is not None
    assert await store.counts() == {"mail": {State.PROCESSING: 2, State.SUCCESS: 1}}


async def test_one_bad_operation_does_not_fail_its_neighbours(store: SqliteStore) -> None:
    def bad(session: Session) -> None:
        session.db.execute("update meta set fed_seq = 99")
        raise ZeroDivisionError

    outcomes = await asyncio.gather(
        store.insert(some_jobs(2), 1, "w", NOW),
        store._runner.call(bad),
        store.claim([an_entry(0)], "w", NOW),
        return_exceptions=True,
    )
    assert outcomes[0] == []
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert isinstance(outcomes[2], list)
    assert len(outcomes[2]) == 1
    assert await store.sync() == 1


async def test_a_commit_in_doubt_is_settled_by_a_restart(store: SqliteStore, make_store: Callable[[], SqliteStore]) -> None:
    await store.insert(some_jobs(2), 1, "w", NOW)
    fail_next(store, "commit")
    with pytest.raises(StoreUnavailableError, match="I/O"):
        await store.insert([a_job(2)], 2, "w", NOW)
    with pytest.raises(StoreDoubtError, match="restart"):
        await store.insert([a_job(2)], 2, "w", NOW)
    await store.close()
    again = make_store()
    info = await again.open(JOURNAL, NODE)
    assert await again.insert([a_job(2)], 2, "w", NOW) == ([] if info.last_order == FIRST + 1 else [FIRST + 2])


@pytest.mark.parametrize("statement", ["begin", "insert into jobs"])
async def test_io_error_opens_the_file_anew(store: SqliteStore, statement: str) -> None:
    await store.insert(some_jobs(2), 1, "w", NOW)
    fail_next(store, statement)
    with pytest.raises(StoreUnavailableError, match="I/O"):
        await store.insert([a_job(2)], 2, "w", NOW)
    assert await store.insert([a_job(2)], 2, "w", NOW) == []
    assert await store.counts() == {"mail": {State.NEW: 3}}
    assert await store.sync() == 2


async def test_write_error_at_a_commit_after_a_duplicate_insert_passes(store: SqliteStore) -> None:
    await store.insert([a_job(0, id="mine")], 1, "w", NOW)
    assert await store.insert([a_job(1, id="mine")], 2, "w", NOW) == [FIRST + 1]
    fail_next(store, "commit", sqlite3.SQLITE_IOERR_WRITE)
    with pytest.raises(StoreUnavailableError, match="I/O"):
        await store.insert([a_job(2)], 3, "w", NOW)
    assert await store.insert([a_job(2)], 3, "w", NOW) == []
    assert await store.counts() == {"mail": {State.NEW: 2}}
    assert await store.sync() == 3


async def test_failed_rollback_opens_the_file_anew(store: SqliteStore) -> None:
    def bad(_session: Session) -> None:
        raise ZeroDivisionError

    fail_next(store, "rollback")
    with pytest.raises(ZeroDivisionError):
        await on_thread(store, bad)
    assert await store.insert([a_job(0)], 1, "w", NOW) == []


async def test_lost_commits_after_an_io_error_are_not_overlooked(store: SqliteStore, path: Path) -> None:
    await store.sync()
    put_back = copied(path)
    await store.insert(some_jobs(2), 1, "w", NOW)
    fail_next(store, "begin")
    with pytest.raises(StoreUnavailableError):
        await store.counts()
    put_back()
    with pytest.raises(StoreDoubtError, match="lost committed changes"):
        await store.counts()


async def test_failed_checkpoint_while_idle_is_survived(store: SqliteStore) -> None:
    await store.insert(some_jobs(2), 1, "w", NOW)
    fail_next(store, "pragma wal_checkpoint")
    store._session.tidy()
    assert await store.counts() == {"mail": {State.NEW: 2}}


async def test_second_store_on_the_same_file_is_refused(
    store: SqliteStore, make_store: Callable[[], SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.01)
    with pytest.raises(StoreUnavailableError, match="locked"):
        await make_store().open(JOURNAL, NODE)
    assert await store.insert([a_job(0)], 1, "w", NOW) == []


async def test_store_locked_by_somebody_else_opens_when_it_is_free(
    path: Path, make_store: Callable[[], SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin exclusive")
    store = make_store()
    with pytest.raises(StoreUnavailableError, match="locked"):
        await store.open(JOURNAL, NODE)
    other.close()
    assert (await store.open(JOURNAL, NODE)).epoch == 1


async def test_missing_directory_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="no such file"):
        await SqliteStore(tmp_path / "no" / "store.sqlite", StoreSection(), FakeClock(), StrictSupervisor()).open(JOURNAL, NODE)


async def test_file_is_private(store: SqliteStore, path: Path) -> None:
    await store.sync()
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"store.sqlite": 0o600, "store.sqlite-wal": 0o600}


async def test_what_is_no_database_is_refused_and_left_alone(path: Path, make_store: Callable[[], SqliteStore]) -> None:
    write(path, b"not a database, surely" * 1000)
    with pytest.raises(StoreCorruptError):
        await make_store().open(JOURNAL, NODE)
    assert content(path) == b"not a database, surely" * 1000


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/nowhere/store.sqlite")])
async def test_what_cannot_be_opened_is_named(
    path: Path, make_store: Callable[[], SqliteStore], make: Callable[[Path], None]
) -> None:
    make(path)
    with pytest.raises(StoreUnavailableError, match=str(path)):
        await make_store().open(JOURNAL, NODE)


@pytest.mark.parametrize("page", [0, 2])
async def test_what_is_damaged_is_named(
    store: SqliteStore, path: Path, make_store: Callable[[], SqliteStore], page: int
) -> None:
    await store.close()
    write(path, content(path)[: page * 4096] + b"\xaa" * 4096 + content(path)[(page + 1) * 4096 :])
    with pytest.raises(StoreCorruptError, match=str(path)):
        await make_store().open(JOURNAL, NODE)


async def test_other_peoples_database_is_refused(path: Path, make_store: Callable[[], SqliteStore]) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("create table t (x)")
    with pytest.raises(StoreCorruptError, match="no KQS store"):
        await make_store().open(JOURNAL, NODE)


async def test_newer_version_is_refused(store: SqliteStore, path: Path, make_store: Callable[[], SqliteStore]) -> None:
    await store.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("pragma user_version = 99")
    with pytest.raises(StoreCorruptError, match="version 99"):
        await make_store().open(JOURNAL, NODE)


async def test_damaged_page_is_an_error_and_no_altered_job(
    store: SqliteStore, path: Path, make_store: Callable[[], SqliteStore]
) -> None:
    await store.insert(some_jobs(2000), 1, "w", NOW)
    await store.close()
    pages = bytearray(content(path))
    for start in range(4096 * 12, len(pages), 4096):
        pages[start : start + 200] = b"\xff" * 200
    write(path, bytes(pages))
    again = make_store()

    async def read_all() -> None:
        await again.open(JOURNAL, NODE)
        await listed(again)

    with pytest.raises(StoreCorruptError):
        await read_all()


async def test_job_with_damaged_data_never_runs(store: SqliteStore) -> None:
    await store.insert([a_job(0), a_job(1, data=b"1" * 5000), a_job(2, data=b"2" * 5000)], 1, "w", NOW)
    await on_thread(store, lambda session: session.db.execute("update bulk set data = zeroblob(5000) where ord % 10 = 1"))
    runs = await store.claim([an_entry(n) for n in range(3)], "w", NOW)
    assert [run.data for run in runs] == [b'{"n":0}', b"2" * 5000]
    record = await store.job(IDS.of(FIRST + 1))
    assert record is not None
    assert (record.state, record.data) == (State.FAIL, b"null")
    assert "damaged" in str(record.error)
    assert await store.counts() == {"mail": {State.PROCESSING: 2, State.FAIL: 1}}


KILLED = """
import asyncio, sys
from pathlib import Path
from kqs.config import StoreSection
from kqs.store.sqlite import SqliteStore
from tests.contract.store_contract import JOURNAL, NODE, a_job
from tests.support.clock import FakeClock
from tests.support.supervising import StrictSupervisor

async def main():
    store = SqliteStore(Path(sys.argv[1]), StoreSection(), FakeClock(), StrictSupervisor())
    await store.open(JOURNAL, NODE)
    for batch in range(10**6):
        await store.insert([a_job(100 * batch + n) for n in range(100)], batch + 1, "w", 1.0)
        print(batch + 1, flush=True)

asyncio.run(main())
"""


def killed_after(path: Path, commits: int) -> int:
    """Kill a process that inserts, once it has told so many commits; return the last one it told."""
    command, env = [sys.executable, "-c", KILLED, str(path)], {**os.environ, "PYTHONPATH": "."}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(commits)]
        process.send_signal(signal.SIGKILL)
        return max([*told, *map(int, process.stdout.read().split())])


@pytest.mark.parametrize("commits", [1, 7, 40])
async def test_killed_process_leaves_whole_batches(path: Path, make_store: Callable[[], SqliteStore], commits: int) -> None:
    fed = killed_after(path, commits)
    store = make_store()
    info = await store.open(JOURNAL, NODE)
    assert info.fed_seq in (fed, fed + 1)
    assert await store.counts() == {"mail": {State.NEW: 100 * info.fed_seq}}
    assert len(await store.ready("mail", None, 10**6)) == 100 * info.fed_seq


class Faults:
    """Every connection of a store fails in its statement number `at`, before or after SQLite has done it."""

    def __init__(self, at: int, error: Exception, *, done: bool = False) -> None:
        self._left = at
        self._error = error
        self._done = done
        self.failed: str | None = None

    def run(self, sql: str, call: Callable[[], T]) -> T:
        self._left -= 1
        if self._left >= 0 or self.failed is not None:
            return call()
        self.failed = sql
        if self._done:
            call()
        raise self._error


class FaultyConnection:
    def __init__(self, db: sqlite3.Connection, faults: Faults) -> None:
        self._db = db
        self._faults = faults

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._faults.run(sql, lambda: self._db.execute(sql, *values))

    def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._faults.run(sql, lambda: self._db.executemany(sql, *values))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


class Server:
    """Uses a store as a server does: it repeats what the store refuses, and starts anew when the store is in doubt."""

    def __init__(self, make_store: Callable[[], SqliteStore]) -> None:
        self._make_store = make_store
        self._records: list[list[Accepted]] = []
        self._store = make_store()
        self._epoch = 0
        self.was_in_doubt = False

    async def start(self) -> None:
        for _ in range(3):
            try:
                info = await self._store.open(JOURNAL, NODE)
            except StoreUnavailableError:
                self._store = self._make_store()
            else:
                break
        self._epoch = info.epoch
        for seq in range(info.fed_seq, len(self._records)):
            await self._store.insert([without_end(job) for job in self._records[seq]], seq + 1, "w", NOW)

    async def do(self, operation: Callable[[SqliteStore], Awaitable[Any]]) -> Any:
        for _ in range(3):
            try:
                return await operation(self._store)
            except StoreUnavailableError:
                continue
            except StoreDoubtError:
                self.was_in_doubt = True
                await self._store.close()
                self._store = self._make_store()
                await self.start()
        raise AssertionError("one fault is no reason to refuse three times")

    async def insert(self, *jobs: Accepted) -> None:
        self._records.append(list(jobs))
        await self.do(lambda store: store.insert(jobs, len(self._records), "w", NOW))

    async def live(self) -> None:
        await self.insert(*some_jobs(6), a_job(6, data=b"1" * 2000))
        await self.insert(a_job(7, id="mine", expire_at=NOW + 1), a_job(8, due_at=NOW + 5))
        await self.insert(a_job(9, id="mine"))
        await self.insert(a_job(10))
        runs = await self.do(lambda store: store.claim([an_entry(n) for n in range(7)], "w", NOW))
        await self.do(lambda store: store.report([a_report(run.claim, at=NOW, drop_at=NOW) for run in runs]))
        await self.do(lambda store: store.wake(NOW + 5, 9))
        await self.do(lambda store: store.expire(NOW + 5, 9, 0.0))
        await self.insert(a_job(11, claimed_at=NOW))
        await self.do(lambda store: store.sync())
        await self.insert(a_job(12, id="mine"))
        ended = an_ended(15, at=NOW, epoch=self._epoch, id="ended", data=b"1" * 2000, end_result=b"1")
        await self.insert(a_job(13), an_ended(14, at=NOW, epoch=self._epoch), ended)
        await self.do(lambda store: store.job(IDS.of(FIRST)))
        await self.do(listed)
        assert sum((await self.do(lambda store: store.counts()))["mail"].values()) == 14
        assert await self.do(lambda store: store.sync()) == len(self._records)

    async def left(self) -> dict[int, State]:
        records = await self.do(listed)
        return {record.order - FIRST: record.state for record in records}


def an_error(code: int) -> Exception:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


FAULTS: dict[str, tuple[Callable[[], Exception], bool]] = {
    "read": (lambda: an_error(sqlite3.SQLITE_IOERR_READ), False),
    "write": (lambda: an_error(sqlite3.SQLITE_IOERR_WRITE), False),
    "flush": (lambda: an_error(sqlite3.SQLITE_IOERR_FSYNC), False),
    "flush of what was written": (lambda: an_error(sqlite3.SQLITE_IOERR_FSYNC), True),
    "full": (lambda: an_error(sqlite3.SQLITE_FULL), False),
    "read-only": (lambda: an_error(sqlite3.SQLITE_READONLY), False),
    "no descriptor": (lambda: an_error(sqlite3.SQLITE_CANTOPEN), False),
    "memory": (MemoryError, False),
}


@pytest.mark.parametrize("kind", FAULTS)
async def test_one_fault_anywhere_is_survived_or_settled_by_a_restart(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_error, done = FAULTS[kind]
    connect, faults, seen = connection.connect, [Faults(10**9, MemoryError())], set[str]()
    monkeypatch.setattr(connection, "connect", lambda *args: FaultyConnection(connect(*args), faults[-1]))
    for at in range(10**6):
        made: list[SqliteStore] = []

        def make(path: Path = tmp_path / f"{at}.sqlite", made: list[SqliteStore] = made) -> SqliteStore:
            made.append(SqliteStore(path, StoreSection(bulk_bytes=BULK_BYTES), FakeClock(), StrictSupervisor()))
            return made[-1]

        faults.append(Faults(at, make_error(), done=done))
        server = Server(make)
        await server.start()
        await server.live()
        left = await server.left()
        assert left.keys() | set(range(7)) == set(range(16)) - {9, 12}, faults[-1].failed
        ways = {State.SUCCESS, State.PROCESSING} if server.was_in_doubt else {State.SUCCESS}
        assert left[14] is left[15], faults[-1].failed
        assert left[14] in ways, faults[-1].failed
        for store in made:
            await store.close()
        (tmp_path / f"{at}.sqlite").unlink()
        if faults[-1].failed is None:
            break
        seen.add(faults[-1].failed.split()[0])
    assert seen >= {"begin", "commit", "insert", "select", "update", "pragma"}


async def test_other_errors_keep_their_own_class() -> None:
    assert isinstance(connection.translated(sqlite3.ProgrammingError("closed")), StoreError)
    assert isinstance(connection.translated(PermissionError(13, "denied")), StoreUnavailableError)
