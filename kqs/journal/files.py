"""The one seam between the journal and the disk: every access of every journal file goes through `Files`.

A handle is an int that `open` gave. Every call may raise OSError and is then taken as failed, whatever it has done. Nothing
here retries, buffers or orders; `flush` makes a file's bytes and size durable, `flush_dir` the names in a directory, and
nothing else does. All calls are safe from several threads on different handles.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from kqs.errors import JournalError, JournalLockedError
from kqs.process.names import name_of

#: (device, inode)
Identity = tuple[int, int]

_DIR_MODE = 0o700
_FILE_MODE = 0o600
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class Files(Protocol):
    """See the module docstring."""

    def make_dir(self, path: Path) -> None:
        """Make `path` (0700) if it is missing and flush its parent. Raises JournalError if it is not ours alone."""
        ...

    def list_others(self, path: Path) -> list[str]:
        """Return the names of whatever is no regular file in a directory: links, folders, pipes; sorted."""
        ...

    def list(self, path: Path) -> list[str]:
        """Return the names of the regular files in a directory, sorted."""
        ...

    def create(self, path: Path) -> int:
        """Open an empty file (0600) to read and write, in place of any that had the name."""
        ...

    def open(self, path: Path, *, writable: bool = False) -> int:
        """Open an existing file; a symbolic link is refused."""
        ...

    def size(self, handle: int) -> int:
        """Return a file's size in bytes."""
        ...

    def write(self, handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Write at `offset`; return how many bytes were taken, which may be fewer than given."""
        ...

    def read(self, handle: int, count: int, offset: int) -> bytes:
        """Return up to `count` bytes from `offset`; b"" at or beyond the end."""
        ...

    def begin_flush(self, handle: int, count: int, offset: int) -> None:
        """Have the disk begin with `count` bytes that were written at `offset`, without waiting for it; `flush` must follow."""
        ...

    def flush(self, handle: int) -> None:
        """Make everything written to this file, its size included, survive a power cut."""
        ...

    def allocate(self, handle: int, count: int) -> None:
        """Reserve space so that the file is `count` bytes long, the new ones zero. Raises OSError ENOSPC."""
        ...

    def truncate(self, handle: int, count: int) -> None:
        """Cut a file to `count` bytes."""
        ...

    def close(self, handle: int) -> None:
        """Give a handle back; it is gone even if this raises."""
        ...

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name in its directory, in place of any that had it."""
        ...

    def unlink(self, path: Path) -> None:
        """Take a name away."""
        ...

    def flush_dir(self, path: Path) -> None:
        """Make creations, renames and unlinks in a directory survive a power cut."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Return the bytes this process may still take on the directory's file system."""
        ...

    def lock(self, path: Path, text: str) -> int:
        """Take the lock file for life, with `text` in it; the handle holds it. Raises JournalLockedError."""
        ...

    def lock_dir(self, path: Path) -> int:
        """Lock a directory for life, where its file system can; the handle holds it. Raises JournalLockedError."""
        ...

    def unlock(self, handle: int) -> None:
        """Let go what `lock` or `lock_dir` has taken, also where a forked process has the handle, and close it."""
        ...

    def identity(self, handle: int) -> Identity:
        """Return which file or directory this is, whatever its name."""
        ...

    def identity_of(self, path: Path) -> Identity | None:
        """Return which file or directory has this name; None if none has."""
        ...

    def name_of(self, handle: int) -> str | None:
        """Return how the system names an open file: otherwise once it, or a folder above it, was renamed or removed.

        None: it does not say.
        """
        ...


class OsFiles:
    """The real disk."""

    def make_dir(self, path: Path) -> None:
        """See Files."""
        for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
            missing.mkdir(_DIR_MODE)
            missing.chmod(_DIR_MODE)  # whatever umask a handler has set
            self.flush_dir(missing.parent)
        found = path.stat()
        if found.st_uid != os.geteuid():
            raise JournalError(f"{path} belongs to uid {found.st_uid}, not to {os.geteuid()}")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise JournalError(f"{path} is writable by others (mode {stat.S_IMODE(found.st_mode):o}); use 0700")

    def list_others(self, path: Path) -> list[str]:
        """See Files."""
        return _names(path, of_files=False)

    def list(self, path: Path) -> list[str]:
        """See Files."""
        return _names(path, of_files=True)

    def create(self, path: Path) -> int:
        """See Files."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _FLAGS, _FILE_MODE)
        _set_mode(handle)
        _give_to_owner(handle, path.parent)
        return handle

    def open(self, path: Path, *, writable: bool = False) -> int:
        """See Files."""
        return os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | _FLAGS)

    def size(self, handle: int) -> int:
        """See Files."""
        return os.fstat(handle).st_size

    def write(self, handle: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """See Files."""
        return os.pwrite(handle, data, offset)

    def read(self, handle: int, count: int, offset: int) -> bytes:
        """See Files."""
        return os.pread(handle, count, offset)

    def begin_flush(self, handle: int, count: int, offset: int) -> None:
        """See Files. Linux begins to write pages that are said not to be needed; it drops none that is being written."""
        os.posix_fadvise(handle, offset, count, os.POSIX_FADV_DONTNEED)

    def flush(self, handle: int) -> None:
        """See Files."""
        os.fdatasync(handle)

    def allocate(self, handle: int, count: int) -> None:
        """See Files."""
        os.posix_fallocate(handle, 0, count)

    def truncate(self, handle: int, count: int) -> None:
        """See Files."""
        os.ftruncate(handle, count)

    def close(self, handle: int) -> None:
        """See Files."""
        os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """See Files."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """See Files."""
        path.unlink()

    def flush_dir(self, path: Path) -> None:
        """See Files."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def free_bytes(self, path: Path) -> int:
        """See Files."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def lock(self, path: Path, text: str) -> int:
        """See Files."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, _FILE_MODE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 64, 0).decode(errors="replace").strip()
            os.close(handle)
            if not isinstance(error, BlockingIOError):
                raise
            raise JournalLockedError(f"{path.parent} is in use by process {holder or '?'}") from None
        _set_mode(handle)
        _give_to_owner(handle, path.parent)
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)
        return handle

    def lock_dir(self, path: Path) -> int:
        """See Files."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise JournalLockedError(f"{path} is in use") from None
        except OSError:  # a file system that locks files only; the lock file is there for it
            pass
        return handle

    def unlock(self, handle: int) -> None:
        """See Files."""
        with suppress(OSError):  # of a file system that does not lock directories
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)

    def identity(self, handle: int) -> Identity:
        """See Files."""
        found = os.fstat(handle)
        return found.st_dev, found.st_ino

    def identity_of(self, path: Path) -> Identity | None:
        """See Files."""
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino

    name_of = staticmethod(name_of)


def _names(folder: Path, *, of_files: bool) -> list[str]:
    """Return the names of the regular files in a folder, or of all else."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False) is of_files)


