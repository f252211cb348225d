"""Opening the store's file, and what SQLite's error codes mean to us.

The connection locks the file for itself (`locking_mode=exclusive`), so a second process is refused when it opens, nobody can
lock us out later, and the WAL index needs no shared memory.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from kqs.errors import StoreCorruptError, StoreError, StoreUnavailableError
from kqs.reasons import reason_with_file

PAGE_BYTES = 4096
#: the WAL is copied into the file when it has this many pages (16 MiB): larger stalls a commit for longer, smaller copies
#: hot pages more often
WAL_PAGES = 4000
#: but no more than this share of the disk: what stands in the WAL takes as much again in the file
_UNUSED_SHARE = 1 / 64
_FEWEST_PAGES = 64
#: SQLite cuts a WAL that it begins anew to so many times these pages, so to no less than so many bytes
_KEPT_TIMES = 4
LEAST_WAL_BYTES = _KEPT_TIMES * _FEWEST_PAGES * PAGE_BYTES
#: a disk is small below so many bytes; there, payloads from so many bytes on live apart from the record: to claim or end a job
#: writes all of its record, and there must always be room for that
_SMALL_DISK_BYTES = 1024 * 1024 * 1024
_SMALL_DISK_BULK_BYTES = 256
#: only `open` can meet somebody else's lock
BUSY_TIMEOUT_S = 1.0
_CACHED_STATEMENTS = 256

_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
_LASTING = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB})
#: what the module raises; of SQLITE_NOMEM it makes a MemoryError
SQLITE_ERRORS = (sqlite3.Error, MemoryError)
#: after these, what the connection believes about the file may be wrong
_BREAKING = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM})


def connect(path: Path, cache_bytes: int, content: bytes = b"") -> sqlite3.Connection:
    """Open or create the file (mode 0600) in WAL mode, transactions left to the caller.

    Args: content: of a new file, which is not flushed.
    Raises: sqlite3.Error, OSError: see `translated`.
    """
    _create_private(path, content)
    db = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, cached_statements=_CACHED_STATEMENTS, check_same_thread=False
    )
    try:
        _configure(db, cache_bytes, fitting_pages(path, WAL_PAGES))
    except BaseException:
        db.close()
        raise
    return db


def _create_private(path: Path, content: bytes) -> None:
    # never opens a file that is there: closing it would drop the locks that this process holds on it
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):
            os.fchmod(handle, 0o600)  # whatever umask a handler has set; SQLite gives its other files the same mode
        with os.fdopen(handle, "wb") as file:
            file.write(content)


def see_to_wal(path: Path) -> None:
    """See to it that SQLite will find what was committed last, where it was not copied into the file.

    It deletes the WAL of a file that is empty, and looks for that of a link where the link leads.
    Raises: StoreCorruptError: it would not; nothing was changed. OSError.
    """
    wal = path.with_name(f"{path.name}-wal")
    if not _size_bytes(wal):
        return
    if not _size_bytes(path):
        raise StoreCorruptError(
            f"the store's file {path} is missing or empty, but {wal} has what it was to hold: "
            "put the file back, or restore journal and store together"
        )
    if path.is_symlink():
        raise StoreCorruptError(
            f"the store's file {path} is a symbolic link, but {wal} stands here: "
            "move that beside the file that the link leads to, under its name"
        )


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def fitting_bulk_bytes(path: Path, bulk_bytes: int) -> int:
    """Return above how many bytes payloads live apart, on this disk. Raises: OSError."""
    return min(bulk_bytes, _SMALL_DISK_BULK_BYTES) if _disk_bytes(path) < _SMALL_DISK_BYTES else bulk_bytes


def fitting_pages(path: Path, pages: int) -> int:
    """Return how many pages may lie about unused on this disk, where so many would on a large one. Raises: OSError."""
    return min(pages, max(_FEWEST_PAGES, int(_disk_bytes(path) * _UNUSED_SHARE / PAGE_BYTES)))


def _disk_bytes(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_blocks * disk.f_frsize


def _configure(db: sqlite3.Connection, cache_bytes: int, wal_pages: int) -> None:
    db.text_factory = _text
    db.execute("pragma locking_mode = exclusive")
    lay_out(db)
    (mode,) = db.execute("pragma journal_mode = wal").fetchone()
    if mode != "wal":
        raise StoreError(f"the file system does not support SQLite's WAL mode (got {mode})")
    db.execute("pragma synchronous = normal")
    db.execute(f"pragma cache_size = -{max(cache_bytes // 1024, 1024)}")
    db.execute("pragma mmap_size = 0")
    db.execute("pragma temp_store = memory")
    copy_wal_at(db, wal_pages)
    db.execute(f"pragma journal_size_limit = {_KEPT_TIMES * wal_pages * PAGE_BYTES}")


def copy_wal_at(db: sqlite3.Connection, pages: int) -> None:
    """Have the commit after which the WAL has so many pages copy it into the file; with 0 none does."""
    db.execute(f"pragma wal_autocheckpoint = {pages}")


def wal_copied_at(db: sqlite3.Connection) -> int:
    """Return at how many pages in the WAL a commit copies it into the file."""
    return int(db.execute("pragma wal_autocheckpoint").fetchone()[0])


def lay_out(db: sqlite3.Connection) -> None:
    """Say how a new file is laid out; one that is there stays as it is."""
    db.execute(f"pragma page_size = {PAGE_BYTES}")
    if db.execute("pragma page_count").fetchone() == (0,):
        db.execute("pragma auto_vacuum = incremental")


def in_wal_mode(content: bytes) -> bytes:
    """Return the content of a file, in the mode that it would be in once it was opened by `connect`.

    Source: https://sqlite.org/fileformat2.html, "File format version numbers".
    """
    return content[:18] + b"\x02\x02" + content[20:]


def _text(stored: bytes) -> str:
    # damage must reach the checksum, rather than fail the statement that reads it among others
    return str(stored, "utf-8", "replace")


def translated(error: Exception) -> Exception:
    """Return `error` in the port's words: sqlite3 and OS errors become StoreErrors, others stay what they are."""
    if isinstance(error, sqlite3.Error):
        code = _primary_code(error)
        if code in _PASSING:
            return StoreUnavailableError(f"the store cannot be used now: {error}")
        if code in _LASTING:
            return StoreCorruptError(f"the store is damaged: {error}")
        return StoreError(f"the store failed: {error}")
    if isinstance(error, (OSError, MemoryError)):
        reason = reason_with_file(error) if isinstance(error, OSError) else str(error)
        return StoreUnavailableError(f"the store cannot be used now: {reason or type(error).__name__}")
    return error


def breaks_connection(error: BaseException) -> bool:
    """Tell whether the connection must be opened anew after this error."""
    return isinstance(error, SQLITE_ERRORS) and _primary_code(error) in _BREAKING


def is_full(error: BaseException) -> bool:
    """Tell whether the disk had no room."""
    return isinstance(error, SQLITE_ERRORS) and _primary_code(error) == sqlite3.SQLITE_FULL


def leaves_doubt(error: Exception) -> bool:
    """Tell whether a commit that failed so may have taken effect: not if a write failed, since its mark is written last."""
    return breaks_connection(error) and getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_IOERR_WRITE


def _primary_code(error: Exception) -> int:
    if isinstance(error, MemoryError):
        return sqlite3.SQLITE_NOMEM
    # errors made by the module itself, not by the library, carry no code
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
