"""What brings the tables of an earlier version up to this one: a step from each to the next.

A step runs in the transaction that begins an epoch, so it is done whole or not at all. It must not read all jobs, for a start
waits for it, and it must find its own work done without harm: docs/operations.md tells how to set a store back to the version
before.
"""

from __future__ import annotations

import sqlite3

from kqs.store.sqlite import tables
from kqs.store.sqlite.tables import Place

#: by table, the columns that this version was the last to go without
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


def upgrade(db: sqlite3.Connection, version: int) -> None:
    """Do what is left from this version on. Within a transaction."""
    for step in _STEPS[version - 1 :]:
        step(db)
    if version < tables.SCHEMA_VERSION:
        db.execute(f"pragma user_version = {tables.SCHEMA_VERSION}")


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
    db.execute(tables.PROGRESS)
    db.execute("delete from progress where not exists (select 1 from jobs where jobs.ord = progress.ord)")


def _add_owners(db: sqlite3.Connection) -> None:
    """From 4 to 5.

    Version 4 knows nothing of what an earlier step left parked: whoever claims it parks it again. It may have deleted jobs
    since whose keys stand here, and what it has claimed since was cancelled as another run.
    """
    _add(db, _SINCE_4)
    db.execute("update jobs set cancel_at = null where cancel_at is not null and place = 2")
    db.execute(tables.PARKED)
    db.execute("update jobs set place = 0 where ord in (select ord from parked) and place = 1 and due_at is null")
    db.execute("delete from parked")
    db.execute(tables.SUSPENDED)
    for statement in tables.UNIQUES:
        db.execute(statement)
    db.execute("delete from uniques where not exists (select 1 from jobs where jobs.ord = uniques.ord)")


def _add_turns(db: sqlite3.Connection) -> None:
    """From 5 to 6. Version 5 knows nothing of what an earlier step left in the lines of groups: it must have none."""
    _add(db, _SINCE_5)
    db.execute(tables.SCHEDULES)
    db.execute(tables.SAID)
    db.execute(tables.SUBSCRIPTIONS)
    for statement in (*tables.AWAITED, tables.PASSED, *tables.BATCHES):
        db.execute(statement)


def _add_keyed(db: sqlite3.Connection) -> None:
    """From 6 to 7. Version 6 knows no checksum of groups and keys, whether it stored a job before or after an earlier step."""
    _add(db, _SINCE_6)
    db.execute(f"update meta set unkeyed_to = {_HIGHEST}")


def _add_lines(db: sqlite3.Connection) -> None:
    """From 7 to 8. Those that stand in version 7's index, if there is one, stand in the line from now on.

    These are all that are ready and have a group: an older version, which had no such index, was set back to with none of them.
    """
    db.execute(tables.LINE)
    db.execute("delete from line")
    if db.execute("select 1 from sqlite_schema where type = 'index' and name = 'grouped'").fetchone():
        db.execute(
            f"insert into line select type, grp, prio, ord from jobs indexed by grouped where place = {Place.GROUPED:d} "
            "order by type, grp, prio, ord"
        )
        db.execute("drop index grouped")
    (has_groups,) = db.execute("select has_groups from meta").fetchone()
    if has_groups:
        tables.follow_lines(db)


def _add(db: sqlite3.Connection, missing: dict[str, dict[str, str]]) -> None:
    for table, columns in missing.items():
        known = {name for _, name, *_ in db.execute(f"pragma table_info({table})").fetchall()}
        for name in columns:
            if name not in known:
                db.execute(f"alter table {table} add column {name} {columns[name]}")


_STEPS = (_add_checksums, _add_watchers, _add_progress, _add_owners, _add_turns, _add_keyed, _add_lines)
