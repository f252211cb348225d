"""Remote workers against an account: whatever they ask, say, forget, and whoever is killed, in whatever order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from kqs.job import Returned
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.remote import Desk, OpenRun, Order
from kqs.states import ENDED
from tests.support.feeding import caught_up
from tests.support.life_machine import LifeMachine

JOBS = st.sampled_from(
    [
        b'{"type":"mail","ghost_delay":0}',
        b'{"type":"mail","ghost_delay":0,"ghosts":-1,"ttr":1}',
        b'{"type":"resize","ghost_delay":0,"auto_touch":true,"ttr":2}',
        b'{"type":"mail","prio":"urgent","time_limit":3}',
        b'{"type":"mail","delay":0.01}',
        b'{"type":"resize","id":"b"}',
    ]
)
TYPES = st.sampled_from([frozenset(["mail"]), frozenset(["mail", "resize"]), frozenset(["resize"])])
OUTCOMES = st.sampled_from([Ok(), Ok(), Ok(b"[7]"), Failed("no"), Failed("no", delay_s=0.5), Failed("no", final=True), Again()])
STEPS = 30


class Stood:
    """An order, the room it was made with, and the runs that take some of it."""

    def __init__(self, room: int, *, is_once: bool) -> None:
        self.room = room
        self.is_once = is_once
        self.given = 0
        self.open: set[str] = set()
        self.is_over = False
        self.order: Order


class Peer:
    """A connection: what it has asked for, and what it has in hand."""

    def __init__(self, machine: RemoteMachine) -> None:
        self._machine = machine
        self.party = machine.desk.party()
        self.stood: list[Stood] = []

    def ask(self, types: frozenset[str], room: int, name: str, *, is_once: bool, held: bool = False) -> None:
        stood = Stood(room, is_once=is_once)
        self.stood.append(stood)

        def given(runs: list[OpenRun]) -> None:
            assert runs
            assert not stood.is_over, "given what nobody asks for any more"
            assert not (is_once and stood.given), "given twice what was asked for once"
            assert all(run.run.type in types for run in runs), "given what it did not ask for"
            stood.given += len(runs)
            stood.open |= {run.token for run in runs}
            assert len(stood.open) <= room, "given more than there was room for"
            for run in runs:
                self._machine.begun(run, self, stood)

        def ended() -> None:
            assert not stood.is_over
            stood.is_over = True

        lost: Callable[[OpenRun], None] | None = None if is_once else (lambda run: None)
        stood.order = self.party.order(types, room, name, given, ended, lost, held=held)


def _of_no_concern(token: str, ok: bool) -> None:
    """Take in nothing."""


class RemoteMachine(LifeMachine):
    """A desk over a core, between an account of the jobs and peers that do as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.open: dict[str, tuple[OpenRun, Peer | None, Stood]] = {}  # of nobody: held, and its connection was lost
        self.old: list[str] = []  # tokens of runs that are over, of earlier boots too
        self.told: Counter[str] = Counter()
        #: by order, what the next run of a job may be given as its progress: what was kept last, and what was said since
        self.said: dict[int, list[bytes | None]] = {}
        self.said_count = 0
        self.is_dying = False
        self.run(self.start())

    async def start(self) -> None:
        self.is_dying = False
        await super().start()
        self.desk = Desk(self.life.rig.queue, 0.0, self.life.rig.supervisor)
        self.desk.start(self.life.rig.info.store_id)
        self.peers = [Peer(self) for _ in range(3)]
        for peer, held in zip(self.peers, (False, True), strict=False):  # so that most of what is inserted runs
            peer.ask(frozenset(["mail", "resize"]), 3, "a", is_once=False, held=held)

    def begun(self, run: OpenRun, peer: Peer, stood: Stood) -> None:
        assert run.token not in self.open
        assert run.token not in self.old, "a token comes twice"
        order = run.run.claim.order
        assert run.progress in self.said.get(order, [None]), "given progress that is older than what was kept"
        self.said[order] = [run.progress]
        self.life.account.begin(run.run.claim.order)
        self.open[run.token] = (run, peer, stood)

    def over(self, token: str, *, is_final: bool) -> None:
        run, _, stood = self.open.pop(token)
        stood.open.discard(token)
        self.life.account.end(run.run.claim.order, is_final=is_final)
        self.old.append(token)

    def find_lost(self) -> None:
        """Take in which runs the desk has taken away, by a deadline."""
        for token in [token for token in self.open if self.desk.run(token) is None]:
            self.over(token, is_final=False)

    @rule(lines=st.lists(JOBS, min_size=1, max_size=4), many=st.integers(1, 3))
    def insert(self, lines: list[bytes], many: int) -> None:
        async def steps() -> None:
            for line in lines:
                is_own = b'"id"' in line
                await self.life.insert(line if is_own else b"[" + b",".join([line] * many) + b"]")
            await self.pause()

        self.run(steps())

    @rule(
        peer=st.integers(0, 2),
        types=TYPES,
        room=st.integers(1, 4),
        name=st.sampled_from("ab"),
        is_once=st.booleans(),
        held=st.booleans(),
    )
    def ask(self, peer: int, types: frozenset[str], room: int, name: str, is_once: bool, held: bool) -> None:
        """Reserve, or work; to hold what comes, or not."""

        async def steps() -> None:
            self.peers[peer].ask(types, room, name, is_once=is_once, held=held)
            await self.pause()

        self.run(steps())

    @rule(peer=st.integers(0, 2), index=st.integers(0, 9), says_so=st.booleans())
    def withdraw(self, peer: int, index: int, says_so: bool) -> None:
        async def steps() -> None:
            orders = [stood for stood in self.peers[peer].stood if not stood.order.is_over]
            if orders:
                stood = orders[index % len(orders)]
                if says_so:
                    stood.order.end()
                else:
                    assert stood.order.withdraw()
                    stood.is_over = True
            await self.pause()

        self.run(steps())

    @rule(peer=st.integers(0, 2), goes_on=st.booleans())
    def rest(self, peer: int, goes_on: bool) -> None:
        async def steps() -> None:
            party = self.peers[peer].party
            if goes_on:
                party.resume()
            else:
                party.pause()
            await self.pause()

        self.run(steps())

    @rule(peer=st.integers(0, 2))
    def hear(self, peer: int) -> None:
        """Hear something of a peer, of which nothing needs to have been lost."""

        async def steps() -> None:
            self.peers[peer].party.trust()
            await self.pause()

        self.run(steps())

    @rule(index=st.integers(0, 9), outcome=OUTCOMES, more=st.integers(0, 2))
    def finish(self, index: int, outcome: Outcome, more: int) -> None:
        """Report some runs, in one list."""

        async def steps() -> None:
            self.find_lost()
            tokens = sorted(self.open)
            for token in tokens[index % len(tokens) :][: more + 1] if tokens else ():
                run = self.open[token][0]
                is_final = isinstance(outcome, Ok) or (isinstance(outcome, Failed) and outcome.final)
                self.over(token, is_final=is_final)
                self.desk.report(run, outcome, self.report_teller(token))
                assert self.desk.run(token) is None
            await self.pause()

        self.run(steps())

    @rule(
        index=st.integers(0, 9),
        end=st.sampled_from([None, Returned(), Returned(0.5), Returned(0.0, 5), Returned(0.0, 2**32 - 1), Returned(0.5, 0)]),
    )
    def release(self, index: int, end: Returned | None) -> None:
        async def steps() -> None:
            self.find_lost()
            if self.open:
                token = sorted(self.open)[index % len(self.open)]
                run = self.open[token][0]
                self.over(token, is_final=False)
                self.desk.release(run, end, lambda ok: self.note_told(token, ok))
            await self.pause()

        self.run(steps())

    @rule(index=st.integers(0, 9), many=st.integers(1, 3), is_none=st.booleans())
    def save(self, index: int, many: int, is_none: bool) -> None:
        """Say how far a run is, some times; the last may be that nothing is to be known of it."""

        async def steps() -> None:
            self.find_lost()
            for number in range(many) if self.open else ():
                run = self.open[sorted(self.open)[index % len(self.open)]][0]
                self.said_count += 1
                value = b"" if is_none and number == many - 1 else b"%d" % self.said_count
                self.said[run.run.claim.order].append(value or None)
                self.desk.save(run, value, self.teller(run.run.claim.order, len(self.said[run.run.claim.order]) - 1))
            await self.pause()

        self.run(steps())

    def teller(self, order: int, place: int) -> Callable[[bool], None]:
        """Take in that a value is kept, when it is: none before it may come back."""
        said = self.said[order]

        def told(ok: bool) -> None:
            if not self.is_dying:
                assert ok, "what an open run says is never stale"
                if self.said[order] is said:  # else another run has begun since
                    said[:place] = said[place : place + 1] * place

        return told

    def report_teller(self, token: str) -> Callable[[bool], None]:
        """Return who is told of a report, in this boot."""
        return lambda ok: self.note_told(token, ok)

    def note_told(self, token: str, ok: bool) -> None:
        assert ok, "a report of an open run is never stale"
        self.told[token] += 1
        assert self.told[token] == 1, "told twice"

    @rule(index=st.integers(0, 99), text=st.text(max_size=5), at=st.integers(0, 50))
    def say_something(self, index: int, text: str, at: int) -> None:
        """Name a run that is over, of whichever boot: it is nobody's; name one that is none; and touch one."""
        self.find_lost()
        if self.old:
            token = self.old[index % len(self.old)]
            assert self.desk.run(token) is None
            assert self.desk.named(token) is not None
        for token in [*self.open, *self.old][-2:]:
            wrong = token[:at] + text + token[at + 1 :]
            assert wrong == token or (self.desk.run(wrong), self.desk.named(wrong)) == (None, None)
        if self.open:
            run = self.open[sorted(self.open)[index % len(self.open)]][0]
            assert self.desk.touch(run) <= run.lease.options.ttr

    @rule(peer=st.integers(0, 2))
    def lose_connection(self, peer: int) -> None:
        async def steps() -> None:
            self.find_lost()
            gone, self.peers[peer] = self.peers[peer], Peer(self)
            gone.party.leave("gone")
            assert all(stood.is_over or stood.order.is_once for stood in gone.stood)
            for token, (run, _, stood) in [one for one in self.open.items() if one[1][1] is gone]:
                if run.run.held:
                    assert self.desk.run(token) is run, "a held run was lost with its connection"
                    self.open[token] = (run, None, stood)
                else:
                    assert self.desk.run(token) is None
                    self.over(token, is_final=False)
            await self.pause()

        self.run(steps())

    @rule(wait_s=st.sampled_from([0.01, 0.2, 1.5, 4.0, 31.0]))
    def wait(self, wait_s: float) -> None:
        async def steps() -> None:
            self.life.clock.advance(wait_s)
            self.life.rig.queue.runs.look_again()
            self.find_lost()
            await asyncio.sleep(0.01)

        self.run(steps())

    @precondition(lambda self: self.boots < 4)
    @rule(is_kill=st.booleans())
    def restart(self, is_kill: bool) -> None:
        async def steps() -> None:
            old, life = self.life, self.next_life()
            self.find_lost()
            if not is_kill:
                old.fault = None
                await self.stop()
            await self.inherit(life)
            if is_kill:
                old.fault = None
                held = self.forget_all()
                await self.stop()
                self.open = held
                life.account.cut_off()
            self.life = life
            await self.start()
            self.go_on()
            await self.pause()

        self.run(steps())
        self.boots += 1

    def forget_all(self) -> dict[str, tuple[OpenRun, Peer | None, Stood]]:
        """A kill: what the old boot still does in its own folder is nobody's business. Return what goes on."""
        held = {token: one for token, one in self.open.items() if one[0].run.held}
        self.old += self.open.keys() - held.keys()
        self.open = {}
        self.is_dying = True
        self.note_told = _of_no_concern  # type: ignore[method-assign]  # what the old boot is told
        return held

    def go_on(self) -> None:
        """A start: held runs go on, also those whose report, or delivery, a kill has cut off. Nothing else does."""
        assert self.open.keys() <= self.desk._runs.keys(), "a held run was lost with its server"
        account = self.life.account
        for token, run in self.desk._runs.items():
            assert run.run.held
            assert not self.told[token], "a run goes on whose report was answered"
            if token in self.old:
                self.old.remove(token)
            elif token not in self.open:
                account.begin(run.run.claim.order)
            account.go_on(run.run.claim.order)
            self.open[token] = (run, None, self.open[token][2] if token in self.open else Stood(1, is_once=True))

    async def stop(self) -> None:
        stood = [one for peer in self.peers for one in peer.stood]
        await self.desk.stop()
        assert all(one.order.is_over for one in stood)
        for token, (run, _, _) in list(self.open.items()):
            assert self.desk.run(token) is None
            if not run.run.held:
                self.over(token, is_final=False)
        await super().stop()
        self.__dict__.pop("note_told", None)

    @invariant()
    def nobody_has_more_than_its_room(self) -> None:
        self.find_lost()
        assert self.desk.runs_count == len(self.open)
        for peer in self.peers:
            for stood in peer.stood:
                assert len(stood.open) <= stood.room
                if stood.order.is_over:
                    continue  # it asks for nothing any more: what is withheld of that is of no concern
                if not stood.is_once:
                    room = stood.order.room + stood.order.withheld
                    assert len(stood.open) + room == stood.room, "room was lost, or made"
                assert peer.party.is_doubted or not stood.order.withheld

    @invariant()
    def pools_have_the_room_of_those_in_line(self) -> None:
        for pool in self.desk._pools.values():
            in_line = sum(order.room for order in pool._line)
            assert pool.consumer._room <= in_line
            if not pool.consumer._claims:
                assert pool.consumer._room == in_line
            for order in pool.orders:
                assert (order in pool._line) == (order.room > 0 and not order.is_paused)

    async def finish_all(self) -> None:
        """Let all that is left run well, in the hands of one more worker, and end."""
        assert self.life.feeding.feeder is not None
        for peer in self.peers:
            peer.party.resume()
        self.peers.append(Peer(self))
        self.peers[-1].ask(frozenset(["mail", "resize"]), 100, "last", is_once=False)
        queue = self.life.rig.queue
        async with asyncio.timeout(15):
            while True:
                await caught_up(self.life.feeding.feeder)
                self.find_lost()
                for token in list(self.open):
                    run = self.open[token][0]
                    self.over(token, is_final=True)
                    self.desk.report(run, Ok(), self.report_teller(token))
                await queue.settle()
                counts = await queue.reads.counts()
                if all(state in ENDED for states in counts.values() for state, count in states.items() if count):
                    break
                self.life.clock.advance(0.05)
                await asyncio.sleep(0)
                await queue.house.keep()


TestRemote = RemoteMachine.TestCase
TestRemote.settings = settings(max_examples=18, stateful_step_count=STEPS, phases=[Phase.explicit, Phase.reuse, Phase.generate])
