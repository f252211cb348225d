"""The collections: their version, its indexes, and the number of boots it has seen.

    meta      one document {_id: "kqs", schema, epoch, store_id}; epoch counts the boots of all servers
    servers   one document a journal (servers.py)
    jobs      one document a job (documents.py)
    locks     one document a resource that somebody has or waits for (resources.py)
    tallies   one document a type (tallies.py)
    suspended one document a suspended type (suspended.py)
    said      one document for what an owner has said of a type: its limits, its options (said.py)
    shares    one document a type that was limited over all servers (shares.py)
    subscriptions  one document a subscriber of a type (subscriptions.py)
    uniques   one document a unique key (uniques.py)
    schedules one document a schedule (ticks.py)
    ends      one document a member of a batch whose own tells its end no more (batches.py)
    bulk.*    GridFS (bulk.py)

A change of the documents raises SCHEMA_VERSION. No start rewrites what may be ten million records: what an earlier version
wrote is read as it is (documents.py says what that was), and the step from one version to the next is that `meta` says so. No
server of before may work on beside that; one that starts later sees it and refuses.

What is there is not created, so that a start on a complete database needs no right to.
"""

from __future__ import annotations

import secrets
from asyncio import sleep
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import IndexModel
from pymongo.errors import DuplicateKeyError

from kqs.errors import StoreCorruptError, StoreError, StoreUnavailableError
from kqs.log import get_logger
from kqs.store.mongo.client import Document
from kqs.store.mongo.collections import Collections
from kqs.store.mongo.servers import LEASE_S

log = get_logger("kqs.store")

SCHEMA_VERSION = 3
#: how often is looked whether servers of the version before live, in s
_WATCH_EVERY_S = 1.0

_META = "kqs"
#: every question is answered from one of these, whatever the number of jobs; each begins with what sets its jobs apart
_JOB_INDEXES = [
    IndexModel([("place", 1), ("type", 1), ("group", 1), ("prio", 1), ("order", 1)], name="lines"),
    IndexModel([("wake_at", 1)], name="later", sparse=True),
    IndexModel([("place", 1), ("expire_at", 1)], name="expiring"),
    IndexModel([("owner", 1)], name="running", sparse=True),
    IndexModel([("state", 1), ("drop_at", 1), ("order", 1)], name="ended"),
    IndexModel([("order", 1)], name="age"),
    IndexModel([("pair", 1)], name="pairs", sparse=True),
    IndexModel([("parked", 1)], name="parked", sparse=True),
    IndexModel([("called", 1)], name="called", sparse=True),
    IndexModel([("hold", 1)], name="held", sparse=True),
    IndexModel([("awaits", 1)], name="awaits", sparse=True),
    IndexModel([("pends", 1)], name="pending", sparse=True),
    IndexModel([("batch", 1)], name="batches", sparse=True),
]
_END_INDEXES = [IndexModel([("batch", 1), ("_id", 1)], name="batches")]
_SERVER_INDEXES = [IndexModel([("node", 1)], name="nodes", unique=True)]
#: those of GridFS itself; the driver would create them when the first long data comes
_FILE_INDEXES = [IndexModel([("filename", 1), ("uploadDate", 1)])]
_CHUNK_INDEXES = [IndexModel([("files_id", 1), ("n", 1)], unique=True)]
#: options that let an index do less than one without them does, or more
_LIMITING = ("partialFilterExpression", "collation", "expireAfterSeconds", "hidden")


async def prepare(collections: Collections, journal_id: str) -> tuple[int, str]:
    """Create what is missing; return the number of a new boot, and the store's own name.

    Raises: StoreCorruptError: no store of ours, or of a newer version; nothing was changed. StoreUnavailableError: servers of
        the version before still work on it. StoreError: an index is there in another form.
    """
    if not await _is_known(collections):
        await _create(collections)
    await _upgrade(collections, journal_id)
    for collection, models in (
        (collections.jobs, _JOB_INDEXES),
        (collections.servers, _SERVER_INDEXES),
        (collections.ends, _END_INDEXES),
        (collections.files, _FILE_INDEXES),
        (collections.chunks, _CHUNK_INDEXES),
    ):
        await _create_indexes(collection, models)
    return await _boot(collections)


async def _create_indexes(collection: AsyncIOMotorCollection[Document], models: Sequence[IndexModel]) -> None:
    there = await collection.index_information()
    missing = [model for model in models if not _is_there(collection.name, model.document, there)]
    if missing:
        await collection.create_indexes(missing)


def _is_there(collection: str, wanted: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Tell whether an index serves as the wanted one, whatever its name is. Raises: StoreError: one is in its place."""
    key = [*wanted["key"].items()]
    for name, index in there.items():
        is_same_key = [*index["key"]] == key
        if is_same_key and index.get("unique", False) == wanted.get("unique", False) and not index.keys() & set(_LIMITING):
            return True
        if is_same_key or name == wanted["name"]:
            raise StoreError(f"the index {name!r} of the collection {collection!r} is not as it must be; drop it")
    return False


async def _upgrade(collections: Collections, journal_id: str) -> None:
    """Raise the version of a database of the version before, once no server of that lives.

    Those tell that they live by what they write there, and by counting a boot, which is what each does first.
    """
    while (meta := await collections.meta.find_one({"_id": _META})) is not None and meta["schema"] < SCHEMA_VERSION:
        servers = await collections.servers.find().to_list(None)
        others = [server for server in servers if server["is_open"] and server["_id"] != journal_id]
        newest = max((server["epoch"] for server in servers), default=0)
        if others or meta["epoch"] > newest:
            await _watch(collections, meta["epoch"], others)
        for one in others:  # if it comes back all the same, it finds another boot in its place, and stops
            await collections.servers.update_one(
                {"_id": one["_id"], "epoch": one["epoch"], "beat": one["beat"]}, {"$set": {"epoch": 0, "is_open": False}}
            )
        done = await collections.meta.update_one(
            {"_id": _META, "schema": meta["schema"], "epoch": meta["epoch"]},
            {"$set": {"schema": SCHEMA_VERSION, "epoch": meta["epoch"] + 1}},
        )
        if done.modified_count:
            log.info("the database has a new version", was=meta["schema"], version=SCHEMA_VERSION)


async def _watch(collections: Collections, epoch: int, others: Sequence[Document]) -> None:
    """Return when these servers have written nothing for as long as a living one never does, and no other came."""
    beats = {server["_id"]: server["beat"] for server in others}
    log.info("the database is of an earlier version, looking whether its servers live", servers=len(beats))
    for _ in range(round(LEASE_S / _WATCH_EVERY_S)):
        await sleep(_WATCH_EVERY_S)
        meta = await collections.meta.find_one({"_id": _META, "epoch": epoch})
        servers = await collections.servers.find({"_id": {"$in": list(beats)}}).to_list(None)
        living = [server["node"] for server in servers if beats[server["_id"]] != server["beat"]]
        if meta is None or living:
            raise StoreUnavailableError(
                f"servers of an earlier version work on the database (node {', '.join(living) or 'unknown'}): stop them"
            )


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
