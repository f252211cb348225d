"""The memory broker against a store that answers when it likes: nothing lost, nothing doubled, always the foremost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kqs.broker import memory
from kqs.broker.memory import MemoryBroker
from kqs.job import Entry
from tests.support.ready_jobs import SlowStore, an_entry, held_count
from tests.support.supervising import StrictSupervisor

TYPES = ("mail", "video", "report")
PRIOS = st.sampled_from([10_000, 10_000, 10_000, 9_000, 11_000])


class BrokerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.backoff_s = memory.BACKOFF_FIRST_S
        memory.BACKOFF_FIRST_S = 0.0
        self.loop = asyncio.new_event_loop()
        self.store = SlowStore()
        self.broker = MemoryBroker(StrictSupervisor(), max_entries=4)
        self.reserving: set[asyncio.Task[None]] = set()
        self.running: list[Entry] = []
        self.next_order = 0

    @initialize(backlog=st.lists(st.sampled_from(TYPES), max_size=30))
    def begin(self, backlog: list[str]) -> None:
        self.store.add(*(self.new_entry(type_, 10_000) for type_ in backlog))
        self.run(self.broker.start(self.store.refill, self.store.waiting))

    def new_entry(self, type_: str, prio: int) -> Entry:
        self.next_order += 1
        return an_entry(self.next_order, type_, prio)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        async def settle() -> None:
            await work
            for _ in range(10):
                await asyncio.sleep(0)
            done = {task for task in self.reserving if task.done()}
            self.reserving -= done
            for task in done:
                task.result()

        self.loop.run_until_complete(settle())

    async def do(self, act: Any) -> None:
        act()

    @rule(jobs=st.lists(st.tuples(st.sampled_from(TYPES), PRIOS), min_size=1, max_size=12))
    def insert(self, jobs: list[tuple[str, int]]) -> None:
        self.run(self.broker.put(self.store.add(*(self.new_entry(*job) for job in jobs))))

    @rule(type_=st.sampled_from(TYPES), prio=PRIOS)
    def flood(self, type_: str, prio: int) -> None:
        """More at once than is kept, so that the worst of what is held must go."""
        self.insert([(type_, prio)] * 10)

    @rule(types=st.sets(st.sampled_from(TYPES), min_size=1), count=st.integers(1, 6))
    def reserve(self, types: set[str], count: int) -> None:
        async def begin() -> None:
            self.reserving.add(asyncio.ensure_future(self.reserve_and_claim(dict.fromkeys(types, 1), count)))

        self.run(begin())

    async def reserve_and_claim(self, weights: dict[str, int], count: int) -> None:
        taken = await self.broker.reserve(weights, count)
        for type_ in weights:
            mine = [entry for entry in taken if entry.type == type_]
            assert mine == self.store.find(type_, None, len(mine)), "not the foremost, or not ready"
        self.store.claim(taken)
        self.running += taken

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def job_returns(self, data: st.DataObject) -> None:
        entry = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.run(self.broker.release(self.store.add(entry)))

    @precondition(lambda self: self.store.questions)
    @rule()
    def store_looks(self) -> None:
        self.store.look()

    @precondition(lambda self: self.store.answers)
    @rule()
    def store_answers(self) -> None:
        self.run(self.do(self.store.answer))

    @precondition(lambda self: self.store.questions)
    @rule()
    def store_refuses(self) -> None:
        self.run(self.do(self.store.refuse))

    @invariant()
    def memory_is_bounded(self) -> None:
        assert held_count(self.broker) <= len(TYPES) * 2 * 4
        assert all(line.aside is None or len(line.aside) <= 8 for line in self.broker._lines.values())

    def teardown(self) -> None:
        """Let everything drain: what the store still has ready must all be reserved."""
        for _ in range(2000):
            if self.store.questions:
                self.store.look()
            elif self.store.answers:
                self.run(self.do(self.store.answer))
            elif self.reserving:
                self.run(asyncio.sleep(0))
            elif self.store.entries:
                self.reserve(set(TYPES), 6)
            else:
                break
        left = list(self.store.entries)
        self.run(self.broker.close())
        self.loop.close()
        memory.BACKOFF_FIRST_S = self.backoff_s
        assert not left, f"lost: {left}"


TestBrokerMachine = BrokerMachine.TestCase
TestBrokerMachine.settings = settings(max_examples=100, stateful_step_count=40)
