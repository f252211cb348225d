"""The supply against a store that answers when it likes and a pool that loses jobs: nothing ready is ever left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kqs.broker.beanstalkd import supply
from kqs.broker.beanstalkd.supply import Supply
from tests.support.jobs_pool import JobsPool
from tests.support.ready_jobs import SlowStore, an_entry
from tests.support.supervising import StrictSupervisor

MAX_ENTRIES = 4
PRIOS = st.sampled_from([10_000, 10_000, 10_000, 9_000, 11_000])


class SupplyMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.retry_s, supply.RETRY_S = supply.RETRY_S, 0.0
        self.loop = asyncio.new_event_loop()
        self.store = SlowStore()
        self.pool = JobsPool()
        self.next_order = 0
        self.run(self.begin)

    def begin(self) -> None:
        self.supply = Supply(self.pool, MAX_ENTRIES, lambda type_: None, StrictSupervisor())
        self.supply.start(self.store.refill, {})

    def run(self, act: Callable[[], object]) -> None:
        async def acted() -> None:
            act()
            for _ in range(10):
                await asyncio.sleep(0)

        self.loop.run_until_complete(acted())

    @rule(prios=st.lists(PRIOS, min_size=1, max_size=6))
    def offer(self, prios: list[int]) -> None:
        first = self.next_order
        self.next_order += len(prios)
        entries = [an_entry(first + place, prio=prio) for place, prio in enumerate(prios)]
        self.run(lambda: self.supply.offer("mail", self.store.add(*entries)))

    @rule(count=st.integers(1, 6))
    def take(self, count: int) -> None:
        self.store.claim(entry for entry in self.pool.take("mail", count) if entry.order in self.store.entries)
        self.run(lambda: self.supply.refill("mail"))

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """The pool is emptied, in part or whole, and says so."""
        held = self.pool.orders("mail")
        self.pool.lose("mail", *data.draw(st.sets(st.sampled_from(held)) if held else st.just(set())))
        self.run(lambda: self.supply.recheck("mail"))

    @rule(is_closed=st.booleans())
    def close(self, is_closed: bool) -> None:
        self.pool.is_closed = is_closed
        self.run(self.supply.refill_all)

    @precondition(lambda self: self.store.questions)
    @rule()
    def look(self) -> None:
        self.store.look()

    @precondition(lambda self: self.store.answers)
    @rule()
    def answer(self) -> None:
        self.run(self.store.answer)

    @precondition(lambda self: self.store.questions)
    @rule()
    def refuse(self) -> None:
        self.run(self.store.refuse)

    @invariant()
    def whatever_is_not_placed_is_known_to_be_missing(self) -> None:
        placed = self.pool.held.get("mail", {})
        assert self.supply.is_partial("mail") or all(order in placed for order in self.store.entries)

    @invariant()
    def no_more_is_placed_than_twice_the_limit(self) -> None:
        assert self.pool.count("mail") <= 2 * MAX_ENTRIES

    def teardown(self) -> None:
        try:
            self.pool.is_closed = False
            for _ in range(10 * self.next_order + 20):
                self.run(self.supply.refill_all)
                while self.store.questions or self.store.answers:
                    if self.store.questions:
                        self.look()
                    self.answer()
                self.take(3)
            assert not self.store.entries
            self.loop.run_until_complete(self.supply.stop())
        finally:
            supply.RETRY_S = self.retry_s
            self.loop.close()


TestSupply = SupplyMachine.TestCase
TestSupply.settings = settings(max_examples=60, stateful_step_count=30)
