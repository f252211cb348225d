"""A long walk over what happens to jobs with a group: nobody who is ready is lost, or has a turn that is another's.

The model knows each job by itself, and no line; whose turn it is it finds one job after the other. Memory for heads of lines
is short, and every now and then a transaction is undone and done again.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from kqs.filter import Filter
from kqs.job import Accepted, Entry, Run
from kqs.states import WAITING, State
from kqs.store.base import Change, Verb
from kqs.store.rotation import Terms, Turn, Turned
from kqs.store.sqlite import change, claim, groups, insert, report, schedule
from kqs.store.sqlite.heads import Heads
from kqs.store.sqlite.session import Session
from tests.support.jobs import NOW, a_report

T = TypeVar("T")

STEPS = 1000
NODE = "0000beef"
FIRST = int(NOW * 1_000_000)
#: beyond so many the older half is deleted, so that groups come and go
MOST_JOBS = 200
#: retried jobs stand under fresh orders, so many at most in one call
FRESH = 100


@dataclass
class Known:
    """A job as the model knows it. state: as the store's, of a job that runs PROCESSING."""

    id: str
    group: str | None
    prio: int
    state: State
    due_at: float
    expire_at: float | None


class Walk:
    def __init__(self, path: Path, seed: int) -> None:
        self.pick = random.Random(seed)
        self.now = NOW
        self.names = [f"g{n:02}" for n in range(self.pick.choice([2, 5, 40]))]
        self.weights = self.pick.choice([{}, {self.names[0]: 3, self.names[1]: 2}, {"": 2, self.names[1]: 4}])
        self.heads = (self.pick.choice([0, 1, 3, 16_384]), self.pick.choice([1, 2, 16]))
        self.jobs: dict[int, Known] = {}
        self.running: dict[int, Run] = {}
        self.next_order, self.fed_seq = FIRST, 0
        self.turn = Turn()
        self.path = path
        self.open()

    def open(self) -> None:
        self.session = Session(self.path, 1 << 20, 1000, lambda: self.now)
        self.session.open("0" * 32, NODE)
        self.session.heads = Heads(*self.heads)

    def do(self, operation: Callable[[Session], T]) -> T:
        self.session.begin(durable=False)
        done = operation(self.session)
        if self.pick.random() < 0.03:
            self.session.rollback(ValueError("undone"))
            self.session.begin(durable=False)
            done = operation(self.session)
        self.session.commit()
        return done

    def step(self) -> None:
        steps = (self.look, self.insert, self.report, self.claim_some, self.own, self.time_passes)
        self.pick.choices(steps, (40, 14, 22, 3, 9, 8))[0]()
        if len(self.jobs) > MOST_JOBS:
            self.change(Verb.DELETE, list(self.jobs)[: MOST_JOBS // 2])

    def insert(self) -> None:
        usual = self.pick.choice(self.names)
        batch: list[Accepted] = []
        for _ in range(self.pick.choice([1, 2, 5, 20])):
            order, self.next_order = self.next_order, self.next_order + 1
            due_at = self.now + self.pick.choice([1, 9]) if self.pick.random() < 0.15 else 0.0
            expire_at = self.now + self.pick.choice([2, 20]) if self.pick.random() < 0.1 else None
            group = self.pick.choice([usual, usual, self.pick.choice(self.names), None])
            job = Accepted(order, f"own-{order}", True, "mail", self.pick.choice([1, 5, 5, 9]), due_at, expire_at, b"1", None)
            job.group = group
            batch.append(job)
            state = State.DELAYED if due_at else State.NEW
            self.jobs[order] = Known(f"own-{order}", group, job.prio, state, due_at, expire_at)
        self.fed_seq += 1
        assert self.do(lambda session: insert.insert(session, batch, self.fed_seq, "w", self.now)) is not None

    def ready(self) -> dict[str, list[int]]:
        """Return who is ready and has a group, in the order of each."""
        lines: defaultdict[str, list[int]] = defaultdict(list)
        for order, job in sorted(self.jobs.items(), key=lambda item: (item[1].prio, item[0])):
            if job.group is not None and job.state in WAITING and not job.due_at:
                lines[job.group].append(order)
        return lines

    def look(self) -> None:
        lines = self.ready()
        orders = [order for line in lines.values() for order in line]
        count = self.pick.choice([1, 1, 2, 3, 7, 40])
        passed = self.pick.sample(orders, min(len(orders), self.pick.choice([0, 0, 1, 8])))
        most = {name: self.pick.randint(0, 2) for name in self.pick.sample(self.names, self.pick.choice([0, 0, 2]))}
        plain = self.pick.choice([0, count])
        found = self.turns(count, most, passed, plain)
        if self.session.has_groups:
            free = {name: [order for order in line if order not in passed] for name, line in lines.items()}
            self.check(found, free, count, most, plain, any_passed=bool(passed))
            assert not (found.is_all and any(most.get(name, 1) > 0 for name in lines))
            self.turn = found.turn
        if self.pick.random() < 0.7:
            self.claim(found.entries if self.pick.random() < 0.7 else found.entries[::-2])

    def turns(self, count: int, most: Mapping[str, int], passed: list[int], plain: int) -> Turned:
        terms = Terms(self.weights, most, frozenset(passed), plain)
        found: Turned | None = None
        while found is None:
            found = self.do(lambda session: groups.in_turn(session, "mail", self.turn, count, terms))
        return found

    def check(
        self,
        found: Turned,
        free: dict[str, list[int]],
        count: int,
        most: dict[str, int],
        plain: int,
        *,
        any_passed: bool,
    ) -> None:
        """See that those who were found are who come next, and where that ends; a look may stop short, but not at once."""
        turns = list(zip(range(count), self.one_by_one(free, dict(most), plain), strict=False))
        total = len(found.entries) + found.plain
        assert total or any_passed or not turns
        expected = [order for _, (_, order) in turns[:total]]
        assert [entry.order for entry in found.entries] == [order for order in expected if order is not None]
        assert found.plain == expected.count(None)
        assert found.turn == (turns[total - 1][1][0] if total else self.turn)
        for entry in found.entries:
            job = self.jobs[entry.order]
            assert (entry.id, entry.group, entry.prio) == (job.id, job.group, job.prio)

    def one_by_one(self, free: dict[str, list[int]], most: dict[str, int], plain: int) -> Iterator[tuple[Turn, int | None]]:
        """Yield who has the next turn, None for one without a group, and where the round stands then."""
        group, given = self.turn
        left = {name: min(len(line), most.get(name, len(line))) for name, line in free.items()} | {"": plain}
        given_of: defaultdict[str, int] = defaultdict(int)
        while names := sorted(name for name, n in left.items() if n):
            if not (given and left.get(group)):
                group, given = next((name for name in names if name > group), names[0]), 0
            given = (given + 1) % self.weights.get(group, 1)
            left[group] -= 1
            yield Turn(group, given), free[group][given_of[group]] if group else None
            given_of[group] += 1

    def claim(self, entries: list[Entry]) -> None:
        runs = self.do(lambda session: claim.claim(session, entries, "w", self.now))
        assert [run.claim.order for run in runs] == [entry.order for entry in entries]
        for run in runs:
            self.running[run.claim.order] = run
            self.jobs[run.claim.order].state = State.PROCESSING

    def claim_some(self) -> None:
        orders = [order for line in self.ready().values() for order in line]
        some = [(order, self.jobs[order]) for order in self.pick.sample(orders, min(3, len(orders)))]
        self.claim([Entry(order, job.id, "mail", job.prio, group=job.group) for order, job in some])

    def report(self) -> None:
        reports = []
        for order in self.pick.sample(sorted(self.running), min(len(self.running), self.pick.choice([1, 1, 5]))):
            run = self.running.pop(order)
            end = self.pick.choice([State.SUCCESS, State.SUCCESS, State.FAIL, State.RETRY, State.RETRY, State.GHOST, State.NEW])
            reports.append(a_report(run, end, self.now, self.pick.choice([0, 0, 4]), self.pick.choice([None, 1, 9])))
        verdicts = self.do(lambda session: report.report_all(session, reports))
        cancelled = [one for one, verdict in zip(reports, verdicts, strict=True) if verdict is None]
        for one in cancelled:
            one.state, one.run_state, one.due_at, one.prio, one.has_begun = State.CANCELLED, "cancelled", 0.0, None, True
        assert all(self.do(lambda session: report.report_all(session, cancelled)))
        for one in reports:
            job = self.jobs[one.claim.order]
            job.state, job.due_at, job.prio = one.state, one.due_at, job.prio if one.prio is None else one.prio

    def own(self) -> None:
        orders = self.pick.sample(sorted(self.jobs), min(len(self.jobs), self.pick.choice([1, 3, 6])))
        self.change(self.pick.choice([Verb.CANCEL, Verb.DELETE, Verb.RETRY]), orders)

    def change(self, verb: Verb, orders: list[int]) -> None:
        if not orders:
            return
        wanted = Filter(ids=tuple(self.jobs[order].id for order in orders))
        asked = Change(verb, wanted, self.now, before_order=self.next_order + FRESH, is_forced=True)
        first, self.next_order = self.next_order, self.next_order + FRESH
        done = self.do(lambda session: change.change(session, asked, None, first))
        assert done.next is None
        for fresh, one in enumerate(done.changed, first):
            job = self.jobs[one.order]
            if verb is Verb.CANCEL and job.state is not State.PROCESSING:
                job.state = State.CANCELLED
            elif verb is Verb.DELETE:
                del self.jobs[one.order]
                self.running.pop(one.order, None)
            elif verb is Verb.RETRY:
                self.jobs[fresh] = self.jobs.pop(one.order)
                job.state, job.due_at, job.expire_at = State.RETRY, 0.0, None

    def time_passes(self) -> None:
        self.now += self.pick.choice([0.5, 3.0, 8.0])
        while self.do(lambda session: schedule.wake(session, self.now, 3)):
            pass
        while self.do(lambda session: schedule.expire(session, self.now, 3, None, {})):
            pass
        for job in self.jobs.values():
            if job.due_at <= self.now:
                job.due_at = 0.0
            if job.state in WAITING and job.expire_at is not None and job.expire_at <= self.now:
                job.state = State.FAIL

    def drain(self) -> None:
        """Run all that is ready; then no line has anybody."""
        self.turn = Turn(self.turn.group)
        while self.ready():
            found = self.turns(3, {}, [], 0)
            assert found.entries
            self.claim(found.entries)
            self.turn = found.turn
        while not self.turns(3, {}, [], 0).is_all:
            pass
        assert self.session.db.execute("select * from line").fetchall() == []


@pytest.mark.parametrize("seed", range(12))
def test_no_group_is_passed_over_or_served_before_its_turn(tmp_path: Path, seed: int) -> None:
    walk = Walk(tmp_path / "s", seed)
    for _ in range(STEPS):
        walk.step()
    walk.drain()
    walk.session.close()
    walk.open()
    assert walk.turns(3, {}, [], 0).is_all
    walk.session.close()
