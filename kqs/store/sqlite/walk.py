"""Finding the records that fit a filter, a slice at a time, by the index that leads to the fewest others.

A way is one leg or several, each along one index. Within a leg, records are met by its key, then by order. Whoever goes on
begins behind the last one that was looked at. The legs of waiting jobs come before those of running and ended ones: as jobs go.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from kqs.filter import Filter, Pattern
from kqs.job import ENDED, WAITING, State
from kqs.store import change as bounds
from kqs.store.sqlite import bulk, content
from kqs.store.sqlite.rows import MAX_ORDER, decode_orders, encode_json, json_list
from kqs.store.sqlite.schema import Place
from kqs.store.sqlite.session import Session

#: what a leg costs that leads to nothing, in records looked at
LEG_COST = 50
#: a slice looks for a pattern for so long at most, in s, but in one record at least
_MATCH_S = 0.01
#: of a job that is gone, in the record and apart from it
_NO_DATA = (0, 0)
#: data that is read at a time to be looked through, in bytes
_PART_BYTES = 1024 * 1024

# whatever damage made of a column, it must not fail the statement
FOUND = """
ord, cast(id as text) as id, ifnull(cast(type as text), '') as type, ifnull(cast(prio as integer), 0) as prio, place, state,
attempt, returned, ifnull(epoch, 0) as epoch, cast(options as text) as options, accepted_at, ended_at, drop_at, cancel_at
"""
_JSON = "json_array(ord, id, type, prio, place, state, attempt, returned, epoch, options)"
#: of a damaged record, by its place
_STATES = {Place.READY: State.NEW, Place.LATER: State.DELAYED, Place.RUNNING: State.PROCESSING}


class Found(msgspec.Struct, array_like=True, gc=False):
    """A record that fits."""

    order: int
    id: str | None
    type: str
    prio: int
    place: int
    number: int
    attempt: int
    returned: int
    epoch: int
    options: str | None

    @property
    def state(self) -> State:
        """Return its state; of one that is damaged, one that it may have had."""
        try:
            return State(self.number)
        except ValueError:
            return _STATES.get(Place(self.place), State.FAIL)


class Leg(NamedTuple):
    """Records along one index, of which `source` may name one `:leg`. key: by which they stand, before their order, if any."""

    source: str
    value: object = None
    key: str | None = None


class At(NamedTuple):
    """Where to go on in a way. key, order: of the last record that was looked at; order None: where the leg begins.

    is_beyond: all with this key are done.
    """

    legs: tuple[Leg, ...]
    key: object = None
    order: int | None = None
    is_beyond: bool = False


class Wanted(NamedTuple):
    """What to find, as SQL with named values; and what is to be found in the data. is_read: whoever asks reads all that."""

    conditions: str
    values: dict[str, Any]
    match: Pattern | None
    is_read: bool = False


_BY_ORDER = Leg("jobs not indexed where true")
_OF_ORDERS = "jobs not indexed where ord in (select value from json_each(:leg))"
_READY = f"jobs indexed by ready where place = {Place.READY:d} and type = :leg"
_LATER = Leg(f"jobs indexed by later where place = {Place.LATER:d}", None, "due_at")
_RUNNING = Leg(f"jobs indexed by running where place = {Place.RUNNING:d}", None, "epoch")
_ENDED = f"jobs indexed by ended where place = {Place.ENDED:d} and state = :leg"

_MADE_IDS = "select json_group_array(ord) from jobs where ord in (select value from json_each(?)) and id is null"
_GIVEN_IDS = "select json_group_array(ord) from jobs indexed by ids where id in (select value from json_each(?))"
_LENGTHS = """
select json_group_array(json_array(ord, length(data), case when data is null then (
  select length(data) from bulk where bulk.ord = jobs.ord) end))
