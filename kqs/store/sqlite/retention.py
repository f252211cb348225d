"""Deleting the records of ended jobs."""

from __future__ import annotations

from kqs.job import ENDED, State
from kqs.store.sqlite import bulk
from kqs.store.sqlite.rows import decode_orders, json_list
from kqs.store.sqlite.schema import Place
from kqs.store.sqlite.session import Session

_ENDED = ", ".join(str(state.value) for state in sorted(ENDED))
_DROPPED = f"""
select json_group_array(ord) from (
  select ord from jobs indexed by ended
  where place = {Place.ENDED:d} and state in ({_ENDED}) and drop_at <= ? and ord < ? limit ?)
"""
_OLDEST_SUCCESSES = f"""
select json_group_array(ord) from (
  select ord from jobs indexed by ended
  where place = {Place.ENDED:d} and state = {State.SUCCESS:d} and drop_at {{}} and ord < ? order by drop_at limit ?)
"""
_TO_BE_DROPPED = _OLDEST_SUCCESSES.format("is not null")
_KEPT_FOR_EVER = _OLDEST_SUCCESSES.format("is null")
_SUCCESSES = f"select coalesce(sum(n), 0) from tallies where state = {State.SUCCESS:d}"
_TALLIES = "select type, state, count(*) from jobs where ord in (select value from json_each(?)) group by type, state"
_DELETE = "delete from jobs where ord in (select value from json_each(?))"
_FORGET_TYPE = "delete from tallies where type = ? and n = 0"


def sweep(session: Session, now: float, limit: int, before_order: int) -> int:
    """See Store.sweep."""
    return _delete(session, _orders(session, _DROPPED, (now, before_order, limit)))


def trim_successes(session: Session, keep_count: int, limit: int, before_order: int) -> int:
    """See Store.trim_successes."""
    session.flush()
    (successes,) = session.db.execute(_SUCCESSES).fetchone()
    excess = min(successes - keep_count, limit)
    if excess <= 0:
        return 0
    orders = _orders(session, _TO_BE_DROPPED, (before_order, excess))
    if len(orders) < excess:
        orders += _orders(session, _KEPT_FOR_EVER, (before_order, excess - len(orders)))
    return _delete(session, orders)


def _orders(session: Session, query: str, values: tuple[float | int, ...]) -> list[int]:
    (packed,) = session.db.execute(query, values).fetchone()
    return decode_orders(packed)


def _delete(session: Session, orders: list[int]) -> int:
    if not orders:
        return 0
    packed = json_list(orders)
    tallies = session.db.execute(_TALLIES, (packed,)).fetchall()
    for type_, state, n in tallies:
        session.count(type_, State(state), -n)
    bulk.delete(session.db, packed)
    session.db.execute(_DELETE, (packed,))
    session.flush()
    # types are the clients' to invent: one that has no record left must not leave a row behind
    session.db.executemany(_FORGET_TYPE, sorted({(type_,) for type_, _, _ in tallies}))
    return len(orders)
