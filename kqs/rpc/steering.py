"""The calls by which owners say what becomes of all jobs of a type: whether they run, how many, with which options.

Source: docs/protocol.md.
"""

from __future__ import annotations

from typing import Any

from kqs.rpc.parameters import ConfigureQuery, LimitQuery, SubjectQuery, SubscriptionQuery
from kqs.rpc.peer import Peer


async def suspend(peer: Peer, query: SubjectQuery) -> dict[str, Any]:
    """Let no job of a type begin, or a schedule not tick."""
    if query.schedule:
        return await peer.context.backend.suspend_schedule(query.schedule)
    return await peer.context.backend.suspend(query.type)


async def resume(peer: Peer, query: SubjectQuery) -> dict[str, Any]:
    """Let them again."""
    if query.schedule:
        return await peer.context.backend.resume_schedule(query.schedule)
    return await peer.context.backend.resume(query.type)


async def limit(peer: Peer, query: LimitQuery) -> dict[str, Any]:
    """Say how many of a type may run, above the configuration."""
    return await peer.context.backend.limit(query.type, None if query.reset else query.named)


async def configure(peer: Peer, query: ConfigureQuery) -> dict[str, Any]:
    """Say what jobs get that say nothing themselves."""
    return await peer.context.backend.configure(query.type, None if query.reset else query.options)


async def subscribe(peer: Peer, query: SubscriptionQuery) -> dict[str, Any]:
    """Let a type have copies of what is inserted of another."""
    return await peer.context.backend.subscribe(query.type, query.subscriber)


async def unsubscribe(peer: Peer, query: SubscriptionQuery) -> dict[str, Any]:
    """Let it have no more of them."""
    return await peer.context.backend.unsubscribe(query.type, query.subscriber)
