"""A page of records that fit a filter, in order: no longer than one slice takes.

Along their orders, all records have to be looked at until some fit. So where the totals and an index tell which few may, only
those are looked at: what is ready, of each type and priority in order as it stands there, and whatever else there is little of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import msgspec

from kqs.filter import Filter
from kqs.job import JobRecord
from kqs.states import ENDED, WAITING, State
from kqs.store import change as bounds
from kqs.store.base import MAX_ORDER
from kqs.store.sqlite import groups, matching, records, walk
from kqs.store.sqlite.rows import decode_orders, encode_json, json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place
from kqs.store.sqlite.walk import Leg

#: types and priorities at which ready jobs are looked for
_MOST_LINES = 32
#: where a smaller share of what waits is in a state that is asked for, the ready jobs lead to too many others
_LEAST_SHARE = 0.05
_READY = f"from jobs indexed by ready where place = {Place.READY:d} and type ="
# one search in the index for each priority of a type, and one for its first jobs
_READY_ORDERS = f"""
with recursive steps (kind, at, n) as (
  select value, (select min(prio) {_READY} value), 1 from json_each(:types)
  union all
  select kind, (select min(prio) {_READY} kind and prio > at), n + 1 from steps where at is not null and n <= :lines),
lines (kind, at) as (select kind, at from steps where at is not null limit :lines + 1)
select json_group_array(json((
  select json_group_array(ord) from (
    select ord {_READY} kind and prio = at and ord {{step}} :after order by ord {{direction}} limit :most)))) from lines
