"""Bytes too long for a document: files in GridFS, which documents name.

A file is written before the document that names it and deleted after, so one that nobody names may be left over; `sweep` finds
those. Its metadata says which job it was written for. When it was written stands there by the clock of its server, which may be
wrong as ours may: so a file is old that we have known for long to be nameless, by a clock that nobody sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bson import ObjectId
from gridfs.errors import NoFile

from kqs.crc import crc32c
from kqs.store.mongo.client import DRIVER_ERRORS, Document
from kqs.store.mongo.collections import Collections

#: the driver's own reader leaves it to the server how much it sends at once, and not every server keeps to 48 MB
_CHUNKS_PER_ANSWER = 8
#: a file is written moments before its document: one that is without one for so long was left over, in s
ORPHAN_AGE_S = 3600.0
#: files looked at in one sweep, and most that are known to be nameless
SWEEP_FILES = 1000


class Bulk:
    """The files. `field` is the name under which a document holds the bytes, if they are short: `data` or `result`."""

    def __init__(self, collections: Collections) -> None:
        self._bucket = collections.bucket
        self._files = collections.files
        self._chunks = collections.chunks
        self._jobs = collections.jobs
        self._last_seen: ObjectId | None = None
        # by file: the job that it was written for, and since when it is known
        self._nameless: dict[ObjectId, tuple[str, float]] = {}

    async def put(self, field: str, job_id: str, data: bytes) -> Document:
        """Store `data`; return the fields that name it in its job's document."""
        file_id = ObjectId()
        await self._bucket.upload_from_stream_with_id(file_id, field, data, metadata={"job": job_id})
        return {f"{field}_bulk": file_id, f"{field}_crc32c": crc32c(data)}

    async def get(self, field: str, document: Mapping[str, Any]) -> bytes | None:
        """Return what a document says under `field`, wherever it is; None if it is damaged, missing, or was never there."""
        file_id = document.get(f"{field}_bulk")
        if file_id is None:
            inline: bytes | None = document.get(field, document.get(f"{field}_long"))
            return inline
        chunks = self._chunks.find({"files_id": file_id}, ["data"]).sort("n", 1).batch_size(_CHUNKS_PER_ANSWER)
        data = b"".join([chunk["data"] async for chunk in chunks])
        return data if crc32c(data) == document.get(f"{field}_crc32c") else None

    async def delete(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Delete the files that these documents name. One that cannot be deleted now is left to `sweep`."""
        for document in documents:
            for file_id in (document.get("data_bulk"), document.get("result_bulk")):
                if file_id is not None:
                    await self._delete(file_id)

    async def _delete(self, file_id: ObjectId) -> None:
        try:
            await self._bucket.delete(file_id)
        except (NoFile, *DRIVER_ERRORS):
            return

    async def sweep(self, now: float) -> int:
        """Look for nameless files among the next `SWEEP_FILES`, and delete those that were found so long ago; return how many.

        Args: now: monotonic, in s.
        """
        old = {file_id: job_id for file_id, (job_id, since) in self._nameless.items() if now - since >= ORPHAN_AGE_S}
        orphans = await self._without_name(old)
        for file_id in old:
            del self._nameless[file_id]
        for file_id in orphans:
            await self._delete(file_id)
        await self._look_at_more(now)
        return len(orphans)

    async def _look_at_more(self, now: float) -> None:
        beyond: Document = {} if self._last_seen is None else {"_id": {"$gt": self._last_seen}}
        found = self._files.find(beyond, ["metadata"]).sort("_id", 1).limit(SWEEP_FILES)
        jobs = {file["_id"]: file["metadata"]["job"] async for file in found}
        nameless = await self._without_name(jobs)
        self._last_seen = max(jobs) if len(jobs) == SWEEP_FILES else None
        for file_id in nameless[: SWEEP_FILES - len(self._nameless)]:
            self._nameless.setdefault(file_id, (jobs[file_id], now))

    async def _without_name(self, jobs: Mapping[ObjectId, str]) -> Sequence[ObjectId]:
        """Return those files that the document of their job does not name, if there is one. jobs: by file."""
        fields = ["data_bulk", "result_bulk"]
        named: set[ObjectId] = set()
        async for document in self._jobs.find({"_id": {"$in": list(jobs.values())}}, fields):
            named.update(document[field] for field in fields if field in document)
        return [file_id for file_id in jobs if file_id not in named]
