"""Ready jobs that have a group: they stand in the line of their type, by group, priority and order, in no other index.

`line` has everybody who is ready, and some who are not any more: triggers see to it, whoever changes `jobs`. A group that has
many jobs has a page of the line for itself, so if each left the line as it is claimed, a page would be written for each. They
stay, and several go at once, when a look reads further. Their records tell that they have gone, and what is known of the heads
of lines (kqs.store.sqlite.heads) that a look need not step over them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from itertools import chain

import msgspec

from kqs.job import Entry
from kqs.store.rotation import Terms, Turn, Turned, line_of, share_of, turned
from kqs.store.sqlite.rows import encode_json, json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place, follow_lines

#: where a job stands that becomes ready, as SQL
READY_PLACE = f"case when grp is null then {Place.READY:d} else {Place.GROUPED:d} end"
#: who stands in the line of a type, with the records of those who are ready
LINE = f"line cross join jobs on jobs.ord = line.job and jobs.place = {Place.GROUPED:d} where of_type ="

_TYPES = f"select json_group_array(value) from json_each(?) where exists (select 1 from {LINE} value)"
# one search in the line a group, however many jobs each has
_NAMED = """
with recursive names (name) as (
  select * from (select name from line where of_type = ?1 and name > ?2 order by name limit 1)
  union all
  select (select name from line where of_type = ?1 and name > names.name order by name limit 1)
  from names where name is not null limit ?3)
"""
NAMES = f"{_NAMED} select json_group_array(cast(name as text)) from names where name is not null"
_READY_NAMES = f"""
{_NAMED} select json_group_array(cast(name as text)) from (
  select name from names where exists (select 1 from {LINE} ?1 and line.name = names.name) limit ?4)
"""
# the next of each of these groups, behind a priority and order; one row for all (see rows.py)
_READ_ON = """
with asked (of_group, after_rank, after_job) as materialized (
  select value ->> 0, value ->> 1, value ->> 2 from json_each(?2))
select json_group_array(json(found)) from (
  select (select json_group_array(json_array(rank, job)) from (
            select rank, job from line
            where of_type = ?1 and name = of_group and (rank, job) > (after_rank, after_job) order by rank, job limit ?3)
         ) as found
  from asked)
"""
_READY = f"""
select json_group_array(json_array(ord, cast(id as text), ifnull(cast(prio as integer), 0)))
from jobs not indexed where ord in (select value from json_each(?)) and place = {Place.GROUPED:d}
"""
# of each of these groups, all up to a priority and order
_SWEEP = "insert into leaving select ?1, value ->> 0, value ->> 1, value ->> 2 from json_each(?2)"

# of some jobs, where they stand by the priority that they have now
_LEAVE = """
delete from line where (of_type, name, rank, job) in (
  select type, grp, prio, ord from jobs where ord in (select value from json_each(?)))
"""

_RAW_NAMES = "select distinct cast(name as blob), typeof(name) from line where of_type = ?"
_RENAME = "update or replace line set name = ? where of_type = ? and cast(name as blob) = ?"

_GROUPS = """
select json_group_array(json_array(ord, cast(grp as text)))
from jobs where ord in (select value from json_each(?)) and grp is not null
"""

_KINDS = """
select json_group_array(json_array(cast(type as text), cast(grp as text)))
from jobs where ord in (select value from json_each(?)) and grp is not null
"""

#: groups that `ready_names` passes by, since all that stand there have gone
_MOST_STALE = 1000
#: a look goes on for so many turns of its own where it finds nobody but such as have gone
_MOST_PASSES = 8

_decode_groups = msgspec.json.Decoder(list[tuple[int, str]]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_kinds = msgspec.json.Decoder(list[tuple[str, str]]).decode
_decode_read = msgspec.json.Decoder(list[list[tuple[int, int]]]).decode
_decode_ready = msgspec.json.Decoder(list[tuple[int, str | None, int]]).decode


def ready_place(group: str | None) -> Place:
    """Return where a job stands that is ready."""
    return Place.READY if group is None else Place.GROUPED


def note_used(session: Session) -> None:
    """Note, for ever, that there are jobs with a group; from now on they stand in lines."""
    if not session.has_groups:
        session.has_groups = True
        follow_lines(session.db)
        session.db.execute("update meta set has_groups = 1")


def groups_of(session: Session, orders: str) -> dict[int, str]:
    """Return the groups of those of some jobs that have one, by order. orders: a JSON list."""
    (packed,) = session.db.execute(_GROUPS, (orders,)).fetchone()
    return dict(_decode_groups(packed))


def leave(db: sqlite3.Connection, orders: str) -> None:
    """Let claimed jobs leave their lines that are to have another priority: they would be met where they stood before.

    orders: a JSON list.
    """
    db.execute(_LEAVE, (orders,))


def types(session: Session, among: Collection[str]) -> list[str]:
    """See Store.grouped_types."""
    if not session.has_groups:
        return []
    (packed,) = session.db.execute(_TYPES, (encode_json(list(among)).decode(),)).fetchone()
    return _decode_names(packed)


def in_turn(session: Session, type_: str, turn: Turn, count: int, terms: Terms) -> Turned | None:
    """See Store.in_turn. Returns: None: ask again; it has only found such as have gone, and let them leave the line."""
    if not session.has_groups:
        return Turned([], min(terms.plain, count), turn, True)
    heads = session.heads
    for type_back, name in _kinds(session, heads.take_returned()):
        heads.forget(type_back, name)
    _sweep(session, type_, heads.take_over(type_))
    wanted = count + sum(left <= 0 for left in terms.most.values())
    empty: set[str] = set()
    for _ in range(_MOST_PASSES):
        behind = names(session, type_, turn.group, wanted)
        before: list[str] = []
        if len(behind) < wanted:
            more = names(session, type_, "", wanted - len(behind) + 1)
            before = [name for name in more if name <= turn.group]
        line = line_of(turn, behind, before, terms, wanted)
        named = [name for name in line.names if name]
        firsts = _Look(session, type_, named, share_of(line, count, terms), terms.passed).firsts()
        # who was served last may stand in no line any more
        over = {name for name in (*behind, *before) if not firsts.get(name, True)}
        if not over or (over & empty and not _mend(session, type_)):
            return turned(turn, line, firsts, terms, count)
        empty |= over
    return None


def names(session: Session, type_: str, after: str, most: int) -> list[str]:
    """Return the next groups of a type by name, behind `after`, of which jobs are ready, or were a while ago."""
    (packed,) = session.db.execute(NAMES, (type_, after, most)).fetchone()
    return _decode_names(packed)


def ready_names(session: Session, type_: str, most: int) -> list[str]:
    """Return the first groups of a type of which jobs are ready, by name; it does not look beyond many where none is."""
    (packed,) = session.db.execute(_READY_NAMES, (type_, "", most + _MOST_STALE, most)).fetchone()
    return _decode_names(packed)


def _kinds(session: Session, orders: Sequence[int]) -> list[tuple[str, str]]:
    """Return of which types and groups these jobs are."""
    if not orders:
        return []
    (packed,) = session.db.execute(_KINDS, (json_list(orders),)).fetchone()
    return _decode_kinds(packed)


def _sweep(session: Session, type_: str, ends: Sequence[tuple[str, int, int]]) -> None:
    """Let all who stand in these groups' lines up to an end leave them. ends: by group, priority and order."""
    if ends:
        session.db.execute(_SWEEP, (type_, encode_json(ends).decode()))


