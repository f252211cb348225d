"""A store of one's own for long data: what it is, and one in a folder."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class BulkStore(ABC):
    """Where the data of jobs is kept that is too long for the queue. It is called on the queue's loop, several calls at a time.

    A key is the job's id, a dot and 16 hexadecimal digits: up to 217 of the characters `A-Z a-z 0-9 . _ : -`. Data is JSON.
    over_bytes: longer data goes there, as JSON in bytes. A class may have another number.
    """

    over_bytes: int = 64 * 1024

    @abstractmethod
    async def set(self, key: str, data: bytes) -> None:
        """Keep data under a key, durably, in the place of what is there. What it raises refuses the insert."""

    @abstractmethod
    async def get(self, key: str) -> bytes | None:
        """Return what is kept under a key; None: nothing. What it raises fails the run."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Keep nothing under a key any more. Idempotent. What it raises is logged, and the data left there."""

    async def close(self) -> None:
        """End: the queue calls nothing more. By default nothing is done. What it raises is told by the queue's `close`."""
        return


class FolderBulk(BulkStore):
    """A file for each key, in one folder, which several machines may share. Each is flushed before its job is inserted."""

    def __init__(self, folder: str | os.PathLike[str], over_bytes: int = BulkStore.over_bytes) -> None:
        """Args: folder: it is made when it is not there. over_bytes: as BulkStore has it."""
        self.over_bytes = over_bytes
        self._folder = Path(folder).absolute()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="kqs-bulk")

    async def set(self, key: str, data: bytes) -> None:
        """See BulkStore.set. Raises: OSError."""
        await self._in_thread(_write, self._folder, key, data)

    async def get(self, key: str) -> bytes | None:
        """See BulkStore.get. Raises: OSError."""
        with suppress(FileNotFoundError):
            return await self._in_thread((self._folder / key).read_bytes)
        return None

    async def delete(self, key: str) -> None:
        """See BulkStore.delete. Raises: OSError."""
        await self._in_thread((self._folder / key).unlink, missing_ok=True)

    async def close(self) -> None:
        """End its threads."""
        self._threads.shutdown(wait=False)

    async def _in_thread(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return when it is done, even if cancelled: a thread that has begun goes on, and what is asked next comes after it."""
        doing = self._threads.submit(work, *args, **kwargs)
        try:
            return await asyncio.wrap_future(doing)
        except asyncio.CancelledError:
            if not doing.cancelled():
                await asyncio.wait([asyncio.wrap_future(doing)])
            raise


def _write(folder: Path, key: str, data: bytes) -> None:
    """Put a file in its place whole, so that it and its name outlive a power cut."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = folder / f"{key}~"  # no key has such a character
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(folder / key)
    except OSError:
        unfinished.unlink(missing_ok=True)  # of a full disk above all
        raise
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
