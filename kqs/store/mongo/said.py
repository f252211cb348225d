"""What owners have said of types, over all servers: one document each, {_id: [topic, type] as JSON, topic, type, text}.

Each write says all there is, so one whose answer was lost may be repeated as it is.
"""

from __future__ import annotations

import json

from kqs.store.mongo.bell import ring
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session
from kqs.store.sayings import Topic


async def say(session: Session, servers: Servers, topic: Topic, type_: str, text: bytes | None) -> bool:
    """See Store.say."""
    key = {"_id": json.dumps([int(topic), type_])}
    if text is None:
        was_there = bool((await session.said.delete_one(key)).deleted_count)
    else:
        fields = {"topic": int(topic), "type": type_, "text": text.decode()}
        done = await session.said.update_one(key, {"$set": fields}, upsert=True)
        was_there = bool(done.matched_count)
    await ring(servers)
    return was_there


async def said(session: Session, topic: Topic) -> dict[str, bytes]:
    """See Store.said."""
    return {str(one["type"]): str(one["text"]).encode() async for one in session.said.find({"topic": int(topic)})}
