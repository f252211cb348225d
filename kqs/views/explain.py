"""Why a job is where it is: one sentence and its facts. Pure.

Each reason is a function of what was `Seen`; the first in `REASONS` that has something to say is the answer. A new reason is a
function there, in its place, and whatever it has to know a field of `Seen`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kqs.job import JobRecord, RunRecord
from kqs.queue.limits import Reached
from kqs.states import ENDED, State
from kqs.store.base import DAMAGED, Holder
from kqs.store.ends import EXPIRED
from kqs.words.phrases import counted

#: jobs before one are counted up to here
MOST_BEFORE = 1000
#: of an error in the sentence; the facts have all that is kept of it
ERROR_CHARS = 200


class Turn(NamedTuple):
    """A job that is to have a free resource. is_suspended, is_handled: as for Seen, of its type."""

    id: str
    type: str
    is_suspended: bool
    is_handled: bool


class Seen(NamedTuple):
    """A job, and what may keep it from running.

    suspended_at: since when its type is suspended, None: it is not. is_handled: somebody takes the type here.
    holder: who has the resource that it needs, where that is another job.
    before: how many ready jobs of its type, and of its group, come before it, where that was counted: at most MOST_BEFORE + 1.
    group_most: how many jobs of its group run here, where they may not be more; 0: they may.
    reached: which limit of its type is reached here.
    turn: who is to have that resource, which is free, before a job that waits for it in a line.
    """

    record: JobRecord
    now: float
    suspended_at: float | None = None
    is_handled: bool = True
    before: int = 0
    holder: Holder | None = None
    group_most: int = 0
    reached: Reached | None = None
    turn: Turn | None = None


class Reason(NamedTuple):
    """code: which one it is, for programs. text: a sentence, for people."""

    code: str
    text: str
    facts: dict[str, Any]


def explained(seen: Seen) -> dict[str, Any]:
    """Return the answer to `explain`."""
    reason = next(found for rule in REASONS if (found := rule(seen)) is not None)
    record = seen.record
    about = {"id": record.id, "type": record.type, "state": record.state.word, "reason": reason.code}
    return {"text": reason.text, **about, **reason.facts}


def journaled(job_id: str) -> dict[str, Any]:
    """Return the answer for a job that the store does not have yet, which is all that is known of it."""
    text = "It is in the journal, and waits there for the store, which is behind or away."
    return {"text": text, "id": job_id, "type": None, "state": None, "reason": "journaled"}


def _succeeded(seen: Seen) -> Reason | None:
    record = seen.record
    if record.state is not State.SUCCESS:
        return None
    return Reason("success", f"It succeeded {_at(record.ended_at, seen.now)}.", _end_of(record))


def _cancelled(seen: Seen) -> Reason | None:
    record = seen.record
    if record.state is not State.CANCELLED:
        return None
    why = "" if record.error in (None, State.CANCELLED.word) else f": {_quoted(record.error)}"
    return Reason("cancelled", f"It was cancelled {_at(record.ended_at, seen.now)}{why}.", _end_of(record))


def _failed(seen: Seen) -> Reason | None:
    record = seen.record
    if record.state is not State.FAIL:
        return None
    at, error, run = _at(record.ended_at, seen.now), _quoted(record.error), _run_that_ended(record)
    if record.error == DAMAGED:
        return Reason("damaged", f"It failed {at}, since {DAMAGED}.", _end_of(record))
    if run is None and record.error == EXPIRED:  # of a run it is what that has said
        return Reason("expired", f"It expired {at}, before it had succeeded.", _end_of(record))
    if run is not None and run.state == "ghost":
        text = f"It failed for good {at}: {counted(record.ghosts, 'run')} ended without a report, the last one: {error}."
        return Reason("ghosted_out", text, _end_of(record))
    # without a failure of its own it is the error of a job that waited in vain for another
    after = f", after {counted(record.failures, 'failure')}, the last one" if record.failures else ""
    return Reason("failed", f"It failed for good {at}{after}: {error}.", _end_of(record))


def _run_that_ended(record: JobRecord) -> RunRecord | None:
    """Return the run whose end was that of the job; None: the job ended while it waited, maybe long after its last run."""
    run = record.runs[-1] if record.runs else None
    return run if run is not None and run.ended_at == record.ended_at else None


def _running(seen: Seen) -> Reason | None:
    record = seen.record
    if record.state is not State.PROCESSING:
        return None
    run = record.runs[-1] if record.runs else None
    began_at, worker = (run.started_at, run.worker) if run is not None else (None, None)
    text = (
        f"It has been running since {_time(began_at)} on {worker}{_for(began_at, seen.now)}; this is attempt {record.attempt}"
    )
    facts = {"since": began_at, "worker": worker, "attempt": record.attempt}
    if record.cancel_at is not None:
        text = f"{text}, and it was cancelled {_at(record.cancel_at, seen.now)}"
        facts["cancel_at"] = record.cancel_at
    return Reason("running", f"{text}.", facts)


def _waiting(seen: Seen) -> Reason | None:
    record = seen.record
    if record.tally is not None and (record.tally.is_open or record.tally.ended < record.tally.count):
        tally = record.tally
        still = ", and more may come until it is closed" if tally.is_open else ""
        text = f"It waits for the jobs of its batch: {tally.ended:,} of {tally.count:,} have ended{still}."
        return Reason("batch", text, {"count": tally.count, "ended": tally.ended, "open": tally.is_open} | _error_of(record))
    if not record.awaits:
        return None
    others = len(record.awaits) - 1
    more = "" if not others else f" and {counted(others, 'other')}"
    text = f"It waits for job {record.awaits[0]}{more} to end."
    return Reason("after", text, {"awaits": list(record.awaits)} | _error_of(record))


def _not_due(seen: Seen) -> Reason | None:
    record = seen.record
    if record.due_at <= seen.now:
        return None
    text = f"It is due {_at(record.due_at, seen.now)}{_again(record)}."
    return Reason("not_due", text, {"due_at": record.due_at} | _error_of(record))


def _suspended(seen: Seen) -> Reason | None:
    if seen.suspended_at is None:
        return None
    text = f"Its type is suspended since {_time(seen.suspended_at)}, and waits for a resume{_again(seen.record)}."
    return Reason("suspended", text, {"suspended_at": seen.suspended_at} | _error_of(seen.record))


def _parked(seen: Seen) -> Reason | None:
    record, holder = seen.record, seen.holder
    if holder is None:
        return None
    resource = _quoted(record.resource)
    text = f"Its resource {resource} is held by job {holder.id}{_for(holder.since, seen.now)}{_again(record)}."
    return Reason(
        "resource", text, {"resource": record.resource, "holder": holder.id, "since": holder.since} | _error_of(record)
    )


def _unhandled(seen: Seen) -> Reason | None:
    if seen.is_handled:
        return None
    return Reason("no_worker", f"No worker of this server takes its type{_again(seen.record)}.", _error_of(seen.record))


def _group_is_full(seen: Seen) -> Reason | None:
    if not seen.group_most:
        return None
    group, most = _quoted(seen.record.group), seen.group_most
    text = f"Its group {group} has {most:,} of its jobs running, as many as may at a time{_again(seen.record)}."
    return Reason("group_full", text, {"group": seen.record.group, "running": most} | _error_of(seen.record))


def _limited(seen: Seen) -> Reason | None:
    reached = seen.reached
    if reached is None:
        return None
    again = _again(seen.record)
    facts: dict[str, Any] = {"limit": reached.name, "value": reached.value, "running": reached.running}
    if reached.next_at is not None:
        text = f"Its type's rate of {reached.value:g} is used up: the next may begin {_at(reached.next_at, seen.now)}{again}."
        facts["next_at"] = reached.next_at
    elif reached.name == "rate":
        text = f"Its type's rate of {reached.value:g} is used up{again}."
    elif not reached.value:
        text = f"Its type's limit {reached.name} is 0, so it waits until that is raised{again}."
    else:
        jobs = "1 job of it runs" if reached.running == 1 else f"{reached.running:,} jobs of it run"
        text = f"Its type's limit {reached.name} of {reached.value:,} is reached: {jobs} here{again}."
    return Reason("limited", text, facts | {"before": seen.before} | _error_of(seen.record))


def _in_line(seen: Seen) -> Reason | None:
    record, turn = seen.record, seen.turn
    if turn is None:
        return None
    text = f"Its resource {_quoted(record.resource)} is free, and it is the turn of job {turn.id} of type {_quoted(turn.type)}"
    if turn.is_suspended:
        text += ", which is suspended: that holds it up for some seconds"
    elif not turn.is_handled:
        text += ", which no worker of this server takes: that holds it up for some seconds"
    facts = {"resource": record.resource, "turn": turn.id, "turn_type": turn.type}
    return Reason("line", f"{text}{_again(record)}.", facts | _error_of(record))


def _behind(seen: Seen) -> Reason | None:
    if not seen.before:
        return None
    is_more = seen.before > MOST_BEFORE
    count = f"More than {MOST_BEFORE:,}" if is_more else f"{seen.before:,}"
    line = "type" if seen.record.group is None else "group"
    jobs = f"job of its {line} comes" if seen.before == 1 else f"jobs of its {line} come"
    facts = {"before": min(seen.before, MOST_BEFORE), "before_is_more": is_more} | _group_of(seen.record)
    return Reason("behind", f"{count} {jobs} before it{_again(seen.record)}.", facts | _error_of(seen.record))


def _next(seen: Seen) -> Reason:
    line, when = ("type", "when") if seen.record.group is None else ("group", "at the group's turn, when")
    text = f"It is the next of its {line}, and begins {when} a worker has room{_again(seen.record)}."
    return Reason("next", text, {"before": 0} | _group_of(seen.record) | _error_of(seen.record))


def _group_of(record: JobRecord) -> dict[str, Any]:
    return {} if record.group is None else {"group": record.group}


#: the first that applies is the reason
REASONS: tuple[Callable[[Seen], Reason | None], ...] = (
    _succeeded,
    _cancelled,
    _failed,
    _running,
    _waiting,
    _not_due,
    _suspended,
    _parked,
    _unhandled,
    _in_line,
    _limited,
    _group_is_full,
    _behind,
    _next,
)


def is_ready(record: JobRecord, now: float) -> bool:
    """Tell whether a job waits for nothing but others, or its resource."""
    return record.state not in ENDED and record.state is not State.PROCESSING and record.due_at <= now


def _end_of(record: JobRecord) -> dict[str, Any]:
    return {"ended_at": record.ended_at, "failures": record.failures, "ghosts": record.ghosts} | _error_of(record)


def _error_of(record: JobRecord) -> dict[str, Any]:
    error = _last_error(record)
    return {} if error is None else {"error": error}


def _last_error(record: JobRecord) -> str | None:
    if record.error is None and record.state is not State.SUCCESS and record.runs:
        return record.runs[-1].error
    return record.error


def _again(record: JobRecord) -> str:
    """Return why it is to run again, as the end of a sentence."""
    error = _last_error(record)
    if record.state is State.GHOST:
        return f"; it is run again since nobody reported its last run: {_quoted(error)}"
    if record.state is State.RETRY:
        if error is None:
            return "; it is run again"
        if not record.failures:  # its owner has let it wait again
            return f"; it is run again, after a run that ended with: {_quoted(error)}"
        return f"; it is tried again after {counted(record.failures, 'failure')}, the last one: {_quoted(error)}"
    return ""


def _quoted(error: str | None) -> str:
    if error is None:
        return "no reason was given"
    first = error.partition("\n")[0][:ERROR_CHARS]
    return f'"{first}{"" if first == error else "…"}"'


def _time(at: float | None) -> str:
    if at is None:
        return "an unknown time"
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return f"{at:.0f} s after 1970"


def _at(at: float | None, now: float) -> str:
    if at is None:
        return "at an unknown time"
    how = f"in {_span(at - now)}" if at > now else f"{_span(now - at)} ago"
    return f"at {_time(at)}, {how}"


def _for(since: float | None, now: float) -> str:
    return "" if since is None else f", for {_span(max(0.0, now - since))}"


def _span(seconds: float) -> str:
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
