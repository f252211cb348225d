"""Finding the records that fit a filter, a slice at a time, by the index that leads to the fewest others.

A way is one leg or several, each along one index. Within a leg, records are met by its key, then by order. Whoever goes on
begins behind the last one that was looked at. The legs of waiting jobs come before those of running and ended ones: as jobs go.

Jobs that wait for others are met before those where they are called off or deleted, and behind them where they are retried: a
slice later the end of one would have failed the other, or let it begin. As a rule a job was accepted behind what it waits for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from kqs.filter import Filter, Pattern
from kqs.states import ENDED, WAITING, State
from kqs.store import change as bounds
from kqs.store.base import MAX_ORDER, Change
from kqs.store.sqlite import groups, matching
from kqs.store.sqlite.rows import decode_orders, encode_json, json_list, json_real
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

#: what a leg costs that leads to nothing, in records looked at
_LEG_COST = 50
#: by what it looks further each time, when few fit
_STEP_GROWTH = 4
#: earlier runs of one job that are read with it, in characters: there may be 400 kB of them
_SHORT_RUNS = 1000

# whatever damage made of a column, it must not fail the statement
FOUND = """
ord, cast(id as text) as id, ifnull(cast(type as text), '') as type, ifnull(cast(prio as integer), 0) as prio, place, state,
attempt, returned, ifnull(epoch, 0) as epoch, cast(options as text) as options
"""
_WHOLE = f"""
length(data) as inline_bytes,
case when data is null then (select length(data) from bulk where bulk.ord = jobs.ord) end as bulk_bytes,
cast(crc32c as integer) as crc32c, cast(resource as text) as resource, cast(grp as text) as grp,
cast(unique_key as text) as unique_key, expire_at, accepted_at, started_at, ended_at,
cast(worker as text) as worker, cast(run_state as text) as run_state, cast(error as text) as error,
case when length(runs) <= {_SHORT_RUNS} then cast(runs as text) end as runs, ifnull(length(runs), 0) as runs_length
"""
_JSON = "ord, id, type, prio, place, state, attempt, returned, epoch, options"
_WHOLE_JSON = f"""
inline_bytes, bulk_bytes, crc32c, resource, grp, unique_key, {json_real("expire_at")}, {json_real("accepted_at")},
{json_real("started_at")}, {json_real("ended_at")}, worker, run_state, error, runs, runs_length
"""
_STATES = {int(state): state for state in State}
#: of a damaged record, by its place
_DAMAGED = {Place.GROUPED: State.NEW, Place.READY: State.NEW, Place.LATER: State.DELAYED, Place.RUNNING: State.PROCESSING}


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
        state = _STATES.get(self.number)
        return _DAMAGED.get(Place(self.place), State.FAIL) if state is None else state


class Whole(Found):
    """A record that fits, with what whoever writes it anew must know.

    inline_bytes, bulk_bytes: of its data, in the record and apart from it. runs: None where they are longer than _SHORT_RUNS.
    """

    inline_bytes: int | None
    bulk_bytes: int | None
    checksum: int | None
    resource: str | None
    group: str | None
    unique: str | None
    expire_whole_s: int | None
    expire_rest_s: float | None
    accepted_whole_s: int | None
    accepted_rest_s: float | None
    started_whole_s: int | None
    started_rest_s: float | None
    ended_whole_s: int | None
    ended_rest_s: float | None
    worker: str | None
    run_state: str | None
    error: str | None
    runs: str | None
    runs_length: int

    @property
    def data_bytes(self) -> int:
        """Return how long its data is."""
        return self.inline_bytes or self.bulk_bytes or 0


class Leg(NamedTuple):
    """Records along one index, of which `source` may name one `:leg`. key: by which they stand, before their order, if any.

    group: those of it alone; but of `_GROUPED`, those of all groups behind it, of which each becomes a leg in its turn.
    names: what key and order are called in that index. is_newest_first: the last order comes first, where there is no key.
    """

    source: str
    value: object = None
    key: str | None = None
    group: str | None = None
    names: tuple[str, str] | None = None
    is_newest_first: bool = False

    @property
    def by(self) -> tuple[str | None, str]:
        """Return by what its records stand: not what is selected under these names."""
        return self.names or (self.key and f"jobs.{self.key}", "jobs.ord")

    @property
    def sorting(self) -> str:
        """Return how its records are sorted."""
        key, order = self.by
        if key is not None:
            return f"{key}, {order}"
        return f"{order} desc" if self.is_newest_first else order


class At(NamedTuple):
    """Where to go on in a way. key, order: of the last record that was looked at; order None: where the leg begins.

    is_beyond: all with this key are done.
    """

    legs: tuple[Leg, ...]
    key: object = None
    order: int | None = None
    is_beyond: bool = False


class Wanted(NamedTuple):
    """What to find, as SQL with named values; and what is to be found in the data. is_whole: each is Whole."""

    conditions: str
    values: dict[str, Any]
    match: Pattern | None
    is_whole: bool = False


_BY_ORDER = Leg("jobs not indexed where true")
_IS_HELD = f"ifnull(+place = {Place.LATER:d} and +due_at is null, false)"
_OF_ORDERS = "jobs not indexed where ord in (select value from json_each(:leg))"
_READY = f"jobs indexed by ready where place = {Place.READY:d} and type = :leg"
_GROUPED = f"{groups.LINE} :leg"
_OF_GROUP = f"{groups.LINE} :leg and name = :group"
_IN_LINE = ("rank", "job")
_LATER = f"jobs indexed by later where place = {Place.LATER:d}"
LATER = Leg(_LATER, None, "due_at")
#: parts of that: what waits for other jobs, or for its resource, the newest first; what waits for its time
HELD = Leg(f"{_LATER} and due_at is null", is_newest_first=True)
_DUE = Leg(f"{_LATER} and due_at is not null", None, "due_at")
RUNNING = Leg(f"jobs indexed by running where place = {Place.RUNNING:d}", None, "epoch")
_ENDED = f"jobs indexed by ended where place = {Place.ENDED:d} and state = :leg"

_MADE_IDS = "select json_group_array(ord) from jobs where ord in (select value from json_each(?)) and id is null"
_GIVEN_IDS = "select json_group_array(ord) from jobs indexed by ids where id in (select value from json_each(?))"

_decode_found = msgspec.json.Decoder(list[Found]).decode
_decode_whole = msgspec.json.Decoder(list[Whole], strict=False).decode


def way(session: Session, change: Change) -> At:
    """Return the beginning of the way to what fits.

    What the totals say that there is none of has no leg: a job that fits all the while stands in one of these states now.
    """
    wanted, states = change.wanted, change.states
    holds = session.has_followers and change.meets_held_first
    if wanted.ids is not None:
        leg = Leg(_OF_ORDERS, json_list(orders_of(session, wanted.ids)))
        held = leg._replace(source=f"{leg.source} and {_IS_HELD}", is_newest_first=True)
        return At(_behind_held(held, leg, change) if holds else (leg,))
    there = {(type_, state) for type_, state, _ in session.tallies.read(session.db) if wanted.type in (None, type_)}
    present = {state for _, state in there if states is None or state in states}
    if not present:  # whatever comes to fit need not be met
        return At(())
    if states is None or len(states) == len(State):
        return At(_behind_held(HELD, _BY_ORDER, change) if holds else (_BY_ORDER,))
    legs: list[Leg] = []
    if states & WAITING:
        types = {type_ for type_, state in there if state in WAITING} if wanted.type is None else {wanted.type}
        legs += [*((HELD, _DUE) if holds else (LATER,)), *[Leg(_READY, type_, "prio") for type_ in sorted(types)]]
        if session.has_groups:
            legs += [Leg(_GROUPED, type_, group="") for type_ in sorted(types)]
    if State.PROCESSING in states:
        legs.append(RUNNING)
    # what has failed since its parent was cancelled is behind that
    legs += [ended(state) for state in sorted(present & ENDED, reverse=True)]
    return At(tuple(legs))


def _behind_held(held: Leg, leg: Leg, change: Change) -> tuple[Leg, ...]:
    """Return both: what is held, which is in `leg`, too, before the rest. It is gone by then, unless nothing is done."""
    return held, leg._replace(source=f"{leg.source} and not {_IS_HELD}") if change.is_dry else leg


def ended(state: State) -> Leg:
    """Return the leg along what has ended so."""
    return Leg(_ENDED, int(state), "drop_at")


def orders_of(session: Session, ids: Sequence[str]) -> list[int]:
    """Return the orders of the jobs that have these ids, of which each is known or not."""
    made = [order for one in ids if (order := session.ids.order_of(one)) is not None]
    (of_made,) = session.db.execute(_MADE_IDS, (json_list(made),)).fetchone()
    (of_given,) = session.db.execute(_GIVEN_IDS, (encode_json(list(ids)).decode(),)).fetchone()
    return sorted({*decode_orders(of_made), *decode_orders(of_given)})


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
    if wanted.group is not None:
        found.append("grp = :in_group")
        values["in_group"] = wanted.group
    return Wanted(" and ".join(found), values, wanted.match)


def find(db: sqlite3.Connection, wanted: Wanted, at: At, most: int) -> tuple[list[Found], At | None]:
    """Return the next records that fit, `most` at most, and where to go on; None: there are no more."""
    found: list[Found] = []
    budget, left_bytes = bounds.LOOKED, bounds.LOOKED_BYTES
    # where nearly all fit, it need not look much further than at so many
    step = most if wanted.match is None else budget
    while at.legs and budget > 0 and left_bytes > 0 and len(found) < most:
        leg = at.legs[0]
        if leg.source is _GROUPED:
            at = _at_next_group(db, at)
            budget -= _LEG_COST
            continue
        part, at, looked = _find_part(db, wanted, at, most - len(found), min(step, budget))
        budget -= max(looked, _LEG_COST)
        step *= _STEP_GROWTH
        fits, done = part, len(part)
        if part and wanted.match is not None:
            orders, done = matching.found(db, [row.order for row in part], wanted.match)
            fits = [row for row in part[:done] if row.order in orders]
            left_bytes = 0  # enough data was read
        elif wanted.is_whole:
            done, left_bytes = _affordable(part, left_bytes)
            fits = part[:done]
        found += fits
        if done < len(part):
            at = _behind(db, (leg, *at.legs) if at.legs[:1] != (leg,) else at.legs, part[done - 1].order)
        elif found and leg.is_newest_first and at.legs[:1] != (leg,):
            break  # the next leg may meet these again, as long as nothing is done with them
    return found, at if at.legs else None


def _at_next_group(db: sqlite3.Connection, at: At) -> At:
    """Return where the next group of a type begins, or what comes behind all of them."""
    line, *others = at.legs
    (packed,) = db.execute(groups.NAMES, (line.value, line.group, 1)).fetchone()
    names = msgspec.json.decode(packed)
    if not names:
        return At(tuple(others))
    return At((Leg(_OF_GROUP, line.value, "prio", names[0], _IN_LINE), line._replace(group=names[0]), *others))


def _affordable(rows: Sequence[Found], most_bytes: int) -> tuple[int, int]:
    """Return how many whole rows are no longer than so, but for the last of them, and what is left of it then."""
    for done, row in enumerate(rows, 1):
        assert isinstance(row, Whole), "asked for"
        most_bytes -= row.data_bytes + row.runs_length
        if most_bytes <= 0:
            return done, 0
    return len(rows), most_bytes


def _find_part(db: sqlite3.Connection, wanted: Wanted, at: At, most: int, budget: int) -> tuple[list[Found], At, int]:
    """Look at some records of one leg; return those that fit, where to go on, and at how many it has looked, about."""
    leg = at.legs[0]
    source, values = _source(leg, at)
    key, order = leg.by
    by = leg.sorting
    values |= {"most": most, "budget": budget, "edge_key": None, "edge": MAX_ORDER}
    edge = db.execute(
        f"select {key or 'null'}, {order} from {source} order by {by} limit 1 offset :budget - 1", values
    ).fetchone()
    within = "true"
    if edge is not None:
        values["edge_key"], values["edge"] = edge
        within = _within(leg, edge[0])
    (packed,) = db.execute(_fitting(source, within, wanted, by), values | wanted.values).fetchone()
    found: list[Found] = [*_decode_whole(packed)] if wanted.is_whole else _decode_found(packed)
    if len(found) == most:
        return found, _behind(db, at.legs, found[-1].order), budget
    if edge is not None:
        return found, At(at.legs, *edge), budget
    (count,) = db.execute(f"select count(*) from (select 1 from {source} limit :budget)", values).fetchone()
    is_of_key = leg.key is not None and at.order is not None and not at.is_beyond
    return found, at._replace(is_beyond=True) if is_of_key else At(at.legs[1:]), count


def _fitting(source: str, within: str, wanted: Wanted, by: str) -> str:
    columns, json = (f"{FOUND}, {_WHOLE}", f"{_JSON}, {_WHOLE_JSON}") if wanted.is_whole else (FOUND, _JSON)
    rows = f"select {columns} from {source} and {within} and {wanted.conditions} order by {by} limit :most"
    return f"select json_group_array(json_array({json})) from ({rows})"


def _within(leg: Leg, edge_key: object) -> str:
    """Return the condition for what does not lie beyond the edge."""
    key, order = leg.by
    if key is None:
        return f"{order} {'>=' if leg.is_newest_first else '<='} :edge"
    if edge_key is None:
        return f"(+{key} is null and +{order} <= :edge)"
    # the plus keeps the planner with what begins the search
    return f"(+{key} is null or +{key} < :edge_key or (+{key} = :edge_key and {order} <= :edge))"


def _source(leg: Leg, at: At) -> tuple[str, dict[str, Any]]:
    """Return the records of a leg from `at` on."""
    values = {"leg": leg.value, "group": leg.group, "key": at.key, "after": at.order}
    if at.order is None:
        return leg.source, values
    key, order = leg.by
    if key is None:
        return f"{leg.source} and {order} {'<' if leg.is_newest_first else '>'} :after", values
    # two statements in turn, as in schedule.py
    if at.is_beyond:
        beyond = "is not null" if at.key is None else "> :key"
        return f"{leg.source} and {key} {beyond}", values
    same = "is null" if at.key is None else "= :key"
    return f"{leg.source} and {key} {same} and {order} > :after", values


def _behind(db: sqlite3.Connection, legs: tuple[Leg, ...], order: int) -> At:
    key = None
    if legs[0].key is not None:
        (key,) = db.execute(f"select {legs[0].key} from jobs where ord = ?", (order,)).fetchone()
    return At(legs, key, order)
