"""The collections: their version, its indexes, and the number of boots it has seen.

    meta      one document {_id: "kqs", schema, epoch, store_id}; epoch counts the boots of all servers
    servers   one document a journal (servers.py)
    jobs      one document a job (documents.py)
    locks     one document a resource that somebody has or waits for (resources.py)
    tallies   one document a type (tallies.py)
    uniques   one document a unique key (uniques.py)
    bulk.*    GridFS (bulk.py)

A change of the documents raises SCHEMA_VERSION and adds the step from the version before.
"""

from __future__ import annotations

import secrets
from contextlib import suppress

from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from kqs.errors import StoreCorruptError
from kqs.store.mongo.collections import Collections

SCHEMA_VERSION = 1

_META = "kqs"
#: every question is answered from one of these, whatever the number of jobs; each begins with what sets its jobs apart
_JOB_INDEXES = [
    IndexModel([("place", 1), ("type", 1), ("prio", 1), ("order", 1)], name="ready"),
    IndexModel([("wake_at", 1)], name="later", sparse=True),
    IndexModel([("place", 1), ("expire_at", 1)], name="expiring"),
    IndexModel([("owner", 1)], name="running", sparse=True),
    IndexModel([("state", 1), ("drop_at", 1), ("order", 1)], name="ended"),
    IndexModel([("order", 1)], name="age"),
    IndexModel([("pair", 1)], name="pairs", sparse=True),
    IndexModel([("parked", 1)], name="parked", sparse=True),
    IndexModel([("called", 1)], name="called", sparse=True),
]
_SERVER_INDEXES = [IndexModel([("node", 1)], name="nodes", unique=True)]


async def prepare(collections: Collections) -> tuple[int, str]:
    """Create what is missing; return the number of a new boot, and the store's own name.

    Raises: StoreCorruptError: no store of ours, or of a newer version; nothing was changed.
    """
    if not await _is_known(collections):
        await _create(collections)
    await collections.jobs.create_indexes(_JOB_INDEXES)
    await collections.servers.create_indexes(_SERVER_INDEXES)
    return await _boot(collections)


async def _boot(collections: Collections) -> tuple[int, str]:
    """Count a boot; return its number, which no other has, and the store's own name.

    The number is what this server wrote over the one before, not what an answer says: not every server of the protocol answers
    an update with the document of that moment.
    """
    while (meta := await collections.meta.find_one({"_id": _META, "schema": SCHEMA_VERSION})) is not None:
        epoch = int(meta["epoch"]) + 1
        counted = await collections.meta.update_one({"_id": _META, "epoch": meta["epoch"]}, {"$set": {"epoch": epoch}})
        if counted.modified_count:
            return epoch, str(meta.get("store_id", ""))
    raise StoreCorruptError("the store has lost its own description")


async def _is_known(collections: Collections) -> bool:
    meta = await collections.meta.find_one({"_id": _META})
    if meta is None:
        return False
    if meta["schema"] > SCHEMA_VERSION:
        raise StoreCorruptError(f"the store is of version {meta['schema']}, this server knows versions up to {SCHEMA_VERSION}")
    return True


async def _create(collections: Collections) -> None:
    strange = await collections.existing()
    if strange and not await _is_known(collections):  # unless another server has created the store just now
        raise StoreCorruptError(f"the database {collections.database} has a collection {strange[0]!r}, but is no KQS store")
    with suppress(DuplicateKeyError):  # another server came first
        store_id = secrets.token_hex(16)
        await collections.meta.insert_one({"_id": _META, "schema": SCHEMA_VERSION, "epoch": 0, "store_id": store_id})