"""
_ORDERS = "select json_group_array(ord) from (select ord from {} limit :most)"

_decode_lines = msgspec.json.Decoder(list[list[int]]).decode


class Page(msgspec.Struct):
    """One slice of a listing. next_after: the order to go on from; None when there is no more."""

    records: list[JobRecord]
    next_after: int | None


class _Candidates(NamedTuple):
    """Which records may fit. edge: up to which order these are all; None: they are all."""

    orders: list[int]
    edge: int | None = None


class _From(NamedTuple):
    """Where a page begins, and which way it goes."""

    after: int
    newest_first: bool

    @property
    def step(self) -> str:
        """Return how later orders compare with earlier ones."""
        return "<" if self.newest_first else ">"

    @property
    def direction(self) -> str:
        """Return how they are sorted."""
        return "desc" if self.newest_first else "asc"

    def upto(self, orders: Iterable[int], edge: int | None) -> list[int]:
        """Return those orders that lie behind `after`, and not beyond the edge."""
        last = edge if edge is not None else -1 if self.newest_first else MAX_ORDER
        low, high = (last, self.after - 1) if self.newest_first else (self.after + 1, last)
        return sorted({order for order in orders if low <= order <= high})


def page(session: Session, wanted: Filter, after: int | None, limit: int, newest_first: bool) -> Page:
    """See Store.page."""
    if after is None:
        after = MAX_ORDER if newest_first else -1
    begin = _From(after, newest_first)
    asked = walk.conditions(wanted, session.now())
    most = limit if wanted.match is None else bounds.LOOKED  # of which few may match
    candidates = _candidates(session, wanted, begin, limit)
    if candidates is None:
        source, values, edge = _along(session, begin)
    else:
        source, values = "jobs not indexed where ord in (select value from json_each(:some))", dict[str, object]()
        values["some"] = json_list(candidates.orders)
        edge = candidates.edge
    (packed,) = session.db.execute(
        f"select json_group_array(ord) from (select ord from {source} and ord {begin.step} :after and {asked.conditions}"
        f" order by ord {begin.direction} limit :limit)",
        values | {"after": after, "limit": most} | asked.values,
    ).fetchone()
    orders = decode_orders(packed)
    if len(orders) == most:
        edge = orders[-1]
    if wanted.match is not None and orders:
        fitting, done = matching.found(session.db, orders, wanted.match, limit)
        edge = edge if done == len(orders) else orders[done - 1]
        orders = [order for order in orders[:done] if order in fitting]
    return Page(records.listed(session, orders), edge)


def _along(session: Session, begin: _From) -> tuple[str, dict[str, object], int | None]:
    """Return the next records by order, as many as a slice looks at, and the last of them; None: it is the last of all."""
    row = session.db.execute(
        f"select ord from jobs where ord {begin.step} ? order by ord {begin.direction} limit 1 offset ?",
        (begin.after, bounds.LOOKED - 1),
    ).fetchone()
    if row is None:
        return "jobs not indexed where true", {}, None
    return f"jobs not indexed where ord {'>=' if begin.newest_first else '<='} :edge", {"edge": row[0]}, row[0]


def _candidates(session: Session, wanted: Filter, begin: _From, limit: int) -> _Candidates | None:
    """Return which records may fit, if an index has them and they are few; None: they must be looked for."""
    if wanted.ids is not None:
        return _Candidates(begin.upto(walk.orders_of(session, wanted.ids), None))
    if wanted.type is None and (wanted.states is None or len(wanted.states) == len(State)):
        return None
    there = session.tallies.read(session.db)
    total: Counter[State] = Counter()
    ours: Counter[State] = Counter()  # of the type that is asked for, or of all
    for type_, state, n in there:
        total[state] += n
        if wanted.type in (None, type_):
            ours[state] += n
    states = {state for state in ours if wanted.states is None or state in wanted.states}
    few = _few(session, states, total)
    if few is None:
        return None
    if not states & WAITING:
        return _Candidates(begin.upto(few, None))
    if sum([ours[state] for state in states & WAITING]) < _LEAST_SHARE * sum([ours[state] for state in WAITING]):
        return None
    types = {wanted.type} if wanted.type is not None else {type_ for type_, state, _ in there if state in states & WAITING}
    is_any = states >= WAITING & ours.keys() and wanted == Filter(type=wanted.type, states=wanted.states)
    ready = _ready(session, types, begin, limit if is_any else None)
    if ready is None:
        return None
    return _Candidates(begin.upto(chain(few, ready.orders), ready.edge), ready.edge)


def _few(session: Session, states: set[State], total: Counter[State]) -> list[int] | None:
    """Return the orders of all records in these states that are not ready; None: they are many."""
    if sum([total[state] for state in states if state not in WAITING]) > bounds.LOOKED:
        return None
    legs: list[Leg] = []
    if states & (
        WAITING if session.has_resources or session.has_followers else WAITING - {State.NEW}
    ):  # what is parked or held
        legs.append(walk.LATER)
    if State.PROCESSING in states:
        legs.append(walk.RUNNING)
    legs += [walk.ended(state) for state in sorted(states & ENDED)]
    orders: list[int] = []
    for leg in legs:
        most = bounds.LOOKED + 1 - len(orders)
        (packed,) = session.db.execute(_ORDERS.format(leg.source), {"leg": leg.value, "most": most}).fetchone()
        orders += decode_orders(packed)
        if len(orders) > bounds.LOOKED:
            return None
    return orders


def _ready(session: Session, types: set[str], begin: _From, limit: int | None) -> _Candidates | None:
    """Return the first jobs of these types that are ready; None: they stand at too many priorities, or in lines of groups.

    limit: so many of each type and priority are enough, since all of them fit; None: a slice looks at as many as it may.
    """
    if len(types) > _MOST_LINES or groups.types(session, types):
        return None
    query = _READY_ORDERS.format(step=begin.step, direction=begin.direction)
    most = bounds.LOOKED // _MOST_LINES + 1 if limit is None else limit
    values = {"types": encode_json(sorted(types)).decode(), "lines": _MOST_LINES, "after": begin.after, "most": most}
    (packed,) = session.db.execute(query, values).fetchone()
    lines = _decode_lines(packed)
    if len(lines) > _MOST_LINES:
        return None
    cut = [line[-1] for line in lines if len(line) == most]
    edge = None if not cut else max(cut) if begin.newest_first else min(cut)
    return _Candidates(begin.upto(chain.from_iterable(lines), edge), edge)
