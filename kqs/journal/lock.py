"""Who has the journal: its folder and the lock file in it are held with flock, both, for as long as a server lives.

The folder's own lock outlives a lock file that somebody removes, and tells a folder from another one that took its name. The
file names the holder, and keeps out a server of a version that knows no other lock.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kqs.errors import JournalError, JournalLockedError
from kqs.journal.files import Files, read_all

#: held with flock for as long as a server lives; the holder's pid is its content
LOCK_NAME = "lock"
#: read of the lock file: it holds a pid, which is shorter, or what is none
_PID_BYTES = 64


class JournalLock:
    """Taken when it is made. Any one thread at a time, but for `check`: at worst it fails while the file is taken again."""

    def __init__(self, files: Files, directory: Path) -> None:
        """Raises: JournalLockedError: another process has it. OSError."""
        self._files = files
        self._directory = directory
        self._path = directory / LOCK_NAME
        self._pid = os.getpid()
        try:
            self._folder = files.lock_dir(directory)
        except JournalLockedError:
            raise JournalLockedError(f"{directory} is in use by process {self._holder()}") from None
        try:
            self._identity = files.identity(self._folder)
            self._file = self._take_file()
        except BaseException:
            files.close(self._folder)
            raise

    def release(self) -> None:
        """Let others have it. A forked process only lets go of its handles: it is its parent's."""
        let_go = self._files.unlock if os.getpid() == self._pid else self._files.close
        for handle in (self._file, self._folder):
            with suppress(OSError):
                let_go(handle)

    def check_folder(self) -> None:
        """Raises: JournalError: another folder has the name, or none. OSError."""
        if self._files.identity_of(self._directory) != self._identity:
            raise JournalError(f"the folder {self._directory} was removed or replaced")

    def check(self) -> None:
        """Raises: JournalError: as for the folder, or so is the lock file in it. OSError."""
        self.check_folder()
        if not self._has_file():
            raise JournalError(f"the lock {self._path} was removed or replaced")

    def regain(self) -> bool:
        """Take the lock file again if it is not ours any more; tell whether that was so.

        Raises: JournalLockedError: another process has it now. JournalError: the folder is not ours. OSError.
        """
        self.check_folder()
        if self._has_file():
            return False
        lost, self._file = self._file, self._take_file()
        self._files.close(lost)
        return True

    def _has_file(self) -> bool:
        return self._files.identity_of(self._path) == self._files.identity(self._file)

    def _take_file(self) -> int:
        return self._files.lock(self._path, f"{os.getpid()}\n")

    def _holder(self) -> str:
        try:
            handle = self._files.open(self._path)
        except OSError:
            return "?"
        try:
            return read_all(self._files, handle, _PID_BYTES, 0).decode(errors="replace").strip() or "?"
        finally:
            self._files.close(handle)
