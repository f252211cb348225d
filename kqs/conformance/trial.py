"""One trial of a program: its rules in order, each in a state that the one before has left in order, or anew."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

from kqs.conformance.score import Broken, End, Line, NotTried, Report, Rule
from kqs.conformance.stage import Happening, Stage

#: how long the server is away, or refuses, in s
AWAY_S = 1.5
#: data that comes through only if nothing is done to it
DATA: Any = {"text": "é \"q\" \\ $(n) 'a' \u2028 \U0001f600", "list": [1, 2.5, None, True, {}], "empty": ""}


class Trial:
    """What the rules of workers and of producers share. `hear` takes what happens; `prepare` starts the program if need be."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def hear(self, what: Happening) -> None:
        """Take in what happened."""
        raise NotImplementedError

    def forget(self) -> None:
        """Forget all that was said; the program was ended."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise Broken if it has said anything, in whatever rule, that a server would refuse."""
        raise NotImplementedError

    async def prepare(self) -> None:
        """Bring the program to where the next rule begins. Raises: Broken: it cannot be."""
        raise NotImplementedError

    async def until(self, condition: Callable[[], bool], within_s: float | None = None) -> bool:
        """Take in what happens until the condition holds; False: it did not in time, or the program has ended before."""
        deadline = time.monotonic() + (self.stage.within_s if within_s is None else within_s)
        while not condition():
            if self.stage.is_over:
                return False
            what = await self.stage.next(deadline)
            if what is None:
                return False
            self.hear(what)
        return True

    async def watch(self, for_s: float) -> None:
        """Take in what happens for so long."""
        await self.until(lambda: False, for_s)

    def expect(self, condition: bool, expected: str, came: str = "") -> None:
        """Raise Broken unless the condition holds."""
        if not condition:
            raise Broken(f"expected {expected}, {came or self.state}")

    @property
    def state(self) -> str:
        """Return what came instead of what was expected, as far as it can be told."""
        stage = self.stage
        if stage.status is None:
            return f"nothing came in {stage.within_s:g} s"
        words = " ".join(stage.last_words.split())
        return f"the program ended with status {stage.status}" + (f": {words}" if words else "")


#: tries a program on a stage by rules, and tells of each
Tried = Callable[[Stage, Collection[Rule], Callable[[Line], None]], Awaitable[Report]]
_Scenario = TypeVar("_Scenario", bound=Callable[[Any], Awaitable[None]])


class Rules:
    """The rules of one kind of program, in the order in which they are tried: each stands above the scenario that tries it."""

    def __init__(self) -> None:
        self._scenarios: dict[Rule, Callable[[Any], Awaitable[None]]] = {}

    def add(self, name: str, demand: str) -> Callable[[_Scenario], _Scenario]:
        """Take in the rule that a method of the trial tries."""

        def added(scenario: _Scenario) -> _Scenario:
            self._scenarios[Rule(name, demand)] = scenario
            return scenario

        return added

    @property
    def all(self) -> list[Rule]:
        """Return those that were added so far."""
        return [*self._scenarios]

    async def try_out(self, trial: Trial, rules: Collection[Rule], told: Callable[[Line], None]) -> Report:
        """Try these of them, tell how each came out, and return all.

        Without a program that begins as it must, the rest is not tried.
        """
        lines: list[Line] = []
        fault = ""
        for rule in rules:
            if fault:
                line = Line(rule, End.NOT_TRIED, fault)
            else:
                is_anew = not trial.stage.is_running
                try:
                    await trial.prepare()
                except Broken as broken:
                    line = await _broken(trial, rule, broken)
                    fault = "it did not even begin" if is_anew else ""
                else:
                    line = await _try(trial, rule, self._scenarios[rule])
            lines.append(line)
            told(line)
        return Report(lines)


async def _try(trial: Trial, rule: Rule, scenario: Callable[[Any], Awaitable[None]]) -> Line:
    try:
        await scenario(trial)
        trial.check()
    except NotTried as why:
        return Line(rule, End.NOT_TRIED, str(why))
    except Broken as broken:
        return await _broken(trial, rule, broken)
    return Line(rule, End.OK)


async def _broken(trial: Trial, rule: Rule, broken: Broken) -> Line:
    # what it has left behind would spoil the next rule
    await trial.stage.kill()
    trial.forget()
    return Line(rule, End.FAILED, str(broken))
