"""The data of jobs that is kept apart from the queue, in a bulk store; a reference to it is in its place.

It is set before the insert and deleted when its job has succeeded, after that is durable. So a job never lacks its data, and
what is left over by a crash in between is never used. A job that failed or was cancelled may be retried: it keeps its data.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import msgspec

from kqs.client import Run
from kqs.client.ids import ClientIds
from kqs.crc import crc32c
from kqs.errors import CallError, KqsError
from kqs.ids import ID_PATTERN
from kqs.library.bulk import BulkStore
from kqs.library.data import MAX_DATA_BYTES, data_of
from kqs.library.job import JobRecord
from kqs.log import get_logger
from kqs.made.traces import text_of
from kqs.supervisor import Supervisor, when_done

P = ParamSpec("P")
T = TypeVar("T")

log = get_logger("kqs.library")

#: longer data goes nowhere, so that a mistake ends before the memory does
MAX_BULK_BYTES = 1024 * 1024 * 1024
#: calls of a store for one insert, at a time
SETS_AT_ONCE = 8
#: a store that has not deleted or closed by then does not hold up the program, in s
END_S = 30.0

#: refusals after which a job may run all the same
_MAY_BE_KEPT = frozenset({"journal_failed", "internal"})
_BEGINS = b'{"kqs.bulk":'
_KEY_END = re.compile(r"[0-9a-f]{16}")


class BulkStoreError(KqsError):
    """A job's data could not be set in the bulk store, and nothing was inserted; or it could not be had from there."""


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where data is, how many bytes it has as JSON, and their CRC-32C."""

    key: str
    bytes: int
    crc32c: int

    @property
    def job_id(self) -> str:
        """Return the id of the job for which it was set. Copies for subscribers have the same reference."""
        return self.key.rpartition(".")[0]


class _Referring(msgspec.Struct, forbid_unknown_fields=True):
    """What is in the place of data."""

    reference: Reference = msgspec.field(name="kqs.bulk")


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Referring).decode


def reference_in(data: bytes | msgspec.Raw) -> Reference | None:
    """Return the reference that is in the place of data, which is JSON; None: it is data."""
    if not _looks_referring(data):
        return None
    try:
        reference = _decode(data).reference
    except msgspec.DecodeError:
        return None
    return reference if _is_key(reference.key) else None


def _is_key(text: str) -> bool:
    job_id, _, end = text.rpartition(".")
    return ID_PATTERN.match(job_id) is not None and _KEY_END.fullmatch(end) is not None


def _looks_referring(data: bytes | msgspec.Raw) -> bool:
    return bytes(memoryview(data)[: len(_BEGINS)]) == _BEGINS


class Put(NamedTuple):
    """Data that was set for one job. is_named_here: the job's id was made here."""

    job_id: str
    key: str
    is_named_here: bool


class Insert:
    """An insert under way. jobs: as they are to be inserted. puts: what was set for them.

    in_doubt: those of which it is not known, after the insert, that a job has them; they are looked at.
    """

    def __init__(self, jobs: Sequence[Mapping[str, Any]], puts: Sequence[Put]) -> None:
        self.jobs = jobs
        self.puts = puts
        self.in_doubt: Iterable[Put] = ()

    @property
    def made_ids(self) -> set[str]:
        """Return the ids that were made here."""
        return {put.job_id for put in self.puts if put.is_named_here}


