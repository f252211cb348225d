"""What owners have said of the limits of types, over all servers: one document a type, {_id: the type, said}.

Each write says all there is, so one whose answer was lost may be repeated as it is.
"""

from __future__ import annotations

from kqs.store.mongo.session import Session


async def limit(session: Session, type_: str, said: bytes | None) -> bool:
    """See Store.limit."""
    if said is None:
        return bool((await session.limits.delete_one({"_id": type_})).deleted_count)
    done = await session.limits.update_one({"_id": type_}, {"$set": {"said": said.decode()}}, upsert=True)
    return bool(done.matched_count)


async def limits(session: Session) -> dict[str, bytes]:
    """See Store.limits."""
    return {str(one["_id"]): str(one["said"]).encode() async for one in session.limits.find()}
