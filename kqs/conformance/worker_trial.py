"""A worker under test: what its rules share, to give it jobs and see what comes of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from kqs.conformance.desk import Ask, Desk, Given, same
from kqs.conformance.stage import Happening, Heard, Lost, Stage
from kqs.conformance.trial import Trial

TYPES = frozenset({"echo", "sleep", "fail"})


class WorkerTrial(Trial):
    """A worker under test."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.desk = Desk()

    def hear(self, what: Happening) -> None:
        """Let the desk answer."""
        if isinstance(what, Heard):
            self.desk.hear(what.peer, what.call, what.at)
        elif isinstance(what, Lost):
            self.desk.lost(what.peer)

    def forget(self) -> None:
        """See Trial."""
        self.desk = Desk()

    def check(self) -> None:
        """See Trial."""
        self.expect(not self.desk.faults, "calls that the server takes", self._faults)

    async def prepare(self) -> None:
        """Wait until it asks for a job."""
        if not self.stage.is_running:
            await self.stage.kill()
            self.forget()
            await self.stage.start()
        await self.asks()

    async def asks(self, expected: str = "a reserve or work call that waits for a job") -> Ask:
        """Return who waits for a job; Broken: nobody."""
        await self.until(lambda: self.desk.ask_with_room() is not None)
        ask = self.desk.ask_with_room()
        self.expect(ask is not None, expected, self._faults)
        assert ask is not None
        self.expect(ask.types >= TYPES, f"types to hold {', '.join(sorted(TYPES))}", f"got {', '.join(sorted(ask.types))}")
        return ask

    @property
    def _faults(self) -> str:
        return f"a call was refused, {self.desk.faults[-1]}" if self.desk.faults else ""

    async def given(self, type_: str, data: object = None, **fields: Any) -> Given:
        """Give one job to who waits, in one piece."""
        ask = await self.asks()
        (run,), line = self.desk.give(ask, [{"type": type_, "data": data, **fields}], time.monotonic())
        ask.mouth.send(line)
        return run

    async def given_many(self, sleeps_s: Sequence[float], **fields: Any) -> list[Given]:
        """Give jobs that sleep to who waits, as many as it has room for, in one piece."""
        ask = await self.asks()
        jobs = [{"type": "sleep", "data": {"s": s}, **fields} for s in sleeps_s[: ask.room]]
        runs, line = self.desk.give(ask, jobs, time.monotonic())
        ask.mouth.send(line)
        return runs

    async def goes_on(self, runs: Sequence[Given], what: str) -> None:
        """Broken: one of these runs is not reported as ok; what: has happened to another."""
        for run in runs:
            await self.settled(run, f"the other runs to be reported after {what}")
            self.expect(run.is_done, f'the other runs to be reported as "ok" after {what}', self._came(run))

    async def has_stopped(self, run: Given, what: str) -> None:
        """Broken: a run is still touched, though it has been over for a while; what: has happened to it."""
        before = run.touches
        await self.watch(run.ttr)
        self.expect(run.touches == before, f"no more touches of a run after {what}", "it is still touched")

    def _came(self, run: Given) -> str:
        """Return what came of a run that was to be reported as ok."""
        if self.desk.faults:
            return self._faults
        if not run.reports:
            return "the run was released"
        report = run.reports[-1]
        if report.report != "ok":
            return f'got "{report.report}" {report.reason or ""}'
        return "its connection was lost before, and the run with it"

    async def settled(self, run: Given, what: str = "the run to be reported") -> None:
        """Wait until a run was ended by its worker."""
        await self.until(lambda: run.is_settled)
        self.expect(run.is_settled, what, self._faults)

    def reports_ok(self, run: Given, result: object) -> None:
        """Broken: the run was not reported as ok, with that result."""
        self.expect(run.is_done, 'a report of "ok"', self._came(run))
        report = run.reports[-1]
        got = bytes(report.result).decode(errors="replace")
        self.expect(same(result, report.result), "the data of an echo job as its result", f"got {got:.200}")

    async def does_the_next(self, what: str) -> None:
        """See that it goes on: a job is asked for, done and reported, and no call was refused."""
        await self.asks(what)
        run = await self.given("echo", 1)
        await self.settled(run, what)
        self.reports_ok(run, 1)

    def released_as_they_came(self, runs: Sequence[Given]) -> None:
        """Broken: after SIGTERM, when what has begun is finished, a run was released as if it had begun."""
        count = sum(run.release is not None and run.release.begun for run in runs)
        self.expect(not count, 'runs that have not begun to be released with "begun":false', f"{count} of {len(runs)} were not")

    def drop(self, ask: Ask) -> None:
        """Lose the connection of who asked."""
        ask.mouth.close()
        self.desk.lost(ask.mouth)
