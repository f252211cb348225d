"""The table of calls: what each is named, who may use it, what it takes, what it does.

A call's `run` is called in the order the calls were sent. It either answers at once, or defers the call and answers later;
a call that must wait for something runs in a task of its own. No call raises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from functools import cache
from typing import Any

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.nearest import unknown_name
from kqs.rpc import changing, scheduling, working
from kqs.rpc.batches import batching
from kqs.rpc.changing import Tell
from kqs.rpc.context import Context
from kqs.rpc.events import listen
from kqs.rpc.hotjobs import await_end
from kqs.rpc.inserts import adopting, inserting
from kqs.rpc.parameters import (
    ChangeQuery,
    ConfigureQuery,
    DeleteQuery,
    HelpQuery,
    IdQuery,
    JobQuery,
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
from kqs.rpc.peer import Peer, answer_later, translate
from kqs.wire import strict
from kqs.wire.call import Call, detached
from kqs.wire.steps import Steps, finish

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


Run = Callable[[Peer, Call], None]
InSteps = Callable[[Peer, Call], Steps[None]]


class CallSpec(msgspec.Struct, frozen=True):
    """One row of the table. `parameters` is how `help` shows the argument.

    in_steps: does the same as `run`, in steps, for a long argument; None: no argument makes it long.
    """

    name: str
    role: Role
    parameters: str
    help: str
    run: Run
    in_steps: InSteps | None = None


def _all_steps(in_steps: InSteps) -> Run:
    """Make a `run` of a function that works in steps."""

    def run(peer: Peer, call: Call) -> None:
        finish(in_steps(peer, call))

    return run


def _at_once(model: type[AnyParameters], function: Callable[[Context, AnyParameters], bytes | Raw]) -> Run:
    """Make a `run` of a function that answers without waiting."""

    def run(peer: Peer, call: Call) -> None:
        try:
            result = function(peer.context, parse(model, call))
        except Exception as error:
            peer.refuse(call, *translate(error))
        else:
            peer.answer(call, result)

    return run


def _in_a_task(model: type[AnyParameters], function: Callable[[Peer, AnyParameters], Awaitable[Any]]) -> Run:
    """Make a `run` of a function that waits; what it returns is encoded as JSON."""

    def without_progress(peer: Peer, parameters: AnyParameters, _tell: Tell) -> Awaitable[Any]:
        return function(peer, parameters)

    return _with_progress(model, without_progress)


def _with_progress(model: type[AnyParameters], function: Callable[[Peer, AnyParameters, Tell], Awaitable[Any]]) -> Run:
    """As `_in_a_task`, of a function that may give intermediate answers."""

    def run(peer: Peer, call: Call) -> None:
        try:
            parameters = parse(model, call)
        except Exception as error:
            peer.refuse(call, *translate(error))
            return
        call = detached(call)

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


async def _stats(peer: Peer, _nothing: NoQuery) -> dict[str, int | float]:
    return {**await peer.context.backend.stats(), **peer.context.counters.as_stats()}


async def _health(peer: Peer, _nothing: NoQuery) -> dict[str, Any]:
    return await peer.context.backend.health(draining=peer.context.draining)


async def _job(peer: Peer, query: JobQuery) -> dict[str, Any]:
    async with peer.reads:
        await _wait_for_room(peer)
        found = await peer.context.backend.job(query.id)
    if found is None:
        raise _no_job(query.id)
    return found


def _no_job(job_id: str) -> CallError:
    return CallError(f"no job has the id {strict.shown(_encode(job_id))}", "not_found")


_job_now = _in_a_task(JobQuery, _job)


def _job_or_its_end(peer: Peer, call: Call) -> None:
    """Tell of a job, at once or when it has ended."""
    query = parse(JobQuery, call)
    if not query.wait or call.notification:
        _job_now(peer, call)
    else:
        await_end(peer, detached(call), query.id, query.wait, lambda: _job(peer, query))


async def _jobs(peer: Peer, query: JobsQuery) -> Sequence[Any] | dict[str, Any]:
    async with peer.reads:
        await _wait_for_room(peer)
        jobs, after = await peer.context.backend.jobs(query)
    if query.cursor is None:
        return jobs
    return {"jobs": jobs, "cursor": None if after is None else f"{after:x}"}


async def _explain(peer: Peer, query: IdQuery) -> dict[str, Any]:
    async with peer.reads:
        await _wait_for_room(peer)
        found = await peer.context.backend.explain(query.id)
    if found is None:
        raise _no_job(query.id)
    return found


async def _types(peer: Peer, query: TypesQuery) -> list[dict[str, Any]]:
    async with peer.reads:
        return await peer.context.backend.types(query)


async def _workers(peer: Peer, _nothing: NoQuery) -> list[dict[str, Any]]:
    async with peer.reads:
        return await peer.context.backend.workers()


async def _suspend(peer: Peer, query: SubjectQuery) -> dict[str, Any]:
    if query.schedule:
        return await peer.context.backend.suspend_schedule(query.schedule)
    return await peer.context.backend.suspend(query.type)


async def _resume(peer: Peer, query: SubjectQuery) -> dict[str, Any]:
    if query.schedule:
        return await peer.context.backend.resume_schedule(query.schedule)
    return await peer.context.backend.resume(query.type)


async def _limit(peer: Peer, query: LimitQuery) -> dict[str, Any]:
    return await peer.context.backend.limit(query.type, None if query.reset else query.named)


async def _configure(peer: Peer, query: ConfigureQuery) -> dict[str, Any]:
    return await peer.context.backend.configure(query.type, None if query.reset else query.options)


async def _subscribe(peer: Peer, query: SubscriptionQuery) -> dict[str, Any]:
    return await peer.context.backend.subscribe(query.type, query.subscriber)


async def _unsubscribe(peer: Peer, query: SubscriptionQuery) -> dict[str, Any]:
    return await peer.context.backend.unsubscribe(query.type, query.subscriber)


async def _wait_for_room(peer: Peer) -> None:
    """Wait until jobs may be read for `peer`, who has its turn: nobody knows their size before.

    Raises: CallError: the peer is gone.
    """
    room = peer.context.answers.room
    if not room.is_set():
        await room.wait()
    if peer.is_gone:
        raise CallError("the connection is lost", "busy")


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
        _all_steps(inserting),
        inserting,
    ),
    CallSpec(
        "adopt",
        Role.ADMIN,
        "job | [job, …]",
        "insert under ids that a dead server made",
        _all_steps(adopting),
        adopting,
    ),
    CallSpec(
        "batch",
        Role.INSERT,
        "{jobs, then} | {open: true, then} | {id, close: true}",
        "insert jobs, and one that runs once when all have ended; jobs join an open batch by their field batch",
        _all_steps(batching),
        batching,
    ),
    CallSpec(
        "job",
        Role.READ,
        "id | {id, wait? = 0}",
        "all that is known of one job, once it has ended if wait s say so",
        _job_or_its_end,
    ),
    CallSpec(
        "jobs",
        Role.READ,
        "{FILTER…, after?, limit? = 100, newest? = false, cursor?}",
        "jobs in order of acceptance; after: the last id seen, limit: 1 to 1000; a cursor answers {jobs, cursor}",
        _in_a_task(JobsQuery, _jobs),
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
        _in_a_task(IdQuery, _explain),
    ),
    CallSpec(
        "types",
        Role.READ,
        "{type?, after?, limit? = 100}",
        "types by name: their jobs, rates, times and workers; after: the last type seen, limit: 1 to 1000",
        _in_a_task(TypesQuery, _types),
    ),
    CallSpec(
        "workers", Role.READ, "", "who runs jobs of this server: itself, its children and others", _in_a_task(NoQuery, _workers)
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
        _all_steps(working.touching),
        working.touching,
    ),
    CallSpec(
        "release",
        Role.WORK,
        "{run, delay?, prio?, begun? = true} | […]",
        "a run is given back, at no cost; answers true",
        _all_steps(working.releasing),
        working.releasing,
    ),
    CallSpec(
        "finish",
        Role.WORK,
        "{run, report, result?, reason?, delay?, final?} | […]",
        "a run is over: report is ok, again or fail; answers true when that is durable",
        _all_steps(working.finishing),
        working.finishing,
    ),
    CallSpec("withdraw", Role.WORK, "{call}", "ends a call of this connection that stands; its runs go on", working.withdraw),
    CallSpec(
        "subscribe",
        Role.MANAGE,
        "{type, subscriber}",
        "inserts of a type become a job of its subscriber, too; answers {type, subscriber, subscribed, changed}",
        _in_a_task(SubscriptionQuery, _subscribe),
    ),
    CallSpec(
        "unsubscribe",
        Role.MANAGE,
        "{type, subscriber}",
        "they do no more; answers {type, subscriber, subscribed, changed}",
        _in_a_task(SubscriptionQuery, _unsubscribe),
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
        _in_a_task(SubjectQuery, _suspend),
    ),
    CallSpec(
        "resume",
        Role.MANAGE,
        "type | {type} | {schedule}",
        "jobs of a type begin again; or a schedule ticks again; answers {…, suspended, changed}",
        _in_a_task(SubjectQuery, _resume),
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
        _in_a_task(LimitQuery, _limit),
    ),
    CallSpec(
        "configure",
        Role.MANAGE,
        "{type?, options? | reset?}",
        "what jobs of a type, or of all, get that say nothing themselves; answers {type?, options, by_call, changed}",
        _in_a_task(ConfigureQuery, _configure),
    ),
    CallSpec("stats", Role.READ, "", "what the server counts, as plain numbers", _in_a_task(NoQuery, _stats)),
    CallSpec("health", Role.READ, "", "whether all is well, and what is not", _in_a_task(NoQuery, _health)),
    CallSpec("ping", Role.ANY, "", "answers pong", _at_once(NoQuery, _ping)),
    CallSpec("echo", Role.ANY, "any value or blob", "answers its argument", _echo),
    CallSpec("help", Role.ANY, "name?", "this table, or one row of it", _at_once(HelpQuery, _help)),
    CallSpec("quit", Role.ADMIN, "", "answers, then stops the server in good order", _at_once(NoQuery, _quit)),
)
