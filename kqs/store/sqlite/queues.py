"""How those stand that wait: what comes before a job, and how long the oldest of a type has waited. All of it bounded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kqs.job import instant_of
from kqs.store import base
from kqs.store.sqlite.groups import LINE, ready_names
from kqs.store.sqlite.rows import decode_orders, encode_json, json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

_READY = f"from jobs indexed by ready where place = {Place.READY:d} and type ="
_BEFORE = f"""
select (select count(*) from (select 1 {_READY} ?1 and prio < ?2 limit ?4))
     + (select count(*) from (select 1 {_READY} ?1 and prio = ?2 and ord < ?3 limit ?4))
"""
_BEFORE_IN_GROUP = f"""
select (select count(*) from (select 1 from {LINE} ?1 and name = ?5 and rank < ?2 limit ?4))
     + (select count(*) from (select 1 from {LINE} ?1 and name = ?5 and rank = ?2 and job < ?3 limit ?4))
"""
# one search in the index for each priority of a type, and one for its oldest, however many jobs are ready
_OLDEST = f"""
with recursive steps (kind, at, n) as (
  select value, (select min(prio) {_READY} value), 1 from json_each(?1)
  union all
  select kind, (select min(prio) {_READY} kind and prio > at), n + 1 from steps where at is not null and n < ?2),
oldest (kind, number) as (
  select kind, min((select min(ord) {_READY} kind and prio = at)) from steps where at is not null group by kind)
select json_group_array(json_array(kind, number, (select cast(accepted_at as real) from jobs where ord = number))) from oldest
"""
# of the first groups of a type, the foremost job of each
_FOREMOST_OF_GROUPS = f"""
select ord, cast(accepted_at as real) from jobs where ord in (
  select (select job from {LINE} ?1 and name = value order by rank, job limit 1) from json_each(?2))
order by ord limit 1
"""

_PRIOS = f"""
with recursive steps (at, n) as (
  select (select min(prio) {_READY} ?1), 1
  union all
  select (select min(prio) {_READY} ?1 and prio > at), n + 1 from steps where at is not null and n <= ?2)
select json_group_array(at) from steps where at is not null
"""
_FIRST_OF_PRIO = f"select json_group_array(ord) from (select ord {_READY} ?1 and prio = ?2 order by ord limit ?3)"
_FIRST = f"select json_group_array(ord) from (select ord {_READY} ?1 order by ord limit ?2)"
# one search in the line for each group and priority
_LINES = """
with recursive steps (at, n) as (
  select (select json_array(cast(name as text), rank) from line where of_type = ?1 order by name, rank limit 1), 1
  union all
  select (select json_array(cast(name as text), rank) from line
          where of_type = ?1 and (name, rank) > (at ->> 0, at ->> 1) order by name, rank limit 1), n + 1
  from steps where at is not null and n <= ?2)
select json_group_array(json(at)) from steps where at is not null
"""
_FIRST_OF_LINE = f"""
select json_group_array(ord) from (select job as ord from {LINE} ?1 and name = ?2 and rank = ?3 order by job limit ?4)"""
_FIRST_OF_ALL = "select json_group_array(job) from (select job from line where of_type = ?1 and job > ?2 order by job limit ?3)"
_STILL_READY = f"""
select json_group_array(ord) from jobs where ord in (select value from json_each(?)) and place = {Place.GROUPED:d}"""
_IDS = "select json_group_array(json_array(ord, id)) from jobs where ord in (select value from json_each(?))"

_decode_lines = msgspec.json.Decoder(list[tuple[str, int]]).decode
_decode_ids = msgspec.json.Decoder(list[tuple[int, str | None]]).decode
_decode_oldest = msgspec.json.Decoder(list[tuple[str, int, float | None]]).decode


def before(session: Session, type_: str, rank: tuple[int, int], most: int, group: str | None) -> int:
    """See Store.before."""
    statement, values = (_BEFORE, (type_, *rank, most)) if group is None else (_BEFORE_IN_GROUP, (type_, *rank, most, group))
    (count,) = session.db.execute(statement, values).fetchone()
    return min(int(count), most)


def oldest(session: Session, types: Sequence[str], prios: int) -> dict[str, float]:
    """See Store.oldest."""
    (packed,) = session.db.execute(_OLDEST, (encode_json(list(types)).decode(), prios)).fetchone()
    found = {type_: instant_of(order) if at is None else at for type_, order, at in _decode_oldest(packed)}
    for type_ in types if session.has_groups else ():
        named = encode_json(ready_names(session, type_, prios)).decode()
        row = session.db.execute(_FOREMOST_OF_GROUPS, (type_, named)).fetchone()
        if row is not None:
            order, at = row
            at = instant_of(order) if at is None else at
            found[type_] = min(at, found.get(type_, at))
    return found


def first_in_line(session: Session, type_: str, most: int) -> list[str]:
    """See Store.first_in_line."""
    orders = _first_plain(session, type_, most)
    if session.has_groups:
        orders += _first_grouped(session, type_, most)
    (packed,) = session.db.execute(_IDS, (json_list(sorted(orders)[:most]),)).fetchone()
    return [id_ or session.ids.of(order) for order, id_ in sorted(_decode_ids(packed))]


def _first_plain(session: Session, type_: str, most: int) -> list[int]:
    """Return the orders of the oldest that have no group, and maybe of others that have none."""
    (packed,) = session.db.execute(_PRIOS, (type_, base.LINE_PRIOS)).fetchone()
    prios = decode_orders(packed)
    if len(prios) > base.LINE_PRIOS:
        return _orders(session, _FIRST, type_, most)
    return [order for prio in prios for order in _orders(session, _FIRST_OF_PRIO, type_, prio, most)]


def _first_grouped(session: Session, type_: str, most: int) -> list[int]:
    """Return the orders of the oldest that have a group, and maybe of others that have one."""
    (packed,) = session.db.execute(_LINES, (type_, base.LINE_PRIOS)).fetchone()
    lines = _decode_lines(packed)
    if len(lines) <= base.LINE_PRIOS:
        return [order for name, rank in lines for order in _orders(session, _FIRST_OF_LINE, type_, name, rank, most)]
    found: list[int] = []
    last, count = -1, most
    while len(found) < most:
        part = _orders(session, _FIRST_OF_ALL, type_, last, count)
        found += _orders(session, _STILL_READY, json_list(part))  # some have gone from their lines
        if len(part) < count:
            break
        last, count = part[-1], 2 * count
    return found


def _orders(session: Session, query: str, *values: str | int) -> list[int]:
    (packed,) = session.db.execute(query, values).fetchone()
    return decode_orders(packed)
