"""The payload of a CLAIMS record: which jobs of earlier records may have begun, as ranges of orders. Pure.

One line a range, both ends included, in the 13 hex digits that their ids begin with, so that `grep` finds them:

    0063a1b2c3d4e-0063a1b2c3d52
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kqs.journal.format import Kind, MalformedError, Record

_LINE = re.compile(rb"([0-9a-f]{13,16})-([0-9a-f]{13,16})\n")


def claims_record(orders: Sequence[int]) -> Record:
    """Return the record that claims the jobs of these orders, of which there is one at least; those in a row take one line."""
    ranges: list[list[int]] = []
    for order in orders:
        if ranges and order == ranges[-1][1] + 1:
            ranges[-1][1] = order
        else:
            ranges.append([order, order])
    payload = "".join([f"{first:013x}-{last:013x}\n" for first, last in ranges]).encode()
    return Record(Kind.CLAIMS, 0, orders[0], payload)


def claimed_orders(record: Record) -> list[range]:
    """Return which jobs a CLAIMS record names. Raises: MalformedError."""
    found = _LINE.findall(record.payload)
    if sum(len(first) + len(last) + 2 for first, last in found) != len(record.payload):
        raise MalformedError(f"record {record.seq} does not tell claims")
    return [range(int(first, 16), int(last, 16) + 1) for first, last in found]
