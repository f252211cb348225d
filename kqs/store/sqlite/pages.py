"""A page of records that fit a filter, in order: no longer than one slice takes."""

from __future__ import annotations

from kqs.filter import Filter
from kqs.job import ENDED, WAITING, State
from kqs.store import change as bounds
from kqs.store.sqlite import records, walk
from kqs.store.sqlite.records import Page
from kqs.store.sqlite.rows import MAX_ORDER, decode_orders, json_list
from kqs.store.sqlite.session import Session


def page(session: Session, wanted: Filter, after: int | None, limit: int, newest_first: bool) -> Page:
    """See Store.page."""
    step, direction = ("<", "desc") if newest_first else (">", "asc")
    if after is None:
        after = MAX_ORDER if newest_first else -1
    asked = walk.conditions(wanted, session.now())
    source, values = "jobs not indexed where true", dict[str, object]()
    if (few := _few(session, wanted)) is not None:
        source, values = "jobs not indexed where ord in (select value from json_each(:few))", {"few": json_list(few)}
    values |= {"after": after, "looked": bounds.LOOKED, "limit": limit}
    source = f"{source} and ord {step} :after"
    row = session.db.execute(f"select ord from {source} order by ord {direction} limit 1 offset :looked - 1", values).fetchone()
    edge: int | None = None if row is None else row[0]
    if edge is not None:
        source += " and ord >= :edge" if newest_first else " and ord <= :edge"
        values["edge"] = edge
    (packed,) = session.db.execute(
        f"select json_group_array(ord) from"
        f" (select ord from {source} and {asked.conditions} order by ord {direction} limit :limit)",
        values | asked.values,
    ).fetchone()
    orders = decode_orders(packed)
    if len(orders) == limit:
        edge = orders[-1]
    if wanted.match is not None and orders:
        fitting, done = walk.matching(session.db, orders, wanted.match)
        edge = edge if done == len(orders) else orders[done - 1]
        orders = [order for order in orders[:done] if order in fitting]
    return Page(records.listed(session, orders), edge)


def _few(session: Session, wanted: Filter) -> list[int] | None:
    """Return the orders of all jobs that may fit, if an index has them and they are few; None: they must be looked for."""
    if wanted.ids is not None:
        return walk.orders_of(session, wanted.ids)
    if wanted.states is None or len(wanted.states) == len(State):
        return None
    if _count(session, wanted.type, wanted.states) > bounds.LOOKED:
        return None
    orders: list[int] = []
    for leg in walk.way(session, wanted, wanted.states).legs:
        (packed,) = session.db.execute(f"select json_group_array(ord) from {leg.source}", {"leg": leg.value}).fetchone()
        orders += decode_orders(packed)
    return orders


def _count(session: Session, type_: str | None, states: frozenset[State]) -> int:
    """Return how many records the legs to these states have at most, and what each leg costs."""
    total = 0
    types = set()
    for of_type, state, n in session.tallies.read(session.db):
        if state in WAITING and states & WAITING:
            # whatever has waited for its time, or may: the index tells no type of that
            total += n if type_ is None or of_type == type_ or state is not State.NEW else 0
            types.add(of_type)
        elif state in states and (state in ENDED or state is State.PROCESSING):
            total += n
    return total + walk.LEG_COST * (1 if type_ is not None else len(types))
