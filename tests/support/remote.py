"""Remote workers without a wire: parties of a desk over a real queue."""

from __future__ import annotations

import asyncio

from kqs.remote import Desk, OpenRun, Order
from kqs.remote.pool import Pool
from tests.support.jobs import ORDER
from tests.support.queueing import Rig
from tests.support.turning import until

STORE_ID = "0123456789abcdef"


def a_desk(rig: Rig, grace_s: float = 1.0) -> Desk:
    """A desk that has begun."""
    desk = Desk(rig.queue, grace_s, rig.supervisor)
    desk.start(STORE_ID)
    return desk


class Hired:
    """A party that a test holds: what it was given, in lists as they came, what it lost, and how many of its orders ended."""

    def __init__(self, desk: Desk, name: str = "w") -> None:
        self.desk = desk
        self.name = name
        self.party = desk.party()
        self.given: list[list[OpenRun]] = []
        self.data: list[bytes] = []
        self.open: list[OpenRun] = []
        self.lost: list[OpenRun] = []
        self.ended = 0
        self.told: list[bool] = []

    def reserve(self, count: int = 1, *types: str, held: bool = False) -> Order:
        return self.party.order(frozenset(types or ("mail",)), count, self.name, self._given, self._ended, held=held)

    def work(self, room: int = 1, *types: str, held: bool = False) -> Order:
        wanted = frozenset(types or ("mail",))
        return self.party.order(wanted, room, self.name, self._given, self._ended, self._lost, held=held)

    @property
    def numbers(self) -> list[int]:
        """Which jobs it was given, in order."""
        return [run.run.claim.order - ORDER for runs in self.given for run in runs]

    async def take(self, count: int = 1) -> list[OpenRun]:
        """Wait until it was given so many runs in all; return the last."""
        await until(lambda: sum(map(len, self.given)) >= count)
        return [run for runs in self.given for run in runs][-count:]

    def _given(self, runs: list[OpenRun]) -> None:
        assert runs, "given nothing"
        self.given.append(runs)
        self.data += [run.data for run in runs]
        self.open += runs

    def _ended(self) -> None:
        self.ended += 1

    def _lost(self, run: OpenRun) -> None:
        self.lost.append(run)


async def still(rig: Rig) -> None:
    """Let everything happen that is about to."""
    for _ in range(10):
        await rig.queue.reads.counts()  # by way of the store's thread
        await asyncio.sleep(0)


def assert_balanced(pool: Pool) -> None:
    """While no claim is under way, a pool's room is that of those in line."""
    assert pool.consumer._claims == 0
    assert pool.consumer._room == sum(order.room for order in pool._line)
    assert all(order.room > 0 and not order.is_paused and order in pool.orders for order in pool._line)
