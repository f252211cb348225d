"""What workers do, as methods of the client, and which runs it was given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from msgspec import UNSET

from kqs.client.inflight import InFlight
from kqs.client.runs import Report, Run, cancelled, given_runs, seconds_left, told
from kqs.client.standing import Work
from kqs.client.values import check_seconds, encode, names, without_none
from kqs.errors import CallError, KqsError


class WorkersCalls:
    """The client's part for workers. on_over: see Client."""

    def __init__(self, calls: InFlight) -> None:
        self._calls = calls
        self._runs: WeakValueDictionary[str, Run] = WeakValueDictionary()  # those that somebody still has
        self.on_over: Callable[[Run], None] = lambda run: None

    async def reserve(
        self, types: Sequence[str], count: int = 1, wait_s: float = 0.0, *, worker: str | None = None, hold: bool = False
    ) -> list[Run]:
        """Return up to `count` runs of jobs of `types` as soon as there is one; none if there is none within `wait_s`.

        worker: who has them, as the jobs' records say. hold: they outlive the connection and the server, and are the worker's
        until `ttr` has passed without a touch; it needs a `worker`. Cancelled, it takes no run with it: what was on its way is
        given back. Raises: as `call`. ValueError: types is one text, or wait_s no number of seconds.
        """
        if wait_s != 0:
            check_seconds("wait_s", wait_s, is_bounded=True)
        asked = without_none(types=names(types), count=count, wait=wait_s, worker=worker, hold=hold or None)
        limit_s = None if self._calls.timeout_s is None else wait_s + self._calls.timeout_s
        answer: asyncio.Future[list[Run]] = asyncio.get_running_loop().create_future()

        def ended(end: msgspec.Raw | KqsError) -> None:
            if isinstance(end, KqsError):
                if not answer.done():
                    answer.set_exception(end)
                return
            runs = given_runs(end)
            if answer.done():
                self.give_back(runs)
            else:
                self.note_runs(runs, hold)
                answer.set_result(runs)

        number = self._calls.stand("reserve", encode(asked, "bad_call"), ended)
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except (TimeoutError, asyncio.CancelledError) as error:
            self._calls.withdraw(number)
            if not answer.cancelled() and answer.exception() is None:  # they came in the same turn of the loop
                self.give_back(answer.result())
            if isinstance(error, TimeoutError):
                raise self._calls.late_error() from None
            raise

    def work(self, types: Sequence[str], room: int = 1, *, worker: str | None = None, hold: bool = False) -> Work:
        """Return a standing order: runs of jobs of `types` whenever there are some and fewer than `room` are open.

        worker, hold: as for `reserve`. With a room of 0, which needs no types, it brings none: as long as it stands the client
        is told which runs are to end that an order brought which was left.
        """
        asked = without_none(types=names(types) or None, room=room, worker=worker, hold=hold or None)
        return Work(self._calls, self, encode(asked, "bad_call"), hold)

    async def touch(self, run: Run | str, progress: Any = UNSET) -> float:
        """Give a run its `ttr` anew; return how many seconds it has.

        progress: how far it is, which is kept when this returns: shown with the job, and given to its next run, should there be
        one. None takes back what was said before.
        Raises: as `call`; of a run that is over, `stale`; of progress that is too long, `too_large`.
        """
        (left,) = await self._touch([{"run": _token(run)} | ({} if progress is UNSET else {"progress": progress})])
        if isinstance(left, CallError):
            raise left
        return left

    async def touch_many(self, runs: Iterable[Run | str]) -> list[float | CallError]:
        """Touch up to 10,000 runs; return the seconds that each has, or why it was refused. Raises: as `call`."""
        return await self._touch([{"run": _token(run)} for run in runs])

    async def _touch(self, members: Sequence[Mapping[str, Any]]) -> list[float | CallError]:
        answer = await (await self._calls.start("touch", encode(members, "bad_call")))
        lefts = seconds_left(answer)
        for member, is_cancelled in zip(members, cancelled(answer), strict=False):
            if is_cancelled:
                self.end_run(member["run"])
        for member, left in zip(members, lefts, strict=True):
            if isinstance(left, CallError) and left.call_code == "stale":
                self.end_run(member["run"])
        return lefts

    async def release(
        self, run: Run | str, delay: float | None = None, *, prio: int | str | None = None, begun: bool = True
    ) -> None:
        """Give a run back unfinished; its job may run again at once, or after `delay` seconds.

        prio: the job's from then on, as `insert` takes it. begun: False: nothing was done of it, so its record is as if it had
        not been given; it takes neither of the others. Raises: as `call`.
        """
        self._runs.pop(_token(run), None)
        unbegun = None if begun else False
        returned = without_none(run=_token(run), delay=delay, prio=prio, begun=unbegun)
        await (await self._calls.start("release", encode(returned, "bad_call")))

    async def finish(self, run: Run | str, result: Any = None) -> None:
        """Report that a run succeeded; return when that is durable.

        Raises: CallError: `stale`: the run was over before. ConnectionLostError, CallTimeoutError: whether it was taken is
        unknown, and it may be reported again.
        """
        await self._finish(Report(_token(run), "ok", result))

    async def fail(self, run: Run | str, reason: str, *, final: bool = False, delay: float | None = None) -> None:
        """Report that a run failed. final: no retry can help. delay: seconds until the retry. Raises: as `finish`."""
        await self._finish(Report(_token(run), "fail", reason=reason, final=final, delay=delay))

    async def again(self, run: Run | str, delay: float | None = None) -> None:
        """Report that the job is to run once more, at no cost, after `delay` seconds if given. Raises: as `finish`."""
        await self._finish(Report(_token(run), "again", delay=delay))

    async def _finish(self, report: Report) -> None:
        (error,) = await self.finish_many([report])
        if error is not None:
            raise error

    async def finish_many(self, reports: Sequence[Report]) -> list[CallError | None]:
        """Report up to 10,000 runs in one line; return for each why it was refused, or None. Raises: as `finish`."""
        ended = {report.run: run for report in reports if (run := self._runs.pop(report.run, None)) is not None}
        try:
            refusals = told(await (await self._calls.start("finish", encode(list(reports), "bad_call"), repeatable=True)))
        except CallError:
            self._runs.update(ended)
            raise
        if any(refusals):
            self._note_refused(ended, reports, refusals)
        return refusals

    def _note_refused(self, ended: Mapping[str, Run], reports: Sequence[Report], refusals: Sequence[CallError | None]) -> None:
        """Take in that runs go on whose reports were refused, but not as stale: who has them may hear of their loss yet."""
        for report, refusal in zip(reports, refusals, strict=True):
            if refusal is not None and refusal.call_code != "stale" and report.run in ended:
                self._runs[report.run] = ended[report.run]

    def note_runs(self, runs: Iterable[Run], held: bool = False) -> None:
        """Take in that these were given to somebody, who is to hear of their loss. held: they outlive their connection."""
        for run in runs:
            run.is_held = held
            self._runs[run.token] = run

    def end_run(self, token: str) -> None:
        """Take in that a run is over, which its worker did not report."""
        if (run := self._runs.pop(token, None)) is not None:
            run.is_over = True
            asyncio.get_running_loop().call_soon(self.on_over, run)

    def give_back(self, runs: Iterable[Run]) -> None:
        """Release runs that nobody will take, without waiting for the answer."""
        tokens = [run.token for run in runs if not run.is_over]
        for token in tokens:
            self._runs.pop(token, None)
        if tokens:
            self._calls.tell(b'"release"', encode([{"run": token, "begun": False} for token in tokens], "bad_call"))

    def lose_runs(self) -> None:
        """Take in that the connection is gone, and all runs with it but held ones."""
        for token, run in list(self._runs.items()):
            if not run.is_held:
                self.end_run(token)


def _token(run: Run | str) -> str:
    return run.token if isinstance(run, Run) else run
