"""What a worker under test has asked for, what it was given, and what it has said of that. No I/O, no clock of its own.

A run is answered as the rule that is tried wants it: `on_touch` and `on_finish` say how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from kqs.conformance import speech
from kqs.errors import ERROR_CODES, CallError
from kqs.rpc.parameters import ReserveQuery, WithdrawQuery, WorkQuery
from kqs.rpc.parsing import parse
from kqs.rpc.reports import FINISHES, RELEASES, TOUCHES, Finish, Release, Touch
from kqs.wire import steps
from kqs.wire.call import BadLine, Call
from kqs.wire.lines import DEFAULT_LINE_BYTES

_decode = msgspec.json.decode
_encode = msgspec.json.encode


class Mouth(Protocol):
    """The connection that something was heard on."""

    def send(self, data: bytes) -> None:
        """Write whole lines."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Ask:
    """A `reserve` or `work` that waits for jobs. is_over: it was answered. open_runs: of those it brought.

    hold: runs outlive its connection.
    """

    def __init__(self, mouth: Mouth, call: Call, query: ReserveQuery | WorkQuery) -> None:
        self.mouth = mouth
        self.call = call
        self.types = frozenset(query.types)
        self.is_work = isinstance(query, WorkQuery)
        self.wait_s = 0.0 if isinstance(query, WorkQuery) else query.wait
        self.most = query.room if isinstance(query, WorkQuery) else query.count
        self.hold = query.hold
        self.open_runs: set[Given] = set()
        self.is_over = False

    @property
    def room(self) -> int:
        """Return how many more runs it takes."""
        return 0 if self.is_over else self.most - len(self.open_runs)


class Given:
    """A run that the program was given.

    on_touch, on_finish: `ok`, or an error's code. A touch may be told to `cancel`; a finish may `lose` its connection.
    on_result: `ok`, or the code by which a report of "ok" is refused.
    deadline: when it is a ghost, by the clock of the caller. late_s: by how much its worker was late with a sign of life.
    release: by which it was given back; None: it was not.
    """

    def __init__(self, token: str, ask: Ask, ttr: float, now: float) -> None:
        self.token = token
        self.ask = ask
        self.ttr = ttr
        self.deadline = now + ttr
        self.late_s = 0.0
        self.touches = 0
        self.reports: list[Finish] = []
        self.release: Release | None = None
        self.on_touch = "ok"
        self.on_finish = "ok"
        self.on_result = "ok"

    @property
    def is_settled(self) -> bool:
        """Tell whether its worker has ended it."""
        return bool(self.reports) or self.release is not None

    @property
    def is_done(self) -> bool:
        """Tell whether its report of "ok" was taken."""
        return bool(self.reports) and self.reports[-1].report == self.on_finish == self.on_result == "ok"

    @property
    def has_failed(self) -> bool:
        """Tell whether its report of "fail" was taken."""
        return bool(self.reports) and self.reports[-1].report == "fail" and self.on_finish == "ok"

    def close(self) -> None:
        """Let it be over, which makes room for another."""
        self.ask.open_runs.discard(self)

    def seen(self, now: float) -> None:
        """Take a sign of life."""
        self.late_s = max(self.late_s, now - self.deadline)
        self.deadline = now + self.ttr


