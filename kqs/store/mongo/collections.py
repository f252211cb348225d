"""Where one fleet's documents stand in a database that several fleets may share.

jobs, servers, …         without a namespace
eu.jobs, eu.servers, …   with the namespace `eu`
"""

from __future__ import annotations

from motor.motor_asyncio import AsyncIOMotorDatabase, AsyncIOMotorGridFSBucket

from kqs.store.mongo.client import Document

#: eight of GridFS's own, so that 100 MB are 50 writes; a document may have 16 MB
CHUNK_BYTES = 2 * 1024 * 1024


class Collections:
    """The collections of one namespace. What each holds is said in schema.py."""

    def __init__(self, db: AsyncIOMotorDatabase[Document], namespace: str) -> None:
        prefix = f"{namespace}." if namespace else ""
        self._db = db
        self.meta = db[f"{prefix}meta"]
        self.servers = db[f"{prefix}servers"]
        self.jobs = db[f"{prefix}jobs"]
        self.locks = db[f"{prefix}locks"]
        self.tallies = db[f"{prefix}tallies"]
        self.suspended = db[f"{prefix}suspended"]
        self.shares = db[f"{prefix}shares"]
        self.said = db[f"{prefix}said"]
        self.subscriptions = db[f"{prefix}subscriptions"]
        self.uniques = db[f"{prefix}uniques"]
        self.ends = db[f"{prefix}ends"]
        self.schedules = db[f"{prefix}schedules"]
        self.files = db[f"{prefix}bulk.files"]
        self.chunks = db[f"{prefix}bulk.chunks"]
        self.bucket = AsyncIOMotorGridFSBucket(db, f"{prefix}bulk", chunk_size_bytes=CHUNK_BYTES)

    async def existing(self) -> list[str]:
        """Return the names of those, but `meta`, that stand in the database."""
        known = (
            self.servers,
            self.jobs,
            self.locks,
            self.tallies,
            self.suspended,
            self.said,
            self.shares,
            self.uniques,
            self.schedules,
            self.ends,
            self.subscriptions,
        )
        ours = {one.name for one in (*known, self.files, self.chunks)}
        return sorted(ours.intersection(await self._db.list_collection_names()))

    @property
    def database(self) -> str:
        """Return the database's name."""
        return str(self._db.name)
