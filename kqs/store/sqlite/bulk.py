"""Data longer than `bulk_bytes`: in a table of its own, so that changing a job's state does not rewrite it.

A row is written and deleted in the transaction that writes or deletes its job, so none can be left over.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from crc32c import crc32c

from kqs.store.sqlite.rows import json_list

_PUT = "insert into bulk (ord, crc32c, data) values (?, ?, ?)"
_GET = "select ord, crc32c, data from bulk where ord in (select value from json_each(?))"
_DELETE = "delete from bulk where ord in (select value from json_each(?))"


def put(db: sqlite3.Connection, blobs: Sequence[tuple[int, bytes]]) -> None:
    """Store (order, data) pairs."""
    if blobs:
        db.executemany(_PUT, [(order, crc32c(data), data) for order, data in blobs])


def get(db: sqlite3.Connection, orders: Iterable[int]) -> dict[int, bytes]:
    """Return data by order; what is damaged or missing is left out."""
    rows = db.execute(_GET, (json_list(orders),))
    return {order: data for order, checksum, data in rows if crc32c(data) == checksum}


def delete(db: sqlite3.Connection, orders_json: str) -> None:
    """Delete the data of these jobs, where there is any."""
    db.execute(_DELETE, (orders_json,))
