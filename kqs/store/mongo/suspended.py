"""Types whose jobs wait, over all servers: one document a type, {_id: the type, since}.

A document is made or deleted and never changed, so a write whose answer was lost may be repeated as it is.
"""

from __future__ import annotations

from pymongo.errors import DuplicateKeyError

from kqs.store.mongo.session import Session


async def suspend(session: Session, type_: str, at: float) -> bool:
    """See Store.suspend."""
    try:
        await session.suspended.insert_one({"_id": type_, "since": at})
    except DuplicateKeyError:
        return False
    return True


async def resume(session: Session, type_: str) -> bool:
    """See Store.resume."""
    return bool((await session.suspended.delete_one({"_id": type_})).deleted_count)


async def suspended(session: Session) -> dict[str, float]:
    """See Store.suspended."""
    return {str(one["_id"]): float(one["since"]) async for one in session.suspended.find()}
