"""How many jobs of each type are in each state, kept by what a commit changed, so that nothing ever counts rows.

Of types that are watched, how many wait is known in memory as well, as of the last commit.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import msgspec

from kqs.states import WAITING, State
from kqs.store.sqlite.rows import ManyRows, encode_json

#: a job's type and its State
Kind = tuple[str, int]

_ADD = ManyRows("insert into tallies (type, state, n)", "(?,?,?)", "on conflict do update set n = n + excluded.n")
#: so few changes are quicker one by one
_FEW = 4
_ADD_ONE = "insert into tallies values (?, ?, ?) on conflict do update set n = n + excluded.n"
_READ = "select json_group_array(json_array(type, state, n)) from tallies where n > 0"
_FORGET = "delete from tallies where n = 0 and type in (select value from json_each(?))"
_CLEAR = "delete from tallies"
_COUNT = "insert into tallies select type, state, count(*) from jobs group by type, state"

_decode_counts = msgspec.json.Decoder(list[tuple[str, State, int]]).decode


class Tallies:
    """The pending changes of one transaction, those owed by earlier ones, and the table they go to."""

    def __init__(self) -> None:
        self._came: Counter[Kind] = Counter()
        self._went: Counter[Kind] = Counter()
        self._owed: Counter[Kind] = Counter()
        self._is_paying = False  # this transaction writes what is owed
        self._watched: frozenset[str] = frozenset()
        self._moved: Counter[str] = Counter()  # how many more of the watched types wait by this transaction
        self._recounted: dict[str, int] | None = None  # how many wait, which it has counted
        #: how many jobs of the watched types wait
        self.waiting: dict[str, int] = {}

    def watch(self, db: sqlite3.Connection, types: Collection[str]) -> None:
        """Know in `waiting` how many jobs of these types wait, from now on; between two transactions."""
        self._watched = frozenset(types)
        self.waiting = self._read_waiting(db)
        for (type_, state), n in self._owed.items():
            if type_ in self._watched and state in WAITING:
                self.waiting[type_] += n

    def _read_waiting(self, db: sqlite3.Connection) -> dict[str, int]:
        (packed,) = db.execute(_READ).fetchone()
        found = dict.fromkeys(self._watched, 0)
        for type_, state, n in _decode_counts(packed):
            if type_ in found and state in WAITING:
                found[type_] += n
        return found

    def _note_waiting(self, kinds: Collection[Kind] | Mapping[Kind, int], sign: int) -> None:
        for (type_, state), count in Counter(kinds).items():
            if type_ in self._watched and state in WAITING:
                self._moved[type_] += sign * count

    def add_all(self, types: Iterable[str], state: State) -> None:
        """Note jobs that came into one state, one type a job."""
        for type_, count in Counter(types).items():
            self._came[type_, state] += count
            if type_ in self._watched and state in WAITING:
                self._moved[type_] += count

    def add(self, kinds: Collection[Kind] | Mapping[Kind, int]) -> None:
        """Note jobs that came into a state, one item a job; or how many did."""
        self._came.update(kinds)
        if self._watched:
            self._note_waiting(kinds, 1)

    def remove(self, kinds: Collection[Kind] | Mapping[Kind, int]) -> None:
        """Note jobs that left a state, one item a job; or how many did."""
        self._went.update(kinds)
        if self._watched:
            self._note_waiting(kinds, -1)

    def clear(self) -> None:
        """Forget what is pending: the transaction is undone."""
        self._came.clear()
        self._went.clear()
        self._is_paying = False
        self._moved.clear()
        self._recounted = None

    def settle(self) -> None:
        """Note that the transaction is committed; what it did not write is owed."""
        if self._moved or self._recounted is not None:
            self._take_moves()
        if self._is_paying:
            self._owed.clear()
            self._is_paying = False
        if self._came or self._went:
            owed = self._owed
            for kind, count in self._came.items():
                owed[kind] += count
            for kind, count in self._went.items():
                owed[kind] -= count
            self.clear()

    def _take_moves(self) -> None:
        waiting = dict(self.waiting if self._recounted is None else self._recounted)
        for type_, n in self._moved.items():
            waiting[type_] += n
        self.waiting = waiting  # a new one, since the loop may be looking at the last
        self._moved.clear()
        self._recounted = None

    def write(self, db: sqlite3.Connection) -> None:
        """Write what is pending and what is owed."""
        if self._owed and not self._is_paying:
            self._came.update(self._owed)
            self._is_paying = True
        if not self._came and not self._went:
            return
        if self._went:
            self._came.subtract(self._went)
        changes = [(type_, state, n) for (type_, state), n in self._came.items() if n]
        if len(changes) <= _FEW:
            db.executemany(_ADD_ONE, changes)
        else:
            _ADD.execute(db, [value for change in changes for value in change], filler=(*changes[-1][:2], 0))
        self._came.clear()
        self._went.clear()

    def has(self, db: sqlite3.Connection, types: Iterable[str]) -> bool:
        """Tell whether some job of each type is said to wait, between two transactions."""
        (packed,) = db.execute(_READ).fetchone()
        waiting = {type_ for type_, state, _ in _decode_counts(packed) if state in WAITING}
        return waiting.union(type_ for (type_, state), n in self._owed.items() if n > 0 and state in WAITING).issuperset(types)

    def recount(self, db: sqlite3.Connection) -> None:
        """Count all jobs, after damage: what was noted of those may be wrong. All changes up to now must be noted."""
        db.execute(_CLEAR)
        db.execute(_COUNT)
        self._came.clear()
        self._went.clear()
        self._is_paying = True  # what is owed was counted too
        self._moved.clear()
        if self._watched:
            self._recounted = self._read_waiting(db)

    def read(self, db: sqlite3.Connection) -> list[tuple[str, State, int]]:
        """Return (type, state, how many), what is pending included."""
        self.write(db)
        (packed,) = db.execute(_READ).fetchone()
        return _decode_counts(packed)

    def forget(self, db: sqlite3.Connection, types: Iterable[str]) -> None:
        """Delete the zeros of these types. They are the clients' to invent: one without jobs must not leave rows behind."""
        self.write(db)
        db.execute(_FORGET, (encode_json(list(types)).decode(),))
