"""Waiting jobs: which are ready, whose time has come, and who waited too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from kqs.job import Entry, Rescheduled
from kqs.states import Event, State, next_state
from kqs.store.checksum import moved
from kqs.store.ends import EXPIRED
from kqs.store.keep import own_keep_s
from kqs.store.showing import most_shown
from kqs.store.sqlite import batches, follow, groups, resources
from kqs.store.sqlite.groups import READY_PLACE
from kqs.store.sqlite.rows import ManyRows, cut, json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

# two statements, since SQLite cannot begin a search in an index at a pair that ends in the rowid: `(prio, ord) > (?, ?)` would
# walk all jobs of that priority from the first
_READY_OF_PRIO = f"""
from jobs indexed by ready where place = {Place.READY:d} and type = ? and prio = ? and ord > ? order by ord limit ?"""
_READY_BEYOND_PRIO = f"""
from jobs indexed by ready where place = {Place.READY:d} and type = ? and prio > ? order by prio, ord limit ?"""
_DUE = f"from jobs indexed by later where place = {Place.LATER:d} and due_at <= ? order by due_at limit ?"
# whatever damage made of a column, it must not fail the statement: what is damaged is found when it is claimed
_ENTRY = "ord, cast(id as text), ifnull(cast(type as text), ''), ifnull(cast(prio as integer), 0)"
_PLAIN = f"select json_group_array(json_array({_ENTRY})), null from (select ord, id, type, prio {{}})"
# one row for all jobs (see rows.py): what is short as JSON, all data joined, to be cut by length
_WITH_DATA = f"""
select json_group_array(json_array({_ENTRY}, cast(options as text), length(shown))),
       cast(group_concat(shown, '') as blob)
from (select ord, id, type, prio, options, case when typeof(data) = 'blob' and length(data) <= ? then data end as shown {{}})
"""
_WAKE = f"update jobs set place = {READY_PLACE} where ord in (select value from json_each(?))"
# a | b less a & b is a XOR b
_RESCHEDULE = """
update jobs set due_at = ?1, expire_at = ?2, crc32c = (crc32c | ?3) - (crc32c & ?3)
where ord = ?4 and place < 2 and due_at is ?5 and expire_at is ?6
"""
_NEXT_DUE = f"select min(due_at) from jobs indexed by later where place = {Place.LATER:d}"
_NEXT_EXPIRE = "select min(expire_at) from jobs indexed by expiring where place < 2 and expire_at is not null"
_EXPIRED = f"""
select json_group_array(json_array({_ENTRY}, state, cast(options as text))) from (
  select ord, id, type, prio, state, options from jobs indexed by expiring
  where place < 2 and expire_at is not null and expire_at <= ? order by expire_at limit ?)
"""
# an upsert, as in report.py
_END_EXPIRED = ManyRows(
    "insert into jobs (type, prio, ord, state, ended_at, drop_at)",
    "('',0,?,?,?,?)",
    f"""on conflict (ord) do update set place = {Place.ENDED:d}, state = excluded.state, error = '{EXPIRED}',
    ended_at = excluded.ended_at, drop_at = excluded.drop_at
    where place < 2""",
)


class _Waiting(msgspec.Struct, array_like=True, gc=False):
    order: int
    id: str | None
    type: str
    prio: int
    options: str | None = None
    data_bytes: int | None = None


_decode_waiting = msgspec.json.Decoder(list[_Waiting]).decode
_decode_expired = msgspec.json.Decoder(list[tuple[int, str | None, str, int, State, str | None]]).decode


def ready(
    session: Session, type_: str, after: tuple[int, int] | None, limit: int, body_bytes: int | None = None
) -> list[Entry]:
    """See Store.ready."""
    prio, entries = -1, []
    if after is not None:
        prio, order = after
        entries = _entries(session, _READY_OF_PRIO, (type_, prio, order, limit), limit, body_bytes)
    if len(entries) < limit:
        entries += _entries(session, _READY_BEYOND_PRIO, (type_, prio, limit - len(entries)), limit, body_bytes)
    return entries


def wake(session: Session, before: float, limit: int, body_bytes: int | None = None) -> list[Entry]:
    """See Store.wake."""
    entries = _entries(session, _DUE, (before, limit), limit, body_bytes)
    if entries:
        orders = json_list(entry.order for entry in entries)
        session.db.execute(_WAKE, (orders,))
        session.heads.returned(entry.order for entry in entries)
        if session.has_groups:
            in_groups = groups.groups_of(session, orders)
            entries = [replace(entry, group=in_groups.get(entry.order)) for entry in entries]
    return entries


def _entries(session: Session, source: str, values: tuple[object, ...], limit: int, body_bytes: int | None) -> list[Entry]:
    """Return the jobs of `source`, a `from` clause; body_bytes: as for Store.ready."""
    if body_bytes is None:
        packed, joined = session.db.execute(_PLAIN.format(source), values).fetchone()
    else:
        most = most_shown(body_bytes, limit)
        packed, joined = session.db.execute(_WITH_DATA.format(source), (most, *values)).fetchone()
    made_id = session.ids.of
    rows = _decode_waiting(packed)
    return [
        Entry(
            row.order,
            row.id or made_id(row.order),
            row.type,
            row.prio,
            None,
            row.options.encode() if row.options is not None else None,
            data,
        )
        for row, data in zip(rows, cut(joined or b"", [row.data_bytes for row in rows]), strict=True)
    ]


def reschedule(session: Session, changes: Sequence[Rescheduled]) -> None:
    """See Store.reschedule."""
    session.db.executemany(_RESCHEDULE, [_rescheduled(one) for one in changes])


def _rescheduled(one: Rescheduled) -> tuple[object, ...]:
    was_due_at, was = one.were
    change = 0 if was is None or one.expire_at is None else moved(was, one.expire_at)
    return (one.due_at or None, one.expire_at, change, one.order, was_due_at or None, was)


def next_due_at(session: Session) -> float | None:
    """See Store.next_due_at."""
    row: tuple[float | None] = session.db.execute(_NEXT_DUE).fetchone()
    return row[0]


def next_expire_at(session: Session) -> float | None:
    """See Store.next_expire_at."""
    row: tuple[float | None] = session.db.execute(_NEXT_EXPIRE).fetchone()
    return row[0]


def expire(
    session: Session, now: float, limit: int, drop_after_s: float | None, by_type: Mapping[str, float | None]
) -> list[str]:
    """See Store.expire."""
    (packed,) = session.db.execute(_EXPIRED, (now, limit)).fetchone()
    expired = _decode_expired(packed)
    values: list[object] = []
    for order, _, type_, _, state, options in expired:
        keep_s = own_keep_s(options, by_type.get(type_, drop_after_s))
        values += (order, next_state(state, Event.EXPIRE), now, None if keep_s is None else now + keep_s)
    orders, ids = [order for order, *_ in expired], [id_ or session.ids.of(order) for order, id_, *_ in expired]
    resources.gone(session, orders)
    follow.gone(session, orders)
    follow.passed(session, ids, State.FAIL)
    batches.ended(session, orders, State.FAIL)
    _END_EXPIRED.execute(session.db, values)
    session.tallies.remove([(type_, state) for _, _, type_, _, state, _ in expired])
    session.tallies.add([(type_, next_state(state, Event.EXPIRE)) for _, _, type_, _, state, _ in expired])
    return ids