from jobs not indexed where ord in (select value from json_each(?))
"""

_decode_found = msgspec.json.Decoder(list[Found]).decode
_decode_lengths = msgspec.json.Decoder(list[tuple[int, int | None, int | None]]).decode


def way(session: Session, wanted: Filter, states: frozenset[State] | None) -> At:
    """Return the beginning of the way to what fits. states: those that may be of use; None: any."""
    if wanted.ids is not None:
        return At((Leg(_OF_ORDERS, json_list(orders_of(session, wanted.ids))),))
    if states is None or len(states) == len(State):
        return At((_BY_ORDER,))
    legs: list[Leg] = []
    if states & WAITING:
        legs.append(_LATER)
        legs += [Leg(_READY, type_, "prio") for type_ in _waiting_types(session, wanted)]
    if State.PROCESSING in states:
        legs.append(_RUNNING)
    legs += [Leg(_ENDED, int(state), "drop_at") for state in sorted(states & ENDED)]
    return At(tuple(legs))


def orders_of(session: Session, ids: Sequence[str]) -> list[int]:
    """Return the orders of the jobs that have these ids, of which each is known or not."""
    made = [order for one in ids if (order := session.ids.order_of(one)) is not None]
    (of_made,) = session.db.execute(_MADE_IDS, (json_list(made),)).fetchone()
    (of_given,) = session.db.execute(_GIVEN_IDS, (encode_json(list(ids)).decode(),)).fetchone()
    return sorted({*decode_orders(of_made), *decode_orders(of_given)})


def _waiting_types(session: Session, wanted: Filter) -> list[str]:
    if wanted.type is not None:
        return [wanted.type]
    return sorted({type_ for type_, state, _ in session.tallies.read(session.db) if state in WAITING})


def conditions(wanted: Filter, now: float, *more: str, **values: Any) -> Wanted:
    """Return what a filter asks for, and more. What is over at `now` fits nothing."""
    found = ["(+drop_at is null or +drop_at > :now)", *more]
    values["now"] = now
    if wanted.type is not None:
        found.append("+type = :type")
        values["type"] = wanted.type
    if wanted.states is not None:
        found.append(f"+state in ({', '.join(str(int(state)) for state in sorted(wanted.states))})")
    if wanted.accepted_before is not None:
        found.append("ifnull(accepted_at, ord / 1e6) < :accepted_before")
        values["accepted_before"] = wanted.accepted_before
    if wanted.resource is not None:
        found.append("resource = :resource")
        values["resource"] = wanted.resource
    return Wanted(" and ".join(found), values, wanted.match)


def find(db: sqlite3.Connection, wanted: Wanted, at: At, most: int) -> tuple[list[Found], At | None]:
    """Return the next records that fit, `most` at most, and where to go on; None: there are no more."""
    found: list[Found] = []
    budget = bounds.LOOKED
    while at.legs and budget > 0 and len(found) < most:
        leg = at.legs[0]
        part, at, looked = _find_part(db, wanted, at, most - len(found), budget)
        budget -= max(looked, LEG_COST)
        if part and (wanted.match is not None or wanted.is_read):
            fitting, done = _read(db, [row.order for row in part], wanted.match)
            if done < len(part):
                at = _behind(db, (leg, *at.legs) if at.legs[:1] != (leg,) else at.legs, part[done - 1].order)
            found += [row for row in part[:done] if row.order in fitting]
            break  # enough data was read
        found += part
    return found, at if at.legs else None


def _find_part(db: sqlite3.Connection, wanted: Wanted, at: At, most: int, budget: int) -> tuple[list[Found], At, int]:
    """Look at some records of one leg; return those that fit, where to go on, and at how many it has looked, about."""
    leg = at.legs[0]
    source, values = _source(leg, at)
    by = "jobs.ord" if leg.key is None else f"jobs.{leg.key}, jobs.ord"  # not what is selected under these names
    values |= {"most": most, "budget": budget, "edge_key": None, "edge": MAX_ORDER}
    edge = db.execute(
        f"select {leg.key or 'null'}, ord from {source} order by {by} limit 1 offset :budget - 1", values
    ).fetchone()
    within = "true"
    if edge is not None:
        values["edge_key"], values["edge"] = edge
        within = _within(leg.key, edge[0])
    (packed,) = db.execute(_fitting(source, within, wanted, by), values | wanted.values).fetchone()
    found = _decode_found(packed)
    if len(found) == most:
        return found, _behind(db, at.legs, found[-1].order), budget
    if edge is not None:
        return found, At(at.legs, *edge), budget
    (count,) = db.execute(f"select count(*) from (select 1 from {source} limit :budget)", values).fetchone()
    is_of_key = leg.key is not None and at.order is not None and not at.is_beyond
    return found, at._replace(is_beyond=True) if is_of_key else At(at.legs[1:]), count


def _fitting(source: str, within: str, wanted: Wanted, by: str) -> str:
    rows = f"select {FOUND} from {source} and {within} and {wanted.conditions} order by {by} limit :most"
    return f"select json_group_array({_JSON}) from ({rows})"


def _within(key: str | None, edge_key: object) -> str:
    """Return the condition for what does not lie beyond the edge."""
    if key is None:
        return "ord <= :edge"
    if edge_key is None:
        return f"(+{key} is null and +ord <= :edge)"
    # the plus keeps the planner with what begins the search
    return f"(+{key} is null or +{key} < :edge_key or (+{key} = :edge_key and ord <= :edge))"


def _source(leg: Leg, at: At) -> tuple[str, dict[str, Any]]:
    """Return the records of a leg from `at` on."""
    values = {"leg": leg.value, "key": at.key, "after": at.order}
    if at.order is None:
        return leg.source, values
    if leg.key is None:
        return f"{leg.source} and ord > :after", values
    # two statements in turn, as in schedule.py
    if at.is_beyond:
        beyond = "is not null" if at.key is None else "> :key"
        return f"{leg.source} and {leg.key} {beyond}", values
    same = "is null" if at.key is None else "= :key"
    return f"{leg.source} and {leg.key} {same} and ord > :after", values


def _behind(db: sqlite3.Connection, legs: tuple[Leg, ...], order: int) -> At:
    key = None
    if legs[0].key is not None:
        (key,) = db.execute(f"select {legs[0].key} from jobs where ord = ?", (order,)).fetchone()
    return At(legs, key, order)


def _read(db: sqlite3.Connection, orders: list[int], pattern: Pattern | None) -> tuple[Collection[int], int]:
    """Return which of these jobs fit, as far as the data goes that one slice may read, and how many those are."""
    if pattern is not None:
        return matching(db, orders, pattern)
    lengths = _lengths(db, orders)
    total = done = 0
    for order in orders:
        total += sum(lengths.get(order, _NO_DATA))
        done += 1
        if total >= bounds.LOOKED_BYTES:
            break
    return orders, done


def matching(db: sqlite3.Connection, orders: Sequence[int], pattern: Pattern) -> tuple[set[int], int]:
    """Return in which of these jobs' data the pattern is found, and how many of them were looked at: one at least."""
    until = time.monotonic() + _MATCH_S
    fitting: set[int] = set()
    done = size = 0
    for part, data in data_of(db, orders):
        for order in part:
            if order in data and pattern.is_in(data[order]):
                fitting.add(order)
            done += 1
            size += len(data.get(order, b""))
            if time.monotonic() >= until:
                return fitting, done
        if size >= bounds.LOOKED_BYTES:
            break
    return fitting, done


