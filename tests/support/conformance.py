"""Trials of programs, beside each other: they mostly wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from kqs.conformance import CLIENT_RULES, WORKER_RULES, Line, Rule, Tried, client_report, worker_report
from kqs.conformance.stage import Stage

#: what may be tried: by which rules, and how
KINDS: Mapping[str, tuple[Sequence[Rule], Tried]] = {
    "worker": (WORKER_RULES, worker_report),
    "producer": (CLIENT_RULES, client_report),
}


class Trial:
    """One program. rule: the only one it is tried by; else all are."""

    def __init__(self, kind: str, command: Sequence[str], rule: str = "") -> None:
        self.command = command
        rules, self.report_on = KINDS[kind]
        self.rules = [found for found in rules if rule in ("", found.name)]


def told_of(trials: Mapping[str, Trial], within_s: float) -> dict[str, list[Line]]:
    """Try programs by name, all at once; return what is told of each."""

    async def tell(trial: Trial) -> list[Line]:
        async with Stage(trial.command, within_s) as stage:
            return list((await trial.report_on(stage, trial.rules, lambda line: None)).lines)

    async def tell_all() -> list[list[Line]]:
        return await asyncio.gather(*map(tell, trials.values()))

    return dict(zip(trials, asyncio.run(tell_all()), strict=True))
