"""The store's tables, and whose they are.

`jobs` holds one row per job. `ord` is Accepted.order, so new rows go to the right edge of the tree and a server-made id needs
no index. Long columns stand last: SQLite need not walk their overflow pages to read the short ones. Every index is partial, so
that a plain row stands in one of them at a time and ended rows are out of the way of ready ones.

A change of the tables raises SCHEMA_VERSION and adds the step from the version before to `_STEPS`. A step runs in the
transaction that begins an epoch, so it is done whole or not at all. It must not read all jobs, for a start waits for it, and it
must find its own work done without harm: docs/operations.md tells how to set a store back to the version before.
"""

from __future__ import annotations

import sqlite3
from enum import IntEnum
from functools import cache

import msgspec

from kqs.errors import StoreCorruptError
from kqs.store.sqlite import connection

SCHEMA_VERSION = 8
#: "KQSs": tells our files from other SQLite files
APPLICATION_ID = 0x4B515373
#: "KQSt": what `blank` makes, which is nobody's store yet
_BLANK_ID = 0x4B515374


class Place(IntEnum):
    """Where a job stands. The numbers are stored and written out in the indexes; below RUNNING are those that wait.

    GROUPED: it is ready, in the line of its group (kqs.store.sqlite.groups).
    """

    GROUPED = -1
    READY = 0
    LATER = 1
    RUNNING = 2
    ENDED = 3


_PROGRESS = "create table if not exists progress (ord integer primary key, crc32c integer not null, data blob not null)"
# jobs whose due time nobody knows but who has their resource: place LATER, no due_at
_PARKED = """
create table if not exists parked (
  resource text not null, type text not null, prio integer not null, ord integer not null,
  primary key (resource, type, prio, ord)
) without rowid"""
_SUSPENDED = "create table if not exists suspended (type text not null primary key, since real not null) without rowid"
_SAID = (
    "create table if not exists said (topic integer not null, type text not null, text blob not null, "
    "primary key (topic, type)) without rowid"
)
_SUBSCRIPTIONS = (
    "create table if not exists subscriptions (type text not null, subscriber text not null, "
    "primary key (type, subscriber)) without rowid"
)
_UNIQUES = (
    "create table if not exists uniques (type text not null, key text not null, ord integer not null, "
    "primary key (type, key, ord)) without rowid",
    "create index if not exists uniques_ord on uniques (ord)",
)
# who waits for whom, as long as it does; and what has ended of what somebody waits for, until that is followed (follow.py)
_AWAITED = (
    "create table if not exists awaited (parent text not null, child integer not null, primary key (parent, child)) "
    "without rowid",
    "create index if not exists awaited_child on awaited (child)",
)
_PASSED = "create table if not exists passed (parent text not null primary key, outcome integer not null) without rowid"
# see batches.py
_BATCHES = (
    """
create table if not exists batches (
  id text not null primary key,
  ord integer not null,       -- under which its `then` stands
  first_ord integer not null, -- under which that was stored
  is_open integer not null,
  last_order integer not null, -- of its own record; complete only when that is reached
  reached integer not null,
  made integer not null default 0,
  success integer not null default 0,
  fail integer not null default 0,
  cancelled integer not null default 0,
  deleted integer not null default 0,
  is_complete integer not null default 0
) without rowid""",
    "create index if not exists batches_ord on batches (ord)",
)
# who is ready and has a group, and some who have gone (groups.py)
_LINE = """
create table if not exists line (
  of_type text not null, name text not null, rank integer not null, job integer not null, -- the job's type, grp, prio, ord
  primary key (of_type, name, rank, job)
) without rowid"""
_IS_READY = f"new.place = {Place.GROUPED:d}"
# no "or ignore": the statement that fires the trigger may have another say about that
_IN = f"insert into line select new.type, new.grp, new.prio, new.ord where {_IS_READY} on conflict do nothing"
_OUT = "delete from line where of_type = old.type and name = old.grp and rank = old.prio and job = old.ord"
# a job that is claimed stays; whoever inserts a row into `leaving` lets all leave their line up to there
_LINE_FOLLOWS = (
    f"create trigger if not exists line_new after insert on jobs when {_IS_READY} begin {_IN}; end",
    f"create trigger if not exists line_moved after update of place, prio on jobs "
    f"when {_IS_READY} or (old.place = {Place.GROUPED:d} and new.place <> {Place.RUNNING:d}) begin {_OUT}; {_IN}; end",
    f"create trigger if not exists line_gone after delete on jobs when old.place = {Place.GROUPED:d} begin {_OUT}; end",
    "create view if not exists leaving as select of_type, name, rank, job from line",
    """
create trigger if not exists line_leaving instead of insert on leaving begin
  delete from line where of_type = new.of_type and name = new.name and (rank, job) <= (new.rank, new.job);
end""",
)
_SCHEDULES = """
create table if not exists schedules (
  name text not null primary key,
  plan text not null,
  origin text not null,
  created_at real not null,
  since real not null,
  revision integer not null,
  passed_at real not null, -- no instant up to here is inserted any more
  tick_at real not null,   -- the last one that was
  missed integer not null,
  skipped integer not null,
  suspended_at real,
  nodes text not null
) without rowid"""

