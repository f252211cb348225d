"""What becomes of runs that are over: their reports, in batches, each said again until the server has answered it.

The server takes a repeated report as it did the first, so a connection that breaks before the answer costs nothing. A run that
is given back needs no repetition, unless it is held: its connection took it along. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import msgspec

from kqs.client.runs import told
from kqs.errors import CallError
from kqs.given import AGAIN_S, PASSING, reason_of
from kqs.job import MAX_ERROR_CHARS
from kqs.log import get_logger
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.outpost.line import MAX_BYTES, MAX_MEMBERS, Line
from kqs.supervisor import Supervisor

log = get_logger("kqs.work")

_encode = msgspec.json.Encoder().encode


class Finish(msgspec.Struct, omit_defaults=True, gc=False):
    """A report, as `finish` takes it."""

    run: str
    report: Literal["ok", "again", "fail"]
    result: msgspec.Raw | None = None
    reason: str | None = None
    delay: float | None = None
    final: bool = False


class Release(msgspec.Struct, omit_defaults=True, gc=False):
    """A run that is given back, as `release` takes it."""

    run: str
    begun: bool = True


def finish_of(token: str, outcome: Outcome) -> Finish:
    """Return what an outcome is to the server."""
    if type(outcome) is Ok:
        return Finish(token, "ok") if outcome.result is None else Finish(token, "ok", msgspec.Raw(outcome.result))
    if type(outcome) is Again:
        return Finish(token, "again", delay=outcome.delay_s)
    assert type(outcome) is Failed
    return Finish(token, "fail", reason=reason_of(outcome), delay=outcome.delay_s, final=outcome.final)


class Reports:
    """See the module docstring."""

    def __init__(self, line: Line, supervisor: Supervisor, *, hold: bool) -> None:
        """Args: hold: runs outlive the connection."""
        self._line = line
        self._hold = hold
        self._supervisor = supervisor
        self._finishes: deque[Finish] = deque()
        self._releases: list[Release] = []
        self._unanswered = 0  # finishes, and releases of held runs
        self._answered_all = asyncio.Event()
        self.stale_count = 0

    @property
    def count(self) -> int:
        """Return how many reports the server has not answered."""
        return len(self._finishes) + self._unanswered + (len(self._releases) if self._hold else 0)

    def add(self, token: str, outcome: Outcome) -> None:
        """Take the report of a run, to be sent by `send`."""
        self._finishes.append(finish_of(token, outcome))

    def release(self, token: str, *, begun: bool) -> None:
        """Give a run back, with the next `send`."""
        self._releases.append(Release(token, begun))

    def send(self) -> None:
        """Say what there is to be said, if there is somebody to hear it."""
        if not self._line.is_open:
            return
        releases, self._releases = self._releases, []
        self._unanswered += len(releases) if self._hold else 0
        for start in range(0, len(releases), MAX_MEMBERS):
            self._line.call_list(b'"release"', releases[start : start + MAX_MEMBERS], self._answered_release)
        while self._finishes:
            self._send(self._next_part())

    def lose(self) -> None:
        """Take in that the connection is lost: what was to be given back has gone back."""
        if not self._hold:
            self._releases.clear()

    async def settle(self, within_s: float) -> bool:
        """Return True when every report is answered, or False after `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                while self.count:
                    self._answered_all.clear()
                    await self._answered_all.wait()
        except TimeoutError:
            return False
        return True

    def _next_part(self) -> list[Finish]:
        part: list[Finish] = []
        size = 0
        while self._finishes and len(part) < MAX_MEMBERS:
            one = self._finishes[0]
            size += len(memoryview(one.result)) if one.result is not None else 0
            if part and size > MAX_BYTES:
                break
            part.append(self._finishes.popleft())
        return part

    def _send(self, part: list[Finish]) -> None:
        self._unanswered += len(part)
        self._line.call(b'"finish"', _encode(part), partial(self._answered, part))

    def _answered(self, part: list[Finish], answer: msgspec.Raw | CallError | None) -> None:
        self._unanswered -= len(part)
        if answer is None:
            self._finishes.extend(part)
        elif not isinstance(answer, CallError):
            for one, error in _refused(part, answer):
                self._refused(one, error)
        elif len(part) == 1:
            self._refused(part[0], answer)
        else:  # which of them it means is not said
            for one in part:
                self._send([one])
        if not self.count:
            self._answered_all.set()

    def _answered_release(self, part: Sequence[Release], answer: msgspec.Raw | CallError | None) -> None:
        if not self._hold:
            return
        self._unanswered -= len(part)
        if answer is None:
            self._releases.extend(part)
        elif isinstance(answer, CallError) and answer.call_code in PASSING:
            self._releases.extend(part)
            self._supervisor.call_later(AGAIN_S, "reports", self.send)
        if not self.count:
            self._answered_all.set()

    def _refused(self, one: Finish, error: CallError) -> None:
        if error.call_code == "stale":
            self.stale_count += 1
            log.info("a report came too late, its run was over", run=one.run)
        elif error.call_code in PASSING:
            self._finishes.append(one)
            self._supervisor.call_later(AGAIN_S, "reports", self.send)
        elif one.report != "fail":
            log.error("the server refuses a report, a failure is reported in its place", run=one.run, error=str(error))
            reason = f"the server refused the worker's report: {error}"
            self._finishes.append(Finish(one.run, "fail", reason=reason[:MAX_ERROR_CHARS], final=True))
            self._supervisor.call_soon("reports", self.send)
        elif error.call_code == "bad_call":  # all else of it is of our making
            log.error("the server does not know a run, its report is lost", run=one.run)
        else:
            log.error("the server refuses the report of a failure", run=one.run, error=str(error))


def _refused(part: Sequence[Finish], answer: msgspec.Raw) -> Iterator[tuple[Finish, CallError]]:
    """Yield the reports that were not taken. Nearly all are: then nothing is decoded."""
    if b"{" in bytes(answer):
        for one, error in zip(part, told(answer), strict=True):
            if error is not None:
                yield one, error
