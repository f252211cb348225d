"""The standing calls of one connection, by their ids."""

from __future__ import annotations

import pytest
from msgspec import Raw

from kqs.remote import Order
from kqs.rpc.standing import MAX_STANDING, Standing
from kqs.wire.call import Call
from tests.support.jobs import an_accepted
from tests.support.queueing import Rig
from tests.support.remote import a_desk, still


class Stands:
    """Standing calls over a real desk, and which of them were answered."""

    def __init__(self, rig: Rig) -> None:
        self.desk = a_desk(rig)
        self.standing = Standing(self.desk, str)
        self.answered: list[str | None] = []

    def add(self, call_id: str | None, room: int = 1) -> Order:
        """Let a `work` call stand."""

        def ended() -> None:
            self.answered.append(call_id)

        party = self.standing.asking()
        order = party.order(frozenset(["mail"]), room, "w", lambda runs: None, ended, lambda run: None)
        self.standing.add(Call("work", id=None if call_id is None else Raw(call_id.encode())), order, ended)
        return order


@pytest.fixture
async def stands(rig: Rig) -> Stands:
    return Stands(rig)


async def test_nothing_is_made_for_a_connection_that_asks_for_nothing(stands: Stands) -> None:
    standing = stands.standing
    standing.pause()
    standing.resume()
    standing.end()
    standing.leave()
    assert not standing.is_full
    assert standing.party is None


@pytest.mark.parametrize(
    ("sent", "named"),
    [("1", 1), ('"a"', "a"), ('"\\u00e9"', "é"), ('"a\\/b"', "a/b"), ("1.0", 1.0), ("1.50", 1.5), ("1" * 30, int("1" * 30))],
)
async def test_a_call_is_found_by_its_id_however_that_is_written(stands: Stands, sent: str, named: str | float) -> None:
    order = stands.add(sent)
    assert stands.standing.withdraw(named)
    assert order.is_over
    assert stands.answered == [sent]
    assert not stands.standing.withdraw(named)


async def test_an_id_that_no_number_holds_is_no_trouble(stands: Stands) -> None:
    stands.add("1e400")
    assert not stands.standing.withdraw(float("inf"))
    stands.standing.end()
    assert stands.answered == ["1e400"]


async def test_a_text_and_a_number_are_two_ids(stands: Stands) -> None:
    stands.add("1")
    assert not stands.standing.withdraw("1")
    assert stands.standing.withdraw(1)


async def test_a_call_without_an_id_stands_and_cannot_be_withdrawn(stands: Stands) -> None:
    order = stands.add(None)
    assert not order.is_over
    stands.standing.end()
    assert stands.answered == [None]


async def test_of_two_with_one_id_the_later_is_withdrawn(stands: Stands) -> None:
    first, second = stands.add("1"), stands.add("1")
    assert stands.standing.withdraw(1)
    assert (first.is_over, second.is_over) == (False, True)
    assert stands.standing.withdraw(1)
    assert first.is_over
    assert not stands.standing.withdraw(1)


async def test_an_id_of_one_that_is_over_means_the_one_before(stands: Stands) -> None:
    first, *others = [stands.add("1") for _ in range(1 + 2 * MAX_STANDING) if not stands.standing.is_full]
    for order in others:
        order.end()
    for _ in range(5 * MAX_STANDING):
        stands.add("1").end()
    assert len(stands.standing._by_id[1]) <= 2
    assert stands.standing.withdraw(1)
    assert first.is_over


async def test_so_many_may_stand_and_one_that_ends_makes_room(stands: Stands) -> None:
    orders = [stands.add(str(number)) for number in range(MAX_STANDING)]
    assert stands.standing.is_full
    orders[7].end()
    assert not stands.standing.is_full


async def test_ids_of_calls_that_are_over_are_not_kept_for_ever(stands: Stands) -> None:
    kept = stands.add('"kept"')
    for number in range(1000):
        stands.add(str(number)).end()
    assert len(stands.standing._by_id) <= 2 * MAX_STANDING + 1
    assert stands.standing.withdraw("kept")
    assert kept.is_over


async def test_all_that_stand_are_answered_at_the_end(stands: Stands) -> None:
    for number in range(3):
        stands.add(str(number))
    assert not stands.standing.has_ended
    stands.standing.end()
    assert sorted(map(str, stands.answered)) == ["0", "1", "2"]
    assert stands.standing.has_ended


async def test_a_connection_that_takes_nothing_is_brought_nothing(rig: Rig, stands: Stands) -> None:
    order = stands.add("1")
    stands.standing.pause()
    await rig.accept(an_accepted(1))
    await still(rig)
    assert stands.desk.runs_count == 0
    stands.standing.resume()
    assert order.pool.consumer.room == 1
    await still(rig)
    assert stands.desk.runs_count == 1
    stands.standing.leave()
    assert stands.desk.runs_count == 0
