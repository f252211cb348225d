"""Types whose jobs wait, over all servers: one document a type, {_id: the type, since}.

A document is made or deleted and never changed, so a write whose answer was lost may be repeated as it is.
"""

from __future__ import annotations

from pymongo.errors import DuplicateKeyError

from kqs.store.mongo.bell import ring
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session


async def suspend(session: Session, servers: Servers, type_: str, at: float) -> bool:
    """See Store.suspend."""
    try:
        await session.suspended.insert_one({"_id": type_, "since": at})
    except DuplicateKeyError:
        await ring(servers)  # who was told that it may have failed asks again
        return False
    await ring(servers)
    return True


async def resume(session: Session, servers: Servers, type_: str) -> bool:
    """See Store.resume."""
    deleted = await session.suspended.delete_one({"_id": type_})
    await ring(servers)
    return bool(deleted.deleted_count)


async def suspended(session: Session) -> dict[str, float]:
    """See Store.suspended."""
    return {str(one["_id"]): float(one["since"]) async for one in session.suspended.find()}