def data_of(db: sqlite3.Connection, orders: Sequence[int]) -> Iterator[tuple[list[int], dict[int, bytes]]]:
    """Yield jobs in parts, with their data, as far as it is there: about _PART_BYTES of it at a time, or one job's."""
    lengths = _lengths(db, orders)
    part: list[int] = []
    size = 0
    for order in orders:
        length = sum(lengths.get(order, _NO_DATA))
        if part and size + length > _PART_BYTES:
            yield part, _data(db, part, lengths)
            part, size = [], 0
        part.append(order)
        size += length
    if part:
        yield part, _data(db, part, lengths)


def _data(db: sqlite3.Connection, orders: Sequence[int], lengths: dict[int, tuple[int, int]]) -> dict[int, bytes]:
    inline = {order: found[0] for order in orders if (found := lengths.get(order, _NO_DATA))[0]}
    data = content.long(db, inline)
    if len(inline) < len(orders):
        data |= bulk.get(db, [order for order in orders if order not in inline])
    return data


def _lengths(db: sqlite3.Connection, orders: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return how long jobs' data is, in the record and apart from it, by order."""
    (packed,) = db.execute(_LENGTHS, (json_list(orders),)).fetchone()
    return {order: (inline or 0, apart or 0) for order, inline, apart in _decode_lengths(packed)}
