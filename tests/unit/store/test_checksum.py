"""Checksums of jobs that change, made without their data."""

from __future__ import annotations

from itertools import product

import pytest

from kqs.store.checksum import checksum, given, reordered

ORDERS = (1_700_000_000_000_000, 1_800_000_000_000_001)
#: id, options, expire_at
GIVEN = [*product([None, "0123456789abc-01234567"], [None, b'{"ttr":5}'], [None, 1.8e9])]


@pytest.mark.parametrize("data", [b"", b"1", b'"' + b"x" * 5000 + b'"'])
@pytest.mark.parametrize("resource", [None, "printer"])
def test_checksum_of_a_job_that_is_moved_is_that_of_a_new_one(data: bytes, resource: str | None) -> None:
    for was, now in product(GIVEN, GIVEN):
        (id_, options, expire_at), (new_id, new_options, new_expire_at) = was, now
        before = checksum(ORDERS[0], "mail", 5, data, id_, expire_at, options, resource)
        after = checksum(ORDERS[1], "mail", 5, data, new_id, new_expire_at, new_options, resource)
        assert reordered(before, len(data), ORDERS, given(*was), given(*now)) == after
        assert reordered(before ^ 1, len(data), ORDERS, given(*was), given(*now)) != after


@pytest.mark.parametrize("found", [-1, 2**32, 2**40])
def test_what_is_no_checksum_stays_none(found: int) -> None:
    assert reordered(found, 3, ORDERS, b"", b"") == found
