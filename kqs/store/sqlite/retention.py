"""Deleting the records of ended jobs."""

from __future__ import annotations

import msgspec

from kqs.states import ENDED, State
from kqs.store.parents import DELETED
from kqs.store.sqlite import batches, bulk, follow, progress, resources, uniques
from kqs.store.sqlite.rows import decode_orders, json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

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
_KINDS = (
    "select json_group_array(json_array(cast(type as text), state)) from jobs where ord in (select value from json_each(?))"
)
_UNENDED = f"""
select json_group_array(json_array(ord, cast(id as text))) from jobs
where ord in (select value from json_each(?)) and place <> {Place.ENDED:d}
"""
_DELETE = "delete from jobs where ord in (select value from json_each(?))"

_decode_unended = msgspec.json.Decoder(list[tuple[int, str | None]]).decode
_decode_kinds = msgspec.json.Decoder(list[tuple[str, int]]).decode


def sweep(session: Session, now: float, limit: int, before_order: int) -> int:
    """See Store.sweep."""
    swept = delete(session, _orders(session, _DROPPED, (now, before_order, min(limit, session.most_dropped))))
    if not swept:
        session.space.wants_shrink = True
    return swept


def trim_successes(session: Session, keep_count: int, limit: int, before_order: int) -> int:
    """See Store.trim_successes."""
    successes = sum(n for _, state, n in session.tallies.read(session.db) if state is State.SUCCESS)
    excess = min(successes - keep_count, limit, session.most_dropped)
    if excess <= 0:
        return 0
    orders = _orders(session, _TO_BE_DROPPED, (before_order, excess))
    if len(orders) < excess:
        orders += _orders(session, _KEPT_FOR_EVER, (before_order, excess - len(orders)))
    return delete(session, orders)


def _orders(session: Session, query: str, values: tuple[float | int, ...]) -> list[int]:
    (packed,) = session.db.execute(query, values).fetchone()
    return decode_orders(packed)


def delete(session: Session, orders: list[int]) -> int:
    """Delete these records, whatever their state; return how many."""
    if not orders:
        return 0
    session.dropped += len(orders)
    packed = json_list(orders)
    (found,) = session.db.execute(_KINDS, (packed,)).fetchone()
    kinds = _decode_kinds(found)
    resources.deleted(session, orders)
    if session.has_followers or session.has_batches:
        _follow(session, packed)
    batches.delete(session, packed)
    session.tallies.remove(kinds)
    bulk.delete(session.db, packed)
    progress.delete(session, packed)
    uniques.delete(session, packed)
    session.db.execute(_DELETE, (packed,))
    session.tallies.forget(session.db, {type_ for type_, _ in kinds})
    if session.cancelled:
        session.uncancelled += session.cancelled.intersection(orders)
    return len(orders)


def _follow(session: Session, packed: str) -> None:
    """Take in what it means for others that jobs are about to be deleted, those that have not ended."""
    (found,) = session.db.execute(_UNENDED, (packed,)).fetchone()
    unended = _decode_unended(found)
    orders = [order for order, _ in unended]
    follow.gone(session, orders)
    follow.passed(session, [id_ or session.ids.of(order) for order, id_ in unended], DELETED)
    batches.ended(session, orders, None)
