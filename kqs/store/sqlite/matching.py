"""Looking through the data of many jobs, as far as a slice goes: it is read in parts, within bounds."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence

import msgspec

from kqs.filter import Pattern
from kqs.store import change as bounds
from kqs.store.sqlite import bulk, content
from kqs.store.sqlite.rows import json_list

#: data that is read at a time to be looked through, in bytes and jobs
_PART_BYTES = 1024 * 1024
_PART_JOBS = 250
#: of a job that is gone, in the record and apart from it
_NO_DATA = (0, 0)

_LENGTHS_OF = """
select json_group_array(json_array(ord, length(data), case when data is null then (
  select length(data) from bulk where bulk.ord = jobs.ord) end))
from jobs not indexed where ord in (select value from json_each(?))
"""

_decode_lengths = msgspec.json.Decoder(list[tuple[int, int | None, int | None]]).decode


def found(db: sqlite3.Connection, orders: Sequence[int], pattern: Pattern, most: int | None = None) -> tuple[set[int], int]:
    """Return in which of these jobs' data the pattern is found, and how many of them were looked at: one at least.

    Args: most: no more than so many are found; None: as many as there are.
    """
    until = time.monotonic() + bounds.MATCH_S
    fitting: set[int] = set()
    done = size = 0
    for part, data in _parts(db, orders):
        for order in part:
            if order in data and pattern.is_in(data[order]):
                fitting.add(order)
            done += 1
            size += len(data.get(order, b""))
            if len(fitting) == most or time.monotonic() >= until:
                return fitting, done
        if size >= bounds.LOOKED_BYTES:
            break
    return fitting, done


def _parts(db: sqlite3.Connection, orders: Sequence[int]) -> Iterator[tuple[list[int], dict[int, bytes]]]:
    """Yield as `data_of`, no more than _PART_JOBS at a time: what is read and not looked at was read in vain."""
    for start in range(0, len(orders), _PART_JOBS):
        yield from data_of(db, orders[start : start + _PART_JOBS])


def data_of(db: sqlite3.Connection, orders: Sequence[int]) -> Iterator[tuple[list[int], dict[int, bytes]]]:
    """Yield jobs in parts, with their data, as far as it is there: about _PART_BYTES of it at a time, or one job's."""
    lengths = _lengths(db, orders)
    part: list[int] = []
    size = 0
    for order in orders:
        length = sum(lengths.get(order, _NO_DATA))
        if part and size + length > _PART_BYTES:
            yield part, _data(db, part, lengths)
            part, size = [], 0
        part.append(order)
        size += length
    if part:
        yield part, _data(db, part, lengths)


def _data(db: sqlite3.Connection, orders: Sequence[int], lengths: dict[int, tuple[int, int]]) -> dict[int, bytes]:
    inline = {order: found[0] for order in orders if (found := lengths.get(order, _NO_DATA))[0]}
    data = content.long(db, inline)
    if len(inline) < len(orders):
        data |= bulk.get(db, [order for order in orders if order not in inline])
    return data


def _lengths(db: sqlite3.Connection, orders: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return how long jobs' data is, in the record and apart from it, by order."""
    (packed,) = db.execute(_LENGTHS_OF, (json_list(orders),)).fetchone()
    return {order: (inline or 0, apart or 0) for order, inline, apart in _decode_lengths(packed)}