_TABLES = f"""
create table jobs (
  ord integer primary key,
  place integer not null default 0,
  state integer not null default 0,
  type text not null,
  prio integer not null,
  attempt integer not null default 0,  -- claims so far; with epoch it is the fence, so it never goes back
  returned integer not null default 0, -- those of them that were given back before their run began
  epoch integer,
  failures integer not null default 0,
  ghosts integer not null default 0,
  interrupted integer not null default 0,
  accepted_at real, -- only where ord does not tell it
  started_at real,
  ended_at real,
  due_at real,
  drop_at real,
  expire_at real,
  worker text,
  watcher integer, -- the epoch of the boot that watches over it, where its run outlives the one that claimed it
  id text,        -- only when the client gave it
  run_state text, -- of the run that ended the job, where it is not the word of `state`
  options blob,
  error text,
  result blob,
  runs text,      -- earlier runs, a JSON array a line; the last one stands in the columns above while started_at is set
  data blob,      -- null: in `bulk`
  crc32c integer, -- see checksum.py; null: stored before there were any, up to `meta.unchecked_to`.
                  -- Above its 32 bits those of grp and unique_key, but for what was stored up to `meta.unkeyed_to`
  resource text,  -- no other job with it runs at the same time
  unique_key text, -- see uniques.py
  cancel_at real, -- when it was cancelled while it ran; means nothing once its run is over
  grp text,       -- its group
  after_ids text, -- which jobs it waits for: see follow.py
  batch text      -- of which batch it is a member
);
create unique index ids on jobs (id) where id is not null;
create index ready on jobs (type, prio, ord) where place = 0;
create index later on jobs (due_at) where place = 1;
create index running on jobs (epoch) where place = 2;
create index ended on jobs (state, drop_at) where place = 3;
create index expiring on jobs (expire_at) where place < 2 and expire_at is not null;

create table bulk (ord integer primary key, crc32c integer not null, data blob not null);

{_PROGRESS};

{_PARKED};

{_SUSPENDED};
{_SAID};
{_SUBSCRIPTIONS};
{_UNIQUES[0]};
{_UNIQUES[1]};
{_SCHEDULES};
{_AWAITED[0]};
{_AWAITED[1]};
{_PASSED};
{_BATCHES[0]};
{_BATCHES[1]};
{_LINE};

create table tallies (type text not null, state integer not null, n integer not null, primary key (type, state)) without rowid;

create table meta (
  one integer primary key check (one = 1),
  journal_id text not null,
  node text not null,
  epoch integer not null,
  fed_seq integer not null,
  last_order integer not null,
  unchecked_to integer not null default 0,
  has_resources integer not null default 0, -- whether any job ever had one
  has_groups integer not null default 0,    -- likewise
  unkeyed_to integer not null default 0
);
"""

