"""The files that were opened: whether they have their names still, and their length, so that a start finds what is kept now.

SQLite goes on with files that have lost their names, and answers from memory for one that was emptied. What a file had it must
have still, but where the session says that it is about to cut it. SQLite looks for the WAL beside the file itself, to whichever
that leads, and opens none that is a symbolic link: so a link in place of either is another file. One user at a time, as of the
session.

The WAL is looked at before each commit that is flushed, and not by a stat where the system tells an open file's name: since
Linux 6.13 the first write after a stat has to note its time exactly, and its flush takes 30 to 50 us longer.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kqs.errors import StoreUnavailableError
from kqs.process.names import name_of
from kqs.store.sqlite.connection import LEAST_WAL_BYTES, PAGE_BYTES


class OpenedFiles:
    """See the module docstring."""

    def __init__(self, path: Path) -> None:
        """Args: path: of the store; nothing is looked at before `opened`."""
        self._path = str(path)
        self._names = (self._path, f"{path}-wal")
        self._is_cutting = False
        self._identities: dict[str, tuple[int, int]] = {}
        self._least_bytes: dict[str, int] = {}
        self._wal: tuple[int, str] | None = None  # a descriptor of the WAL, and the name that this has
        self._close_wal: Callable[[], object] = _nothing

    def opened(self) -> None:
        """Take the files that have the names now for those that SQLite has opened."""
        self._is_cutting = False
        real = os.path.realpath(self._path)
        self._names = (real, f"{real}-wal")
        found = {name: status for name in self._names if (status := _status(name)) is not None}
        self._identities = {name: _identity(status) for name, status in found.items()}
        self._least_bytes = {name: self._lasting_bytes(name, status.st_size) for name, status in found.items()}
        self._let_go_of_wal()
        self._hold_wal()

    def check(self) -> None:
        """Raises: StoreUnavailableError: a file was removed, replaced or cut short. OSError: nobody can look."""
        for name in self._identities:
            self._check(name)
        if self._path != self._names[0]:
            led_to = _status(self._path, follow=True)
            if led_to is None or _identity(led_to) != self._identities[self._names[0]]:
                raise _lost(self._path, "leads to another")

    def about_to_close(self) -> None:
        """Take it that SQLite removes the WAL as it copies it into the file; one that is lost already stays lost."""
        self._let_go_of_wal()
        wal = self._names[1]
        if wal in self._identities:
            with suppress(StoreUnavailableError, OSError):
                self._check(wal)
                del self._identities[wal]

    def about_to_cut(self) -> None:
        """Take it that the file may become shorter, until `is_copied`."""
        self._is_cutting = True
        self._least_bytes[self._names[0]] = 0

    def is_copied(self) -> None:
        """Take it that all of the WAL stands in the file, which is as long as it will be."""
        self._is_cutting = False

    def about_to_empty_wal(self) -> None:
        """Take it that the WAL may become empty."""
        self._least_bytes[self._names[1]] = 0

    def _check(self, name: str) -> None:
        size_bytes = self._named_wal_bytes() if name == self._names[1] else None
        if size_bytes is None:
            status = _status(name)
            if status is None or _identity(status) != self._identities[name]:
                raise _lost(name, "was removed or replaced")
            size_bytes = status.st_size
        if size_bytes < self._least_bytes[name]:
            raise _lost(name, "was cut short")
        self._least_bytes[name] = self._lasting_bytes(name, size_bytes)

    def _named_wal_bytes(self) -> int | None:
        """Return how long the WAL is; None if it may have lost its name, or nobody tells."""
        if self._wal is None:
            return None
        handle, name = self._wal
        return os.lseek(handle, 0, os.SEEK_END) if name_of(handle) == name else None

    def _hold_wal(self) -> None:
        """Keep a descriptor of the WAL, on which nobody has locks that closing it could drop."""
        with suppress(OSError):
            handle = os.open(self._names[1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            name = name_of(handle)
            # like the connection's own, it goes with whoever drops a session without closing it
            self._close_wal = weakref.finalize(self, os.close, handle)
            if name is None:
                self._close_wal()
            else:
                self._wal = (handle, name)

    def _let_go_of_wal(self) -> None:
        self._wal = None
        self._close_wal()

    def _lasting_bytes(self, name: str, size_bytes: int) -> int:
        """Return how much of a file's length lasts whatever SQLite does by itself."""
        if name != self._names[0]:
            return min(size_bytes, LEAST_WAL_BYTES)
        return min(size_bytes, PAGE_BYTES) if self._is_cutting else size_bytes


def _nothing() -> None:
    return None


def _status(name: str, *, follow: bool = False) -> os.stat_result | None:
    try:
        return os.stat(name, follow_symlinks=follow)  # noqa: PTH116 - as text: no path is made for each commit
    except (FileNotFoundError, NotADirectoryError):
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _lost(name: str, how: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"the store's file {name} {how}: a restart would not find what it has")