def _mend(session: Session, type_: str) -> bool:
    """Give entries whose names damage has made such as nobody can ask for others; tell whether there were any."""
    mended = 0
    for raw, kind in session.db.execute(_RAW_NAMES, (type_,)).fetchall():
        name = str(raw, "utf-8", "replace").replace("\0", "\ufffd")
        if kind != "text" or name.encode() != raw:
            mended += session.db.execute(_RENAME, (name, type_, raw)).rowcount
    return mended > 0


class _Look:
    """A look at who comes first in each of some groups."""

    def __init__(self, session: Session, type_: str, names: Sequence[str], each: int, passed: Collection[int]) -> None:
        """Args: each: so many of each group, beside those that are passed, as far as there are."""
        self._session = session
        self._type = type_
        self._each = each
        self._passed = passed
        self._heads, self._strange = session.heads.of(type_, names)
        # groups whose head was read further, or had some that have gone
        self._moved: set[str] = set()

    def firsts(self) -> dict[str, list[Entry]]:
        """Return who comes first, by group; [] of those that nobody is left of. What has gone leaves the lines."""
        found: dict[str, list[Entry]] = {}
        looking: Collection[str] = self._heads
        each, passed, heads = self._each, self._passed, self._heads
        ahead = 0
        while looking:
            if short := [name for name in looking if heads[name].lacks(each, passed)]:
                ahead = self._read_on(short, ahead)
            firsts = {name: heads[name].first(each, passed) for name in looking}
            found |= self._entries(firsts)
            looking = [
                name for name, orders in firsts.items() if len(found[name]) < len(orders) or heads[name].lacks(each, passed)
            ]
        self._clean(found)
        return found

    def _read_on(self, short: Sequence[str], ahead: int) -> int:
        """Read on in some lines; return how far. ahead: how far it was read before, in this look; 0: it was not."""
        known = [name for name in short if name not in self._strange]
        count = max(2 * ahead, self._each + 1)
        far = max(count, self._session.heads.ahead)
        self._read(known, far)
        self._read([name for name in short if name in self._strange], count)
        return far if known else count

    def _read(self, short: Sequence[str], count: int) -> None:
        if not short:
            return
        heads = self._heads
        self._moved.update(name for name in short if heads[name].last >= 0)
        behind = encode_json([(name, heads[name].rank, heads[name].last) for name in short]).decode()
        (packed,) = self._session.db.execute(_READ_ON, (self._type, behind, count)).fetchone()
        for name, found in zip(short, _decode_read(packed), strict=True):
            heads[name].go_on(found, is_all=len(found) < count)

    def _entries(self, firsts: Mapping[str, Sequence[int]]) -> dict[str, list[Entry]]:
        """Return those of some jobs that are ready; the others have gone from the heads."""
        (packed,) = self._session.db.execute(_READY, (json_list(chain.from_iterable(firsts.values())),)).fetchone()
        ready = {order: (job_id, prio) for order, job_id, prio in _decode_ready(packed)}
        type_, made_id = self._type, self._session.ids.of
        found: dict[str, list[Entry]] = {}
        for name, orders in firsts.items():
            entries = found[name] = [
                Entry(order, known[0] or made_id(order), type_, known[1], group=name)
                for order in orders
                if (known := ready.get(order)) is not None
            ]
            if len(entries) < len(orders):
                self._heads[name].drop({order for order in orders if order not in ready})
                self._moved.add(name)
        return found

    def _clean(self, found: Mapping[str, Sequence[Entry]]) -> None:
        """Let those who stand before the first of each group leave its line, where there may be many."""
        over = [name for name, entries in found.items() if not entries]
        _sweep(self._session, self._type, [(name, *self._heads[name].gone) for name in sorted(self._moved.union(over))])
        for name in over:
            self._session.heads.forget(self._type, name)