class Apart:
    """See the module docstring. Without a store nothing is set, and no reference can be followed. Call from the loop thread."""

    def __init__(
        self, store: BulkStore | None, supervisor: Supervisor, look_up: Callable[[str], Awaitable[JobRecord | None]]
    ) -> None:
        """Args: look_up: returns what the queue knows of a job. Raises: TypeError: the store is none."""
        if store is not None and not isinstance(store, BulkStore):
            raise TypeError(f"bulk: expected a kqs.BulkStore, of which yours is a subclass, got {store!r:.60}")
        self._store = store
        self._supervisor = supervisor
        self._look_up = look_up
        self._ids = ClientIds()
        self._drops: set[asyncio.Task[None]] = set()

    def data_of(self, value: object) -> msgspec.Raw:
        """Return data as JSON. Raises: as kqs.library.data.data_of."""
        return data_of(value, MAX_DATA_BYTES if self._store is None else MAX_BULK_BYTES)

    @asynccontextmanager
    async def inserting(self, jobs: Sequence[Mapping[str, Any]]) -> AsyncIterator[Insert]:
        """Set the long data of jobs, whose `data` is a msgspec.Raw; what no job has after their insert is deleted.

        An insert of which nobody knows whether it was done leaves what was set.
        Raises: BulkStoreError: something could not be set; nothing of it is left, and nothing is to be inserted.
        """
        insert = Insert(jobs, ())
        if self._store is not None:
            insert = await self._set_all(self._store, jobs)
        try:
            yield insert
        except CallError as error:
            if error.call_code not in _MAY_BE_KEPT:
                await self._review(insert.puts)
            raise
        await self._review(insert.in_doubt)

    async def _set_all(self, store: BulkStore, jobs: Sequence[Mapping[str, Any]]) -> Insert:
        """Return the jobs with references. Each that has one has an id, by which its data is found."""
        lean: list[Mapping[str, Any]] = []
        puts: list[Put] = []
        texts: list[bytes] = []
        for job in jobs:
            is_apart = len(memoryview(job["data"])) > store.over_bytes or _looks_referring(job["data"])
            if not is_apart or (put := self._put_for(job)) is None:
                lean.append(job)
                continue
            text = bytes(job["data"])
            reference = Reference(put.key, len(text), crc32c(text))
            lean.append({**job, "id": put.job_id, "data": msgspec.Raw(_encode(_Referring(reference)))})
            puts.append(put)
            texts.append(text)
        room = asyncio.Semaphore(SETS_AT_ONCE)
        try:
            found = await asyncio.gather(
                *[_set(store, room, put.key, text) for put, text in zip(puts, texts, strict=True)], return_exceptions=True
            )
        except BaseException:
            self._drop_later([put.key for put in puts])
            raise
        if (error := next((one for one in found if one is not None), None)) is not None:
            await self._drop([put.key for put in puts])
            cause = error.__cause__ or error
            raise BulkStoreError(f"the bulk store could not keep a job's data: {_named(cause)}") from cause
        return Insert(lean, puts)

    def _put_for(self, job: Mapping[str, Any]) -> Put | None:
        """Return under which key a job's data is set; None: its id is none, as the queue will say.

        The key is a new one: a job that has the id already has other data.
        """
        named = job.get("id")
        job_id = self._ids.take() if named is None else named
        if not isinstance(job_id, str) or not ID_PATTERN.match(job_id):
            return None
        return Put(job_id, f"{job_id}.{secrets.token_hex(8)}", named is None)

    async def _review(self, puts: Iterable[Put]) -> None:
        """Delete what no job has. What cannot be found out is left."""
        for put in puts:
            try:
                record = await self._look_up(put.job_id)
            except KqsError:
                continue
            reference = None if record is None else reference_in(_encode(record.data))
            if reference is None or reference.key != put.key:
                await self._drop([put.key])

    async def get(self, reference: Reference) -> bytes:
        """Return the data. Raises: BulkStoreError: it is not there, or cannot be had, or is not what was set."""
        key = reference.key
        if self._store is None:
            raise BulkStoreError(f"the job's data is in a bulk store, under {key}, and this queue was given none")
        try:
            data = await _of_store(_bytes_of, self._store, key)
        except BulkStoreError as error:
            raise BulkStoreError(f"the bulk store could not be asked for the job's data, {key}: {error}") from error.__cause__
        if data is None:
            raise BulkStoreError(f"the job's data is not in the bulk store any more: {key}")
        if len(data) != reference.bytes or crc32c(data) != reference.crc32c:
            raise BulkStoreError(f"the job's data in the bulk store is not what was set: {key}")
        return data

    async def data_in(self, run: Run) -> bytes | None:
        """Return the data of a run that is kept apart; None: the run has it. Raises: as `get`."""
        reference = reference_in(run.raw)
        return None if reference is None else await self.get(reference)

    def succeeded(self, run: Run) -> None:
        """Begin to delete what was set for a job that has succeeded; what it shares with copies for subscribers is left."""
        reference = reference_in(run.raw)
        if reference is not None and reference.job_id == run.id:
            self._drop_later([reference.key])

    def _drop_later(self, keys: Sequence[str]) -> None:
        task = self._supervisor.spawn(self._drop(keys), "library-bulk", when_done)
        self._drops.add(task)
        task.add_done_callback(self._drops.discard)

    async def _drop(self, keys: Sequence[str]) -> None:
        """Delete data. A store that does not answer is asked for no more of it."""
        for done, key in enumerate(keys):
            try:
                if self._store is not None:
                    await _of_store(_in_time, self._store.delete, key)
            except BulkStoreError as error:
                has_hung = isinstance(error.__cause__, TimeoutError)
                log.warning(
                    "data was left in the bulk store", key=key, count=len(keys) - done if has_hung else 1, error=str(error)
                )
                if has_hung:
                    break

    async def settle(self) -> None:
        """Return when nothing is being deleted."""
        if self._drops:
            await asyncio.wait(self._drops)

    async def close(self) -> None:
        """End the store, once. Raises: BulkStoreError: it could not, or did not in END_S."""
        await self.settle()
        store, self._store = self._store, None
        if store is not None:
            try:
                await _of_store(_in_time, store.close)
            except BulkStoreError as error:
                raise BulkStoreError(f"the bulk store could not be closed: {error}") from error.__cause__


async def _set(store: BulkStore, room: asyncio.Semaphore, key: str, text: bytes) -> None:
    async with room:
        await _of_store(store.set, key, text)


async def _bytes_of(store: BulkStore, key: str) -> bytes | None:
    data = await store.get(key)
    if data is None:
        return None
    if not isinstance(data, bytes | bytearray | memoryview):  # as its annotation says, which nothing makes it heed
        raise TypeError(f"expected bytes, got {type(data).__name__}")
    return bytes(data)


async def _in_time(work: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
    async with asyncio.timeout(END_S):
        await work(*args, **kwargs)


async def _of_store(work: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Have the store do something.

    Raises: BulkStoreError: for whatever that raises, but a cancellation that was asked of us.
    """
    task = asyncio.current_task()
    asked = 0 if task is None else task.cancelling()
    try:
        return await work(*args, **kwargs)
    except BaseException as error:  # of any class: it is other people's code, as handlers are
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > asked:
            raise
        raise BulkStoreError(_named(error)) from error


def _named(error: BaseException) -> str:
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