class Desk:
    """See the module docstring.

    refuse_asks: code that every `reserve` and `work` gets, or "". asks_count, refused_asks: so many came that ask for jobs, and
    were refused.
    longest_bytes: a call that is longer is refused as a line that is too long, without its id.
    """

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.runs: dict[str, Given] = {}
        self.asks_count = 0
        self.refuse_asks = ""
        self.refused_asks = 0
        self.longest_bytes = DEFAULT_LINE_BYTES
        self.held: list[bytes] | None = None  # answers to reports, kept back
        self.on_withdraw: Callable[[Ask], None] = lambda ask: None
        self.faults: list[str] = []
        self._number = 0

    def hear(self, mouth: Mouth, call: Call | BadLine, now: float) -> None:
        """Take one line, and answer it."""
        try:
            if isinstance(call, BadLine):
                raise CallError(call.message, call.code)
            handlers: Mapping[str, Callable[[Mouth, Call, float], None]] = {
                "reserve": self._reserve,
                "work": self._work,
                "touch": self._touch,
                "release": self._release,
                "finish": self._finish,
                "withdraw": self._withdraw,
                "ping": lambda mouth, call, _now: mouth.send(speech.answer(call, "pong")),
                "echo": lambda mouth, call, _now: mouth.send(speech.answer(call, msgspec.Raw(call.arg))),
            }
            if len(call.arg) > self.longest_bytes:
                mouth.send(speech.unnamed(call, "too_large", "the line is too long"))
                return
            if call.name not in handlers:
                raise CallError(f'no call of this server is named "{call.name}"', "unknown_call")
            handlers[call.name](mouth, call, now)
        except CallError as error:
            self.faults.append(f"{error.call_code}: {error}")
            mouth.send(speech.refusal(call, error.call_code, str(error)))

    def lost(self, mouth: Mouth) -> None:
        """Take in that a connection is gone, and with it what it asked for and had."""
        self.asks = [ask for ask in self.asks if ask.mouth is not mouth]
        for run in self.runs.values():
            if run.ask.mouth is mouth and run in run.ask.open_runs and not run.ask.hold:
                run.on_touch = run.on_finish = "stale"
                run.close()

    def ask_with_room(self) -> Ask | None:
        """Return who waits for a job."""
        return next((ask for ask in self.asks if ask.room > 0), None)

    def give(self, ask: Ask, jobs: Sequence[Mapping[str, Any]], now: float) -> tuple[list[Given], bytes]:
        """Give jobs to who asked; return their runs, and the line that is to be sent. A job has a type, data, and ttr."""
        given, views = [], []
        for job in jobs:
            self._number += 1
            token = f"run {self._number}/\"é\" '$(n)' \\"
            run = Given(token, ask, job.get("ttr", 30.0), now)
            given.append(run)
            self.runs[token] = run
            ask.open_runs.add(run)
            names = {"run": token, "id": f"job-{self._number}", "attempt": 1, "failures": 0, "ghosts": 0, "ttr": run.ttr}
            views.append({**names, **job})
        if ask.is_work:
            return given, speech.event(ask.call, views)
        self.end(ask)
        return given, speech.answer(ask.call, views)

    def end(self, ask: Ask) -> None:
        """Let an ask be over."""
        ask.is_over = True
        self.asks.remove(ask)

    def _ask(self, mouth: Mouth, call: Call, query: ReserveQuery | WorkQuery) -> None:
        ask = Ask(mouth, call, query)
        asks_for_jobs = ask.most > 0
        self.asks_count += asks_for_jobs
        if self.refuse_asks:
            self.refused_asks += asks_for_jobs
            mouth.send(speech.refusal(call, self.refuse_asks, "the server is stopping, and takes no more"))
        elif call.notification:
            raise CallError(f"{call.name} as a notification takes nothing")
        else:
            self.asks.append(ask)

    def _reserve(self, mouth: Mouth, call: Call, _now: float) -> None:
        self._ask(mouth, call, parse(ReserveQuery, call))

    def _work(self, mouth: Mouth, call: Call, _now: float) -> None:
        self._ask(mouth, call, parse(WorkQuery, call))

    def _withdraw(self, mouth: Mouth, call: Call, _now: float) -> None:
        wanted = _encode(parse(WithdrawQuery, call).call)
        found = next((ask for ask in self.asks if ask.mouth is mouth and bytes(ask.call.id or b"") == wanted), None)
        if found is None:
            # it may have been answered while this was under way
            mouth.send(speech.refusal(call, "not_found", "no such call of this connection stands"))
            return
        self.on_withdraw(found)
        if not found.is_over:
            self.end(found)
            mouth.send(speech.answer(found.call, None if found.is_work else []))
        mouth.send(speech.answer(call, True))

    def _touch(self, mouth: Mouth, call: Call, now: float) -> None:
        def touch(one: Touch) -> Any:
            run = self._named(one.run)
            run.touches += 1
            if run.on_touch in ("ok", "cancel"):
                run.seen(now)
                return {"left": run.ttr, "cancel": run.on_touch == "cancel"}
            raise _refused(run.on_touch)

        self._each(mouth, call, TOUCHES, touch)

    def _release(self, mouth: Mouth, call: Call, now: float) -> None:
        def release(one: Release) -> Any:
            run = self._named(one.run)
            if run.on_touch == "stale":
                raise _refused("stale")
            run.seen(now)
            run.release = one
            run.close()
            return True

        self._each(mouth, call, RELEASES, release)

    def _finish(self, mouth: Mouth, call: Call, now: float) -> None:
        def finish(one: Finish) -> Any:
            run = self._named(one.run)
            run.reports.append(one)
            run.seen(now)
            if run.on_result != "ok" and one.report == "ok":
                raise _refused(run.on_result)
            run.close()
            if run.on_finish == "lose":
                run.on_finish = "ok"
                mouth.close()
                self.lost(mouth)
                raise Unanswered
            if run.on_finish != "ok":
                raise _refused(run.on_finish)
            return True

        self._each(mouth, call, FINISHES, finish, is_report=True)

    def _each(self, mouth: Mouth, call: Call, reader: Any, take: Callable[[Any], Any], *, is_report: bool = False) -> None:
        answers: list[Any] = []
        error = None
        members = steps.finish(reader.members(call))
        for text in members.texts:
            one = steps.finish(reader.reading(text))
            try:
                if isinstance(one, CallError):
                    raise one
                answers.append(take(one))
            except CallError as refused:
                error = refused
                answers.append({"code": refused.call_code, "message": str(refused)})
                if not isinstance(refused, _MadeError):
                    self.faults.append(f"{refused.call_code}: {refused}")
            except Unanswered:
                return
        if members.is_list or error is None:
            line = speech.answer(call, answers if members.is_list else answers[0])
        else:
            line = speech.refusal(call, error.call_code, str(error))
        if is_report and self.held is not None:
            self.held.append(line)
        else:
            mouth.send(line)

    def _named(self, token: str) -> Given:
        run = self.runs.get(token)
        if run is None:
            raise CallError(f"run: expected the token of a run, got {token!r:.220}")
        return run


class _MadeError(CallError):
    """A refusal that is none of the program's faults, but tries it."""


def _refused(code: str) -> _MadeError:
    return _MadeError(ERROR_CODES[code], code)


class Unanswered(Exception):  # noqa: N818 - no error of ours
    """The connection was closed in place of an answer."""


def same(value: Any, raw: bytes | msgspec.Raw) -> bool:
    """Tell whether JSON says the same as a value; 1 and 1.0 do."""
    return bool(_decode(raw) == value)
