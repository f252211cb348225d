"""What follows from what: the rules of a job's life as pure functions.

Nothing here knows the time, a store or a loop; whoever calls says when it is. Every state comes from the table in `states.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import UNSET

from kqs.job import MAX_ERROR_CHARS, Accepted, JobRecord, Report, Rescheduled, Returned, Run, RunRecord
from kqs.options import Job, Options, PlainJob, own_options, prio_number
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.queue.admission import may_run
from kqs.queue.retry import ghost_delay_s, may_ghost, may_retry, retry_delay_s
from kqs.states import TRANSITIONS, WAITING, Event, State
from kqs.store.ends import EXPIRED
from kqs.verdicts import MAX_DELAY_S

#: a due time this near to acceptance and delay was computed from them, in s: an order tells the acceptance to a second
DELAY_MARGIN_S = 1.1

#: the error of a cancelled job whose run told of none
CANCELLED = State.CANCELLED.word

#: how a run is recorded, by its end
_WORDS: dict[type[Outcome | Returned], str] = {Ok: "success", Again: "again", Failed: "fail", Returned: "interrupted"}

#: the table's rows of a running job
_AFTER = TRANSITIONS[State.PROCESSING]
_SUCCEEDED = _AFTER[Event.OK]


def whole_ms(at: float) -> float:
    """Return an instant as the whole ms that ends with it or after: what ends in the same ms is stored by one statement."""
    return math.ceil(at * 1000) / 1000


@dataclass(frozen=True)
class Retention:
    """How long a record outlives its end when the job's own `keep` does not say, in s; -1 for ever."""

    success_s: float
    fail_s: float

    def drop_at(self, state: State, keep: float | None, ended_at: float) -> float | None:
        """Return when the record of a job that ended in `state` may go; None for never."""
        keep_s = keep if keep is not None else (self.success_s if state is _SUCCEEDED else self.fail_s)
        return None if keep_s < 0 else ended_at + keep_s


def accept_plain(job: PlainJob, order: int, job_id: str, defaults: Options, at: float) -> Accepted:
    """Return what the store keeps of a job that set no options; `defaults` are its type's. at: when it was accepted."""
    return Accepted(
        order,
        job_id,
        job.id is not None,
        job.type,
        defaults.prio,
        at + defaults.delay if defaults.delay else 0.0,
        at + defaults.expire if defaults.expire is not None else None,
        bytes(job.data),
        None,
        resource=defaults.resource,
    )


def accept(job: Job, order: int, job_id: str, defaults: Options, at: float, at_s: float | None) -> Accepted:
    """Return what the store keeps of a job.

    Args: at: when it was accepted, by the clock of then; no order tells. at_s: the job's `at`, or None when it has none; both
        in Unix seconds. defaults: the settings of its type.
    """
    if isinstance(job, PlainJob):
        return accept_plain(job, order, job_id, defaults, at)
    delay = defaults.delay if job.delay is None else job.delay
    due_at = at_s if at_s is not None else at + delay
    expire = defaults.expire if job.expire is None else job.expire
    return Accepted(
        order,
        job_id,
        job.id is not None,
        job.type,
        defaults.prio if job.prio is None else prio_number(job.prio),
        due_at if due_at > at else 0.0,
        at + expire if expire is not None else None,
        bytes(job.data),
        own_options(job),
        resource=defaults.resource if job.resource is None else job.resource,
        unique=job.unique,
        group=job.group,
        tick=None if job.tick is UNSET else job.tick,
    )


def rescheduled(record: JobRecord, options: Options, now: float) -> Rescheduled | None:
    """Return the times of a waiting job whose wait is longer than what was asked for, as the clock was ahead; None: it is not.

    An `at` is an instant of the wall clock, not a wait, and stays.
    """
    due_at, expire_at = record.due_at, record.expire_at
    wait_s = _asked_wait_s(record, options)
    if wait_s is not None:
        due_at = min(due_at, now + wait_s)
    if expire_at is not None and options.expire is not None:
        expire_at = min(expire_at, now + options.expire)
    were = (record.due_at, record.expire_at)
    return None if (due_at, expire_at) == were else Rescheduled(record.order, record.id, were, due_at, expire_at)


def _asked_wait_s(record: JobRecord, options: Options) -> float | None:
    """Return how long a job was to wait when its due time was computed, in s; None where that is not known, or no wait."""
    if record.state is State.DELAYED:
        computed_from, asked_s = record.accepted_at, options.delay
        return asked_s if abs(record.due_at - computed_from - asked_s) <= DELAY_MARGIN_S else None
    ended_at = record.runs[-1].ended_at if record.runs else None
    if record.state is State.NEW or not record.due_at or ended_at is None:
        return None
    return record.due_at - ended_at if record.due_at > ended_at else None


