"""The table of calls: what each is named, who may use it, what it takes, what it does.

A call's `run` is called in the order the calls were sent. It either answers at once, or defers the call and answers later;
a call that must wait for something runs in a task of its own. No call raises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.nearest import unknown_name
from kqs.server.context import Context
from kqs.server.inserts import adopting, inserting
from kqs.server.parameters import HelpQuery, JobQuery, JobsQuery, parse
from kqs.server.peer import Peer, translate
from kqs.wire import strict
from kqs.wire.call import Call
from kqs.wire.steps import Steps, finish

_encode = msgspec.json.Encoder().encode
PONG = Raw(b'"pong"')
STOPPING = Raw(b'"stopping"')


class Role(StrEnum):
    """What a peer must be allowed to do for a call."""

    ANY = "any"
    INSERT = "insert"
    READ = "read"
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


def _at_once(function: Callable[[Context, Call], bytes | Raw]) -> Run:
    """Make a `run` of a function that answers without waiting."""

    def run(peer: Peer, call: Call) -> None:
        try:
            result = function(peer.context, call)
        except Exception as error:
            peer.refuse(call, *translate(error))
        else:
            peer.answer(call, result)

    return run


def _in_a_task(function: Callable[[Context, Call], Awaitable[Any]]) -> Run:
    """Make a `run` of a function that waits; what it returns is encoded as JSON."""

    async def work(peer: Peer, call: Call) -> None:
        try:
            result = _encode(await function(peer.context, call))
        except Exception as error:
            peer.refuse(call, *translate(error))
        else:
            peer.answer(call, result)
        finally:
            peer.settle()

    def run(peer: Peer, call: Call) -> None:
        peer.defer()
        peer.context.spawn(work(peer, call), f"call {call.name}")

    return run


def _ping(_context: Context, _call: Call) -> Raw:
    return PONG


def _help(_context: Context, call: Call) -> bytes:
    name = parse(HelpQuery, call.arg).name
    if name is not None and name not in CALLS:
        raise unknown_call(name)
    shown = [spec for spec in CALLS.values() if name in (None, spec.name)]
    return _encode([{"name": s.name, "role": s.role, "parameters": s.parameters, "help": s.help} for s in shown])


def unknown_call(name: str) -> CallError:
    """Return the error for a call that does not exist. What only an administrator may do is never suggested."""
    harmless = [spec.name for spec in CALLS.values() if spec.role is not Role.ADMIN]
    return CallError(unknown_name("call", name, harmless), "unknown_call")


def _quit(context: Context, _call: Call) -> Raw:
    context.backend.request_stop()
    return STOPPING


async def _stats(context: Context, _call: Call) -> dict[str, int | float]:
    return {**await context.backend.stats(), **context.counters.as_stats()}


async def _health(context: Context, _call: Call) -> dict[str, Any]:
    return await context.backend.health(draining=context.draining)


async def _job(context: Context, call: Call) -> dict[str, Any]:
    job_id = parse(JobQuery, call.arg).id
    found = await context.backend.job(job_id)
    if found is None:
        raise CallError(f"no job has the id {strict.shown(_encode(job_id))}", "not_found")
    return found


async def _jobs(context: Context, call: Call) -> list[dict[str, Any]]:
    return await context.backend.jobs(parse(JobsQuery, call.arg))


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
    CallSpec("job", Role.READ, "id | {id}", "all that is known of one job", _in_a_task(_job)),
    CallSpec(
        "jobs",
        Role.READ,
        "{type?, state?, after?, limit? = 100}",
        "jobs in order of acceptance; after: the last id seen, limit: 1 to 1000",
        _in_a_task(_jobs),
    ),
    CallSpec("stats", Role.READ, "", "what the server counts, as plain numbers", _in_a_task(_stats)),
    CallSpec("health", Role.READ, "", "whether all is well, and what is not", _in_a_task(_health)),
    CallSpec("ping", Role.ANY, "", "answers pong", _at_once(_ping)),
    CallSpec("echo", Role.ANY, "any value or blob", "answers its argument", _echo),
    CallSpec("help", Role.ANY, "name?", "this table, or one row of it", _at_once(_help)),
    CallSpec("quit", Role.ADMIN, "", "answers, then stops the server in good order", _at_once(_quit)),
)
