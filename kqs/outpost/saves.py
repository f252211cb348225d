"""What handlers here save of their progress, on its way to the server: the last of each run, a second after the first.

It is a touch of the run as well; where it is refused the run is touched without it. What a run has saved last goes out before
its report, unless that is a success, after which nobody asks. What the server could not take now is said again. Call from the
loop thread, but for `note`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import Raw

from kqs.client.runs import seconds_left
from kqs.errors import CallError
from kqs.given import PASSING
from kqs.handlers import JobContext
from kqs.log import get_logger
from kqs.outcome import Ok, Outcome
from kqs.outpost.line import MAX_BYTES, MAX_MEMBERS, Line
from kqs.outpost.open_runs import OpenRuns
from kqs.queue.noted import Noted, saved_by
from kqs.supervisor import Supervisor
from kqs.trouble import Trouble

log = get_logger("kqs.work")

#: how long what handlers save gathers, in s
SAVE_S = 1.0


class _Touch(msgspec.Struct, gc=False):
    run: str
    progress: Raw


class Saves:
    """See the module docstring."""

    def __init__(self, line: Line, supervisor: Supervisor, open_runs: OpenRuns) -> None:
        self._line = line
        self._supervisor = supervisor
        self._open_runs = open_runs
        self._noted = Noted(supervisor, self._send_later)
        #: takes in, in any thread, that a handler has saved something
        self.note = self._noted.note
        self._contexts: dict[str, JobContext] = {}  # by token: what is on its way
        self._last: dict[str, bytes] = {}  # of runs that are over
        self._timer: asyncio.TimerHandle | None = None
        self._trouble = Trouble(log, "the server does not keep progress", "the server keeps progress")

    def end(self, context: JobContext, outcome: Outcome | None) -> None:
        """Take in that a run is over; its report is sent after the next `send`. outcome: None: it is given back."""
        saved = saved_by(context)
        if saved is not None and not isinstance(outcome, Ok):
            self._last[str(context.run.handle)] = saved

    def send(self) -> None:
        """Send what runs have saved last that are over, if there is somebody to hear it: their reports wait for that, too."""
        if self._last and self._line.is_open:
            last, self._last = self._last, {}
            self._send(last)

    def close(self) -> None:
        """Send nothing more by itself."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send_later(self) -> None:
        if self._timer is None:
            self._timer = self._supervisor.call_later(SAVE_S, "progress", self._send_noted)

    def _send_noted(self) -> None:
        self._timer = None
        if not self._line.is_open:
            self._send_later()  # of runs that are over by then nothing is sent
            return
        saved: dict[str, bytes] = {}
        for context, value in self._noted.take():
            token = str(context.run.handle)
            if self._open_runs.note_told(token):
                self._contexts[token] = context
                saved[token] = value
        self._send(saved)

    def _send(self, saved: Mapping[str, bytes]) -> None:
        if self._line.is_open:
            for part in _parts(saved):
                self._line.call_list(b'"touch"', part, self._answered)

    def _answered(self, part: Sequence[_Touch], answer: Raw | CallError | None) -> None:
        each = seconds_left(answer) if isinstance(answer, Raw) else [answer] * len(part)
        refused: list[str] = []
        for touch, told in zip(part, each, strict=True):
            token = touch.run
            context = self._contexts.pop(token, None)
            if isinstance(told, float):
                self._trouble.over()
            elif told is None and (context is None or context.is_over):
                self._last.setdefault(token, bytes(touch.progress))  # its report is said again as well, after this
            elif told is None:
                self._note_again(context)
            elif told.call_code == "stale":
                self._open_runs.end(token)
            else:
                refused.append(token)
                if told.call_code in PASSING:
                    self._note_again(context)
                else:
                    self._trouble.met(code=told.call_code, error=str(told))
        self._open_runs.touch(refused)  # what was refused has not touched their runs either

    def _note_again(self, context: JobContext | None) -> None:
        if context is not None and not (context.is_over or context.is_unsent):
            context.is_unsent = True
            self.note(context)


def _parts(saved: Mapping[str, bytes]) -> Iterator[list[_Touch]]:
    part: list[_Touch] = []
    size = 0
    for token, value in saved.items():
        if part and (len(part) == MAX_MEMBERS or size + len(value) > MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(_Touch(token, Raw(value or b"null")))
        size += len(value)
    if part:
        yield part
