"""What a handler's end means: a value or an exception in, an Outcome out.

Values and exceptions are the author's, and may do anything when they are looked at: raise, lie, be 5 MB long. Nothing here
raises. A failure is told in the log, in a line of bounded length. A fork of this process ends here. Safe in any thread.
"""

from __future__ import annotations

import contextlib

from kqs import verdicts
from kqs.handlers import Handler
from kqs.job import Run
from kqs.log import get_logger
from kqs.made.models import is_misfit
from kqs.made.traces import begin_trace_with_authors, end_of, text_of, trace_of
from kqs.made.values import written
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.process import forks
from kqs.wire.lines import DEFAULT_LINE_BYTES

_log = get_logger("kqs.executor")

#: a result is answered in one line, which is no longer than a line that is taken: `[server] max_line_bytes` unless it is set
MAX_RESULT_BYTES = DEFAULT_LINE_BYTES
#: what the log gets of a reason
MAX_LOGGED_CHARS = 200

#: of an exception that has a trace the job keeps so much, together less than what is kept of a reason
KEPT_REASON_CHARS = 1500
KEPT_FRAMES = 10
KEPT_TRACE_CHARS = 2000

_OK = Ok()


def judge(fault: BaseException, run: Run) -> Outcome:
    """Return what it means that a handler raised `fault`."""
    forks.end_child()
    try:
        return _judge(fault, run)
    except BaseException:  # whatever class it is of, and whatever that does
        return _failed(run, "an exception that cannot be looked at")
    finally:
        _forget_trace(fault)


def _forget_trace(fault: BaseException) -> None:
    """Have an object that is raised in many runs not add the frames of each, and all that they hold, to its trace."""
    BaseException.with_traceback(fault, None)


def _judge(fault: BaseException, run: Run) -> Outcome:
    if isinstance(fault, verdicts.Again):
        return _again(fault, run)
    if isinstance(fault, verdicts.Fail):
        return _failed(run, *_reason_and_final(fault))
    reason = _named(fault)
    begin_trace_with_authors(fault)
    failed = _failed(run, reason, trace=trace_of(fault))
    frames = end_of(fault, KEPT_FRAMES, KEPT_TRACE_CHARS)
    return Failed(f"{reason[:KEPT_REASON_CHARS]}\n{frames}") if frames else failed


def _named(fault: BaseException) -> str:
    name, text = type(fault).__name__, text_of(fault)
    return f"{name}: {text}" if text else name


def _again(verdict: verdicts.Again, run: Run) -> Outcome:
    """Return what it asks for: a subclass may have lost the delay, or hold anything in its place."""
    try:
        return Again(verdicts.delay_in_seconds(verdict.delay))
    except BaseException as fault:
        return _failed(run, f"{type(verdict).__name__} has no delay that can be used: {_named(fault)}")


def _reason_and_final(verdict: verdicts.Fail) -> tuple[str, bool]:
    """Return what it says; a subclass may not have kept one or the other."""
    try:
        reason = text_of(verdict.reason)
    except BaseException:
        reason = text_of(verdict) or type(verdict).__name__
    try:
        return reason, bool(verdict.final)
    except BaseException:
        return reason, True


def delayed(outcome: Failed, handler: Handler, run: Run) -> Failed:
    """Return a failure with the delay of its retry, if the handler has a function that says one; what it says is checked."""
    if handler.retry_delay is None or outcome.final or outcome.delay_s is not None:
        return outcome
    try:
        asked = handler.retry_delay(run.failures + 1)
        forks.end_child()
        return Failed(outcome.reason, outcome.final, verdicts.delay_in_seconds(asked))
    except BaseException as fault:
        forks.end_child()
        error = _told(fault)
        with contextlib.suppress(BaseException):  # as in _failed
            _log.warning("retry_delay says no delay, the job's settings count", type=run.type, job=run.claim.id, error=error)
        _forget_trace(fault)
        return outcome


def judge_data(fault: BaseException, run: Run) -> Outcome:
    """Return what it means that a job's data could not be made an argument: the data's fault, or the author's validators'."""
    forks.end_child()
    try:
        if is_misfit(fault):
            return _failed(run, f"data does not fit: {text_of(fault)}", final=True)
        if isinstance(fault, (ValueError, RecursionError)):  # msgspec's errors are ValueErrors
            text = text_of(fault)
            return _failed(run, f"data: {text[:1].lower()}{text[1:]}", final=True)
        return judge(fault, run)
    except BaseException:
        return _failed(run, "an exception that cannot be looked at")
    finally:
        _forget_trace(fault)


def judge_result(result: object, run: Run) -> Outcome:
    """Return what it means that a handler returned `result`."""
    if forks.guard.is_child:
        forks.end_child()
    if result is None:
        return _OK
    try:
        return Ok(written(result, MAX_RESULT_BYTES))
    except BaseException as fault:
        return _failed(run, f"the handler's result cannot be written as JSON: {_told(fault)}", final=True)


def _failed(run: Run, reason: str, final: bool = False, trace: str | None = None) -> Failed:
    try:
        shown = reason if len(reason) <= MAX_LOGGED_CHARS else f"{reason[:MAX_LOGGED_CHARS]}…"
        more = {"exception": trace} if trace else {}
        _log.warning("handler failed", type=run.type, job=run.claim.id, attempt=run.attempt, reason=shown, **more)
    except BaseException:  # noqa: S110 - a line may hold values that the handler bound to it
        pass
    return Failed(reason, final)


def _told(fault: BaseException) -> str:
    try:
        return text_of(fault) or type(fault).__name__
    except BaseException:
        return "(cannot be shown)"
