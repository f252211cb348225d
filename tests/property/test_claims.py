"""Claims in the journal, against an account: whatever is inserted, ends, fails or is killed in whatever order."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from kqs.errors import JournalError, JournalFailedError
from kqs.outcome import Again, Failed, Ok, Outcome
from tests.support.life import AccountedHand
from tests.support.life_machine import LifeMachine
from tests.support.turning import until

PLAIN = b'{"type":"mail"}'
JOBS = st.sampled_from(
    [
        PLAIN,
        PLAIN,
        b'{"type":"resize"}',
        b'{"type":"mail","prio":"urgent"}',
        b'{"type":"mail","retries":1}',
        b'{"type":"mail","delay":0.01}',
        b'{"type":"mail","id":"a"}',
        b'{"type":"resize","id":"b"}',
    ]
)
OUTCOMES = st.sampled_from([Ok(), Ok(), Ok(b"[7]"), Failed("no"), Failed("no", final=True), Again()])
STEPS = 25


def array(job: bytes, count: int) -> bytes:
    return b"[" + b",".join([job] * count) + b"]"


class ClaimsMachine(LifeMachine):
    """A core between an account of what was asked and hands that run jobs as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.run(self.start())

    async def start(self) -> None:
        await super().start()
        self.hand = self.life.hand(2, "mail")

    @rule(
        lines=st.lists(
            st.one_of(JOBS, st.builds(array, JOBS.filter(lambda job: b'"id"' not in job), st.integers(2, 6))), max_size=3
        )
    )
    def insert(self, lines: list[bytes]) -> None:
        async def steps() -> None:
            try:
                await self.life.insert(*lines)
            except JournalError:  # of a failed flush, after which it has not looked at itself yet
                return
            await self.pause()

        self.run(steps())

    @rule(lines=st.lists(JOBS, min_size=1, max_size=3))
    def insert_in_vain(self, lines: list[bytes]) -> None:
        """The flush fails: nothing of it begins, and whatever was claimed is taken back."""

        async def steps() -> None:
            files = self.life.feeding.journal._files
            begun = self.life.account.runs.copy()
            last = self.life.feeding.ids.last_order

            def refuse(_handle: int) -> None:
                raise JournalFailedError("no")

            with pytest.MonkeyPatch.context() as failing, suppress(JournalError):
                failing.setattr(files, "flush", refuse)
                await self.life.insert(*lines)
            await self.pause()
            assert not [order for order in self.life.account.runs.keys() - begun.keys() if order > last]
            await until(lambda: self.life.feeding.journal.accepting)

        self.run(steps())

    @rule(index=st.integers(0, 5), outcome=OUTCOMES)
    def end(self, index: int, outcome: Outcome) -> None:
        async def steps() -> None:
            if (run := self.taken(index)) is not None:
                self.hand.over(run, outcome)
            await self.pause()

        self.run(steps())

    @rule(index=st.integers(0, 5))
    def give_back(self, index: int) -> None:
        async def steps() -> None:
            if (run := self.taken(index)) is not None:
                self.hand.give_back(run)
            await self.pause()

        self.run(steps())

    def taken(self, index: int) -> Any:
        runs = [self.hand.runs.get_nowait() for _ in range(self.hand.runs.qsize())]
        run = runs.pop(index % len(runs)) if runs else None
        for other in runs:
            self.hand.runs.put_nowait(other)
        return run

    @rule(room=st.integers(1, 4))
    def more_room(self, room: int) -> None:
        async def steps() -> None:
            self.hand.size += room
            self.hand.consumer.grow(room)
            await self.pause()

        self.run(steps())

    @rule(wait_s=st.sampled_from([0.01, 0.2, 1.5]))
    def wait(self, wait_s: float) -> None:
        async def steps() -> None:
            self.life.clock.advance(wait_s)
            await asyncio.sleep(0.01)

        self.run(steps())

    @precondition(lambda self: self.boots < 4)
    @rule()
    def kill(self) -> None:
        async def steps() -> None:
            old, life = self.life, self.next_life()
            await self.inherit(life)
            old.fault = None
            await self.stop()
            life.account.cut_off()
            self.life = life
            await self.start()

        self.run(steps())
        self.boots += 1

    @invariant()
    def room_is_never_negative(self) -> None:
        for hand in self.life.rig.hands:
            assert isinstance(hand, AccountedHand)
            assert 0 <= hand.consumer._room <= hand.size
            assert len(hand.leases) + hand.consumer._room <= hand.size

    @invariant()
    def none_has_room_before_an_older_one_that_is_as_urgent(self) -> None:
        firsts = {run.claim.order for run in self.hand.began if run.attempt == 1}
        newest: dict[int, int] = {}  # by priority
        for order in filter(firsts.__contains__, self.life.turns):
            prio = self.life.prio[order]
            assert not [other for other, of in newest.items() if prio <= other and order < of]
            newest[prio] = max(order, newest.get(prio, 0))


TestClaims = ClaimsMachine.TestCase
TestClaims.settings = settings(max_examples=40, stateful_step_count=STEPS, phases=[Phase.explicit, Phase.reuse, Phase.generate])
