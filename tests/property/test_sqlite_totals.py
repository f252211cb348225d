"""The totals of the SQLite store, whatever is committed with them, without them or not at all, and wherever it is killed."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, integers, lists, sampled_from

from kqs.job import Accepted, Claim, Report
from kqs.states import State
from kqs.store.sqlite import insert, report, retention
from kqs.store.sqlite.session import Session

NOW = 1_000.0
#: state, result, options of the job
KINDS_OF_END = [
    (State.SUCCESS, None, None),
    (State.FAIL, None, None),
    (State.SUCCESS, b"1", None),
    (State.SUCCESS, None, b"{}"),
]


class Totals(RuleBasedStateMachine):
    """One store, and what it must hold. A record of the journal is here one batch of jobs."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._records: list[list[Accepted]] = []
        self._running: list[tuple[int, int]] = []  # order and epoch
        self._orders = 0
        self._stored: set[int] = set()
        self._finished: set[int] = set()
        self._open()

    def _open(self) -> None:
        self.session = Session(Path(self._folder.name) / "store.sqlite", 1 << 20, 1000, lambda: NOW)
        self.session.open("0" * 32, "abcdef12")

    def teardown(self) -> None:
        self.session.close()
        self._folder.cleanup()

    def _jobs(self, count: int, claimed: bool) -> list[Accepted]:
        first = self._orders + 1
        self._orders += count
        return [
            Accepted(n, "", False, f"t{n % 2}", 1, 0.0, None, b"1", None, float(claimed)) for n in range(first, first + count)
        ]

    @rule(count=integers(1, 3), claimed=booleans(), owing=booleans())
    def store_jobs(self, count: int, claimed: bool, owing: bool) -> None:
        jobs = self._jobs(count, claimed)
        self.session.begin(durable=False)
        assert insert.insert(self.session, jobs, len(self._records) + 1, "w", NOW) == []
        self.session.commit(owing=owing)
        self._records.append(jobs)
        self._stored.update(job.order for job in jobs)
        if claimed:
            self._running += [(job.order, self.session.epoch) for job in jobs]

    @rule(ways=lists(sampled_from([None, *KINDS_OF_END]), min_size=1, max_size=4), owing=booleans())
    def store_jobs_with_their_ends(self, ways: list[tuple[State, bytes | None, bytes | None] | None], owing: bool) -> None:
        jobs = self._jobs(len(ways), True)
        for job, way in zip(jobs, ways, strict=True):
            if way is None:
                self._running.append((job.order, self.session.epoch))
            else:
                state, result, job.options = way
                job.end = Report(
                    Claim(job.order, "", 1, self.session.epoch), job.type, state, state.word, NOW, drop_at=NOW, result=result
                )
                self._finished.add(job.order)
        self.session.begin(durable=True)
        assert insert.insert(self.session, jobs, len(self._records) + 1, "w", NOW) == []
        self.session.commit(owing=owing)
        self._records.append(jobs)
        self._stored.update(job.order for job in jobs)

    @rule(count=integers(1, 3), owing=booleans())
    def fail_to_store(self, count: int, owing: bool) -> None:
        self.session.begin(durable=False)
        insert.insert(self.session, self._jobs(count, False), len(self._records) + 1, "w", NOW)
        self.session.rollback(RuntimeError("undone"))

    @precondition(lambda self: self._running)
    @rule()
    def finish_the_oldest(self) -> None:
        order, epoch = self._running.pop(0)
        self.session.begin(durable=True)
        done = Report(Claim(order, "", 1, epoch), f"t{order % 2}", State.SUCCESS, "success", NOW, drop_at=NOW)
        assert report.report(self.session, [done]) == [True]
        self.session.commit()
        self._finished.add(order)

    @rule()
    def drop_what_is_over(self) -> None:
        self.session.begin(durable=False)
        assert retention.sweep(self.session, NOW + 1, 100, self._orders + 1) == len(self._finished)
        self.session.commit()
        self._stored -= self._finished
        self._finished.clear()

    @rule(owing=booleans())
    def be_killed_and_fed_again(self, owing: bool) -> None:
        self.session.db.close()
        self._open()
        assert self.session.fed_seq <= len(self._records)
        assert self.session.last_order >= max(self._stored, default=0)
        for seq in range(self.session.fed_seq, len(self._records)):
            jobs = self._records[seq]
            self.session.begin(durable=False)
            assert insert.insert(self.session, jobs, seq + 1, "w", NOW) == [job.order for job in jobs]
            self.session.commit(owing=owing)

    @invariant()
    def every_job_is_counted_once(self) -> None:
        self.session.begin(durable=False)
        rows = self.session.db.execute("select type, state, ord from jobs").fetchall()
        counted = {(type_, state): n for type_, state, n in self.session.tallies.read(self.session.db)}
        self.session.rollback(RuntimeError("only looked"))
        assert counted == Counter((type_, State(state)) for type_, state, _ in rows)
        assert {order for _, _, order in rows} == self._stored


TestTotals = Totals.TestCase
TestTotals.settings = settings(max_examples=60, stateful_step_count=25, suppress_health_check=list(HealthCheck))
