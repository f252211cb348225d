"""The calls about schedules. Source: docs/protocol.md, "Schedules"."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import asdict

from kqs.errors import CallError
from kqs.inserter import Inserter
from kqs.rpc.parameters import NameQuery, ScheduleQuery, SchedulesQuery, UnscheduleQuery
from kqs.rpc.parsing import MAX_ARGUMENT_BYTES, argument_of, parse
from kqs.rpc.peer import Peer, answer_later
from kqs.schedules.plans import MAX_JOB_BYTES, checked_plan
from kqs.store.ticks import Plan
from kqs.wire import strict
from kqs.wire.call import Call, detached
from kqs.wire.members import check_keys
from kqs.wire.steps import finish

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


def schedule(peer: Peer, call: Call) -> None:
    """Keep a schedule. Raises: CallError."""
    name, plan = _asked(peer.context.inserter, call)
    answer_later(peer, detached(call), lambda: peer.context.backend.put_schedule(name, plan))


def _asked(inserter: Inserter, call: Call) -> tuple[str, Plan]:
    """Return the name and what the schedule says, checked. Raises: CallError."""
    argument = argument_of(call, MAX_ARGUMENT_BYTES + MAX_JOB_BYTES)
    try:
        fields = _decode_object(argument)
    except msgspec.DecodeError:
        raise CallError(f"schedule takes its parameters by name, as an object, got {strict.shown(argument)}") from None
    check_keys(argument, is_deep=False)
    text = fields.pop("job", None)
    query = parse(ScheduleQuery, Call(call.name, Raw(_encode(fields)), call.id, dialect=call.dialect))
    if text is None:
        raise CallError("job: field required")
    given = finish(inserter.checking(bytes(text), 1))
    if given.is_array:
        raise CallError("job: expected one job, not an array", "bad_job")
    job = given.payload.decode()
    said = asdict(query)
    return query.name, checked_plan(said.pop("name"), job, **said)


async def unschedule(peer: Peer, query: UnscheduleQuery) -> dict[str, Any]:
    """Keep a schedule no more."""
    return await peer.context.backend.remove_schedule(query.name, is_forced=query.force)


async def schedules(peer: Peer, query: SchedulesQuery) -> list[dict[str, Any]]:
    """Show schedules."""
    backend = peer.context.backend
    if query.name is not None:
        found = await backend.schedules([query.name], query.next)
        if not found:
            raise CallError(f"no schedule has the name {query.name!r}", "not_found")
        return found
    async with peer.reading():
        names = [name for name in await backend.schedule_names() if query.after is None or name > query.after]
        return await backend.schedules(names[: query.limit], query.next)


async def fire(peer: Peer, query: NameQuery) -> str:
    """Insert a schedule's job now."""
    if peer.context.draining:
        raise CallError("the server is stopping", "draining")
    job_id = await peer.context.backend.fire(query.name)
    peer.context.counters.jobs_inserted += 1
    return job_id
