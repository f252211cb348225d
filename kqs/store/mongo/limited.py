"""What owners have said of the limits of types, over all servers: one document a type, {_id: the type, said}.

Each write says all there is, so one whose answer was lost may be repeated as it is.
"""

from __future__ import annotations

from kqs.store.mongo.bell import ring
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session


async def limit(session: Session, servers: Servers, type_: str, said: bytes | None) -> bool:
    """See Store.limit."""
    if said is None:
        was_there = bool((await session.limits.delete_one({"_id": type_})).deleted_count)
    else:
        done = await session.limits.update_one({"_id": type_}, {"$set": {"said": said.decode()}}, upsert=True)
        was_there = bool(done.matched_count)
    await ring(servers)
    return was_there


async def limits(session: Session) -> dict[str, bytes]:
    """See Store.limits."""
    return {str(one["_id"]): str(one["said"]).encode() async for one in session.limits.find()}
