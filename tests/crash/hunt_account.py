"""The account of every single run, where servers and workers are killed and cut off.

Whoever begins a run writes that down, and what comes of it. In the end the server is asked for every job, and:

    acknowledged ⊆ ended well ⊆ attempted;  every run that began is among the job's `runs`, and began once;  of these the last
    alone has ended well, and whoever had it had done it;  each before was cut short, and while it lasted somebody was killed or
    cut off whose death explains it;  no run that its worker holds is ever lost;  a report was taken if and only if the run that
    it names has ended well, however often and over whichever connection it was made.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.torture import Account
from tests.support.fleet import Record

#: how much later than a kill its victim's connection may be seen to be lost
SLACK_S = 1.0
CLOCK_S = 0.05
#: that of a death which explains the loss of every run
SERVER = "server"
#: whoever has no name of their own among the workers
CHILD = "child"


class Death(NamedTuple):
    """Who was killed or cut off, and when, in Unix seconds: not before `since`, and not after `until`."""

    name: str
    since: float
    until: float


class Told(NamedTuple):
    """What a worker over the wire was answered to a report."""

    key: str
    attempt: int
    answer: object


class Noted(NamedTuple):
    """Which attempts of each job, by its key, were begun, and which were done."""

    began: dict[str, list[int]]
    ended: dict[str, list[int]]


def noted(log: Path) -> Noted:
    """Read what workers wrote: lines of `began` or `ended`, key, attempt, and whether the payload was intact."""
    found = Noted(defaultdict(list), defaultdict(list))
    for line in log.read_text().splitlines():
        word, key, attempt, verdict = line.split()
        assert verdict == "intact", line
        (found.began if word == "began" else found.ended)[key].append(int(attempt))
    return found


@dataclass
class HuntAccount(Account):
    """What was sent and said, who died, and what workers over the wire were told. names: of all workers outside the server."""

    names: frozenset[str] = frozenset()
    deaths: list[Death] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)

    @contextmanager
    def death_of(self, name: str) -> Iterator[None]:
        """Note that somebody dies in the block."""
        since = time.time()
        yield
        self.deaths.append(Death(name, since, time.time()))

    def check_records(self, records: Sequence[Record], found: Noted) -> None:
        """Assert that the account balances, job by job."""
        assert not self.faults, self.faults
        by_key = {record["data"]["key"]: record for record in records}
        assert len(by_key) == len(records), "a job is there twice"
        assert not self.acknowledged - by_key.keys(), f"lost {len(self.acknowledged - by_key.keys())} acknowledged jobs"
        assert by_key.keys() <= self.attempted - self.refused
        assert found.began.keys() <= by_key.keys(), "a job ran that is not known"
        for keys in self.arrays:
            assert len(by_key.keys() & set(keys)) in (0, len(keys)), "an array is there in part"
        answers = defaultdict(set)
        for one in self.told:
            answers[one.key, one.attempt].add(one.answer)
        for key, record in by_key.items():
            faults = [
                *self._faults(record, found.began.get(key, []), found.ended.get(key, [])),
                *_told_wrongly(record, answers),
            ]
            assert not faults, (faults, record, found.began.get(key), self.deaths)

    def _faults(self, record: Record, began: list[int], ended: list[int]) -> Iterator[str]:
        *cut_short, last = record["runs"]
        attempts = [run["attempt"] for run in record["runs"]]
        if record["state"] != "success" or attempts != list(range(1, record["attempt"] + 1)):
            yield "it has not ended, or a run is missing"
        if len(began) > len(set(began)) or not set(began) <= set(attempts):
            yield "a run began twice, or is not among the runs"
        if last["state"] != "success" or last["attempt"] not in ended:
            yield "it ended without having been done"
        for run in cut_short:
            if run["state"] not in ("ghost", "interrupted"):
                yield f"it went on after run {run['attempt']}, which was not cut short"
            if record["type"] == "held" and run["attempt"] in began:
                yield f"run {run['attempt']} was lost to its holder"
            if not self._is_explained(run):
                yield f"no death explains the loss of run {run['attempt']}"

    def _is_explained(self, run: dict[str, Any]) -> bool:
        own = run["worker"] if run["worker"] in self.names else CHILD
        return any(
            death.name in (SERVER, own)
            and death.since - CLOCK_S <= run["ended_at"]
            and run["started_at"] <= death.until + SLACK_S
            for death in self.deaths
        )


def _told_wrongly(record: Record, answers: dict[tuple[str, int], set[object]]) -> Iterator[str]:
    for run in record["runs"]:
        given = answers.get((record["data"]["key"], run["attempt"]), set())
        if not given <= {True if run["state"] == "success" else "stale"}:
            yield f"reports of run {run['attempt']} were answered {given}"