#: by table, the columns that version 1 went without; and version 2
_SINCE_1 = {
    "jobs": {"returned": "integer not null default 0", "accepted_at": "real", "crc32c": "integer"},
    "meta": {"unchecked_to": "integer not null default 0"},
}
_SINCE_2 = {"jobs": {"watcher": "integer"}}
_SINCE_4 = {
    "jobs": {"resource": "text", "unique_key": "text", "cancel_at": "real"},
    "meta": {"has_resources": "integer not null default 0"},
}
_SINCE_5 = {"jobs": {"grp": "text", "after_ids": "text", "batch": "text"}, "meta": {"has_groups": "integer not null default 0"}}


_SINCE_6 = {"meta": {"unkeyed_to": "integer not null default 0"}}
#: in an update of `meta`: the highest order that is stored
_HIGHEST = "max(last_order, ifnull((select max(ord) from jobs), 0))"


class Meta(msgspec.Struct, frozen=True):
    """The one row of `meta`.

    unchecked_to, unkeyed_to: records of orders above have a checksum, and that of their group and key. has_resources,
    has_groups: any job ever had one.
    """

    journal_id: str
    node: str
    epoch: int
    fed_seq: int
    last_order: int
    unchecked_to: int = 0
    has_resources: int = 0
    has_groups: int = 0
    unkeyed_to: int = 0


def prepare(db: sqlite3.Connection, journal_id: str, node: str) -> Meta:
    """Create what is missing, or bring it up to this version, begin a new epoch, and return `meta`; durable when it returns.

    Raises: StoreCorruptError: no store of ours, of a newer version, or of another journal; nothing was changed.
    """
    db.execute("pragma synchronous = full")
    db.execute("begin immediate")
    try:
        if _is_empty(db):
            _create_tables(db)
            _describe(db, journal_id, node)
        elif _pragma(db, "application_id") == _BLANK_ID:
            _describe(db, journal_id, node)
        _upgrade(db, _known_version(db))
        db.execute("update meta set epoch = epoch + 1")
        meta = read_meta(db)
        if (meta.journal_id, meta.node) != (journal_id, node):
            raise StoreCorruptError(f"the store belongs to journal {meta.journal_id}, expected {journal_id}")
        db.execute("commit")
    finally:
        if db.in_transaction:
            db.execute("rollback")
    db.execute("pragma synchronous = normal")
    return meta


def read_meta(db: sqlite3.Connection) -> Meta:
    """Return `meta` as committed."""
    row = db.execute(
        "select journal_id, node, epoch, fed_seq, last_order, unchecked_to, has_resources, has_groups, unkeyed_to from meta"
    ).fetchone()
    if row is None:
        raise StoreCorruptError("the store has lost its own description")
    return Meta(*row)


def _is_empty(db: sqlite3.Connection) -> bool:
    (tables,) = db.execute("select count(*) from sqlite_schema").fetchone()
    return tables == 0 and _pragma(db, "user_version") == 0 and _pragma(db, "application_id") in (0, APPLICATION_ID)


@cache
def blank() -> bytes:
    """Return the content of a file with the tables and nothing in them: to make them takes longer than a short store lasts."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.lay_out(db)
        _create_tables(db)
        db.execute(f"pragma application_id = {_BLANK_ID}")
        return connection.in_wal_mode(db.serialize())
    finally:
        db.close()


def _create_tables(db: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            db.execute(statement)


def _describe(db: sqlite3.Connection, journal_id: str, node: str) -> None:
    db.execute("insert into meta values (1, ?, ?, 0, 0, 0, 0, 0, 0, 0)", (journal_id, node))
    db.execute(f"pragma user_version = {SCHEMA_VERSION}")
    db.execute(f"pragma application_id = {APPLICATION_ID}")


def _known_version(db: sqlite3.Connection) -> int:
    if _pragma(db, "application_id") != APPLICATION_ID:
        raise StoreCorruptError("the file is a database, but no KQS store")
    version = _pragma(db, "user_version")
    if version > SCHEMA_VERSION:
        raise StoreCorruptError(f"the store is of version {version}, this server knows versions up to {SCHEMA_VERSION}")
    return version


def _upgrade(db: sqlite3.Connection, version: int) -> None:
    for step in _STEPS[version - 1 :]:
        step(db)
    if version < SCHEMA_VERSION:
        db.execute(f"pragma user_version = {SCHEMA_VERSION}")


def _add_checksums(db: sqlite3.Connection) -> None:
    """From 1 to 2. What is stored already has no checksum, whether version 1 stored it before or after an earlier step."""
    _add(db, _SINCE_1)
    db.execute(f"update meta set unchecked_to = {_HIGHEST}")


def _add_watchers(db: sqlite3.Connection) -> None:
    """From 2 to 3. What runs is nobody's to hold, or version 2 has claimed it again since."""
    _add(db, _SINCE_2)
    db.execute("update jobs set watcher = null where watcher is not null and place = 2")


