"""Whose a store's file is, and of which version: as it is opened, what is missing is made, what is old brought up to date."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

import msgspec

from kqs.errors import StoreCorruptError
from kqs.store.base import Owner
from kqs.store.sqlite import connection, tables, upgrades

#: "KQSs": tells our files from other SQLite files
APPLICATION_ID = 0x4B515373
#: "KQSt": what `blank` makes, which is nobody's store yet
_BLANK_ID = 0x4B515374


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
            tables.create(db)
            _describe(db, journal_id, node)
        elif _pragma(db, "application_id") == _BLANK_ID:
            _describe(db, journal_id, node)
        upgrades.upgrade(db, _known_version(db))
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


def owner_of(path: Path) -> Owner | None:
    """Return whose the store in a file is; None: nobody's. Raises: StoreCorruptError, sqlite3.Error, OSError."""
    connection.see_to_wal(path)
    if not path.exists():
        return None
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        if _is_empty(db) or _pragma(db, "application_id") == _BLANK_ID:
            return None
        _known_version(db)
        found = db.execute("select journal_id, node from meta").fetchone()
    return None if found is None else Owner(*found)


def read_meta(db: sqlite3.Connection) -> Meta:
    """Return `meta` as committed."""
    row = db.execute(
        "select journal_id, node, epoch, fed_seq, last_order, unchecked_to, has_resources, has_groups, unkeyed_to from meta"
    ).fetchone()
    if row is None:
        raise StoreCorruptError("the store has lost its own description")
    return Meta(*row)


def _is_empty(db: sqlite3.Connection) -> bool:
    (count,) = db.execute("select count(*) from sqlite_schema").fetchone()
    return count == 0 and _pragma(db, "user_version") == 0 and _pragma(db, "application_id") in (0, APPLICATION_ID)


@cache
def blank() -> bytes:
    """Return the content of a file with the tables and nothing in them: to make them takes longer than a short store lasts."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.lay_out(db)
        tables.create(db)
        db.execute(f"pragma application_id = {_BLANK_ID}")
        return connection.in_wal_mode(db.serialize())
    finally:
        db.close()


def _describe(db: sqlite3.Connection, journal_id: str, node: str) -> None:
    db.execute("insert into meta values (1, ?, ?, 0, 0, 0, 0, 0, 0, 0)", (journal_id, node))
    db.execute(f"pragma user_version = {tables.SCHEMA_VERSION}")
    db.execute(f"pragma application_id = {APPLICATION_ID}")


def _known_version(db: sqlite3.Connection) -> int:
    if _pragma(db, "application_id") != APPLICATION_ID:
        raise StoreCorruptError("the file is a database, but no KQS store")
    version = _pragma(db, "user_version")
    if version > tables.SCHEMA_VERSION:
        raise StoreCorruptError(f"the store is of version {version}, this server knows versions up to {tables.SCHEMA_VERSION}")
    return version


def _pragma(db: sqlite3.Connection, name: str) -> int:
    (value,) = db.execute(f"pragma {name}").fetchone()
    return int(value)
