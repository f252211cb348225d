"""The room that the store's file and its WAL take on the disk: what nothing uses goes back, when nobody waits.

One user at a time, as of the session, and outside its transactions.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

from kqs.store.sqlite import connection
from kqs.store.sqlite.opened_files import OpenedFiles

#: unused pages that are kept for what comes next: at least so many (16 MiB, less on a small disk), and this share of the file
_SPARE_PAGES = 4096
_SPARE_SHARE = 0.25
#: the others go back to the disk for so long at a time, a few at once: what one costs grows with their number
_SHRINK_S = 0.01
_SHRINK_PAGES = 16
#: or for so long, while inserts are refused for want of it
_GIVE_BACK_S = 0.1
_SIZE_PRAGMAS = ("auto_vacuum", "freelist_count", "page_count")


class Space:
    """See the module docstring. What its methods raise is as of a transaction that failed."""

    def __init__(self, path: Path, files: OpenedFiles) -> None:
        self._path = path
        self._files = files
        #: `tidy` has something to do
        self.is_untidy = False
        #: many commits have left the WAL to others: `tidy` when nobody waits for what was done
        self.wants_copy = False
        #: a store that is never quiet is never tidied: `shrink` it when nobody waits for what was done
        self.wants_shrink = False
        #: the disk is short of space: `give_back` what can be spared, when nobody waits
        self.wants_room = False

    def tidy(self, db: sqlite3.Connection) -> None:
        """Shrink the file and copy the WAL into it now that nobody waits, so that a commit need not."""
        self.is_untidy = self._shrink(db)
        (_, in_wal, copied) = db.execute("pragma wal_checkpoint(passive)").fetchone()
        if in_wal == copied:
            self._files.is_copied()

    def shrink(self, db: sqlite3.Connection) -> None:
        """Give some pages that nothing uses back to the disk; `tidy` then cuts the file."""
        self.is_untidy |= self._shrink(db)

    def give_back(self, db: sqlite3.Connection) -> None:
        """Give the disk what nothing uses now, the WAL and spare pages, for `_GIVE_BACK_S`; the rest when asked again."""
        self.empty_wal(db)
        self._cut(db, 0, 0.0, _GIVE_BACK_S)
        self.empty_wal(db)

    def empty_wal(self, db: sqlite3.Connection) -> None:
        """Copy the WAL into the file and cut it to nothing, as far as the disk has room for that."""
        self._files.about_to_empty_wal()
        with contextlib.suppress(sqlite3.Error):
            db.execute("pragma wal_checkpoint(truncate)").fetchall()

    def _shrink(self, db: sqlite3.Connection) -> bool:
        """Give back pages for `_SHRINK_S`, but for some to spare; tell whether any went."""
        return self._cut(db, connection.fitting_pages(self._path, _SPARE_PAGES), _SPARE_SHARE, _SHRINK_S)

    def _cut(self, db: sqlite3.Connection, spare_pages: int, spare_share: float, within_s: float) -> bool:
        """Give back unused pages for a while, all but so many, or that share of the file; tell whether any went.

        A file without incremental vacuum (auto_vacuum 0) stays as long as it is.
        """
        kind, free, pages = (int(db.execute(f"pragma {name}").fetchone()[0]) for name in _SIZE_PRAGMAS)
        excess = free - max(spare_pages, int(pages * spare_share)) if kind else 0
        if excess > 0:
            self._files.about_to_cut()
        until = time.monotonic() + within_s
        for begun in range(0, excess, _SHRINK_PAGES):
            # as a script: a plain statement would be left at its first page
            db.executescript(f"pragma incremental_vacuum({min(_SHRINK_PAGES, excess - begun)})")
            if time.monotonic() >= until:
                break
        return excess > 0
