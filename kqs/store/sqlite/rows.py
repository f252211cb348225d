"""Many rows in one statement.

The sqlite3 module hands the interpreter over at every step of a statement: once per row in `executemany` and `fetchall`. With
a busy loop thread each of these may wait a whole switch interval (5 ms) to get it back. So rows go in by multi-row VALUES and
`in (select value from json_each(?))`, and come back as one JSON array.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import msgspec

#: rows per statement; steps of at most a half, so that few statements need compiling and few rows are repeated
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)

encode_json = msgspec.json.Encoder().encode


class ManyRows:
    """`head` VALUES row, row, … `tail`, for any number of rows.

    A size between two of `_SIZES` is filled up by repeating the last row, so the statement must change nothing the second
    time it meets a row.
    """

    def __init__(self, head: str, row: str, tail: str) -> None:
        """Args: row: one row with its placeholders, in parentheses."""
        self._width = row.count("?")
        self._statements = {size: f"{head} values {','.join([row] * size)} {tail}" for size in _SIZES}

    def execute(self, db: sqlite3.Connection, values: list[Any]) -> int:
        """Run it with the values of all rows in one flat list; return how many rows were changed."""
        changed = 0
        width, step = self._width, _SIZES[-1] * self._width
        for start in range(0, len(values), step):
            part = values[start : start + step]
            count = len(part) // width
            size = _SIZES[bisect_left(_SIZES, count)]
            part += part[-width:] * (size - count)
            changed += db.execute(self._statements[size], part).rowcount
        return changed


def json_list(values: Iterable[int]) -> str:
    """Return integers as the JSON array that `json_each` takes."""
    return encode_json(list(values)).decode()


decode_orders = msgspec.json.Decoder(list[int]).decode


def cut(joined: bytes, lengths: Iterable[int | None]) -> list[bytes | None]:
    """Cut joined values into pieces of these lengths; None stands for a value that was null."""
    pieces: list[bytes | None] = []
    start = 0
    for length in lengths:
        pieces.append(None if length is None else joined[start : start + length])
        start += length or 0
    return pieces
