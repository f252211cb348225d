"""Looks into the lines of groups, against the records of those who are ready: what is known is true, nobody is missed."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kqs.config import StoreSection
from kqs.filter import Filter
from kqs.job import Accepted, After, Entry, Run
from kqs.states import State
from kqs.store.base import CALL_S, Verb
from kqs.store.rotation import Terms, Turn, line_of, share_of, turned
from kqs.store.sqlite import SqliteStore
from kqs.store.sqlite.heads import Heads
from tests.contract.change_contract import change
from tests.contract.store_contract import FIRST, IDS, JOURNAL, NODE
from tests.support.clock import FakeClock
from tests.support.jobs import a_report
from tests.support.supervising import StrictSupervisor

T = TypeVar("T")

NAMES = ["a", "b", "c", "d"]
JOBS = st.lists(
    st.tuples(
        st.sampled_from([*NAMES, "a", "a", None]),
        st.integers(0, 2),  # priority
        st.sampled_from([0.0, 0.0, 0.0, 3.0]),  # delay
        st.sampled_from([None, None, None, "r"]),  # resource
        st.booleans(),  # after one that runs
        st.booleans(),  # an id of its own
    ),
    min_size=1,
    max_size=12,
)
ENDS = st.sampled_from([State.SUCCESS, State.FAIL, State.RETRY, State.GHOST, State.NEW])
_READY = "select ord, grp, prio from jobs where place = -1 and type = 'mail'"


class LineMachine(RuleBasedStateMachine):
    @initialize(ahead=st.sampled_from([1, 2, 16]), most=st.sampled_from([0, 2, 16_384]))
    def open(self, ahead: int, most: int) -> None:
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.next_order, self.fed_seq = FIRST, 0
        self.ids: dict[int, str] = {}
        self.running: dict[int, Run] = {}
        self.turn = Turn()
        self.most = most
        self.ahead = ahead
        self._open()

    def _open(self) -> None:
        self.store = SqliteStore(self.folder / "store.sqlite", StoreSection(), self.clock, StrictSupervisor())
        self.store._session.heads = Heads(self.most, self.ahead)
        self.run(self.store.open(JOURNAL, NODE))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self._drain()
            self.run(self.store.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    def run(self, answer: Awaitable[T]) -> T:
        async def of() -> T:
            return await answer

        return self.runner.run(of())

    @rule(jobs=JOBS)
    def insert(self, jobs: list[tuple[str | None, int, float, str | None, bool, bool]]) -> None:
        batch, now = list[Accepted](), self.clock.now()
        parents = [run.claim.id for run in self.running.values()][:1]
        for group, prio, delay, resource, follows, has_id in jobs:
            order, self.next_order = self.next_order, self.next_order + 1
            job_id = self.ids[order] = f"own-{order}" if has_id else IDS.of(order)
            job = Accepted(order, job_id, has_id, "mail", prio, now + delay if delay else 0.0, None, b"1", None)
            job.group, job.resource = group, resource
            if follows and parents and group is not None and not resource:
                job.after = After(tuple(parents), is_any_end=True)
            batch.append(job)
        self.fed_seq += 1
        self.run(self.store.insert(batch, self.fed_seq, "w", now))

    def _ready(self) -> dict[str, list[tuple[int, int]]]:
        rows = self.run(self.store._runner.call(lambda session: session.db.execute(_READY).fetchall()))
        lines: dict[str, list[tuple[int, int]]] = {name: [] for name in sorted({name for _, name, _ in rows})}
        for order, name, prio in rows:
            lines[name].append((prio, order))
        return {name: sorted(line) for name, line in lines.items()}

    @rule(
        data=st.data(),
        count=st.integers(1, 8),
        weights=st.sampled_from([{}, {}, {"a": 3}, {"b": 2, "d": 2}]),
        most=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2), max_size=2),
    )
    def look(self, data: st.DataObject, count: int, weights: dict[str, int], most: dict[str, int]) -> None:
        lines = self._ready()
        orders = [order for line in lines.values() for _, order in line]
        passed = data.draw(st.lists(st.sampled_from(orders), unique=True, max_size=6)) if orders else []
        terms = Terms(weights, most, frozenset(passed))
        found = self.run(self.store.in_turn("mail", self.turn, count, terms))
        wanted = count + [*most.values()].count(0)  # a look goes no further, even if one of these groups has none to give
        behind = [n for n in lines if n > self.turn.group][:wanted]
        before = [n for n in lines if n <= self.turn.group] if len(behind) < wanted else []
        line = line_of(self.turn, behind, before[: wanted - len(behind) + 1], terms, wanted)
        each = share_of(line, count, terms)
        firsts = {n: self._first(n, lines.get(n, []), each, passed) for n in line.names}  # who was last may have gone
        expected = turned(self.turn, line, firsts, terms, count)
        assert (found.entries, found.turn) == (expected.entries, expected.turn)
        assert found.is_all is expected.is_all
        self.turn = found.turn
        if data.draw(st.booleans()):
            taken = found.entries if data.draw(st.booleans()) else found.entries[::-2]
            self._claim(taken)

    def _first(self, name: str, line: list[tuple[int, int]], each: int, passed: list[int]) -> list[Entry]:
        entries = [Entry(order, self.ids[order], "mail", prio, group=name) for prio, order in line]
        ends = [at for at, entry in enumerate(entries, 1) if entry.order not in passed][:each]
        return entries[: ends[-1]] if len(ends) == each else entries

    def _claim(self, entries: list[Entry]) -> None:
        runs = self.run(self.store.claim(entries, "w", self.clock.now()))
        self.running |= {run.claim.order: run for run in runs}

    @precondition(lambda self: self.running)
    @rule(data=st.data(), end=ENDS, delay=st.sampled_from([0.0, 0.0, 2.0]), prio=st.sampled_from([None, 0, 3]))
    def report(self, data: st.DataObject, end: State, delay: float, prio: int | None) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.running)), unique=True, min_size=1, max_size=3))
        self._report([self.running.pop(order) for order in chosen], end, delay, prio)

    def _report(self, runs: list[Run], end: State, delay: float = 0.0, prio: int | None = None) -> None:
        now = self.clock.now()
        reports = [a_report(run, end, now, delay, prio) for run in runs]
        verdicts = self.run(self.store.report(reports))
        cancelled = [run for run, is_taken in zip(runs, verdicts, strict=True) if is_taken is None]
        assert all(is_taken is not False for is_taken in verdicts)
        if cancelled:
            self._report(cancelled, State.CANCELLED)
        self._follow()

    def _follow(self) -> None:
        self.run(self.store.follow(self.clock.now(), None))

    @rule(data=st.data(), verb=st.sampled_from([Verb.CANCEL, Verb.DELETE, Verb.RETRY]))
    def own(self, data: st.DataObject, verb: Verb) -> None:
        if not self.ids:
            return
        ids = data.draw(st.lists(st.sampled_from(sorted(self.ids.values())), unique=True, min_size=1, max_size=4))
        first_order, self.next_order = self.next_order, self.next_order + 10
        done = self.run(change(self.store, verb, Filter(ids=tuple(ids)), now=self.clock.now(), first_order=first_order))
        if verb is Verb.RETRY:
            for at, one in enumerate(done.changed):
                self.ids[first_order + at] = one.id
                self.ids.pop(one.order, None)
        self._follow()

    @rule(seconds=st.sampled_from([CALL_S, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.run(self.store.wake(self.clock.now(), 99))
        self.run(self.store.call_on(self.clock.now()))

    @rule()
    def restart(self) -> None:
        self.run(self.store.close())
        self._open()
        orphans = self.run(self.store.orphans(999))
        assert {run.claim.order for run in orphans} == {*self.running}
        self.running.clear()
        self._report(orphans, State.GHOST)

    def _drain(self) -> None:
        """Run all that is ready, look by look: then nobody stands in a line, and no entry is left in it."""
        self.turn = Turn(self.turn.group)
        for _ in range(500):
            found = self.run(self.store.in_turn("mail", self.turn, 3, Terms()))
            if not found.entries:
                break
            self.turn = Turn(found.turn.group)
            self._claim(found.entries)
        assert self._ready() == {}
        left = self.run(self.store._runner.call(lambda session: session.db.execute("select * from line").fetchall()))
        assert left == []


TestLines = LineMachine.TestCase
TestLines.settings = settings(max_examples=50, stateful_step_count=30)
