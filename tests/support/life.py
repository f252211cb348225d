"""A server's core over real files, of which an image is taken between any two steps, as a kill of the process leaves them."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kqs.feeder import Feeder
from kqs.ids import microseconds
from kqs.job import Accepted, JobRecord, Report, Run
from kqs.journal import Kind, Record
from kqs.options import PRIORITIES, Cascade, Job, PlainJob
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.pauses import Pauses
from kqs.states import ENDED, State
from kqs.wire.jobs import decode_jobs
from tests.support.clock import FakeClock
from tests.support.feeding import Feeding, caught_up
from tests.support.jobs import listed
from tests.support.journal import all_settled
from tests.support.queueing import Hand, Rig


class Account:
    """What was acknowledged, has begun, and has ended for good, by order."""

    def __init__(self) -> None:
        self.acknowledged: set[int] = set()
        self.runs: Counter[int] = Counter()
        self.running: set[int] = set()
        #: may run once more: a run failed, asked for another, was given back, or was cut off
        self.may_run: Counter[int] = Counter()
        self.ended: set[int] = set()

    def copy(self) -> Account:
        copy = Account()
        for name, value in vars(self).items():
            setattr(copy, name, value.copy())
        return copy

    def begin(self, order: int) -> None:
        assert order not in self.ended, "a job runs that had ended for good"
        assert order not in self.running, "a job runs twice at a time"
        assert self.runs[order] <= self.may_run[order], "a job runs again for no reason"
        self.runs[order] += 1
        self.running.add(order)

    def end(self, order: int, *, is_final: bool) -> None:
        self.running.discard(order)
        self.may_run[order] += not is_final

    def cut_off(self) -> None:
        """Note a kill: whatever has not ended for good may run once more."""
        self.running.clear()
        for order in self.runs:
            if order not in self.ended:
                self.may_run[order] = self.runs[order]

    def go_on(self, order: int) -> None:
        """Note that a run goes on over a start."""
        assert order not in self.ended, "a run goes on of a job that had ended for good"
        self.running.add(order)
        self.may_run[order] = self.runs[order] - 1


class AccountedHand(Hand):
    """Keeps the account of its runs, and the order in which they began."""

    def __init__(self, life: Life, room: int, *types: str) -> None:
        self._life = life
        self.size = room
        self.began: list[Run] = []
        super().__init__(life.rig.queue, room, *types)

    def _deliver(self, runs: list[Run]) -> None:
        assert self.consumer.room >= 0, "more runs than room"
        super()._deliver(runs)
        self._life.take_turns([run.claim.order for run in runs])
        for run in runs:
            if run.claim.id in self.leases:
                self._life.account.begin(run.claim.order)
                self.began.append(run)
        self._life.step()

    def over(self, run: Run, outcome: Outcome | None = None) -> None:
        """End a run."""
        may_again = isinstance(outcome, Again) or (isinstance(outcome, Failed) and not outcome.final)
        self._life.account.end(run.claim.order, is_final=not may_again)
        assert self.queue.runs.report(self.leases.pop(run.claim.id), outcome or Ok())
        self.consumer.free()

    def give_back(self, run: Run) -> None:
        """Give a run back, as a worker that stops does."""
        self._life.account.end(run.claim.order, is_final=False)
        self.queue.runs.release(self.leases.pop(run.claim.id))
        self.consumer.free()


class Life:
    """One boot in a folder. `on_step` is called before and after each call of the store, and as runs are delivered."""

    def __init__(self, folder: Path, clock: FakeClock | None = None) -> None:
        self.folder = folder
        self.clock = clock or FakeClock()
        self.account = Account()
        self.given: dict[int, str] = {}
        self.prio: dict[int, int] = {}  # of mails that may begin at once
        #: jobs in the order in which they got room for a first run: a claim in the store takes longer than one in the journal
        self.turns: dict[int, None] = {}
        self.on_step: Callable[[], None] = lambda: None
        self.fault: Exception | None = None
        self._images = 0
        self._in_store = 0
        self._mutex: asyncio.Lock

    async def start(self) -> Feeder:
        self._mutex = asyncio.Lock()
        self.folder.mkdir(exist_ok=True)
        self.rig = Rig(self.folder)
        self.rig.clock, self.rig.cascade = self.clock, Cascade({"retry_delay": 0.0}, {})
        await self.rig.start()
        for name in ("insert", "report", "claim", "save", "sync"):
            setattr(self.rig.store, name, self._watched(name, getattr(self.rig.store, name)))
        self.feeding = Feeding(self.rig, self.folder)
        info = self.rig.info
        feeder = await self.feeding.start(info.fed_seq, info.last_order)
        self.feeding.journal._commit.acceptance._pauses = Pauses(0.0, 0.0)
        return feeder

    async def stop(self) -> None:
        await self.feeding.stop()
        await self.rig.stop()
        assert not self.feeding.faults, self.feeding.faults

    def hand(self, room: int, *types: str) -> AccountedHand:
        hand = AccountedHand(self, room, *types)
        self.rig.hands.append(hand)
        return hand

    async def insert(self, *lines: bytes) -> list[int]:
        """Insert jobs, a record a line; return the orders of all, of which the acknowledged are in the account."""
        inserted: list[int] = []
        for line in lines:
            jobs, now = decode_jobs(line), self.clock.now()
            first = self.feeding.ids.take(len(jobs), now)
            orders = range(first, first + len(jobs))
            self._forget(orders)
            self.given |= {order: job.id for order, job in zip(orders, jobs, strict=True) if job.id}
            self.prio |= {
                order: _prio(job)
                for order, job in zip(orders, jobs, strict=True)
                if job.type == "mail" and (isinstance(job, PlainJob) or job.delay is None)
            }
            record = Record(Kind.JOBS, len(jobs), first, line, jobs, accepted_us=microseconds(now))
            record.done = partial(self._answered, orders)
            self.feeding.journal.append(record)
            inserted += orders
        await all_settled(self.feeding.journal)
        return inserted

    def _forget(self, orders: Sequence[int]) -> None:
        """Forget jobs that were refused, whose orders a later boot takes again."""
        assert self.account.acknowledged.isdisjoint(orders)
        for order in orders:
            self.given.pop(order, None)
            self.prio.pop(order, None)

    def _answered(self, orders: Sequence[int], error: Exception | None) -> None:
        if error is None:
            self.account.acknowledged.update(orders)

    def step(self) -> None:
        if not self._in_store:
            self.on_step()

    def image(self) -> Path:
        """Copy what a kill would leave."""
        self._images += 1
        copy = self.folder.with_name(f"{self.folder.name}-{self._images}")
        shutil.copytree(self.folder, copy)
        return copy

    def _watched(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watched(*args: Any, **named: Any) -> Any:
            if name in ("insert", "claim"):
                self.take_turns([job.order for job in args[0] if name == "claim" or job.claimed_at])
            async with self._mutex:
                self.on_step()
                if self.fault is not None and name in ("insert", "report", "save"):
                    raise self.fault
                self._in_store += 1
                try:
                    answer = await call(*args, **named)
                finally:
                    self._in_store -= 1
                self._note(name, args[0] if args else (), answer)
                self.on_step()
                return answer

        return watched

    def _note(self, name: str, items: Sequence[Any], answer: Any) -> None:
        if name == "insert":
            jobs: Sequence[Accepted] = items
            known = set(answer)
            self.account.ended |= {job.order for job in jobs if job.end is not None and job.order not in known}
        elif name == "report":
            reports: Sequence[Report] = items
            accepted = [report for report, ok in zip(reports, answer, strict=True) if ok]
            self.account.ended |= {report.claim.order for report in accepted if report.state in ENDED}

    def take_turns(self, orders: Sequence[int]) -> None:
        """Note that these mails have room at the same time, unless they had it before."""
        for order in sorted(self.prio.keys() & orders, key=lambda order: (self.prio[order], order)):
            self.turns.setdefault(order)

    async def records(self) -> list[JobRecord]:
        """Return what the store knows of every job."""
        return await listed(self.rig.store)

    def name(self, order: int) -> str:
        """Return the id of a job."""
        return self.given.get(order) or self.feeding.ids.of(order)

    async def finish(self, room: int = 100) -> None:
        """Let all that is left run well, and end."""
        assert self.feeding.feeder is not None
        hand = self.hand(room, "mail", "resize")
        async with asyncio.timeout(20):
            while True:
                await caught_up(self.feeding.feeder)
                for each in self.rig.hands:
                    assert isinstance(each, AccountedHand)
                    while not each.runs.empty():
                        each.over(each.runs.get_nowait())
                await self.rig.queue.settle()
                counts = await self.rig.queue.reads.counts()
                if all(state in ENDED for states in counts.values() for state, count in states.items() if count):
                    break
                self.clock.advance(0.01)
                await asyncio.sleep(0)
                await self.rig.queue.house.keep()
        assert hand.consumer.room == room
        for each in self.rig.hands:
            assert isinstance(each, AccountedHand)
            assert each.consumer.room == each.size, "room was lost, or made"

    async def check(self) -> None:
        """Assert that all that was acknowledged has run and ended, and that no count drifts."""
        records = await self.records()
        recount: dict[str, Counter[State]] = {}
        for record in records:
            recount.setdefault(record.type, Counter())[record.state] += 1
        counts = await self.rig.queue.reads.counts()
        assert {t: {s: n for s, n in states.items() if n} for t, states in counts.items()} == recount
        ran = {self.name(order) for order, count in self.account.runs.items() if count}
        for order in self.account.acknowledged:
            found = await self.rig.queue.reads.job(self.name(order))
            assert found is not None, f"{order} is lost"
            assert found.state in ENDED, found
            assert self.name(order) in ran, f"{order} never ran"


def _prio(job: Job) -> int:
    prio = None if isinstance(job, PlainJob) else job.prio
    return prio if isinstance(prio, int) else PRIORITIES[prio or "normal"]
