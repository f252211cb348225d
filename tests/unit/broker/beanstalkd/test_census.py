from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from kqs.broker.beanstalkd.census import TUBES_AT_ONCE, Census
from kqs.broker.beanstalkd.link import Link, LinkLostError
from kqs.broker.beanstalkd.shelf import Shelf, Shelves
from kqs.broker.beanstalkd.stats import ServerStats
from kqs.broker.beanstalkd.trio import Trio
from tests.support.ready_jobs import an_entry
from tests.support.supervising import StrictSupervisor
from tests.support.wire import Wire

MANY = 1000


class Told:
    """What the census tells a listener."""

    def __init__(self) -> None:
        self.forgotten_types: list[str] = []
        self.roomy_types: list[str] = []

    def forgotten(self, types: Iterable[str]) -> None:
        self.forgotten_types += types

    def made_room(self, type_: str) -> None:
        self.roomy_types.append(type_)

    def is_partial(self, type_: str) -> bool:
        return True


class Rig:
    """A census over three connections, whose server is the test."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.told = Told()
        self.shelves = Shelves("")
        self.trio = Trio("here:1", self.lost.append, StrictSupervisor())
        self.trio.instance = "abc"
        self.wires = [Wire(), Wire(), Wire()]
        for wire in self.wires:
            link = Link(self.trio.end, StrictSupervisor())
            link.connection_made(wire)
            self.trio.links.append(link)
        trio: Any = self.trio  # as much of them as is asked
        told: Any = self.told
        self.census = Census(trio, self.shelves, told)

    def hold(self, type_: str, *orders: int) -> Shelf:
        """Believe that a tube holds these jobs."""
        shelf = self.shelves.of(type_)
        shelf.end_put(shelf.begin_put([an_entry(order, type_) for order in orders]), [])
        return shelf

    async def polling(self) -> asyncio.Task[ServerStats]:
        """Begin a poll; return when its first questions have been written."""
        task = asyncio.ensure_future(self.census.poll())
        await settle()
        self.trio.puts.data_received(self.answers_to(0, {}))
        return task

    def answers_to(self, place: int, ready: dict[str, int]) -> bytes:
        """Return the answers to all that was written to a connection since the last call; other tubes than `ready` are gone."""
        asked = b"".join(self.wires[place].writes)
        self.wires[place].writes.clear()
        return b"".join(self._answer(line, ready) for line in asked.decode().splitlines())

    def _answer(self, line: str, ready: dict[str, int]) -> bytes:
        if line == "stats":
            return ok("---\nid: abc\ncurrent-jobs-ready: 5\n")
        tube = line.removeprefix("stats-tube kq-")
        return ok(f"---\ncurrent-jobs-ready: {ready[tube]}\n") if tube in ready else b"NOT_FOUND\r\n"


def ok(body: str) -> bytes:
    return b"OK %d\r\n%b\r\n" % (len(body), body.encode())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_many_tubes_cost_few_round_trips_and_each_is_told_its_own_answer(rig: Rig) -> None:
    shelves = [rig.hold(f"type-{number}", *range(10 * number, 10 * number + 10)) for number in range(MANY)]
    ready = {shelf.type: 1 + number % 4 for number, shelf in enumerate(shelves)}
    polling = await rig.polling()
    round_trips = 0
    while not polling.done():
        assert len(b"".join(rig.wires[1].writes).splitlines()) <= TUBES_AT_ONCE + 1
        rig.trio.takes.data_received(rig.answers_to(1, ready))
        round_trips += 1
        await settle()
    assert round_trips <= 10
    assert (await polling).ready_count == 5
    assert [len(shelf.known) for shelf in shelves] == [ready[shelf.type] for shelf in shelves]
    assert rig.told.roomy_types == [shelf.type for shelf in shelves]


async def test_no_tube_costs_a_poll_no_more_than_one_round_trip(rig: Rig) -> None:
    polling = await rig.polling()
    rig.trio.takes.data_received(rig.answers_to(1, {}))
    await settle()
    assert polling.done()


async def test_answers_may_be_split_anywhere(rig: Rig) -> None:
    shelves = [rig.hold(f"type-{number}", *range(10)) for number in range(3)]
    polling = await rig.polling()
    for byte in rig.answers_to(1, {"type-0": 1, "type-1": 2, "type-2": 3}):
        rig.trio.takes.data_received(bytes([byte]))
    assert (await polling).instance == "abc"
    assert [len(shelf.known) for shelf in shelves] == [1, 2, 3]


async def test_a_connection_that_is_cut_in_between_tells_of_no_tube(rig: Rig) -> None:
    shelves = [rig.hold(f"type-{number}", *range(10)) for number in range(TUBES_AT_ONCE + 1)]
    polling = await rig.polling()
    answers = rig.answers_to(1, {})
    rig.trio.takes.data_received(answers[: len(answers) // 2])
    rig.trio.takes.connection_lost(ConnectionResetError("reset"))
    with pytest.raises(LinkLostError, match="reset"):
        await polling
    assert {len(shelf.known) for shelf in shelves} == {10}
    assert rig.told.forgotten_types == []
    assert rig.lost == ["reset"]


async def test_what_is_put_meanwhile_is_not_counted_as_taken_by_others(rig: Rig) -> None:
    shelf = rig.hold("mail", *range(4))
    polling = await rig.polling()
    rig.hold("mail", *range(4, 100))
    rig.trio.takes.data_received(rig.answers_to(1, {"mail": 4}))
    await polling
    assert shelf.known == set(range(100))
    assert rig.told.roomy_types == []


async def test_a_put_that_is_under_way_leaves_the_count_open(rig: Rig) -> None:
    shelf = rig.shelves.of("mail")
    put = shelf.begin_put([an_entry(order) for order in range(10)])
    polling = await rig.polling()
    shelf.end_put(put, [])
    rig.trio.takes.data_received(rig.answers_to(1, {"mail": 0}))
    await polling
    assert len(shelf.known) == 10


async def test_a_count_that_is_none_ends_the_connection(rig: Rig) -> None:
    shelf = rig.hold("mail", 1, 2)
    polling = await rig.polling()
    rig.trio.takes.data_received(ok("---\nid: abc\n") + ok("---\ncurrent-jobs-ready: many\n"))
    await polling
    assert "many" in rig.lost[0]
    assert len(shelf.known) == 2


async def test_another_server_is_not_believed(rig: Rig) -> None:
    polling = asyncio.ensure_future(rig.census.poll())
    await settle()
    for link in rig.trio.links[:2]:
        link.data_received(ok("---\nid: other\n"))
    with pytest.raises(ValueError, match="different servers"):
        await polling