def _add_progress(db: sqlite3.Connection) -> None:
    """From 3 to 4. Version 3 may have deleted jobs since whose progress an earlier step left here."""
    db.execute(_PROGRESS)
    db.execute("delete from progress where not exists (select 1 from jobs where jobs.ord = progress.ord)")


def _add_owners(db: sqlite3.Connection) -> None:
    """From 4 to 5.

    Version 4 knows nothing of what an earlier step left parked: whoever claims it parks it again. It may have deleted jobs
    since whose keys stand here, and what it has claimed since was cancelled as another run.
    """
    _add(db, _SINCE_4)
    db.execute("update jobs set cancel_at = null where cancel_at is not null and place = 2")
    db.execute(_PARKED)
    db.execute("update jobs set place = 0 where ord in (select ord from parked) and place = 1 and due_at is null")
    db.execute("delete from parked")
    db.execute(_SUSPENDED)
    for statement in _UNIQUES:
        db.execute(statement)
    db.execute("delete from uniques where not exists (select 1 from jobs where jobs.ord = uniques.ord)")


def _add_turns(db: sqlite3.Connection) -> None:
    """From 5 to 6. Version 5 knows nothing of what an earlier step left in the lines of groups: it must have none."""
    _add(db, _SINCE_5)
    db.execute(_SCHEDULES)
    db.execute(_SAID)
    db.execute(_SUBSCRIPTIONS)
    for statement in (*_AWAITED, _PASSED, *_BATCHES):
        db.execute(statement)


def _add_keyed(db: sqlite3.Connection) -> None:
    """From 6 to 7. Version 6 knows no checksum of groups and keys, whether it stored a job before or after an earlier step."""
    _add(db, _SINCE_6)
    db.execute(f"update meta set unkeyed_to = {_HIGHEST}")


def _add_lines(db: sqlite3.Connection) -> None:
    """From 7 to 8. Those that stand in version 7's index, if there is one, stand in the line from now on.

    These are all that are ready and have a group: an older version, which had no such index, was set back to with none of them.
    """
    db.execute(_LINE)
    db.execute("delete from line")
    if db.execute("select 1 from sqlite_schema where type = 'index' and name = 'grouped'").fetchone():
        db.execute(
            f"insert into line select type, grp, prio, ord from jobs indexed by grouped where place = {Place.GROUPED:d} "
            "order by type, grp, prio, ord"
        )
        db.execute("drop index grouped")
    (has_groups,) = db.execute("select has_groups from meta").fetchone()
    if has_groups:
        follow_lines(db)


def follow_lines(db: sqlite3.Connection) -> None:
    """Let whoever becomes ready, and has a group, stand in its line from now on. Idempotent."""
    for statement in _LINE_FOLLOWS:
        db.execute(statement)


def _add(db: sqlite3.Connection, missing: dict[str, dict[str, str]]) -> None:
    for table, columns in missing.items():
        known = {name for _, name, *_ in db.execute(f"pragma table_info({table})").fetchall()}
        for name in columns:
            if name not in known:
                db.execute(f"alter table {table} add column {name} {columns[name]}")


_STEPS = (_add_checksums, _add_watchers, _add_progress, _add_owners, _add_turns, _add_keyed, _add_lines)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    (value,) = db.execute(f"pragma {name}").fetchone()
    return int(value)
