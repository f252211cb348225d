"""Ready jobs that have a group: they stand in a line of their own, by group, priority and order, in no other index.

The first job that has a group makes the index, which takes one look at all records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from kqs.job import Entry
from kqs.store.rotation import Turn, Turned, line_of, share_of, turned
from kqs.store.sqlite.rows import encode_json
from kqs.store.sqlite.schema import Place
from kqs.store.sqlite.session import Session

#: where a job stands that becomes ready, as SQL
READY_PLACE = f"case when grp is null then {Place.READY:d} else {Place.GROUPED:d} end"
#: the line of a type
LINE = f"jobs indexed by grouped where place = {Place.GROUPED:d} and type ="

# `ord` is in every index, last: to name it would store it twice, a quarter of each entry
_INDEX = f"create index if not exists grouped on jobs (type, grp, prio) where place = {Place.GROUPED:d}"
_TYPES = f"select json_group_array(value) from json_each(?) where exists (select 1 from {LINE} value)"
# one search in the index a group, however many jobs each has
NAMES = f"""
with recursive names (name) as (
  select min(grp) from {LINE} ?1 and grp > ?2
  union all
  select (select min(grp) from {LINE} ?1 and grp > names.name) from names where name is not null limit ?3)
select json_group_array(cast(name as text)) from names where name is not null
"""
# the first of each of the next groups: a search in the index and one of its job a group
_HEADS = f"""
with recursive heads (ord, name, id, prio) as (
  select ord, grp, id, prio from jobs
  where ord = (select ord from {LINE} ?1 and grp > ?2 order by grp, prio, ord limit 1)
  union all
  select next.ord, next.grp, next.id, next.prio from heads, jobs as next
  where next.ord = (select ord from {LINE} ?1 and grp > heads.name order by grp, prio, ord limit 1) limit ?3)
select json_group_array(json_array(ord, cast(name as text), cast(id as text), ifnull(cast(prio as integer), 0))) from heads
"""
# the first of each of these groups; one row for all (see rows.py)
_FIRSTS = f"""
select json_group_array(json(of_group)) from (
  select (select json_group_array(json_array(ord, cast(id as text), ifnull(cast(prio as integer), 0)))
          from (select ord, id, prio from {LINE} ?1 and grp = name order by prio, ord limit ?3)) as of_group
  from (select value as name from json_each(?2)))
"""

_GROUPS = """
select json_group_array(json_array(ord, cast(grp as text)))
from jobs where ord in (select value from json_each(?)) and grp is not null
"""

_decode_groups = msgspec.json.Decoder(list[tuple[int, str]]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_heads = msgspec.json.Decoder(list[tuple[int, str, str | None, int]]).decode
_decode_firsts = msgspec.json.Decoder(list[list[tuple[int, str | None, int]]]).decode


def ready_place(group: str | None) -> Place:
    """Return where a job stands that is ready."""
    return Place.READY if group is None else Place.GROUPED


def note_used(session: Session) -> None:
    """Note, for ever, that there are jobs with a group, and make the index that has them."""
    if not session.has_groups:
        session.has_groups = True
        session.db.execute(_INDEX)
        session.db.execute("update meta set has_groups = 1")


def groups_of(session: Session, orders: str) -> dict[int, str]:
    """Return the groups of those of some jobs that have one, by order. orders: a JSON list."""
    (packed,) = session.db.execute(_GROUPS, (orders,)).fetchone()
    return dict(_decode_groups(packed))


def types(session: Session, among: Collection[str]) -> list[str]:
    """See Store.grouped_types."""
    if not session.has_groups:
        return []
    (packed,) = session.db.execute(_TYPES, (encode_json(list(among)).decode(),)).fetchone()
    return _decode_names(packed)


def in_turn(
    session: Session,
    type_: str,
    turn: Turn,
    count: int,
    weights: Mapping[str, int],
    most: Mapping[str, int],
    passed: Collection[int],
    plain: int,
) -> Turned:
    """See Store.in_turn."""
    if not session.has_groups:
        return Turned([], min(plain, count), turn, True)
    wanted = count + sum(left <= 0 for left in most.values())
    firsts = _heads(session, type_, turn.group, wanted)
    behind = list(firsts)
    before: list[str] = []
    if len(behind) < wanted:
        more = _heads(session, type_, "", wanted - len(behind) + 1)
        before = [name for name in more if name <= turn.group]
        firsts = more | firsts
    line = line_of(turn, behind, before, weights, most, plain, wanted)
    each = share_of(line, count, weights) + len(passed)
    named = [name for name in line if name]
    if each > 1 or not firsts.keys() >= set(named):
        firsts = _firsts(session, type_, named, each)
    return turned(turn, line, {name: firsts[name] for name in named}, weights, most, passed, plain, count)


def _heads(session: Session, type_: str, after: str, most: int) -> dict[str, list[Entry]]:
    """Return the first job of each of the next groups of a type, by name, behind `after`."""
    (packed,) = session.db.execute(_HEADS, (type_, after, most)).fetchone()
    made_id = session.ids.of
    return {
        name: [Entry(order, job_id or made_id(order), type_, prio, group=name)]
        for order, name, job_id, prio in _decode_heads(packed)
    }


def names(session: Session, type_: str, after: str, most: int) -> list[str]:
    """Return the next groups of a type of which jobs are ready, by name, behind `after`."""
    (packed,) = session.db.execute(NAMES, (type_, after, most)).fetchone()
    return _decode_names(packed)


def _firsts(session: Session, type_: str, names: Sequence[str], each: int) -> dict[str, list[Entry]]:
    """Return the first jobs of each of these groups, `each` at most."""
    (packed,) = session.db.execute(_FIRSTS, (type_, encode_json(list(names)).decode(), each)).fetchone()
    made_id = session.ids.of
    return {
        name: [Entry(order, job_id or made_id(order), type_, prio, group=name) for order, job_id, prio in found]
        for name, found in zip(names, _decode_firsts(packed), strict=True)
    }
