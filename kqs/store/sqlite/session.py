"""One connection, its transaction, and what is written once per commit instead of once per job. One user at a time."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from kqs.errors import StoreDoubtError, StoreUnavailableError
from kqs.ids import Ids
from kqs.job import Entry
from kqs.store.base import Waiting
from kqs.store.sqlite import connection, schema
from kqs.store.sqlite.heads import Heads
from kqs.store.sqlite.locks import Deleted, Locks
from kqs.store.sqlite.opened_files import OpenedFiles
from kqs.store.sqlite.space import Space
from kqs.store.sqlite.tallies import Tallies
from kqs.store.sqlite.tidings import Tidings

_UNCOUNTED = "select type, state, count(*), max(ord) from jobs where ord > ? group by type, state"
# one search in the index a type, however many jobs are ready
_READY_TYPES = """
with recursive kinds (type) as (
  select min(type) from jobs indexed by ready where place = 0
  union all
  select (select min(type) from jobs indexed by ready where place = 0 and type > kinds.type) from kinds where type is not null)
select json_group_array(cast(type as text)) from kinds where type is not null
"""
_HAS_PROGRESS = "select exists (select 1 from progress)"
_HAS_UNIQUES = "select exists (select 1 from uniques)"
_ALTER_META = "update meta set fed_seq = -1 - fed_seq"
_CANCELLED = "select json_group_array(ord) from jobs indexed by running where place = 2 and cancel_at is not null"
_HAS_FOLLOWERS = "select exists (select 1 from awaited) or exists (select 1 from passed)"
_HAS_BATCHES = "select exists (select 1 from batches)"
_HAS = "select exists (select 1 from jobs where ord = ?)"

#: no bound for records deleted in a transaction, but what the caller says
_MOST_DROPPED = 1 << 30
#: what is not flushed is not stored for longer than this into files that are gone, in s: jobs would run in vain
_CHECK_S = 1.0
#: so many a commit writes at most, by and large, that leaves the WAL to others: that of a lone job writes two
_SMALL_COMMIT_PAGES = 8


class _Committed(NamedTuple):
    """How it stands as of the last commit, and again once a transaction is undone."""

    fed_seq: int = 0
    last_order: int = 0
    has_resources: bool = False
    has_groups: bool = False


class Session:
    """What an operation works with: `db` inside an open transaction, the epoch, and the pending totals.

    A commit may owe its totals: `meta` and `tallies` are then written by a later one, as long as all it did was to store jobs
    of orders above every earlier one. So a file that was left with a debt shows it: what `tallies` lack are just the
    rows above `meta.last_order`, none of which anything else can have touched, and the last of them is of the highest order.
    """

    def __init__(
        self, path: Path, cache_bytes: int, bulk_bytes: int, now: Callable[[], float], *, is_passing: bool = False
    ) -> None:
        """Args: now: wall time in Unix seconds, safe to call from this thread. is_passing: the file need not last."""
        self._is_passing = is_passing
        self.bulk_bytes = bulk_bytes
        self.now = now
        self.epoch = 0
        self.fed_seq = 0
        self.last_order = 0
        self.unchecked_to = 0
        self.unkeyed_to = 0
        self.tallies = Tallies()
        #: types of which it is told how many jobs wait
        self.watched: frozenset[str] = frozenset()
        self._waiting_told: dict[str, int] | None = None
        #: False: no job has progress
        self.has_progress = False
        #: False: no job has a unique key, but for such as have ended
        self.has_uniques = False
        #: False: no job has a resource, nor ever had
        self.has_resources = False
        #: False: no job has a group, nor ever had, and nobody stands in a line
        self.has_groups = False
        self.heads = Heads()
        #: False: no job waits for another
        self.has_followers = False
        #: False: there is no batch
        self.has_batches = False
        #: of this transaction; and of those that are committed, which nobody was told yet
        self.tidings = Tidings()
        self._untold = Tidings()
        self._locks: Locks | None = None
        #: runs that have a resource, whose jobs were deleted
        self.deleted_runs: dict[int, Deleted] = {}
        #: orders of jobs that were cancelled while they ran, and may run still; those that this transaction ends or deletes
        self.cancelled: set[int] = set()
        self.uncancelled: list[int] = []
        self._path = path
        self._cache_bytes = cache_bytes
        self._db: sqlite3.Connection | None = None
        self._files = OpenedFiles(path)
        self.space = Space(path, self._files)
        self._checked_at = -math.inf
        self._ids: Ids | None = None
        self._committed = _Committed()
        self._written = (0, 0)
        self._may_owe = False
        self._changes = 0
        self._is_full = False
        self._wal_pages = connection.WAL_PAGES
        self._copies = True  # a commit copies the WAL when that is long
        self._uncopied = 0  # commits since the last that do not, and that it was copied
        self._is_in_doubt = False
        self._has_unsynced = False  # some commit may not have been flushed
        self._is_syncing = False  # this transaction's will be, whatever else it does
        #: how many records this transaction deletes, and how many the next one may: what they took is written once more, and a
        #: full disk that has no room for many may have it for some
        self.dropped = 0
        self.most_dropped = _MOST_DROPPED

    @property
    def db(self) -> sqlite3.Connection:
        """The connection, inside the transaction."""
        assert self._db is not None
        return self._db

    @property
    def locks(self) -> Locks:
        """Who has which resource, as of this transaction."""
        if self._locks is None:
            self._locks = Locks(self.db, self.deleted_runs)
        return self._locks

    @property
    def ids(self) -> Ids:
        """How this journal's ids are made."""
        assert self._ids is not None
        return self._ids

    def open(self, journal_id: str, node: str) -> schema.Meta:
        """Open or create the store and begin a new epoch. Raises: as `Store.open`."""
        content = schema.blank() if self._is_passing else b""
        connection.see_to_wal(self._path)
        self._db = connection.connect(self._path, self._cache_bytes, content)
        self.bulk_bytes = connection.fitting_bulk_bytes(self._path, self.bulk_bytes)
        self._wal_pages = connection.wal_copied_at(self._db)
        meta = schema.prepare(self._db, journal_id, node)
        self._ids = Ids(node)
        self.epoch, self.unchecked_to, self.unkeyed_to = meta.epoch, meta.unchecked_to, meta.unkeyed_to
        self.has_progress = self._tells(_HAS_PROGRESS)
        self.has_uniques = self._tells(_HAS_UNIQUES)
        self.has_followers = self._tells(_HAS_FOLLOWERS)
        self.has_batches = self._tells(_HAS_BATCHES)
        self.has_resources = bool(meta.has_resources)
        self.has_groups = bool(meta.has_groups)
        (cancelled,) = self._db.execute(_CANCELLED).fetchone()
        self.cancelled = set(msgspec.json.decode(cancelled))
        self._files.opened()
        last_order = self._count_uncounted(meta.last_order)
        # not before: what fails up to here is closed, and that must write nothing
        self.fed_seq, self.last_order = meta.fed_seq, last_order
        self._written = (meta.fed_seq, meta.last_order)
        self._committed = _Committed(meta.fed_seq, last_order, self.has_resources, self.has_groups)
        self._doubt_totals()
        if self.watched:
            self.tallies.watch(self._db, self.watched)
        return msgspec.structs.replace(meta, last_order=last_order)

    def fits(self, order: int, stored: object, total: int, of_keys: int) -> bool:
        """Tell whether a record has the checksum `total`, and that of its group and key, if it was stored with one."""
        return stored == total | of_keys or (stored == total and order <= self.unkeyed_to)

    def close(self) -> None:
        """Write what is owed and close the connection; SQLite copies the WAL into the file and flushes both."""
        if self._db is not None:
            # the next start takes in the debt
            with contextlib.suppress(*connection.SQLITE_ERRORS, StoreUnavailableError, OSError):
                self.begin(durable=False)
                self.commit()
            self._abandon()

    def begin(self, *, durable: bool, copies: bool = True) -> None:
        """Begin a transaction whose commit will survive a power cut if `durable`.

        Args: copies: that may take as long as it takes to copy a long WAL into the file; else this is left to others.
        """
        if self._db is None:
            self._reopen()
        db = self.db
        if durable is not self._is_full:
            self._set_full(durable)
        if copies is not self._copies:
            self._set_copies(copies)
        db.execute("begin")
        if self.has_resources and self._locks is None:
            self._locks = Locks(db, self.deleted_runs)  # before anything changes what it is read from
        self._changes = db.total_changes
        self._may_owe = True
        self._is_syncing = False

    def commit(self, *, owing: bool = False) -> None:
        """Write what is pending and commit. owing: what a later commit can write is left to it, if that may be."""
        self._check_when_due()
        reached, written = (self.fed_seq, self.last_order), self._written
        if not (owing and self._may_owe):
            self.tallies.write(self.db)
            if reached != written:
                self._write_progress()
                written = reached
        try:
            self.db.execute("commit")
        except connection.SQLITE_ERRORS as error:
            # all of it may stand in the WAL although the flush failed; what it claimed would have nobody to run it
            self._is_in_doubt = connection.leaves_doubt(error)
            raise
        if not self._copies:
            self._uncopied += 1
            self.space.wants_copy = self._uncopied * _SMALL_COMMIT_PAGES >= self._wal_pages
        self.tallies.settle()
        self._committed = _Committed(*reached, self.has_resources, self.has_groups)
        self._written = written
        self._untold.add(self.tidings)
        self.tidings = Tidings()
        if self.uncancelled:
            self.cancelled.difference_update(self.uncancelled)
            self.uncancelled.clear()
        if self.dropped:
            self.most_dropped = max(self.most_dropped, 2 * self.dropped)
            self.dropped = 0
        if self.db.total_changes != self._changes:
            self.space.is_untidy = True
            # one that is to be flushed is not, if all it did was to overwrite rows by themselves
            self._has_unsynced = not self._is_syncing and (self._has_unsynced or not self._is_full)

    def rollback(self, error: BaseException) -> None:
        """Undo the transaction that failed with `error`; after trouble with the file, open it anew at the next `begin`."""
        self.tallies.clear()
        self.tidings = Tidings()
        self._locks = None
        self.heads.clear()
        self.uncancelled.clear()
        self.fed_seq, self.last_order, self.has_resources, self.has_groups = self._committed
        is_broken = connection.breaks_connection(error)
        try:
            if self._db is not None and self._db.in_transaction:
                self._db.execute("rollback")
        except connection.SQLITE_ERRORS:
            is_broken = True
        if is_broken:
            self._abandon()
        elif connection.is_full(error):
            if self.dropped:
                self.most_dropped = max(1, self.dropped // 4)
            if self._db is not None:
                self.space.empty_wal(self._db)
        self.dropped = 0

    def fed_to(self, fed_seq: int) -> None:
        """Note that the journal is fed up to `fed_seq`; it never goes back."""
        self.fed_seq = max(self.fed_seq, fed_seq)

    def take_called(self) -> list[Entry]:
        """Return the jobs that committed transactions have called, each once."""
        called, self._untold.called = self._untold.called, []
        return called

    def take_follows(self) -> bool:
        """Tell, once, whether committed transactions have left something for `follow` to do."""
        follows, self._untold.follows = self._untold.follows, False
        return follows

    def take_waiting(self) -> Waiting | None:
        """Return what committed transactions have done to what waits of the watched types, each once; None: nothing."""
        if not self.watched:
            return None
        given, waiting = self._untold.given, self.tallies.waiting
        if not given and waiting is self._waiting_told:
            return None
        self._untold.given, self._waiting_told = [], waiting
        return Waiting(waiting, given)

    def pay(self) -> None:
        """Let this transaction owe nothing: it does more than to store jobs of new orders."""
        self._may_owe = False

    def sync(self) -> int:
        """Make this transaction's commit flush all earlier ones too; return the fed_seq it makes durable."""
        assert self._is_full, "sync needs a durable transaction"
        if self._has_unsynced and not self._is_syncing:
            # a commit that writes no page flushes nothing, and SQLite writes none whose row is overwritten by itself
            self.db.execute(_ALTER_META)
            self._write_progress()
            self._is_syncing = True
        return self.fed_seq

    def _check_when_due(self) -> None:
        """Check the files before each commit that is flushed, and now and then before another that changes something."""
        has_changed = self.db.total_changes != self._changes
        if self._is_full or (has_changed and time.monotonic() >= self._checked_at + _CHECK_S):
            self.check_files()

    def check_files(self) -> None:
        """See that a restart finds what is kept now. Raises: StoreUnavailableError: a file is gone, or was cut short."""
        self._files.check()
        self._checked_at = time.monotonic()

    def chores(self) -> Iterator[Callable[[], None]]:
        """Yield what is to be done for the room on the disk, each of which may be done between others' transactions."""
        if self.space.wants_copy:
            yield self.tidy
        if self.space.wants_shrink:
            yield self.shrink
        if self.space.wants_room:
            yield self.give_back

    def tidy(self) -> None:
        """See Space.tidy."""
        self.space.is_untidy = self.space.wants_copy = False
        self._uncopied = 0
        self._make_room(self.space.tidy)

    def shrink(self) -> None:
        """See Space.shrink."""
        self.space.wants_shrink = False
        self._make_room(self.space.shrink)

    def give_back(self) -> None:
        """See Space.give_back."""
        self.space.wants_room = False
        self._make_room(self.space.give_back)

    def _make_room(self, step: Callable[[sqlite3.Connection], None]) -> None:
        if self._db is None:  # the next `begin` opens it anew
            return
        try:
            if self._is_full:
                self._set_full(False)  # nobody waits for it, so it need not be flushed
            step(self._db)
        except (*connection.SQLITE_ERRORS, OSError) as error:
            self.rollback(error)

    def _set_full(self, is_full: bool) -> None:
        self.db.execute(f"pragma synchronous = {'full' if is_full else 'normal'}")
        self._is_full = is_full

    def _set_copies(self, copies: bool) -> None:
        connection.copy_wal_at(self.db, self._wal_pages if copies else 0)
        self._copies = copies

    def _write_progress(self) -> None:
        self.db.execute("update meta set fed_seq = ?, last_order = ?", (self.fed_seq, self.last_order))

    def _tells(self, query: str) -> bool:
        (answer,) = self.db.execute(query).fetchone()
        return bool(answer)

    def _count_uncounted(self, last_order: int) -> int:
        """Take in the debt that the file was left with; return the last order that it holds."""
        for type_, state, count, last in self.db.execute(_UNCOUNTED, (last_order,)).fetchall():
            self.tallies.add([(type_, state)] * count)
            last_order = max(last_order, last)
        self.tallies.settle()
        return last_order

    def _doubt_totals(self) -> None:
        """Count anew if jobs are ready of a type that is said to have none: nobody would ever look for them."""
        (packed,) = self.db.execute(_READY_TYPES).fetchone()
        if not self.tallies.has(self.db, msgspec.json.decode(packed)):
            self.begin(durable=False)
            self.tallies.recount(self.db)
            self.commit()

    def _has_all(self, db: sqlite3.Connection) -> bool:
        """Tell whether the last job of those that no total counts yet is there."""
        last_order = self._committed.last_order
        return last_order == self._written[1] or bool(db.execute(_HAS, (last_order,)).fetchone()[0])

    def _abandon(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            self._files.about_to_close()
            with contextlib.suppress(*connection.SQLITE_ERRORS):
                db.close()

    def _reopen(self) -> None:
        """Connect again after trouble with the file.

        A page whose flush failed counts as clean in the kernel, and the next flush would succeed without it. Copying the WAL
        into the file writes every page again, flushed by its own flush. What was committed must still be there; if it is
        not, or nobody knows, a new start takes the store as it is and goes on from the journal.
        """
        if self._is_in_doubt:
            raise StoreDoubtError("an I/O error left a commit of the store in doubt; a restart goes on from the journal")
        self._files.check()  # else an empty store would take the name
        db = connection.connect(self._path, self._cache_bytes)
        try:
            meta = schema.read_meta(db)
            if meta.epoch != self.epoch or (meta.fed_seq, meta.last_order) < self._written or not self._has_all(db):
                raise StoreDoubtError("the store lost committed changes in an I/O error; a restart goes on from the journal")
            db.execute("pragma synchronous = full")
            (busy, _, _) = db.execute("pragma wal_checkpoint(truncate)").fetchone()
            assert not busy, "nobody else can hold the file"
        except BaseException:
            db.close()
            raise
        self._db = db
        self._files.opened()
        self._is_full = self._copies = True
        self._has_unsynced = False
