"""Jobs that need a resource: of all that name the same, one runs at a time.

Whoever may not have its resource is *parked*: it waits in a table of its own, in no index and no broker, until it is *called*.
Then it is ready again, and takes the resource with its claim. Invariants, at the end of each transaction:

1. A job that runs has its resource, and nobody else has it (kqs.store.sqlite.locks). One that was deleted meanwhile has it
   until its run is reported: its handler may be at it.
2. Where jobs are parked and nobody has the resource, at least one is called, or `Locks.unsure_from` tells to look.
3. As long as a job is called for it, or parked, only who is called gets a free resource, or comes before who is: whoever stood
   in line has its turn, though others may be on their way to a lane.

Of a type that nobody takes, a job may be called for ever. So what was called and not claimed within `CALL_S` stops nobody: the
first of other types are called as well, and who claims first has the resource.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kqs.job import Accepted, Claim, Entry, JobRecord, Report
from kqs.states import WAITING
from kqs.store.base import CALL_S, Holder
from kqs.store.sqlite.groups import READY_PLACE
from kqs.store.sqlite.locks import Deleted, Locks
from kqs.store.sqlite.rows import ManyRows, encode_json, json_list, json_real, real
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

if TYPE_CHECKING:
    from kqs.store.sqlite.content import Row

_PARK = ManyRows("insert into parked (resource, type, prio, ord)", "(?,?,?,?)", "on conflict do nothing")
_UNPARK = "delete from parked where resource = ? and type = ? and prio = ? and ord = ?"
_SET_ASIDE = f"update jobs set place = {Place.LATER:d}, due_at = null where ord in (select value from json_each(?))"
_CALL = f"""
update jobs set place = {READY_PLACE}
where ord in (select value from json_each(?)) and place = {Place.LATER:d} and due_at is null
"""
# one row for all jobs (see rows.py)
_READY = f"""
select json_group_array(json_array(ord, cast(id as text), cast(type as text), cast(prio as integer), cast(resource as text),
                                   cast(grp as text)))
from jobs where ord in (select value from json_each(?)) and place in ({Place.GROUPED:d}, {Place.READY:d})
                and resource is not null
"""
_UNPARK_JOBS = f"""
delete from parked where (resource, type, prio, ord) in (
  select resource, type, prio, ord from jobs
  where ord in (select value from json_each(?)) and place = {Place.LATER:d} and resource is not null)
"""
_WITH_PARKED = """
select json_group_array(value) from json_each(?) where exists (select 1 from parked where resource = value)
"""
_PARKED_FROM = """
with recursive names (name) as (
  select min(resource) from parked where resource > ?
  union all
  select (select min(resource) from parked where resource > names.name) from names where name is not null limit ?)
select json_group_array(name) from names where name is not null
"""
# a few searches in the key for each type, however many jobs are parked
_FIRSTS = """
with recursive kinds (name, kind) as (
  select value, (select min(type) from parked where resource = value) from json_each(?)
  union all
  select name, (select min(type) from parked where resource = name and type > kind) from kinds where kind is not null limit ?)
select json_group_array(json(one)) from (
  select (select json_array(resource, type, prio, ord) from parked where resource = name and type = kind
          order by prio, ord limit 1) as one
  from kinds where kind is not null)
"""
_HOLDER = "select cast(id as text), started_at from jobs where ord = ?"
_FENCES = f"""
select json_group_array(json_array(ord, cast(id as text), cast(attempt as integer), ifnull(cast(epoch as integer), 0),
                                   {json_real("started_at")}))
