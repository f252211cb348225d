"""Many rows in one statement.

The sqlite3 module hands the interpreter over at every step of a statement: once per row in `executemany` and `fetchall`. With
a busy loop thread each of these may wait a whole switch interval (5 ms) to get it back. So rows go in by multi-row VALUES and
`in (select value from json_each(?))`, and come back as one JSON array.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

#: bound values of one statement, which SQLite copies, in bytes; a longer one goes alone
MOST_BYTES = 16 * 1024 * 1024
#: rows per statement; steps of at most a half, so that few statements need compiling and few rows are repeated
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
#: rows of which none is longer need no looking at
MOST_ROW_BYTES = MOST_BYTES // _SIZES[-1]

encode_json = msgspec.json.Encoder().encode


class ManyRows:
    """`head` VALUES row, row, … `tail`, for any number of rows.

    A size between two of `_SIZES` is filled up by repeating the last row, so the statement must change nothing the second
    time it meets a row; or with a `filler`, a row that changes nothing wherever it stands.
    """

    def __init__(self, head: str, row: str, tail: str) -> None:
        """Args: row: one row with its placeholders, in parentheses: `?1`, `?2`, … for what all rows share, then each `?`."""
        self._width = row.count("?,") + row.count("?)")
        self._statements = {size: f"{head} values {','.join([row] * size)} {tail}" for size in _SIZES}

    def execute(
        self,
        db: sqlite3.Connection,
        values: list[Any],
        lengths: Sequence[int] = (),
        filler: tuple[Any, ...] | None = None,
        shared: tuple[Any, ...] = (),
    ) -> int:
        """Run it with the values of all rows in one flat list; return how many rows were changed.

        Args: lengths: the bytes of each row, where they may be many. shared: the values that all rows share.
        """
        width = self._width
        if len(values) <= _SIZES[-1] * width and sum(lengths) <= MOST_BYTES:
            return self._run(db, values, filler, shared)
        changed = 0
        for start, end in _parts(len(values) // width, lengths):
            changed += self._run(db, values[start * width : end * width], filler, shared)
        return changed

    def _run(self, db: sqlite3.Connection, part: list[Any], filler: tuple[Any, ...] | None, shared: tuple[Any, ...]) -> int:
        count = len(part) // self._width
        if not count:
            return 0
        size = _SIZES[bisect_left(_SIZES, count)]
        if size > count:
            part = part + list(filler or part[-self._width :]) * (size - count)
        return db.execute(self._statements[size], (*shared, *part) if shared else part).rowcount


def _parts(count: int, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Part `count` rows into ranges of at most the largest size and, unless one row is longer, MOST_BYTES."""
    start, part_bytes = 0, 0
    for row in range(count):
        row_bytes = lengths[row] if lengths else 0
        if row > start and (row - start == _SIZES[-1] or part_bytes + row_bytes > MOST_BYTES):
            yield start, row
            start, part_bytes = row, 0
        part_bytes += row_bytes
    if start < count:
        yield start, count


def json_list(values: Iterable[int]) -> str:
    """Return integers as the JSON array that `json_each` takes."""
    return encode_json(list(values)).decode()


decode_orders = msgspec.json.Decoder(list[int]).decode


def json_real(column: str) -> str:
    """Return the two items of a JSON array by which an instant of `column` travels; `real` puts them together.

    SQLite's JSON rounds to 15 digits, and an instant with microseconds has 16.
    """
    return f"cast({column} as integer), {column} - cast({column} as integer)"


def real(whole: int | None, rest: float | None) -> float | None:
    """Return an instant that came as `json_real`: exactly, if it lies in the years 1970 to 100,000,000."""
    return None if whole is None or rest is None else whole + rest


def cut(joined: bytes, lengths: Iterable[int | None]) -> list[bytes | None]:
    """Cut joined values into pieces of these lengths; None stands for a value that was null."""
    pieces: list[bytes | None] = []
    start = 0
    for length in lengths:
        pieces.append(None if length is None else joined[start : start + length])
        start += length or 0
    return pieces
