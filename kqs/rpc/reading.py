"""The calls that show how jobs, types, workers and the server are. Source: docs/protocol.md."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec

from kqs.errors import CallError
from kqs.rpc.hotjobs import await_end
from kqs.rpc.parameters import IdQuery, JobQuery, JobsQuery, NoQuery, TypesQuery
from kqs.rpc.parsing import parse
from kqs.rpc.peer import Peer, answer_later
from kqs.wire import strict
from kqs.wire.call import Call, detached

_encode = msgspec.json.Encoder().encode


async def stats(peer: Peer, _nothing: NoQuery) -> dict[str, int | float]:
    """Count, as the backend and the conversations do."""
    return {**await peer.context.backend.stats(), **peer.context.counters.as_stats()}


async def health(peer: Peer, _nothing: NoQuery) -> dict[str, Any]:
    """Tell whether all is well."""
    return await peer.context.backend.health(draining=peer.context.draining)


def job(peer: Peer, call: Call) -> None:
    """Tell of a job, at once or when it has ended. Raises: CallError."""
    query, call = parse(JobQuery, call), detached(call)

    def look() -> Awaitable[dict[str, Any]]:
        return _job(peer, query.id)

    if query.wait and not call.notification:
        await_end(peer, call, query.id, query.wait, look)
    else:
        answer_later(peer, call, look)


async def _job(peer: Peer, job_id: str) -> dict[str, Any]:
    async with peer.reading():
        await _wait_for_room(peer)
        found = await peer.context.backend.job(job_id)
    if found is None:
        raise _no_job(job_id)
    return found


def _no_job(job_id: str) -> CallError:
    return CallError(f"no job has the id {strict.shown(_encode(job_id))}", "not_found")


async def jobs(peer: Peer, query: JobsQuery) -> Sequence[Any] | dict[str, Any]:
    """Show a page of jobs."""
    async with peer.reading():
        await _wait_for_room(peer)
        jobs, after = await peer.context.backend.jobs(query)
    if query.cursor is None:
        return jobs
    return {"jobs": jobs, "cursor": None if after is None else f"{after:x}"}


async def explain(peer: Peer, query: IdQuery) -> dict[str, Any]:
    """Tell why a job is where it is."""
    async with peer.reading():
        await _wait_for_room(peer)
        found = await peer.context.backend.explain(query.id)
    if found is None:
        raise _no_job(query.id)
    return found


async def types(peer: Peer, query: TypesQuery) -> list[dict[str, Any]]:
    """Show how types stand."""
    async with peer.reading():
        return await peer.context.backend.types(query)


async def workers(peer: Peer, _nothing: NoQuery) -> list[dict[str, Any]]:
    """Show who runs jobs."""
    async with peer.reading():
        return await peer.context.backend.workers()


async def _wait_for_room(peer: Peer) -> None:
    """Wait until jobs may be read for `peer`, who has its turn: nobody knows their size before.

    Raises: CallError: the peer is gone.
    """
    room = peer.context.answers.room
    if not room.is_set():
        await room.wait()
    if peer.is_gone:
        raise CallError("the connection is lost", "busy")
