from __future__ import annotations

import pytest

from kqs.feeder.cursor import Cursor


def test_it_begins_where_the_store_is() -> None:
    cursor = Cursor(7)
    assert (cursor.fed, cursor.held) == (7, 7)


def test_records_are_held_and_then_fed() -> None:
    cursor = Cursor()
    cursor.hold(3, durable_seq=5)
    cursor.feed(2)
    assert (cursor.fed, cursor.held) == (2, 3)


@pytest.mark.parametrize("seq", [2, 6])
def test_nothing_is_held_twice_or_before_it_is_durable(seq: int) -> None:
    cursor = Cursor(3)
    with pytest.raises(AssertionError, match="held up to 3"):
        cursor.hold(seq, durable_seq=5)


@pytest.mark.parametrize("seq", [2, 5])
def test_nothing_is_fed_twice_or_before_it_is_held(seq: int) -> None:
    cursor = Cursor(3)
    cursor.hold(4, durable_seq=9)
    with pytest.raises(AssertionError, match="fed up to 3"):
        cursor.feed(seq)
