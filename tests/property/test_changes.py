"""What owners do with jobs in the SQLite store, among claims, ends and kills, against a small model of it all."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from hypothesis.strategies import booleans, integers, just, lists, none, one_of, sampled_from

from kqs.filter import Filter, Pattern
from kqs.ids import Ids
from kqs.job import Accepted, Claim, Entry, Report
from kqs.states import WAITING, Event, State, next_state
from kqs.store import change as changing
from kqs.store.base import Change, Verb
from kqs.store.sqlite import change, claim, insert, pages, records, report, schedule
from kqs.store.sqlite.session import Session
from tests.support.jobs import EVERYTHING

NODE = "abcdef12"
IDS = Ids(NODE)
FIRST = 1_700_000_000_000_000
ABOVE_ALL = 2**62
TYPES = ["a", "b"]
WAIT = frozenset(WAITING)


class Job:
    """A job of the model. order: as it stands in line; number: as it was accepted."""

    def __init__(self, number: int, type_: str, prio: int, is_late: bool) -> None:
        self.number = self.order = number
        self.id = IDS.of(FIRST + number) if number % 3 else f"given-{number}"
        self.type = type_
        self.prio = prio
        self.data = b'{"n":%d}' % (number % 5)
        self.state = State.DELAYED if is_late else State.NEW
        self.is_late = is_late
        self.attempt = 0
        self.epoch = 0
        self.is_cancelled = False

    def accepted(self) -> Accepted:
        due_at = 9e9 if self.is_late else 0.0
        order = FIRST + self.number
        return Accepted(order, self.id, not self.number % 3, self.type, self.prio, due_at, None, self.data, None)

    def fits(self, wanted: Filter) -> bool:
        if wanted.ids is not None and self.id not in wanted.ids:
            return False
        if wanted.type not in (None, self.type) or (wanted.states is not None and self.state not in wanted.states):
            return False
        return wanted.match is None or wanted.match.is_in(self.data)


FILTERS = one_of(
    just(Filter()),
    sampled_from(TYPES).map(lambda type_: Filter(type=type_, states=WAIT)),
    sampled_from(TYPES).map(lambda type_: Filter(type=type_)),
    lists(sampled_from(list(State)), max_size=4).map(lambda states: Filter(states=frozenset(states))),
    lists(integers(1, 30), max_size=4).map(
        lambda ns: Filter(ids=tuple(IDS.of(FIRST + n) if n % 3 else f"given-{n}" for n in ns))
    ),
    integers(0, 4).map(lambda n: Filter(match=Pattern(f":{n}"))),
)


class Owners(RuleBasedStateMachine):
    """One store, a journal of what was accepted, and what must be known of each job."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.journal: list[list[Accepted]] = []
        self.jobs: dict[str, Job] = {}
        self.numbers = 0
        self.now = 1000.0
        self._open()

    def _open(self) -> None:
        self.session = Session(Path(self._folder.name) / "store.sqlite", 1 << 20, 6, lambda: self.now)
        self.session.open("0" * 32, NODE)

    def teardown(self) -> None:
        self.session.close()
        self._folder.cleanup()

    @rule(kinds=lists(sampled_from(TYPES), min_size=1, max_size=5), prio=integers(1, 2), is_late=booleans())
    def accept(self, kinds: list[str], prio: int, is_late: bool) -> None:
        new = []
        for type_ in kinds:
            self.numbers += 1
            new.append(Job(self.numbers, type_, prio, is_late))
        self.journal.append([job.accepted() for job in new])
        self.session.begin(durable=False)
        assert insert.insert(self.session, self.journal[-1], len(self.journal), "w", self.now) == []
        self.session.commit(owing=True)
        self.jobs.update((job.id, job) for job in new)

    @rule(most=integers(1, 4))
    def begin_runs(self, most: int) -> None:
        ready = [job for job in self.jobs.values() if job.state in WAITING and not job.is_late][:most]
        self.session.begin(durable=False)
        entries = [Entry(FIRST + job.order, job.id, job.type, job.prio) for job in ready]
        runs = claim.claim(self.session, entries, "w", self.now)
        assert [(run.claim.id, run.data) for run in runs] == [(job.id, job.data) for job in ready]
        for job, run in zip(ready, runs, strict=True):
            job.attempt = run.claim.attempt
            job.epoch = run.claim.epoch
            job.state = State.PROCESSING
        self.session.commit()

    @rule(most=integers(1, 3), event=sampled_from([Event.OK, Event.FAIL, Event.AGAIN, Event.RETRY, Event.GHOST]))
    def end_runs(self, most: int, event: Event) -> None:
        running = [job for job in self.jobs.values() if job.state is State.PROCESSING][:most]
        state = next_state(State.PROCESSING, event)
        verdicts = self._report(running, state)
        assert verdicts == [None if job.is_cancelled and state is not State.SUCCESS else True for job in running]
        refused = [job for job, verdict in zip(running, verdicts, strict=True) if verdict is None]
        assert all(verdict is True for verdict in self._report(refused, State.CANCELLED))
        for job in running:
            job.state = State.CANCELLED if job in refused else state
            job.is_cancelled = False

    def _report(self, jobs: list[Job], state: State) -> list[bool | None]:
        claims = [Claim(FIRST + job.order, job.id, job.attempt, job.epoch) for job in jobs]
        reports = [Report(one, job.type, state, state.word, self.now) for one, job in zip(claims, jobs, strict=True)]
        self.session.begin(durable=True)
        verdicts = list(report.report_all(self.session, reports))
        self.session.commit()
        return verdicts

    @rule(
        verb=sampled_from(list(Verb)),
        wanted=FILTERS,
        is_dry=booleans(),
        is_forced=booleans(),
        size=integers(1, 3),
        undone_at=one_of(none(), integers(0, 2)),
    )
    def change(self, verb: Verb, wanted: Filter, is_dry: bool, is_forced: bool, size: int, undone_at: int | None) -> None:
        self.now += 1
        expected = {job.id for job in self.jobs.values() if job.fits(wanted) and self._may(verb, job, is_forced)}
        skipped = {
            job.id
            for job in self.jobs.values()
            if job.fits(wanted) and verb is Verb.DELETE and not is_forced and job.state is State.PROCESSING
        }
        asked = Change(verb, wanted, self.now, ABOVE_ALL, is_forced=is_forced, is_dry=is_dry)
        after: object | None = None
        changed: Counter[str] = Counter()
        passed: Counter[str] = Counter()
        for number in range(1000):
            with patch.object(changing, "SLICE", size), patch.object(changing, "LOOKED", size + 1):
                self.session.begin(durable=False)
                part = change.change(self.session, asked, after, FIRST + self.numbers + 1)
            if number == undone_at:  # and done again
                self.session.rollback(RuntimeError("undone"))
                continue
            self.session.commit()
            assert len(part.changed) <= size
            changed.update(one.id for one in part.changed)
            passed.update(part.skipped)
            if not is_dry:
                for one in part.changed:
                    self._apply(verb, self.jobs[one.id])
            after = part.next
            if after is None:
                break
        assert (changed, passed) == (Counter(expected), Counter(skipped))

    @staticmethod
    def _may(verb: Verb, job: Job, is_forced: bool) -> bool:
        if verb is Verb.RETRY:
            return job.state in (State.FAIL, State.CANCELLED)
        if verb is Verb.CANCEL:
            return job.state in WAITING or (job.state is State.PROCESSING and not job.is_cancelled)
        return is_forced or job.state is not State.PROCESSING

    def _apply(self, verb: Verb, job: Job) -> None:
        if verb is Verb.DELETE:
            del self.jobs[job.id]
        elif verb is Verb.RETRY:
            self.numbers += 1
            job.order = self.numbers
            job.state = next_state(job.state, Event.REVIVE)
            job.is_late = False
        elif job.state is State.PROCESSING:
            job.is_cancelled = True
        else:
            job.state = next_state(job.state, Event.CANCEL)

    @rule()
    def be_killed_and_fed_again(self) -> None:
        self.session.db.close()
        self._open()
        for seq in range(self.session.fed_seq, len(self.journal)):
            self.session.begin(durable=False)
            assert len(insert.insert(self.session, self.journal[seq], seq + 1, "w", self.now)) == len(self.journal[seq])
            self.session.commit()
        self.session.begin(durable=False)
        orphans = {run.claim.id: run.is_cancelled for run in claim.orphans(self.session, 1000)}
        self.session.commit()
        running = {job.id: job.is_cancelled for job in self.jobs.values() if job.state is State.PROCESSING}
        assert {job_id: orphans[job_id] for job_id in running} == running

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        self.session.begin(durable=False)
        found = pages.page(self.session, EVERYTHING, None, 10_000, newest_first=False).records
        counts = Counter(
            {(type_, state): n for type_, states in records.counts(self.session).items() for state, n in states.items() if n}
        )
        ready = [entry.id for type_ in TYPES for entry in schedule.ready(self.session, type_, None, 10_000)]
        shown = [(one.id, one.order - FIRST, one.state, one.cancel_at is not None, one.accepted_at) for one in found]
        self.session.rollback(RuntimeError("only looked"))
        jobs = sorted(self.jobs.values(), key=lambda job: job.order)
        assert shown == [(job.id, job.order, job.state, job.is_cancelled, (FIRST + job.number) / 1e6) for job in jobs]
        assert counts == Counter((job.type, job.state) for job in jobs)
        waiting = [job for job in jobs if job.state in WAITING and not job.is_late]
        assert ready == [job.id for job in sorted(waiting, key=lambda job: (job.type, job.prio, job.order))]


TestOwners = Owners.TestCase
TestOwners.settings = settings(max_examples=150, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
