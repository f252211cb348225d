"""Data longer than `bulk_bytes`: in a table of its own, so that changing a job's state does not rewrite it.

A row is written and deleted in the transaction that writes or deletes its job, so none can be left over.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from kqs.crc import crc32c
from kqs.job import Accepted
from kqs.store.sqlite.rows import MOST_ROW_BYTES, ManyRows, cut, json_list

_PUT = ManyRows("insert into bulk (ord, crc32c, data)", "(?,?,?)", "on conflict do nothing")
# one row for all (see rows.py): what is short as JSON, all data joined, to be cut by length
_GET = """
select json_group_array(json_array(ord, crc32c, length(data))), cast(group_concat(data, '') as blob)
from bulk where ord in (select value from json_each(?))
"""
_LENGTHS = "select json_group_array(json_array(ord, length(data))) from bulk where ord in (select value from json_each(?))"
_DELETE = "delete from bulk where ord in (select value from json_each(?))"

_decode_found = msgspec.json.Decoder(list[tuple[int, int, int]]).decode
_decode_lengths = msgspec.json.Decoder(list[tuple[int, int]]).decode


def put(db: sqlite3.Connection, blobs: Sequence[tuple[int, bytes]]) -> None:
    """Store (order, data) pairs."""
    values: list[object] = []
    for order, data in blobs:
        values += (order, crc32c(data), data)
    stored = _PUT.execute(db, values, [len(data) for _, data in blobs])
    assert stored == len(blobs), "each stands beside a job that was just stored"


def get(db: sqlite3.Connection, orders: Iterable[int]) -> dict[int, bytes]:
    """Return data by order; what is damaged or missing is left out. Its `lengths` are the caller's to bound."""
    packed, joined = db.execute(_GET, (json_list(orders),)).fetchone()
    found = _decode_found(packed)
    pieces = cut(joined or b"", [length for _, _, length in found])
    return {
        order: data
        for (order, checksum, _), data in zip(found, pieces, strict=True)
        if data is not None and crc32c(data) == checksum
    }


def lengths(db: sqlite3.Connection, orders: Iterable[int]) -> dict[int, int]:
    """Return how long data is, by order; what is missing is left out."""
    (packed,) = db.execute(_LENGTHS, (json_list(orders),)).fetchone()
    return dict(_decode_lengths(packed))


def delete(db: sqlite3.Connection, orders_json: str) -> None:
    """Delete the data of these jobs, where there is any."""
    db.execute(_DELETE, (orders_json,))


def row_lengths(jobs: Sequence[Accepted], bulk_bytes: int) -> Sequence[int]:
    """Return how long the data of these jobs is, which stands in their rows up to `bulk_bytes`, if that must be looked at."""
    return [len(job.data) for job in jobs] if bulk_bytes > MOST_ROW_BYTES else ()