class Judge:
    """Turns the end of a run into the report that the store applies."""

    def __init__(self, retention: Retention, jitter: Callable[[], float]) -> None:
        """Args: jitter: returns a random number in [0, 1), which spreads retries."""
        self._retention = retention
        self._jitter = jitter

    def outcome(self, run: Run, options: Options, outcome: Outcome, now: float) -> Report:
        """Judge what a handler reported."""
        if isinstance(outcome, Ok):
            drop_at = self._retention.drop_at(_SUCCEEDED, options.keep, now)
            return _ended(run, _SUCCEEDED, "success", now, drop_at, outcome.result)
        if isinstance(outcome, Again):
            delay_s = outcome.delay_s or 0.0
            if not 0 <= delay_s <= MAX_DELAY_S:  # a verdict of a class that does not check it
                outcome = Failed(f"Again: expected a delay from 0 to {MAX_DELAY_S} s, got {delay_s}", final=True)
                return self._failed(run, options, outcome, now)
            return _waiting(run, Event.AGAIN, "again", now, delay_s)
        return self._failed(run, options, outcome, now)

    def ghost(self, run: Run, options: Options, now: float, reason: str) -> Report:
        """Judge a run that nobody reported: its ttr ran out, or its worker died."""
        ghosts = run.ghosts + 1
        if may_ghost(options, ghosts) and may_run(run.expire_at, now):
            report = _waiting(run, Event.GHOST, "ghost", now, ghost_delay_s(options, ghosts))
        else:
            report = self._ended(run, options, Event.GHOSTED_OUT, "ghost", now)
        report.ghosts = ghosts
        report.error = reason
        return report

    def interrupted(self, run: Run, now: float, delay_s: float = 0.0, prio: int | None = None) -> Report:
        """Judge a run that a worker gave back, not to be begun again before `delay_s` are over: it costs the job nothing.

        Args: prio: the job's from then on; None: as it was.
        """
        report = _waiting(run, Event.INTERRUPT, "interrupted", now, delay_s)
        report.interrupted = run.interrupted + 1
        report.prio = prio
        return report

    def unclaimed(self, run: Run, now: float) -> Report:
        """Judge a claim that was given back before its run began: nothing has happened."""
        waited_as = State(run.waited_as) if run.waited_as in WAITING else State.NEW  # no checksum is of the state
        report = _ended(run, waited_as, "", now)
        report.has_begun = False
        return report

    def expired(self, run: Run, options: Options, now: float) -> Report:
        """Judge a claimed job whose time was over before its run began."""
        report = self._ended(run, options, Event.EXPIRE, "", now)
        report.error = EXPIRED
        report.has_begun = False
        return report

    def called_off(self, run: Run, options: Options, now: float, *, has_begun: bool = True) -> Report:
        """Judge a run whose job was cancelled, and that ends with that."""
        report = self._ended(run, options, Event.CANCEL, CANCELLED if has_begun else "", now)
        report.error = CANCELLED
        report.has_begun = has_begun
        return report

    def cancelled(self, run: Run, options: Options, end: Report) -> Report:
        """Judge a run that ended as `end` says, but whose job had been cancelled: it has no other end, whatever that says."""
        report = self.called_off(run, options, end.ended_at, has_begun=end.has_begun)
        report.failures, report.ghosts, report.interrupted = end.failures, end.ghosts, end.interrupted
        report.error = end.error or report.error
        report.progress = end.progress
        return report

    def _failed(self, run: Run, options: Options, outcome: Failed, now: float) -> Report:
        failures = run.failures + 1
        if not outcome.final and may_retry(options, failures) and may_run(run.expire_at, now):
            delay_s = outcome.delay_s
            if delay_s is None:
                delay_s = retry_delay_s(options, failures, self._jitter())
            report = _waiting(run, Event.RETRY, "fail", now, delay_s)
        else:
            report = self._ended(run, options, Event.FAIL, "fail", now)
        report.failures = failures
        report.error = _reason(outcome)
        return report

    def _ended(self, run: Run, options: Options, event: Event, run_state: str, now: float) -> Report:
        state = _AFTER[event]
        report = _ended(run, state, run_state, now)
        report.drop_at = self._retention.drop_at(state, options.keep, now)
        return report


def is_recorded_as(end: Outcome | Returned, run: RunRecord) -> bool:
    """Tell whether a run that is over was ended by a report like this one, as far as its record tells: it is repeated then."""
    if run.state == CANCELLED:  # see Judge.cancelled: a success would have been kept as one
        return not isinstance(end, Ok) and run.error == ((isinstance(end, Failed) and _reason(end)) or CANCELLED)
    return run.state == _WORDS[type(end)]


def _reason(outcome: Failed) -> str:
    return outcome.reason[:MAX_ERROR_CHARS]


def _waiting(run: Run, event: Event, run_state: str, now: float, delay_s: float) -> Report:
    report = _ended(run, _AFTER[event], run_state, now)
    report.due_at = now + delay_s if delay_s > 0 else 0.0
    return report


def _ended(
    run: Run, state: State, run_state: str, now: float, drop_at: float | None = None, result: bytes | None = None
) -> Report:
    """Return that the run is over. It did not end before it began, whatever the clock has done since."""
    return Report(
        run.claim,
        run.type,
        state,
        run_state,
        now if now >= run.started_at else run.started_at,
        0.0,
        drop_at,
        result,
        None,
        run.failures,
        run.ghosts,
        run.interrupted,
        run.returned,
    )
