"""The calls by which owners change jobs. Source: docs/protocol.md, "The owner's calls"."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import msgspec

from kqs.errors import CallError
from kqs.queue.changes import Done
from kqs.rpc.parameters import ChangeQuery, DeleteQuery, PurgeQuery
from kqs.rpc.peer import Peer
from kqs.store.base import Verb
from kqs.wire import strict

_encode = msgspec.json.Encoder().encode


Tell = Callable[[Any], None]

#: whoever asks hears so often how far a change is, in s
PROGRESS_S = 0.25


async def cancel(peer: Peer, query: ChangeQuery, tell: Tell) -> dict[str, Any]:
    """End what waits as cancelled, and tell what runs."""
    return _told(await _change(peer, Verb.CANCEL, query, tell))


async def retry(peer: Peer, query: ChangeQuery, tell: Tell) -> dict[str, Any]:
    """Let what has failed or was cancelled wait again."""
    return _told(await _change(peer, Verb.RETRY, query, tell))


async def delete(peer: Peer, query: DeleteQuery, tell: Tell) -> dict[str, Any]:
    """Let jobs be gone."""
    done = await _change(peer, Verb.DELETE, query, tell, is_forced=query.force)
    if query.id is not None and query.ids is None and done.skipped:
        raise CallError(f"the job {strict.shown(_encode(query.id))} runs: cancel it, or delete it with force", "running")
    return _told(done)


async def purge(peer: Peer, query: PurgeQuery, tell: Tell) -> int:
    """Let a type's waiting jobs be gone."""
    on_slice = _teller(tell) if query.progress else None
    done = await peer.context.backend.change(Verb.DELETE, query.filter(), is_dry=query.dry_run, on_slice=on_slice)
    return done.count


async def _change(peer: Peer, verb: Verb, query: ChangeQuery, tell: Tell, *, is_forced: bool = False) -> Done:
    wanted = query.filter(peer.context.inserter.now())
    on_slice = _teller(tell) if query.progress else None
    return await peer.context.backend.change(verb, wanted, is_forced=is_forced, is_dry=query.dry_run, on_slice=on_slice)


def _teller(tell: Tell) -> Callable[[Done], None]:
    """Return what tells now and then how much is done."""
    told_at = perf_counter()

    def on_slice(done: Done) -> None:
        nonlocal told_at
        if (now := perf_counter()) - told_at >= PROGRESS_S:
            told_at = now
            tell({"count": done.count})

    return on_slice


def _told(done: Done) -> dict[str, Any]:
    return msgspec.structs.asdict(done)