def _give_to_owner(handle: int, folder: Path) -> None:
    """Have a file that root makes belong to whoever the folder does: a repair is often root's, and the server is not."""
    if os.geteuid() == 0:
        owner = folder.stat()
        if owner.st_uid != 0:
            os.fchown(handle, owner.st_uid, owner.st_gid)


def _set_mode(handle: int) -> None:
    """Make a file what it should be whatever umask a handler has set. Some file systems have no modes, which is no harm."""
    with suppress(OSError):
        os.fchmod(handle, _FILE_MODE)


@contextmanager
def opened(files: Files, path: Path, *, writable: bool = False) -> Iterator[int]:
    """Open a file for a while."""
    handle = files.open(path, writable=writable)
    try:
        yield handle
    finally:
        files.close(handle)


def keep_room(files: Files, path: Path, size: int) -> None:
    """Have a file of `size` bytes that takes its room on the disk, or none: if there is no room, or it cannot be looked at.

    One that is there already stays as it is. Not flushed.
    """
    with suppress(OSError):
        if path.name in files.list(path.parent):
            return
        handle = files.create(path)
        try:
            files.allocate(handle, size)
        except OSError:
            files.unlink(path)
        finally:
            files.close(handle)


def write_all(files: Files, handle: int, data: bytes | bytearray, offset: int) -> None:
    """Write every byte of `data` at `offset`, however few a call takes. Raises: OSError: some may have been written."""
    done = 0
    while done < len(data):
        try:
            count = files.write(handle, memoryview(data)[done:] if done else data, offset + done)
        except InterruptedError:
            continue
        if count <= 0:
            raise OSError(errno.EIO, "a write took no bytes")
        done += count


def read_all(files: Files, handle: int, count: int, offset: int) -> bytes:
    """Return `count` bytes from `offset`, fewer only at the end of the file."""
    parts = []
    while count and (part := files.read(handle, count, offset)):
        parts.append(part)
        count -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_whole(files: Files, path: Path, data: bytes) -> None:
    """Put a file with exactly `data` in place of `path`, durably: written aside, flushed, renamed, directory flushed.

    Raises: OSError: `path` holds either the old content or the new.
    """
    aside = path.with_name(path.name + ".new")
    handle = files.create(aside)
    try:
        write_all(files, handle, data, 0)
        files.flush(handle)
    finally:
        files.close(handle)
    files.rename(aside, path)
    files.flush_dir(path.parent)