from jobs where ord in (select value from json_each(?))
"""

#: resources looked at in one go
SLICE = 1000
#: types looked at beside one for each resource
_MOST_KINDS = 1000


class _Job(msgspec.Struct, array_like=True, gc=False):
    order: int
    id: str | None
    type: str
    prio: int
    resource: str
    group: str | None = None

    @property
    def rank(self) -> tuple[int, int]:
        return (self.prio, self.order)


class _First(NamedTuple):
    """The first of a type that is parked for a resource."""

    resource: str
    type: str
    prio: int
    order: int


_decode_jobs = msgspec.json.Decoder(list[_Job]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_fences = msgspec.json.Decoder(list[tuple[int, str | None, int, int, int | None, float | None]]).decode
_decode_firsts = msgspec.json.Decoder(list[_First]).decode


def stand_new(session: Session, jobs: Sequence[Accepted], now: float) -> list[Accepted]:
    """Decide about new jobs that are about to be stored, each with a resource; return those that are to be parked.

    A claim is granted to the others.
    """
    locks = session.locks
    wanting: defaultdict[str, list[Accepted]] = defaultdict(list)
    for job in jobs:
        wanting[_resource_of(job)].append(job)
    busy = _busy(session, wanting)
    parked: list[Accepted] = []
    for resource, group in wanting.items():
        if resource not in busy:
            first = min([job for job in group if job.claimed_at] or group, key=_rank_of)
            if first.claimed_at:
                locks.take(resource, first.order)
            elif len(group) > 1:
                locks.call(resource, first.type, first.prio, first.order, now)
            group.remove(first)
        parked += group
    return parked


def park_new(session: Session, jobs: Sequence[Accepted], now: float) -> None:
    """Park jobs that were just stored for that."""
    _park(session, [_Job(job.order, None, job.type, job.prio, _resource_of(job)) for job in jobs])
    hand_on(session, {_resource_of(job) for job in jobs}, now)


def _resource_of(job: Accepted) -> str:
    assert job.resource is not None, "it needs one"
    return job.resource


def _rank_of(job: Accepted) -> tuple[int, int]:
    return (job.prio, job.order)


def note_used(session: Session) -> None:
    """Note, for ever, that there are jobs with a resource."""
    if not session.has_resources:
        session.has_resources = True
        session.db.execute("update meta set has_resources = 1")


def stand_ready(session: Session, orders: Iterable[int], now: float) -> None:
    """Call or park jobs that have just become ready, those of them that need a resource."""
    ready: defaultdict[str, list[_Job]] = defaultdict(list)
    for job in _ready(session, list(orders)):
        ready[job.resource].append(job)
    busy = _busy(session, ready)
    aside: list[_Job] = []
    for resource, group in ready.items():
        if resource not in busy:
            first = min(group, key=lambda job: job.rank)
            group.remove(first)
            _tell(session, [first])
            if group:
                session.locks.call(resource, first.type, first.prio, first.order, now)
        aside += group
    _set_aside(session, aside)
    hand_on(session, {job.resource for job in aside}, now)


def let_through(session: Session, rows: dict[int, Row], now: float) -> None:
    """Take from `rows`, ready jobs that are being claimed, those that may not have their resource, which are parked."""
    wanting: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows.values():
        if row.resource is not None:
            wanting[row.resource].append(row)
    if not wanting:
        return
    locks = session.locks
    busy = _busy(session, wanting)
    aside: list[_Job] = []
    for resource, group in wanting.items():
        if resource not in locks.holders:
            may_have = (
                group if resource not in busy else [row for row in group if locks.may_take(resource, row.prio, row.order)]
            )
            if may_have:
                first = min(may_have, key=lambda row: (row.prio, row.order))
                locks.take(resource, first.order)
                group.remove(first)
        aside += [_Job(row.order, row.id, row.type, row.prio, resource) for row in group]
    for job in aside:
        del rows[job.order]
        locks.uncall(job.order)
    _set_aside(session, aside)
    hand_on(session, {job.resource for job in aside}, now)


def over(session: Session, reports: Sequence[Report]) -> None:
    """Free the resources of runs whose reports were applied, and hand them on; who waits again is called or parked."""
    locks = session.locks
    freed: set[str] = set()
    again: list[int] = []
    for one in reports:
        resource = locks.free(one.claim.order)
        if resource is not None:
            freed.add(resource)
            if one.state in WAITING and (not one.due_at or not one.has_begun):
                again.append(one.claim.order)
    if not freed:
        return
    now = session.now()
    if again:
        stand_ready(session, again, now)
    hand_on(session, freed, now)


def gone(session: Session, orders: Sequence[int]) -> None:
    """Forget jobs that are about to end, or to be deleted, with no report; hand on what that frees."""
    if session.has_resources:
        if session.locks.has_parked:
            session.db.execute(_UNPARK_JOBS, (json_list(orders),))
        lost(session, orders)


def deleted(session: Session, orders: Sequence[int]) -> None:
    """As `gone`, of jobs that are about to be deleted: those that run keep what they have until `left`."""
    if not session.has_resources:
        return
    locks = session.locks
    running = {order: name for order in orders if (name := locks.held_by(order)) is not None}
    if running:
        (packed,) = session.db.execute(_FENCES, (json_list(running),)).fetchone()
        for order, id_, attempt, epoch, whole_s, rest_s in _decode_fences(packed):
            since = real(whole_s, rest_s) or 0.0
            locks.deleted[order] = Deleted(running[order], id_ or session.ids.of(order), attempt, epoch, since)
    gone(session, [order for order in orders if order not in running] if running else orders)


def left(session: Session, claims: Iterable[Claim]) -> None:
    """Free what runs have kept whose jobs were deleted: they are over."""
    if not session.deleted_runs:
        return
    locks = session.locks
    freed: set[str] = set()
    for claim in claims:
        one = locks.deleted.get(claim.order)
        if one is not None and (one.attempt, one.epoch) == (claim.attempt, claim.epoch):
            locks.free(claim.order)
            freed.add(one.resource)
    hand_on(session, freed, session.now())


def lost(session: Session, orders: Sequence[int]) -> None:
    """As `gone`, of jobs that are not parked, whatever their columns hold."""
    if session.has_resources:
        locks = session.locks
        freed = {name for order in orders if (name := locks.free(order) or locks.uncall(order)) is not None}
        hand_on(session, freed, session.now())


def hand_on(session: Session, resources: Iterable[str], now: float) -> None:
    """Call the first that is parked for each of these resources, if it is free and nobody was called lately."""
    locks = session.locks
    if not locks.has_parked:
        return
    names = [name for name in resources if name not in locks.holders and not _is_awaited(locks, name, now)]
    while names:
        chosen = _chosen(session, names)
        if not chosen:
            return
        orders = json_list(one.order for one in chosen)
        session.db.execute(_UNPARK_JOBS, (orders,))
        session.db.execute(_CALL, (orders,))
        session.heads.returned(one.order for one in chosen)
        called = {job.order: job for job in _ready(session, [one.order for one in chosen])}
        for one in chosen:
            if one.order in called:
                locks.call(one.resource, one.type, one.prio, one.order, now)
        _tell(session, called.values())
        # what stands in the table and is not parked, as damage may have it, was no call
        missing = [one for one in chosen if one.order not in called]
        for one in missing:
            session.db.execute(_UNPARK, one)
        names = list({one.resource for one in missing})


def _ready(session: Session, orders: Sequence[int]) -> list[_Job]:
    """Read ready jobs; one that is damaged beyond reading is left out: it is found when somebody claims it."""
    try:
        (packed,) = session.db.execute(_READY, (json_list(orders),)).fetchone()
        return _decode_jobs(packed)
    except (sqlite3.OperationalError, msgspec.DecodeError) as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
            raise
        return [job for order in orders for job in _ready(session, [order])] if len(orders) > 1 else []


def _chosen(session: Session, names: Sequence[str]) -> list[_First]:
    """Return whom to call: the first of all, but of no type that was called; as many as were called in vain."""
    (packed,) = session.db.execute(_FIRSTS, (encode_json(names).decode(), len(names) + _MOST_KINDS)).fetchone()
    firsts: defaultdict[str, list[_First]] = defaultdict(list)
    for one in _decode_firsts(packed):
        if one.type not in session.locks.calls(one.resource):
            firsts[one.resource].append(one)
    chosen: list[_First] = []
    for resource, found in firsts.items():
        found.sort(key=lambda one: (one.prio, one.order))
        chosen += found[: max(1, len(session.locks.calls(resource)))]
    return chosen


def _is_awaited(locks: Locks, resource: str, now: float) -> bool:
    return any(0 <= now - call.at < CALL_S for call in locks.calls(resource).values())


def call_on(session: Session, now: float) -> float | None:
    """See Store.call_on."""
    if not session.has_resources:
        return None
    locks = session.locks
    if locks.unsure_from is not None:
        (packed,) = session.db.execute(_PARKED_FROM, (locks.unsure_from, SLICE)).fetchone()
        names = _decode_names(packed)
        locks.unsure_from = names[-1] if len(names) == SLICE else None
        hand_on(session, names, now)
        if locks.unsure_from is not None:
            return now
    overdue: dict[str, None] = {}
    while locks.fresh and not 0 <= now - locks.fresh[0][0] < CALL_S and len(overdue) < SLICE:
        overdue[locks.fresh.popleft()[1]] = None
    hand_on(session, overdue, now)
    return locks.fresh[0][0] + CALL_S if locks.fresh else None


def holder(session: Session, resource: str) -> Holder | None:
    """See Store.holder."""
    order = session.locks.holders.get(resource) if session.has_resources else None
    if order is None:
        return None
    if (one := session.deleted_runs.get(order)) is not None:
        return Holder(one.id, one.since)
    id_, since = session.db.execute(_HOLDER, (order,)).fetchone()
    return Holder(id_ or session.ids.of(order), since or 0.0)


def turn(session: Session, record: JobRecord) -> Entry | None:
    """See Store.turn."""
    if not session.has_resources or record.resource is None:
        return None
    calls = session.locks.calls(record.resource)
    if not calls or any(call.order == record.order for call in calls.values()):
        return None
    type_, first = min(calls.items(), key=lambda item: (item[1].prio, item[1].order))
    found = session.db.execute("select cast(id as text) from jobs where ord = ?", (first.order,)).fetchone()
    return None if found is None else Entry(first.order, found[0] or session.ids.of(first.order), type_, first.prio)


def _busy(session: Session, names: Iterable[str]) -> set[str]:
    """Return which of these resources are not free for whoever comes first."""
    locks = session.locks
    busy = {name for name in names if name in locks.holders or locks.calls(name)}
    if locks.has_parked:
        busy |= _with_parked(session, [name for name in names if name not in busy])
    return busy


def _with_parked(session: Session, names: Iterable[str]) -> set[str]:
    (packed,) = session.db.execute(_WITH_PARKED, (encode_json(list(names)).decode(),)).fetchone()
    return set(_decode_names(packed))


def _set_aside(session: Session, jobs: Sequence[_Job]) -> None:
    """Park ready jobs."""
    if jobs:
        session.db.execute(_SET_ASIDE, (json_list(job.order for job in jobs),))
        _park(session, jobs)


def _park(session: Session, jobs: Sequence[_Job]) -> None:
    values: list[object] = []
    for job in jobs:
        values += (job.resource, job.type, job.prio, job.order)
    if values:
        session.locks.has_parked = True
        _PARK.execute(session.db, values)


def _tell(session: Session, jobs: Iterable[_Job]) -> None:
    """Have the queue told of ready jobs when this transaction is committed."""
    made_id = session.ids.of
    session.tidings.called += [
        Entry(job.order, job.id or made_id(job.order), job.type, job.prio, group=job.group) for job in jobs
    ]
