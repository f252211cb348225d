"""The calls by which owners change jobs. Source: docs/protocol.md, "The owner's calls"."""

from __future__ import annotations

from typing import Any

import msgspec

from kqs.errors import CallError
from kqs.queue.changes import Done
from kqs.server.parameters import ChangeQuery, DeleteQuery, PurgeQuery
from kqs.server.peer import Peer
from kqs.store.base import Verb
from kqs.wire import strict

_encode = msgspec.json.Encoder().encode


async def cancel(peer: Peer, query: ChangeQuery) -> dict[str, Any]:
    """End what waits as cancelled, and tell what runs."""
    return _told(await _change(peer, Verb.CANCEL, query))


async def retry(peer: Peer, query: ChangeQuery) -> dict[str, Any]:
    """Let what has failed or was cancelled wait again."""
    return _told(await _change(peer, Verb.RETRY, query))


async def delete(peer: Peer, query: DeleteQuery) -> dict[str, Any]:
    """Let jobs be gone."""
    done = await _change(peer, Verb.DELETE, query, is_forced=query.force)
    if query.id is not None and query.ids is None and done.skipped:
        raise CallError(f"the job {strict.shown(_encode(query.id))} runs: cancel it, or delete it with force", "running")
    return _told(done)


async def purge(peer: Peer, query: PurgeQuery) -> int:
    """Let a type's waiting jobs be gone."""
    return (await peer.context.backend.change(Verb.DELETE, query.filter(), is_dry=query.dry_run)).count


async def _change(peer: Peer, verb: Verb, query: ChangeQuery, *, is_forced: bool = False) -> Done:
    wanted = query.filter(peer.context.inserter.now())
    return await peer.context.backend.change(verb, wanted, is_forced=is_forced, is_dry=query.dry_run)


def _told(done: Done) -> dict[str, Any]:
    return msgspec.structs.asdict(done)
