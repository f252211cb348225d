"""Jobs in the model: whatever is inserted, run, reported, changed, stopped and killed, in any order."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from kqs.config import TakingSection
from kqs.errors import CallError
from kqs.filter import Filter
from kqs.inserter import Answer
from kqs.job import JobRecord, Returned, Run
from kqs.options import PRIORITIES, Cascade
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.queue.changes import Done
from kqs.queue.leases import Lease
from kqs.remote import OpenRun, Order
from kqs.states import ENDED, WAITING, State
from kqs.store.base import Verb
from kqs.wire.inserted import Inserted, Refused
from tests.support.clock import FakeClock
from tests.support.oracle import Job, Oracle, after_a_kill, shown
from tests.support.oracle_rules import Rules, Tokens
from tests.support.turning import run_within
from tests.support.whole import Lane, Whole

RESOURCES = [None, "r", "r", "s"]
#: how long what must happen by itself may take, in s
WITHIN_S = 8.0

RETRY_DELAY_S, GHOST_DELAY_S = 0.53, 0.31
#: what is configured: of `resize` one job of a group runs at a time; of `rare` and `latest` two may wait
TAKING = {
    "resize": TakingSection(group_max_running=1),
    "rare": TakingSection(max_waiting=2),
    "latest": TakingSection(max_waiting=2, drop="oldest"),
}
TYPES = ("mail", "resize", "sync", "rare", "latest")
GROUPS = [None, None, None, "g", "h"]
#: how a run has ended that was reported as the server was killed
UNKNOWN = "?"
#: how one has ended that was given back as if it had not begun: the next has its number, and what that said is true of both
UNBEGUN = ""
OWN_IDS = ("a", "b", "c")
#: of the jobs of schedules
TICK = "tick"
ALL_TYPES = frozenset((*TYPES, TICK))


def _seldom(*values: object) -> st.SearchStrategy[object]:
    """One of the values now and then, and None as a rule."""
    return st.sampled_from([*values, *[None] * 3 * len(values)])


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in fields.items() if v is not None and (n != "on_conflict" or fields["unique"] is not None)}


JOBS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(TYPES),
        "prio": _seldom("urgent", "low", 5),
        "delay": _seldom(0.27, 1.07),
        "expire": _seldom(1.13, 40.03),
        "id": _seldom(*OWN_IDS),
        "resource": st.sampled_from(RESOURCES),
        "group": st.sampled_from(GROUPS),
        "unique": st.sampled_from([None, None, "k"]),
        "on_conflict": st.sampled_from([None, "refuse"]),
        "answer": st.sampled_from([None, "full"]),
        "ttr": _seldom(1.03, 2.07),
        "time_limit": _seldom(3.11),
        "ghosts": _seldom(0, 1, -1),
        "retries": _seldom(0, 1),
        "keep": _seldom(0, 5.01),
    }
).map(_given)
SOME_TYPES = st.sampled_from([frozenset(["mail"]), frozenset(["mail", "resize"]), ALL_TYPES])
OUTCOMES = st.one_of(
    st.sampled_from([Ok(), Ok(b"[7]"), Again(), Again(0.29)]),
    st.sampled_from([Failed("no"), Failed("no", delay_s=0.57), Failed("no", delay_s=0.0), Failed("no", final=True)]),
)
ENDS = st.sampled_from([None, Returned(), Returned(0.59), Returned(0.0, 3)])
STATES = st.sampled_from([None, WAITING, frozenset([State.PROCESSING]), frozenset([State.FAIL, State.SUCCESS])])


IS_DRY = st.sampled_from([False, False, False, True])


class Sort(NamedTuple):
    """Which jobs are meant, before it is known which there are. at: of an id."""

    type: str | None
    states: frozenset[State] | None
    resource: str | None
    at: int | None


SORTS = st.one_of(
    st.builds(Sort, st.none(), st.sampled_from([None, WAITING]), st.none(), st.none()),
    st.builds(Sort, st.none(), st.none(), st.none(), st.integers(0, 30)),
    st.builds(Sort, st.sampled_from(TYPES), STATES, st.sampled_from([None, None, "r"]), st.none()),
    st.builds(Sort, st.none(), STATES, st.sampled_from([None, "r", "s"]), st.none()),
)


class Taken(NamedTuple):
    """What became of a job of an insert. own_id, id: its own, and that of what it is now. made: what runs, if that is new."""

    own_id: str
    id: str
    created: bool
    made: list[Job]


class InHand:
    """A run that somebody has. gone: its job, once that was deleted, so that nothing it says means anything."""

    def __init__(
        self, run: Run, lease: Lease, peer: Peer | None = None, lane: Lane | None = None, open_: OpenRun | None = None
    ) -> None:
        self.job_id = run.claim.id
        self.run = run
        self.lease = lease
        self.peer = peer
        self.lane = lane
        self.open = open_
        self.gone: Job | None = None
        #: of which it has one, of a type with a rate
        self.tokens: Tokens | None = None
        self.touch()

    @property
    def is_gone(self) -> bool:
        return self.gone is not None

    def touch(self) -> None:
        self.deadline = self.lease.next_deadline

    @property
    def held(self) -> bool:
        return self.run.held


class Peer:
    """A connection: what it has asked for."""

    def __init__(self, machine: WholeMachine) -> None:
        self._machine = machine
        self.party = machine.whole.desk.party()
        self.orders: list[tuple[Order, frozenset[str]]] = []

    def ask(self, types: frozenset[str], room: int, *, is_once: bool, held: bool) -> None:
        begun = self._machine.begun

        def given(runs: list[OpenRun]) -> None:
            for run in runs:
                assert run.run.type in types
                begun.append(InHand(run.run, run.lease, peer=self, open_=run))

        lost: Callable[[OpenRun], None] | None = None if is_once else (lambda run: None)
        self.orders.append((self.party.order(types, room, "peer", given, lambda: None, lost, held=held), types))

    def has_room(self) -> Iterable[frozenset[str]]:
        return [types for order, types in self.orders if not order.is_over and order.room > 0]


class WholeMachine(RuleBasedStateMachine):
    """One node over its boots, peers and lanes that do as the test says, and the oracle.

    Which jobs run is not the same each time that the same is played: some go, where too many wait, or have begun just before.
    So no rule is chosen by that.

    uri: of a MongoDB database, in which the store is then; it cannot be copied in the midst, so nothing is killed there.
    """

    uri = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="kqs-model-"))
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.oracle = Oracle(self.clock.now(), RETRY_DELAY_S, GHOST_DELAY_S, rules=Rules(TAKING))
        self.begun: list[InHand] = []  # since the oracle was told last
        self.hands: list[InHand] = []
        self.over: list[tuple[str, str, str]] = []  # runs that are over: token, job, and how
        self.boots = 1
        self.whole = self.a_boot()
        self.run(self.start())

    def a_boot(self) -> Whole:
        cascade = Cascade({"retry_delay": RETRY_DELAY_S, "ghost_delay": GHOST_DELAY_S}, {})
        whole = Whole(self.folder / f"boot{self.boots}", self.clock, cascade, self.uri)
        whole.taking = TAKING
        return whole

    def run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        return run_within(self.loop, steps, 30)

    async def start(self, *, is_asked: bool = True) -> None:
        self.begun = []
        self.oracle.deleted.clear()  # who was at them before is not known any more
        await self.whole.start()
        self.oracle.rules.start_again(self.clock.monotonic())
        self.peers = [Peer(self) for _ in range(2)]
        if is_asked:
            self.ask_first()

    def ask_first(self) -> None:
        """Let somebody take jobs, so that most of what is inserted runs."""
        begun = self.begun
        self.whole.lane(1, frozenset(["mail"]), lambda lane, run, lease: begun.append(_in_lane(lane, run, lease)))
        self.peers[0].ask(ALL_TYPES, 2, is_once=False, held=False)

    async def be_still(self) -> None:
        """Let all happen that must, and compare; what is called in its turn may begin a little later."""
        until = time.monotonic() + WITHIN_S
        while faults := await self.faults():
            assert time.monotonic() < until, "\n".join(faults)
            await asyncio.sleep(0.001)

    async def faults(self) -> list[str]:
        """Return what is not as it must be, yet."""
        await self.whole.be_still()
        assert not self.whole.rig.supervisor.faults
        self.take_begun()
        records = await self.whole.records()
        self.oracle.drop(records)
        faults = self.oracle.unlike(records) or self.oracle.stuck([*self.room()]) or self.oracle.too_many()
        if not faults:
            self.oracle.take_in(records, await self.whole.called())
            try:
                if not self.uri:  # its counts are late
                    await self.compare_counts()
                self.look_at_hands()
            except AssertionError as error:
                return [f"not as it must be: {error}"]
        return faults

    async def compare_counts(self) -> None:
        recount = Counter((one.type, one.state) for one in await self.whole.records())
        counts = await self.whole.rig.queue.reads.counts()
        counted = Counter({(type_, state): n for type_, states in counts.items() for state, n in states.items()})
        assert recount <= counted <= recount + self.oracle.over, "counts are not those of the records"

    def take_begun(self) -> None:
        begun = self.begun[:]
        self.begun.clear()
        self.count_running()
        for one in begun:
            self.oracle.begin(one.job_id)
            assert one.run.batch == self.oracle.told_of_batch(one.job_id)
            one.tokens = self.oracle.rules.tokens.get(one.run.type)
            self.hands.append(one)

    def count_running(self) -> None:
        """Take in what is in somebody's hands: what has a slot, until it is over."""
        types = [one.run.type for one in self.hands]
        groups = [(one.run.type, one.run.group) for one in self.hands]
        self.oracle.rules.running = Counter([*types, *groups])

    def room(self) -> Iterable[frozenset[str]]:
        for peer in self.peers:
            yield from peer.has_room()
        for lane in self.whole.lanes:
            if lane.consumer.room > 0:
                yield lane.consumer.types

    def look_at_hands(self) -> None:
        """Assert that runs are in the hands that the oracle has them in, and told if they were called off."""
        ours = [one.job_id for one in self.hands if not one.is_gone]
        assert sorted(ours) == sorted(job.id for job in self.oracle.running()), "runs that are in nobody's hands, or in two"
        for one in self.hands:
            if one.open is not None:
                assert self.whole.desk.run(one.open.token) is one.open, "a run was taken away"
                assert one.open.is_cancelled == (one.is_gone or self.oracle.jobs[one.job_id].is_cancelled)
        assert self.whole.desk.runs_count == sum(one.open is not None for one in self.hands)
        assert self.whole.rig.queue.runs.count == len(self.hands)

    @rule(jobs=st.lists(JOBS, min_size=1, max_size=4), is_array=st.booleans())
    def insert(self, jobs: list[dict[str, Any]], is_array: bool) -> None:
        self.run(self.inserting(jobs if is_array else jobs[:1], is_array=is_array))

    @rule(jobs=st.lists(JOBS, min_size=2, max_size=5))
    def insert_many(self, jobs: list[dict[str, Any]]) -> None:
        self.run(self.inserting(jobs, is_array=True))

    async def inserting(self, jobs: list[dict[str, Any]], *, is_array: bool) -> None:
        told: asyncio.Future[list[Answer] | Exception] = self.loop.create_future()
        try:
            expected = self.keep(jobs, is_array=is_array, told=told.set_result)
        except CallError as error:
            if error.call_code != "busy" or not self.are_too_many(jobs):
                raise
            return
        async with asyncio.timeout(WITHIN_S):
            answers = await told
        assert not isinstance(answers, Exception), answers
        assert answers == expected or [str(one) for one in answers] == [str(one) for one in expected], (answers, expected)
        await self.be_still()

    def keep(
        self, jobs: list[dict[str, Any]], *, is_array: bool, told: Callable[[list[Answer] | Exception], None]
    ) -> list[Answer]:
        """Insert, and return what must be answered."""
        jobs = _with_one_id_a_key(jobs)
        given = json.dumps(jobs if is_array else jobs[0]).encode()
        are_too_many = self.are_too_many(jobs)
        first = self.whole.insert(given, told)
        assert not are_too_many, "more wait than may"
        copies = iter(range(first + len(jobs), 1 << 62))
        taken = [self.take(one, first + place, copies) for place, one in enumerate(jobs)]
        self.tie(jobs, taken)
        return [_answer(*pair, place if is_array else None) for place, pair in enumerate(zip(jobs, taken, strict=True))]

    def are_too_many(self, jobs: list[dict[str, Any]]) -> bool:
        """Tell whether more of some type would wait than may, copies included."""
        subscribers = self.oracle.rules.subscribers
        types = Counter(type_ for job in jobs for type_ in (job["type"], *subscribers.get(job["type"], ())))
        return self.oracle.rules.too_many(types, self.oracle.waiting())

    def take(self, fields: dict[str, Any], order: int, copies: Iterator[int]) -> Taken:
        """Let the oracle have one job of an insert. copies: the orders of those that it may have."""
        job = self.a_job(fields, order)
        subscribers = self.oracle.rules.subscribers.get(job.type, ())
        own = {name: value for name, value in fields.items() if name not in ("id", "unique")}
        fanned = [self.a_job({**own, "type": type_}, next(copies)) for type_ in subscribers]
        job_id, created = self.oracle.insert(job, fanned)
        return Taken(job.id, job_id, created, (fanned or [job]) if created else [])

    def tie(self, jobs: list[dict[str, Any]], taken: list[Taken]) -> None:
        """Let those jobs of an insert wait that are to."""
        for fields, one in zip(jobs, taken, strict=True):
            for job in one.made:
                parents = [taken[parent].id if isinstance(parent, int) else parent for parent in fields.get("after", ())]
                job.after, job.is_any_end = tuple(parents), fields.get("after_any_end", False)
        self.oracle.stand([job.id for one in taken for job in one.made])

    def a_job(self, fields: dict[str, Any], order: int) -> Job:
        prio, delay, expire = fields.get("prio", "normal"), fields.get("delay", 0.0), fields.get("expire")
        now = self.oracle.now
        return Job(
            fields.get("id") or self.whole.feeding.ids.of(order),
            fields["type"],
            PRIORITIES.get(prio, prio),
            fields.get("resource"),
            fields.get("unique"),
            fields.get("group"),
            fields.get("retries"),
            fields.get("ghosts", 10),
            expire,
            fields.get("keep"),
            order,
            now + delay if delay else 0.0,
            None if expire is None else now + expire,
            State.DELAYED if delay else State.NEW,
            batch=fields.get("batch"),
        )

    @rule(peer=st.integers(0, 1), types=SOME_TYPES, room=st.integers(1, 3), is_once=st.booleans(), held=st.booleans())
    def ask(self, peer: int, types: frozenset[str], room: int, is_once: bool, held: bool) -> None:
        """Reserve, or work; to hold what comes, or not."""
        self.run(self.asking(peer, types, room, is_once=is_once, held=held))

    async def asking(self, peer: int, types: frozenset[str], room: int, *, is_once: bool, held: bool) -> None:
        self.peers[peer].ask(types, room, is_once=is_once, held=held)
        await self.be_still()

    @rule(index=st.integers(0, 9))
    def fail(self, index: int) -> None:
        """End a run for good, so that there is something to retry."""
        if self.hands:
            self.run(self.finishing(index, Failed("never", final=True)))

    @rule(index=st.integers(0, 9), outcome=OUTCOMES)
    def finish(self, index: int, outcome: Outcome) -> None:
        if self.hands:
            self.run(self.finishing(index, outcome))

    async def finishing(self, index: int, outcome: Outcome) -> None:
        one = self.hands.pop(index % len(self.hands))
        await self.ending(one, lambda job: self.oracle.finish(job, outcome), outcome)

    @rule(index=st.integers(0, 9), end=ENDS)
    def release(self, index: int, end: Returned | None) -> None:
        if self.hands:
            one = self.hands.pop(index % len(self.hands))
            self.run(self.ending(one, lambda job: self.oracle.release(job, end), end))

    async def ending(self, one: InHand, end: Callable[[Job], None], how: Outcome | Returned | None) -> None:
        """End a run as its worker does, and see that it is told whether that means anything."""
        told: asyncio.Future[bool] = self.loop.create_future()
        self.end(one, end, how, told.set_result)
        async with asyncio.timeout(WITHIN_S):
            assert await told == (not one.is_gone), "a report was told to be what it is not"
        await self.be_still()

    def end(
        self, one: InHand, end: Callable[[Job], None], how: Outcome | Returned | None, told: Callable[[bool], None]
    ) -> None:
        queue, desk = self.whole.rig.queue, self.whole.desk
        if one.open is not None:
            if isinstance(how, Returned) or how is None:
                desk.release(one.open, how, told)
            else:
                desk.report(one.open, how, told)
            self.over.append((one.open.token, one.job_id, _word(how)))
        else:
            assert one.lane is not None
            if how is None:
                queue.runs.cancel(one.lease)
            elif isinstance(how, Returned):
                assert queue.runs.release(one.lease, how.delay_s, how.prio)
            else:
                assert queue.runs.report(one.lease, how)
            one.lane.consumer.free()
            queue.runs.when_stored(one.run, told)
        if how is None and one.tokens is not None:
            one.tokens.give_back()
        if one.is_gone:
            self.oracle.leave(one.gone)
        else:
            end(self.oracle.jobs[one.job_id])

    @rule(index=st.integers(0, 9))
    def touch(self, index: int) -> None:
        if self.hands:
            one = self.hands[index % len(self.hands)]
            one.lease.context.touch()
            one.touch()

    @rule(index=st.integers(0, 99), outcome=OUTCOMES)
    def say_late(self, index: int, outcome: Outcome) -> None:
        """Report a run that is over: nothing changes, and it is true only if it says what was said before."""
        if self.over:
            self.run(self.saying_late(*self.over[index % len(self.over)], outcome))

    async def saying_late(self, token: str, job_id: str, word: str, outcome: Outcome) -> None:
        assert self.whole.desk.run(token) is None
        named = self.whole.desk.named(token)
        assert named is not None
        if await self.whole.backend.report_unwatched(named, outcome):
            assert job_id in self.oracle.jobs, "a run has ended of what is not there"
            # of a cancelled one, whose record does not tell, only a success is kept as what it was
            is_cancelled = self.oracle.jobs[job_id].state is State.CANCELLED
            are_alike = is_cancelled and "success" not in (word, _word(outcome))
            assert are_alike or word in (UNKNOWN, UNBEGUN, _word(outcome)), "a run has ended in two ways"
        await self.be_still()

    @rule(peer=st.integers(0, 1))
    def lose_connection(self, peer: int) -> None:
        self.run(self.losing(peer))

    async def losing(self, peer: int) -> None:
        gone, self.peers[peer] = self.peers[peer], Peer(self)
        gone.party.leave("gone")
        for one in [one for one in self.hands if one.peer is gone]:
            if one.held:
                one.peer = None
                one.touch()
            else:
                self.lost(one)
        self.peers[peer].ask(ALL_TYPES, 1, is_once=False, held=peer == 1)
        await self.be_still()

    def lost(self, one: InHand) -> None:
        self.hands.remove(one)
        if one.open is not None:
            self.over.append((one.open.token, one.job_id, "ghost"))
        if one.is_gone:
            self.oracle.leave(one.gone)
        else:
            self.oracle.ghost(self.oracle.jobs[one.job_id])

    @rule(wait_s=st.sampled_from([0.25, 0.5, 1.25, 1.25, 4.0, 31.0]), is_jump=st.sampled_from([False, False, False, True]))
    def wait(self, wait_s: float, is_jump: bool) -> None:
        """Let time pass; or set the wall clock forward, of which runs know nothing."""
        self.run(self.waiting(wait_s, is_jump=is_jump))

    async def waiting(self, wait_s: float, *, is_jump: bool) -> None:
        if is_jump:
            self.clock.jump(wait_s)
        else:
            self.clock.advance(wait_s)
        self.time_has_passed()
        now = self.clock.monotonic()
        overdue = [one for one in self.hands if one.deadline <= now]
        await self.whole.pass_time()
        for one in overdue:
            self.whole.rig.queue.runs.left(one.lease)
            if one.lease.is_over_limit(now):
                self.hands.remove(one)
                if one.open is not None:
                    self.over.append((one.open.token, one.job_id, "fail"))
                if one.is_gone:
                    self.oracle.leave(one.gone)
                else:
                    self.oracle.finish(self.oracle.jobs[one.job_id], Failed("time limit"))
            else:
                self.lost(one)
        self.oracle.pass_to(self.clock.now())
        await self.be_still()

    def time_has_passed(self) -> None:
        """Let the oracle know, before the queue does."""
        self.oracle.now = self.clock.now()
        self.oracle.rules.pass_to(self.clock.monotonic())

    @rule()
    def keep_house(self) -> None:
        self.run(self.keeping())

    async def keeping(self) -> None:
        await self.whole.rig.queue.house.keep()
        await self.be_still()

    def wanted(self, sort: Sort) -> Filter:
        if sort.at is None:
            return Filter(None, sort.type, sort.states, sort.resource)
        ids = sorted(self.oracle.jobs)
        return Filter(("none", ids[sort.at % len(ids)]) if ids else ("none",))

    @rule(sort=SORTS, is_dry=IS_DRY)
    def cancel(self, sort: Sort, is_dry: bool) -> None:
        self.run(self.changing(Verb.CANCEL, self.wanted(sort), is_dry=is_dry))

    @rule(sort=SORTS, is_dry=IS_DRY)
    def retry(self, sort: Sort, is_dry: bool) -> None:
        self.run(self.changing(Verb.RETRY, self.wanted(sort), is_dry=is_dry))

    @rule(sort=SORTS, is_forced=st.booleans(), is_dry=IS_DRY)
    def delete(self, sort: Sort, is_forced: bool, is_dry: bool) -> None:
        self.run(self.changing(Verb.DELETE, self.wanted(sort), is_forced=is_forced, is_dry=is_dry))

    @rule(type_=st.sampled_from(TYPES))
    def purge(self, type_: str) -> None:
        self.run(self.changing(Verb.DELETE, Filter(type=type_, states=WAITING)))

    async def changing(self, verb: Verb, wanted: Filter, *, is_forced: bool = False, is_dry: bool = False) -> None:
        done = await self.whole.backend.change(verb, wanted, is_forced=is_forced, is_dry=is_dry)
        oracle = self.oracle.copy() if is_dry else self.oracle
        changed, skipped = self.changed(oracle, verb, wanted, is_forced=is_forced)
        self.see_done(done, changed, skipped)
        if not is_dry:
            self.follow(verb, changed)
        await self.be_still()

    def changed(self, oracle: Oracle, verb: Verb, wanted: Filter, *, is_forced: bool) -> tuple[list[Job], list[Job]]:
        if verb is Verb.CANCEL:
            return oracle.cancel(wanted), []
        if verb is Verb.RETRY:
            return oracle.retry(wanted), []
        return oracle.delete(wanted, is_forced=is_forced)

    def see_done(self, done: Done, changed: list[Job], skipped: list[Job]) -> None:
        assert (done.count, done.skipped) == (len(changed), len(skipped)), (done, changed, skipped)
        assert sorted(done.ids) == sorted(job.id for job in changed)

    def follow(self, verb: Verb, changed: list[Job]) -> None:
        """Take in what becomes of runs whose jobs were changed: who can be ended is, who can be told goes on."""
        if verb is Verb.RETRY:
            return
        jobs = {job.id: job for job in changed}
        for one in [one for one in self.hands if one.job_id in jobs and not one.is_gone]:
            if verb is Verb.DELETE:
                one.gone = jobs[one.job_id]
            if one.lane is not None:
                assert one.lease in one.lane.lost, "a run was not ended"
                self.hands.remove(one)
                self.oracle.leave(one.gone)
                if verb is Verb.CANCEL:
                    self.oracle.called_off(self.oracle.jobs[one.job_id])

    @rule(type_=st.sampled_from(TYPES), goes_on=st.booleans())
    def suspend(self, type_: str, goes_on: bool) -> None:
        self.run(self.suspending(type_, goes_on=goes_on))

    async def suspending(self, type_: str, *, goes_on: bool) -> None:
        was = type_ in self.oracle.rules.suspended
        if goes_on:
            answer = await self.whole.backend.resume(type_)
            self.oracle.rules.suspended.discard(type_)
        else:
            answer = await self.whole.backend.suspend(type_)
            self.oracle.rules.suspended.add(type_)
        assert answer["changed"] == (was is goes_on)
        await self.be_still()

    @precondition(lambda self: self.boots < 5)
    @rule()
    def restart(self) -> None:
        """Stop it in good order, and start it again."""
        self.run(self.restarting())

    async def restarting(self) -> None:
        await self.whole.let_none_begin()
        await self.whole.be_still()
        self.take_begun()
        for one in [one for one in self.hands if not one.held]:
            self.hands.remove(one)
            if one.lane is not None:
                self.whole.rig.queue.runs.release(one.lease)
                one.lane.consumer.free()
            elif one.open is not None:
                self.over.append((one.open.token, one.job_id, "interrupted"))
            if not one.is_gone:
                self.oracle.release(self.oracle.jobs[one.job_id], Returned())
        await self.whole.stop()
        self.take_begun()
        assert not [one for one in self.hands if not one.held], "a run began as all were to end"
        await self.boot_again()

    async def boot_again(self) -> None:
        """Start where the last boot ended; held runs go on."""
        old = self.whole
        self.boots += 1
        self.whole = self.a_boot()
        if not self.whole.folder.exists():
            shutil.copytree(old.folder, self.whole.folder)
        await self.start()
        self.go_on()
        await self.be_still()

    def go_on(self) -> None:
        self.hands = [one for one in self.hands if not one.is_gone]
        for one in self.hands:
            assert one.held
            assert one.open is not None
            again = self.whole.desk.run(one.open.token)
            assert again is not None, "a held run was lost"
            one.open, one.run, one.lease, one.peer = again, again.run, again.lease, None
            one.touch()
            self.oracle.go_on(self.oracle.jobs[one.job_id])

    @precondition(lambda self: self.boots < 5 and not self.uri)
    @rule(at=st.integers(0, 12), jobs=st.lists(JOBS, min_size=1, max_size=3))
    def die_as_jobs_are_inserted(self, at: int, jobs: list[dict[str, Any]]) -> None:
        def act() -> Coroutine[Any, Any, None]:
            told: asyncio.Future[Any] = self.loop.create_future()
            self.keep(jobs, is_array=True, told=told.set_result)

            async def wait() -> None:
                await told

            return wait()

        if not self.are_too_many(jobs):
            self.run(self.dying(at, act))

    @precondition(lambda self: self.boots < 5 and not self.uri)
    @rule(at=st.integers(0, 12), sort=SORTS, verb=st.sampled_from(Verb), is_forced=st.booleans())
    def die_as_jobs_are_changed(self, at: int, sort: Sort, verb: Verb, is_forced: bool) -> None:
        wanted = self.wanted(sort)

        def act() -> Coroutine[Any, Any, None]:
            self.changed(self.oracle, verb, wanted, is_forced=is_forced)

            async def change() -> None:
                await self.whole.backend.change(verb, wanted, is_forced=is_forced)

            return change()

        self.run(self.dying(at, act))

    @precondition(lambda self: self.boots < 5 and not self.uri)
    @rule(at=st.integers(0, 12), index=st.integers(0, 9), outcome=OUTCOMES)
    def die_as_a_run_ends(self, at: int, index: int, outcome: Outcome) -> None:
        def act() -> Coroutine[Any, Any, None]:
            told: asyncio.Future[Any] = self.loop.create_future()
            one = self.hands[index % len(self.hands)]

            def tell(ok: bool) -> None:
                if not told.cancelled():
                    told.set_result(ok)

            self.end(one, lambda job: self.oracle.finish(job, outcome), outcome, tell)

            async def wait() -> None:
                await told

            return wait()

        if self.hands:
            self.run(self.dying(at, act))

    async def dying(self, at: int, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Be killed at that step of the store as something is done, or when it is done and nothing has followed yet."""
        before, old, began = self.oracle.copy(), self.whole, self.begun
        held = {one.job_id for one in self.hands if one.held and not one.is_gone}
        image = self.folder / f"boot{self.boots + 1}"
        steps, begun = 0, set[str]()

        def take() -> None:
            old.image(image)
            begun.update(one.job_id for one in began)

        def on_step() -> None:
            nonlocal steps
            steps += 1
            if steps == at + 1:
                take()

        said = len(self.over)
        old.on_step = on_step
        acting = asyncio.ensure_future(act())
        while not image.exists() and not acting.done():  # noqa: ASYNC110 - either may come first
            await asyncio.sleep(0)
        if not image.exists():
            await acting
            before, said = self.oracle.copy(), len(self.over)
            old.on_step = lambda: None
            async with old._mutex:
                take()
        async with asyncio.timeout(WITHIN_S):
            await acting
        await old.stop()  # what it still does in its own folder is nobody's business
        self.over[said:] = [(token, job_id, UNKNOWN) for token, job_id, _ in self.over[said:]]
        over = {token for token, _, _ in self.over}
        lost = [(one.open.token, one.job_id) for one in self.hands if one.open and not one.held and one.open.token not in over]
        self.over += [(token, job_id, "ghost") for token, job_id in lost]
        self.boots += 1
        self.whole = self.a_boot()
        await self.start(is_asked=False)
        await self.reconcile(after_a_kill(before, self.oracle, begun, held))
        self.ask_first()
        await self.be_still()

    async def reconcile(self, possible: Callable[[set[str]], dict[str, list[Job | None]]]) -> None:
        """Take in what the kill has left of each job, which must be what it may be, and go on from there."""
        until = time.monotonic() + WITHIN_S
        while True:
            await self.whole.be_still()
            open_ = list(self.whole.desk._runs.values())
            records = {record.id: record for record in await self.whole.records()}
            ways = possible({run.run.claim.id for run in open_})
            found = {job_id: _fitting(ways.get(job_id, [None]), records.get(job_id)) for job_id in ways.keys() | records.keys()}
            faults = [f"{job_id}: {records.get(job_id)} is none of {ways.get(job_id)}" for job_id in found if not found[job_id]]
            if not faults:
                break
            assert time.monotonic() < until, "\n".join(faults)
            await asyncio.sleep(0.001)
        for job in [job for job_id, job in self.oracle.jobs.items() if found[job_id] == [None]]:
            self.oracle.over.update((job.type, state) for state in ENDED)  # it may have ended, and be over
        self.oracle.jobs = {job_id: fitting[0] for job_id, fitting in found.items() if fitting[0] is not None}
        self.oracle.learn_order(records)
        self.oracle.expire()
        self.hands = [InHand(run.run, run.lease, open_=run) for run in open_]
        tokens = {run.token for run in open_}
        self.over = [one for one in self.over if one[0] not in tokens]

    async def lift_all(self) -> None:
        """Let everything begin that may."""
        for type_ in list(self.oracle.rules.suspended):
            await self.suspending(type_, goes_on=True)

    def teardown(self) -> None:
        try:
            self.run(self.finish_all())
        finally:
            self.run(self.whole.stop())
            self.loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    async def finish_all(self) -> None:
        """Let all that is left run well, in the hands of one more worker, and end."""
        await self.lift_all()
        self.peers.append(Peer(self))
        self.peers[-1].ask(ALL_TYPES, 100, is_once=False, held=False)
        for _ in range(100):
            await self.be_still()
            while self.hands:
                await self.ending(one := self.hands.pop(), partial(self.oracle.finish, outcome=Ok()), Ok())
                assert one not in self.hands
            if not any(job.waits for job in self.oracle.jobs.values()):
                return
            await self.waiting(1.25, is_jump=False)
        raise AssertionError(f"some never end: {[job for job in self.oracle.jobs.values() if job.waits]}")


def _with_one_id_a_key(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the keys from jobs of an array whose ids stand there more than once: which of them is first is nobody's business."""
    ids = Counter(job.get("id") for job in jobs)
    bare = {"unique", "on_conflict"}
    return [
        job if not job.get("id") or ids[job["id"]] == 1 else {n: v for n, v in job.items() if n not in bare} for job in jobs
    ]


def _answer(fields: dict[str, Any], taken: Taken, place: int | None) -> Answer:
    """Return what must be answered to one job."""
    if not taken.created and taken.id != taken.own_id and fields.get("on_conflict") == "refuse":
        where = "" if place is None else f"job {place}: "
        message = f"{where}unique: a job of this type and key {fields['unique']!r} waits already, its id is {taken.id!r}"
        return Refused("duplicate", message)
    return Inserted(taken.id, taken.created) if "answer" in fields else taken.id


def _in_lane(lane: Lane, run: Run, lease: Lease) -> InHand:
    return InHand(run, lease, lane=lane)


def _fitting(ways: Iterable[Job | None], record: JobRecord | None) -> list[Job | None]:
    if record is None:
        return [None] if None in ways else []
    return [
        way for way in ways if way is not None and way.shown()[:-1] == shown(record)[:-1]
    ]  # whom it waits for is seen later


def _word(how: Outcome | Returned | None) -> str:
    words = {Ok: "success", Again: "again", Failed: "fail", Returned: "interrupted"}
    return UNBEGUN if how is None else words[type(how)]
