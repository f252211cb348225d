"""The table of calls: what each is named, who may use it, what it takes, what it does.

A call's `run` is called in the order the calls were sent. It either answers at once, or defers the call and answers later;
a call that must wait for something runs in a task of its own. What a call does stands in the file for its
kind, but for the simplest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import cache
from typing import Any

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.rpc import changing, reading, runs, scheduling, steering, working
from kqs.rpc.batches import batching
from kqs.rpc.changing import Tell
from kqs.rpc.context import Context
from kqs.rpc.events import listen
from kqs.rpc.inserts import adopting, inserting
from kqs.rpc.parameters import (
    ChangeQuery,
    ConfigureQuery,
    DeleteQuery,
    HelpQuery,
    IdQuery,
    JobsQuery,
    LimitQuery,
    NameQuery,
    NoQuery,
    PurgeQuery,
    SchedulesQuery,
    SubjectQuery,
    SubscriptionQuery,
    TypesQuery,
    UnscheduleQuery,
)
from kqs.rpc.parsing import AnyParameters, parse
from kqs.rpc.peer import Peer, answer_later
from kqs.wire.call import Call, detached
from kqs.wire.steps import Steps
from kqs.words.nearest import unknown_name

_encode = msgspec.json.Encoder().encode
PONG = Raw(b'"pong"')
#: how `help` shows what names jobs
IDS_OR_FILTER = "id | [id, …] | {FILTER… or all, "
STOPPING = Raw(b'"stopping"')


class Role(StrEnum):
    """What a peer must be allowed to do for a call."""

    ANY = "any"
    INSERT = "insert"
    READ = "read"
    WORK = "work"
    MANAGE = "manage"
    ADMIN = "admin"


Run = Callable[[Peer, Call], Steps[None] | None]


class CallSpec(msgspec.Struct, frozen=True):
    """One row of the table. `parameters` is how `help` shows the argument.

    run: does it at once, and raises why it is refused; or returns the steps in which it is done, as a long argument may
    take: these refuse for themselves.
    """

    name: str
    role: Role
    parameters: str
    help: str
    run: Run


def _at_once(model: type[AnyParameters], function: Callable[[Context, AnyParameters], bytes | Raw]) -> Run:
    """Make a `run` of a function that answers without waiting."""

    def run(peer: Peer, call: Call) -> None:
        peer.answer(call, function(peer.context, parse(model, call)))

    return run


def _in_a_task(model: type[AnyParameters], function: Callable[[Peer, AnyParameters], Awaitable[Any]]) -> Run:
    """Make a `run` of a function that waits; what it returns is encoded as JSON."""

    def without_progress(peer: Peer, parameters: AnyParameters, _tell: Tell) -> Awaitable[Any]:
        return function(peer, parameters)

    return _with_progress(model, without_progress)


def _with_progress(model: type[AnyParameters], function: Callable[[Peer, AnyParameters, Tell], Awaitable[Any]]) -> Run:
    """As `_in_a_task`, of a function that may give intermediate answers."""

    def run(peer: Peer, call: Call) -> None:
        parameters, call = parse(model, call), detached(call)

        def tell(value: Any) -> None:
            if not (call.notification or peer.is_gone):
                peer.event(call, _encode(value))
                peer.settle(0, at_once=True)

        answer_later(peer, call, lambda: function(peer, parameters, tell))

    return run


def _ping(_context: Context, _nothing: NoQuery) -> Raw:
    return PONG


def _help(_context: Context, query: HelpQuery) -> bytes:
    if query.name is not None and query.name not in CALLS:
        raise unknown_call(query.name)
    return _help_text(query.name)


@cache
def _help_text(name: str | None) -> bytes:
    shown = [spec for spec in CALLS.values() if name in (None, spec.name)]
    return _encode([{"name": s.name, "role": s.role, "parameters": s.parameters, "help": s.help} for s in shown])


def unknown_call(name: str) -> CallError:
    """Return the error for a call that does not exist. What only an administrator may do is never suggested."""
    harmless = [spec.name for spec in CALLS.values() if spec.role is not Role.ADMIN]
    return CallError(unknown_name("call", name, harmless), "unknown_call")


def _quit(context: Context, _nothing: NoQuery) -> Raw:
    context.on_quit()
    return STOPPING


def _echo(peer: Peer, call: Call) -> None:
    if call.blob is not None:
        peer.answer_blob(call, call.blob)
    else:
        peer.answer(call, call.arg)


def _table(*specs: CallSpec) -> dict[str, CallSpec]:
    return {spec.name: spec for spec in specs}


#: Every call there is. docs/protocol.md describes each, and a test holds the two together.
CALLS = _table(
    CallSpec(
        "insert",
        Role.INSERT,
        "job | [job, …]",
        "keep a job, or all of a list or none; answers its id or theirs",
        inserting,
    ),
    CallSpec(
        "adopt",
        Role.ADMIN,
        "job | [job, …]",
        "insert under ids that a dead server made",
        adopting,
    ),
    CallSpec(
        "batch",
        Role.INSERT,
        "{jobs, then} | {open: true, then} | {id, close: true}",
        "insert jobs, and one that runs once when all have ended; jobs join an open batch by their field batch",
        batching,
    ),
    CallSpec(
        "job",
        Role.READ,
        "id | {id, wait? = 0}",
        "all that is known of one job, once it has ended if wait s say so",
        reading.job,
    ),
    CallSpec(
        "jobs",
        Role.READ,
        "{FILTER…, after?, limit? = 100, newest? = false, cursor?}",
        "jobs in order of acceptance; after: the last id seen, limit: 1 to 1000; a cursor answers {jobs, cursor}",
        _in_a_task(JobsQuery, reading.jobs),
    ),
    CallSpec(
        "cancel",
        Role.MANAGE,
        f"{IDS_OR_FILTER}dry_run?, progress?}}",
        "jobs that wait end as cancelled, runs are told to end; answers {count, ids, skipped}",
        _with_progress(ChangeQuery, changing.cancel),
    ),
    CallSpec(
        "retry",
        Role.MANAGE,
        f"{IDS_OR_FILTER}dry_run?, progress?}}",
        "failed and cancelled jobs wait again, with all their tries; answers {count, ids, skipped}",
        _with_progress(ChangeQuery, changing.retry),
    ),
    CallSpec(
        "delete",
        Role.MANAGE,
        f"{IDS_OR_FILTER}force?, dry_run?, progress?}}",
        "jobs are gone, those that run only with force; answers {count, ids, skipped}",
        _with_progress(DeleteQuery, changing.delete),
    ),
    CallSpec(
        "purge",
        Role.MANAGE,
        "{type, regex?, dry_run?, progress?}",
        "all jobs of a type that wait are gone; answers how many",
        _with_progress(PurgeQuery, changing.purge),
    ),
    CallSpec(
        "explain",
        Role.READ,
        "id | {id}",
        "why a job is where it is, in a sentence and its facts",
        _in_a_task(IdQuery, reading.explain),
    ),
    CallSpec(
        "types",
        Role.READ,
        "{type?, after?, limit? = 100}",
        "types by name: their jobs, rates, times and workers; after: the last type seen, limit: 1 to 1000",
        _in_a_task(TypesQuery, reading.types),
    ),
    CallSpec(
        "workers",
        Role.READ,
        "",
        "who runs jobs of this server: itself, its children and others",
        _in_a_task(NoQuery, reading.workers),
    ),
    CallSpec(
        "reserve",
        Role.WORK,
        "{types, count? = 1, wait? = 0, worker?, hold?}",
        "runs of jobs of these types, as soon as there is one; [] when there is none within wait s",
        working.reserve,
    ),
    CallSpec(
        "work",
        Role.WORK,
        "{types, room? = 1, worker?, hold?}",
        "lists of runs as intermediate answers, as long as fewer than room are open",
        working.work,
    ),
    CallSpec(
        "touch",
        Role.WORK,
        "{run, progress?} | [{run, progress?}, …]",
        "a run goes on, and how far it is, for the next; answers {left, cancel}",
        runs.touching,
    ),
    CallSpec(
        "release",
        Role.WORK,
        "{run, delay?, prio?, begun? = true} | […]",
        "a run is given back, at no cost; answers true",
        runs.releasing,
    ),
    CallSpec(
        "finish",
        Role.WORK,
        "{run, report, result?, reason?, delay?, final?} | […]",
        "a run is over: report is ok, again or fail; answers true when that is durable",
        runs.finishing,
    ),
    CallSpec("withdraw", Role.WORK, "{call}", "ends a call of this connection that stands; its runs go on", working.withdraw),
    CallSpec(
        "subscribe",
        Role.MANAGE,
        "{type, subscriber}",
        "inserts of a type become a job of its subscriber, too; answers {type, subscriber, subscribed, changed}",
        _in_a_task(SubscriptionQuery, steering.subscribe),
    ),
    CallSpec(
        "unsubscribe",
        Role.MANAGE,
        "{type, subscriber}",
        "they do no more; answers {type, subscriber, subscribed, changed}",
        _in_a_task(SubscriptionQuery, steering.unsubscribe),
    ),
    CallSpec(
        "events",
        Role.READ,
        "{types?, events?}",
        "what happens to jobs from now on, as intermediate answers, until the server stops",
        listen,
    ),
    CallSpec(
        "suspend",
        Role.MANAGE,
        "type | {type} | {schedule}",
        "no job of a type begins any more, running ones go on; or a schedule ticks no more; answers {…, suspended, changed}",
        _in_a_task(SubjectQuery, steering.suspend),
    ),
    CallSpec(
        "resume",
        Role.MANAGE,
        "type | {type} | {schedule}",
        "jobs of a type begin again; or a schedule ticks again; answers {…, suspended, changed}",
        _in_a_task(SubjectQuery, steering.resume),
    ),
    CallSpec(
        "schedule",
        Role.MANAGE,
        "{name, cron | every, from?, tz? = UTC, job, catch_up? = one, overlap? = allow}",
        "keep a job to insert at times, in the place of the schedule of that name; answers it as schedules does",
        scheduling.schedule,
    ),
    CallSpec(
        "unschedule",
        Role.MANAGE,
        "name | {name, force? = false}",
        "a schedule is gone; its jobs stay; answers {name}",
        _in_a_task(UnscheduleQuery, scheduling.unschedule),
    ),
    CallSpec(
        "schedules",
        Role.READ,
        "{name?, next? = 1, after?, limit? = 100}",
        "schedules by name, their next instants and what became of the last; after: the last name seen, limit: 1 to 1000",
        _in_a_task(SchedulesQuery, scheduling.schedules),
    ),
    CallSpec(
        "fire",
        Role.MANAGE,
        "name | {name}",
        "insert a schedule's job now, beside its ticks; answers the job's id",
        _in_a_task(NameQuery, scheduling.fire),
    ),
    CallSpec(
        "limit",
        Role.MANAGE,
        "{type, concurrency?, max_running?, rate?, per_s?} | {type, reset}",
        "how many jobs of a type may run, or begin in a while, above the configuration; answers {type, limits, changed}",
        _in_a_task(LimitQuery, steering.limit),
    ),
    CallSpec(
        "configure",
        Role.MANAGE,
        "{type?, options? | reset?}",
        "what jobs of a type, or of all, get that say nothing themselves; answers {type?, options, by_call, changed}",
        _in_a_task(ConfigureQuery, steering.configure),
    ),
    CallSpec("stats", Role.READ, "", "what the server counts, as plain numbers", _in_a_task(NoQuery, reading.stats)),
    CallSpec("health", Role.READ, "", "whether all is well, and what is not", _in_a_task(NoQuery, reading.health)),
    CallSpec("ping", Role.ANY, "", "answers pong", _at_once(NoQuery, _ping)),
    CallSpec("echo", Role.ANY, "any value or blob", "answers its argument", _echo),
    CallSpec("help", Role.ANY, "name?", "this table, or one row of it", _at_once(HelpQuery, _help)),
    CallSpec("quit", Role.ADMIN, "", "answers, then stops the server in good order", _at_once(NoQuery, _quit)),
)
