"""The rules of a worker. Which jobs it must know, and what it does with each, says docs/write-a-client.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from kqs.conformance import speech
from kqs.conformance.desk import Ask, Given
from kqs.conformance.score import Line, NotTried, Report, Rule
from kqs.conformance.stage import Peer, Stage
from kqs.conformance.trial import AWAY_S, DATA, Rules
from kqs.conformance.worker_trial import WorkerTrial
from kqs.rpc.working import LEAST_WAIT_S
from kqs.wire.lines import DEFAULT_LINE_BYTES

#: of the runs that must be touched, in s: long enough for a worker on a busy machine
SHORT_TTR_S = 1.5
#: what makes a run one that its worker must touch
TOUCHED: Any = {"ttr": SHORT_TTR_S, "auto_touch": True}
#: how often a worker may ask while the server is away: it waits longer each time
MOST_KNOCKS = 12
#: more than readers of lines take by default, as 64 KiB those of Go and asyncio, and than one argument of a program, 128 KiB
LONG_BYTES = 200_000
#: how long a run lasts that is not to come to its end, in s
ENDLESS_S = 300
#: how long a worker may be seen to have nothing more to say, in s
QUIET_S = 0.3
#: how long a worker that is to stop may try for a server that is gone, in s
GIVES_UP_S = 20.0
#: how long after it came a run is believed to have begun, in s
BEGIN_S = 0.5

#: how many runs a worker is given at once, if it takes so many: more than it does at a time, if it has few at a time
MOST_GIVEN = 5

_FUTURE = {"resource": None, "progress": {"step": 3}, "later": [1, {"a": "b"}]}

_RULES = Rules()


class WorkerRules(WorkerTrial):
    """The scenario of each rule."""

    @_RULES.add("asks", "connects, and asks by reserve or work for jobs of its types")
    async def _asks_rule(self) -> None:
        await self.asks()

    @_RULES.add("reports", "does jobs, and reports the result of each")
    async def _reports_rule(self) -> None:
        run = await self.given("echo", DATA)
        await self.settled(run)
        self.reports_ok(run, DATA)
        run = await self.given("echo")
        await self.settled(run)
        self.reports_ok(run, None)
        ask = await self.asks()
        several = range(min(MOST_GIVEN, ask.room))
        runs, line = self.desk.give(ask, [{"type": "echo", "data": number} for number in several], time.monotonic())
        ask.mouth.send(line)
        for number, run in zip(several, runs, strict=True):
            await self.settled(run)
            self.reports_ok(run, number)

    @_RULES.add("fails", "reports a failure, with its reason, and leaves it to the job whether it is tried again")
    async def _fails_rule(self) -> None:
        run = await self.given("fail", {"reason": "no such address: é"})
        await self.settled(run)
        self.expect(bool(run.reports), 'a report of "fail"', "the run was released")
        report = run.reports[-1]
        self.expect(report.report == "fail", 'a report of "fail"', f'got "{report.report}"')
        self.expect("no such address: é" in (report.reason or ""), "data.reason as the reason", f"got {report.reason!r}")
        self.expect(not report.final, "a failure that may be tried again", 'it was "final"')
        self.expect(
            report.delay is None, "the job's settings to say when it is tried again", f'got a "delay" of {report.delay}'
        )

    @_RULES.add("pieces", "reads a line that comes in pieces")
    async def _pieces_rule(self) -> None:
        ask = await self.asks()
        (run,), line = self.desk.give(ask, [{"type": "echo", "data": DATA}], time.monotonic())
        assert isinstance(ask.mouth, Peer)
        await ask.mouth.send_in_pieces(line)
        await self.settled(run)
        self.reports_ok(run, DATA)

    @_RULES.add("long", f"reads a line of {LONG_BYTES // 1000} kB")
    async def _long_rule(self) -> None:
        data = "é" * (LONG_BYTES // 2)
        run = await self.given("echo", data)
        await self.settled(run)
        self.reports_ok(run, data)

    @_RULES.add("many", "reads many lines that come in one piece")
    async def _many_rule(self) -> None:
        first = await self.given("echo", 1)
        held: list[bytes] = []
        self.desk.held = held
        await self.settled(first)
        ask = first.ask
        if not ask.is_work:
            await self.until(lambda: self.desk.ask_with_room() is not None, QUIET_S)
        found = ask if ask.is_work else self.desk.ask_with_room()
        self.desk.held = None
        if found is None or found.mouth is not ask.mouth:
            ask.mouth.send(b"".join(held))
            raise NotTried("it has one call at a time, and so gets one line at a time")
        (run,), line = self.desk.give(found, [{"type": "echo", "data": DATA}], time.monotonic())
        ask.mouth.send(b"".join([*held, line]))
        await self.settled(run)
        self.reports_ok(run, DATA)

    @_RULES.add("order", "takes answers in any order")
    async def _order_rule(self) -> None:
        ask = await self.asks()
        if not ask.is_work or ask.room < 2:
            raise NotTried("it has one run at a time")
        jobs = [{"type": "sleep", "data": {"s": 2 * SHORT_TTR_S}, **TOUCHED}, {"type": "echo", "data": DATA}]
        (touched, run), line = self.desk.give(ask, jobs, time.monotonic())
        held: list[bytes] = []
        self.desk.held, run.on_finish = held, "busy"
        ask.mouth.send(line)
        await self.settled(run)
        before = touched.touches
        await self.until(lambda: touched.touches > before or touched.is_settled)
        self.desk.held, run.on_finish = None, "ok"
        is_overtaken = not touched.is_settled
        ask.mouth.send(b"".join(held))
        await self.goes_on([touched], "the answer to a touch came before that to a report")
        await self.until(lambda: len(run.reports) > 1)
        self.expect(len(run.reports) > 1, "a report that was refused as busy to be repeated, after another call was answered")
        self.reports_ok(run, DATA)
        if not is_overtaken:
            raise NotTried("it does one thing at a time")

    @_RULES.add("unknown", "ignores fields of a run, or of an answer, that it does not know")
    async def _unknown_rule(self) -> None:
        ask = await self.asks()
        (run,), line = self.desk.give(ask, [{"type": "echo", "data": 1, **_FUTURE}], time.monotonic())
        ask.mouth.send(line.replace(b"{", b'{"later":{"a":[1]},', 1))
        await self.settled(run)
        self.reports_ok(run, 1)

    @_RULES.add("touches", "touches each run that it has for longer than its ttr, in time, also one that waits")
    async def _touches_rule(self) -> None:
        began_at = time.monotonic()
        # more than it does at a time, if it takes so many: each lasts until those that wait for it must have been touched
        runs = await self.given_many([2.2 * SHORT_TTR_S] + [1.2 * SHORT_TTR_S] * (MOST_GIVEN - 1), **TOUCHED)
        for run in runs:
            await self.settled(run)
        reported = [run for run in runs if run.reports]
        self.expect(bool(reported), 'a report of "ok"', "all was released")
        self.expect(all(run.touches for run in reported), f"touches of a run with a ttr of {SHORT_TTR_S:g} s", "none came")
        late_s = max(run.late_s for run in runs)
        what = "a sign of life" if len(runs) == 1 else f"a sign of life of each of {len(runs)} runs, also of those that wait,"
        self.expect(late_s <= 0, f"{what} every {SHORT_TTR_S:g} s", f"one was {late_s:.2f} s late")
        for run in reported:
            self.expect(run.is_done, 'a report of "ok"', self._came(run))
        most = MOST_KNOCKS * (1 + (time.monotonic() - began_at) / SHORT_TTR_S)
        count = max(run.touches for run in runs)
        self.expect(count <= most, f"up to {MOST_KNOCKS} touches of a run in {SHORT_TTR_S:g} s", f"{count} came")

    @_RULES.add("spares", "goes on with a run whose touch was refused as busy")
    async def _spares_rule(self) -> None:
        run = await self.given("sleep", {"s": 2 * SHORT_TTR_S}, **TOUCHED)
        run.on_touch = "busy"
        await self.until(lambda: run.touches > 0)
        run.on_touch = "ok"
        await self.settled(run, "the run to go on after a touch was refused as busy")
        self.expect(run.is_done, "the run to go on after a touch was refused as busy", self._came(run))
        self.expect(run.touches > 1, "another touch after one was refused as busy")

    @_RULES.add("stale", "takes a report that is stale as done with")
    async def _stale_rule(self) -> None:
        run = await self.given("echo", 1)
        run.on_finish = "stale"
        await self.settled(run)
        await self.does_the_next("the next job to be done after a report was stale")
        self.expect(len(run.reports) == 1, "a stale report not to be repeated", f"it came {len(run.reports)} times")

    @_RULES.add("over", "stops work whose touch is stale, and no other")
    async def _over_rule(self) -> None:
        run, *others = await self.given_many([ENDLESS_S, 1.2 * SHORT_TTR_S], **TOUCHED)
        run.on_touch = run.on_finish = "stale"
        await self.until(lambda: run.touches > 0)
        self.expect(run.touches > 0, "a touch")
        run.close()
        await self.goes_on(others, "a touch was stale")
        await self.does_the_next("the next job to be done soon after a touch was stale")
        await self.has_stopped(run, "a touch of it was stale")

    @_RULES.add("cancel", "stops work that is cancelled, and no other")
    async def _cancel_rule(self) -> None:
        run, *others = await self.given_many([ENDLESS_S, 1.2 * SHORT_TTR_S], **TOUCHED)
        if run.ask.is_work:
            # touches go on, so that this is not what tells it
            run.close()
            run.ask.mouth.send(speech.event(run.ask.call, {"cancel": run.token}))
        else:
            run.on_touch = "cancel"
        run.on_finish = "stale"
        await self.goes_on(others, "one was cancelled")
        await self.does_the_next("the next job to be done soon after a run was cancelled")
        await self.has_stopped(run, "it was cancelled")

    @_RULES.add("empty", "asks again when there was no job, and not in a hurry")
    async def _empty_rule(self) -> None:
        ask = await self.asks()
        if ask.is_work:
            raise NotTried("it uses work")
        before, until = self.desk.asks_count, time.monotonic() + AWAY_S
        while True:
            await self.watch(LEAST_WAIT_S)
            self.desk.end(ask)
            ask.mouth.send(speech.answer(ask.call, []))
            ask = await self.asks()
            if ask.wait_s >= AWAY_S / MOST_KNOCKS or time.monotonic() > until:
                break
        asked = self.desk.asks_count - before
        self.expect(asked <= MOST_KNOCKS, f"a wait, so up to {MOST_KNOCKS} calls in {AWAY_S:g} s", f"{asked} came")
        await self.does_the_next("the next job to be done after []")

    @_RULES.add("draining", "does what it has while the server gives no more, and asks again later")
    async def _draining_rule(self) -> None:
        run = await self.given("sleep", {"s": AWAY_S / 3})
        self.desk.refuse_asks, self.desk.refused_asks = "draining", 0
        if run.ask.is_work:
            run.ask.mouth.send(speech.answer(run.ask.call, None))
            self.desk.end(run.ask)
        await self.watch(AWAY_S)
        asked = self.desk.refused_asks
        await self.settled(run, "the run in hand to be reported while the server takes no more")
        self.desk.refuse_asks = ""
        self.expect(run.is_done, "the run in hand to be reported while the server takes no more", self._came(run))
        self.expect(asked <= MOST_KNOCKS, f"a longer wait after each refusal, so up to {MOST_KNOCKS} calls", f"{asked} came")
        await self.does_the_next("the next job to be done when the server takes calls again")

    @_RULES.add("back-off", "connects again after a lost connection, waiting longer each time")
    async def _back_off_rule(self) -> None:
        for peer in list(self.stage.peers):
            self.desk.lost(peer)
        self.stage.shut()
        await self.watch(AWAY_S)
        knocks, self.stage.is_shut = self.stage.knocks, False
        self.expect(
            knocks <= MOST_KNOCKS,
            f"a longer wait before each try to connect, so up to {MOST_KNOCKS} in {AWAY_S:g} s",
            f"{knocks} came",
        )
        await self.does_the_next("it to come back, and to do the next job")

    @_RULES.add("half-line", "takes a line that a lost connection cut short for none")
    async def _half_line_rule(self) -> None:
        ask = await self.asks()
        (run,), line = self.desk.give(ask, [{"type": "echo", "data": 1}], time.monotonic())
        # all but the newline: it parses, and is no line
        ask.mouth.send(line[:-1])
        self.drop(ask)
        await self.does_the_next("it to come back, and to do the next job")
        self.expect(not run.is_settled, "a line without an end to be no line", "the run in it was reported")

    @_RULES.add("lost", "stops work whose connection was lost")
    async def _lost_rule(self) -> None:
        if (await self.asks()).hold:
            raise NotTried("it holds its runs")
        run = await self.given("sleep", {"s": ENDLESS_S}, **TOUCHED)
        await self.until(lambda: run.touches > 0)
        self.drop(run.ask)
        run.on_touch = run.on_finish = "stale"
        await self.does_the_next("it to come back and do the next job, for the run that it had is over")
        await self.has_stopped(run, "its connection was lost")

    @_RULES.add("repeats", "repeats a report that was not answered, on the next connection")
    async def _repeats_rule(self) -> None:
        run = await self.given("echo", DATA)
        run.on_finish = "lose"
        await self.settled(run)
        await self.until(lambda: len(run.reports) > 1)
        self.expect(len(run.reports) > 1, "a report without an answer to be repeated on the next connection")
        self.reports_ok(run, DATA)
        await self.does_the_next("the next job to be done")
        self.expect(len(run.reports) == 2, "an answered report not to be repeated", f"it came {len(run.reports)} times")

    @_RULES.add("hold", "goes on with held runs while the connection is lost, and on the next")
    async def _hold_rule(self) -> None:
        if not (await self.asks()).hold:
            raise NotTried("it holds no runs")
        run = await self.given("sleep", {"s": 4 * SHORT_TTR_S}, **TOUCHED)
        await self.until(lambda: run.touches > 0)
        self.drop(run.ask)
        self.stage.shut()
        await self.watch(AWAY_S)
        self.stage.is_shut = False
        before, run.deadline = run.touches, time.monotonic() + run.ttr
        await self.until(lambda: run.touches > before)
        self.expect(run.touches > before, "touches of a held run on the next connection", self._faults)
        await self.settled(run)
        self.expect(run.late_s <= 0, f"a sign of life every {SHORT_TTR_S:g} s", f"one was {run.late_s:.2f} s late")
        self.expect(run.is_done, 'a report of "ok"', self._came(run))
        await self.does_the_next("the next job to be done")

    @_RULES.add("elsewhere", "goes on when the server that is there again is of another store, and does not know the held run")
    async def _elsewhere_rule(self) -> None:
        if not (await self.asks()).hold:
            raise NotTried("it holds no runs")
        run = await self.given("sleep", {"s": SHORT_TTR_S}, **TOUCHED)
        await self.until(lambda: run.touches > 0)
        run.on_touch = run.on_finish = "bad_call"
        self.drop(run.ask)
        await self.does_the_next("the next job to be done, also if the server does not know a held run any more")
        await self.watch(SHORT_TTR_S)
        await self.does_the_next("the next job to be done after the server did not know the report of a held run")

    @_RULES.add("busy", "repeats a report that was refused as busy, waiting longer each time")
    async def _busy_rule(self) -> None:
        run = await self.given("echo", DATA)
        run.on_finish = "busy"
        await self.settled(run)
        await self.watch(AWAY_S)
        count, run.on_finish = len(run.reports), "ok"
        self.expect(count <= MOST_KNOCKS, f"a longer wait after each refusal, so up to {MOST_KNOCKS} reports", f"{count} came")
        await self.until(lambda: len(run.reports) > count)
        self.expect(len(run.reports) > count, "a report that was refused as busy to be repeated")
        self.reports_ok(run, DATA)
        await self.does_the_next("the next job to be done")

    @_RULES.add("later", "repeats a report that was refused as draining, no_space, journal_failed or internal")
    async def _later_rule(self) -> None:
        for code in ("draining", "no_space", "journal_failed", "internal"):
            run = await self.given("echo", code)
            run.on_finish = code
            await self.settled(run)
            run.on_finish = "ok"
            await self.until(lambda run=run: len(run.reports) > 1)  # type: ignore[misc]  # the lambda's default
            self.expect(len(run.reports) > 1, f"a report that was refused as {code} to be repeated")
            self.reports_ok(run, code)

    @_RULES.add("unfit", "reports a failure in the place of a result that was refused as too_large or bad_call, and goes on")
    async def _unfit_rule(self) -> None:
        for code in ("too_large", "bad_call"):
            run = await self.given("echo", DATA)
            run.on_result = code
            await self._fails_instead(run, f"refused as {code}")
        self.desk.longest_bytes = LONG_BYTES // 2
        run = await self.given("echo", "é" * (LONG_BYTES // 2))
        await self._fails_instead(run, "too long a line, and refused as too_large without an id,")
        self.desk.longest_bytes = DEFAULT_LINE_BYTES

        run = await self.given("fail", {"reason": "no such address"})
        run.on_finish = "bad_call"
        await self.settled(run)
        await self.does_the_next("the next job to be done after the report of a failure was refused as bad_call")

    async def _fails_instead(self, run: Given, what: str) -> None:
        await self.until(lambda: any(report.report == "fail" for report in run.reports))
        oks = sum(report.report == "ok" for report in run.reports)
        came = f"only the same came, {oks} times" if oks > 1 else self._faults
        self.expect(run.has_failed, f'a report of "fail" in the place of one that was {what}', came)
        await self.does_the_next(f"the next job to be done after a report was {what}")

    @_RULES.add("drains", "on SIGTERM finishes what runs, releases the rest as not begun, and ends with status 0")
    async def _drains_rule(self) -> None:
        runs = await self.given_many([2 * BEGIN_S] * 3)
        await self.watch(BEGIN_S)
        before = self.desk.asks_count
        self.stage.terminate()
        await self.until(lambda: self.stage.status is not None)
        await self.until(lambda: all(run.is_settled for run in runs), 0.0)
        left = sum(not run.is_settled for run in runs)
        self.expect(not left, "every run in hand to be finished or released", f"{left} of {len(runs)} were not")
        self.expect(any(run.reports for run in runs), "what runs to be finished", "all was released")
        self.released_as_they_came(runs)
        self.expect(self.stage.status == 0, "the program to end with status 0")
        self.expect(self.desk.asks_count == before, "no call for more jobs after SIGTERM", "one came")

    @_RULES.add("leaves", "on SIGTERM while it waits loses no job, and ends with status 0")
    async def _leaves_rule(self) -> None:
        late: list[Given] = []

        def on_the_way(ask: Ask) -> None:
            runs, line = self.desk.give(ask, [{"type": "echo", "data": 1}], time.monotonic())
            ask.mouth.send(line)
            late.extend(runs)

        self.desk.on_withdraw = on_the_way
        ask = await self.asks()
        self.stage.terminate()
        if not await self.until(lambda: bool(late), QUIET_S) and not ask.is_work:
            # it waits for the end of its reserve
            on_the_way(ask)
        await self.until(lambda: self.stage.status is not None)
        self.expect(self.stage.status == 0, "the program to end with status 0, for it had nothing to do")
        self.expect(
            all(run.is_settled for run in late), "a run that came at the very end to be released or finished", "it was neither"
        )
        self.released_as_they_came(late)

    @_RULES.add("insists", "on SIGTERM repeats a report that was refused as busy, and ends with status 0")
    async def _insists_rule(self) -> None:
        run = await self.given("sleep", {"s": SHORT_TTR_S}, **TOUCHED)
        run.on_finish = "busy"
        # it has begun then
        await self.until(lambda: run.touches > 0)
        self.stage.terminate()
        await self.settled(run)
        run.on_finish = "ok"
        await self.until(lambda: self.stage.status is not None)
        self.expect(len(run.reports) > 1, "a report that was refused as busy to be repeated before the end", self._faults)
        self.expect(self.stage.status == 0, "the program to end with status 0")

    @_RULES.add("gone", "on SIGTERM gives up a report that nobody takes, and ends with another status")
    async def _gone_rule(self) -> None:
        run = await self.given("echo", 1)
        run.on_finish = "lose"
        self.stage.is_shut = True
        await self.settled(run)
        self.stage.terminate()
        await self.until(lambda: self.stage.status is not None, GIVES_UP_S)
        self.stage.is_shut = False
        self.expect(
            self.stage.status is not None, f"it to end within {GIVES_UP_S:g} s, for nobody takes its report", "it did not"
        )
        self.expect(self.stage.status != 0, "another status than 0, for a report was not taken")


WORKER_RULES = _RULES.all


async def worker_report(stage: Stage, rules: Collection[Rule], told: Callable[[Line], None]) -> Report:
    """Try a worker. told: of each rule, as it is tried."""
    return await _RULES.try_out(WorkerRules(stage), rules, told)
