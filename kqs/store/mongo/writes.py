"""Writes of which some may be refused."""

from __future__ import annotations

from collections.abc import Awaitable

from pymongo.errors import BulkWriteError

from kqs.store.mongo.client import DUPLICATE_KEY


async def write_unless_taken(writing: Awaitable[object]) -> set[int]:
    """Return the indexes of the writes that were refused since their id is taken."""
    try:
        await writing
    except BulkWriteError as error:
        details = error.details or {}
        writes = details.get("writeErrors", [])
        if details.get("writeConcernErrors") or any(write["code"] != DUPLICATE_KEY for write in writes):
            raise
        return {write["index"] for write in writes}
    return set()
