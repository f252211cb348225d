"""Data longer than `bulk_bytes`: in a table of its own, so that changing a job's state does not rewrite it.

A row is written and deleted in the transaction that writes or deletes its job, so none can be left over.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from crc32c import crc32c

from kqs.store.sqlite.rows import ManyRows, json_list

_PUT = ManyRows("insert into bulk (ord, crc32c, data)", "(?,?,?)", "on conflict do nothing")
_GET = "select ord, crc32c, data from bulk where ord in (select value from json_each(?))"
_DELETE = "delete from bulk where ord in (select value from json_each(?))"


def put(db: sqlite3.Connection, blobs: Sequence[tuple[int, bytes]]) -> None:
    """Store (order, data) pairs."""
    values: list[object] = []
    for order, data in blobs:
        values += (order, crc32c(data), data)
    stored = _PUT.execute(db, values, [len(data) for _, data in blobs])
    assert stored == len(blobs), "each stands beside a job that was just stored"


def get(db: sqlite3.Connection, orders: Iterable[int]) -> dict[int, bytes]:
    """Return data by order; what is damaged or missing is left out."""
    rows = db.execute(_GET, (json_list(orders),))
    return {order: data for order, checksum, data in rows if crc32c(data) == checksum}


def delete(db: sqlite3.Connection, orders_json: str) -> None:
    """Delete the data of these jobs, where there is any."""
    db.execute(_DELETE, (orders_json,))
