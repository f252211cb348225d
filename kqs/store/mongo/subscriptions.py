"""Which types have subscribers, over all servers: one document each, {_id: [type, subscriber] as JSON, type, subscriber}.

A document is made or deleted and never changed, so a write whose answer was lost may be repeated as it is.
"""

from __future__ import annotations

import json

from pymongo.errors import DuplicateKeyError

from kqs.store.mongo.bell import ring
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session


async def subscribe(session: Session, servers: Servers, type_: str, subscriber: str) -> bool:
    """See Store.subscribe."""
    is_new = True
    try:
        await session.subscriptions.insert_one({"_id": _key(type_, subscriber), "type": type_, "subscriber": subscriber})
    except DuplicateKeyError:
        is_new = False
    await ring(servers)
    return is_new


async def unsubscribe(session: Session, servers: Servers, type_: str, subscriber: str) -> bool:
    """See Store.unsubscribe."""
    deleted = await session.subscriptions.delete_one({"_id": _key(type_, subscriber)})
    await ring(servers)
    return bool(deleted.deleted_count)


async def subscriptions(session: Session) -> dict[str, list[str]]:
    """See Store.subscriptions."""
    found: dict[str, list[str]] = {}
    async for one in session.subscriptions.find():
        found.setdefault(one["type"], []).append(one["subscriber"])
    return {type_: sorted(subscribers) for type_, subscribers in found.items()}


def _key(type_: str, subscriber: str) -> str:
    return json.dumps([type_, subscriber])
