"""Checksums of jobs that change, made without their data."""

from __future__ import annotations

from itertools import product

import pytest

from kqs.store.checksum import checksum, given, of_keys, reordered, with_keys

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


@pytest.mark.parametrize("found", [-1, 2**32, 2**40, 2**62 + 5])
def test_what_stands_above_a_checksum_stays(found: int) -> None:
    assert reordered(found, 3, ORDERS, b"", b"") >> 32 == found >> 32


def test_what_keeps_jobs_apart_has_bits_of_its_own() -> None:
    totals = {of_keys(*pair) for pair in product([None, "", "a", "b"], repeat=2)}
    assert len(totals) == 16
    assert of_keys(None, None) == 0
    for total in totals:
        assert 0 <= total < 2**63
        assert total & 0xFFFFFFFF == 0
        assert with_keys(7, total) == total | 7
        assert with_keys(2**40, total) == 2**40
