"""Storing new jobs. A row binds as few values as its shape allows; most jobs set nothing but type and data.

A job whose run has ended already is stored as claimed, and its end reported in the same transaction; but the plain success of a
plain job, which most are, is one row from the first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from kqs.job import Accepted, Report, room_at
from kqs.states import State
from kqs.store import keyed
from kqs.store.base import Known
from kqs.store.checksum import checksum, kind_checksum, of_keys, plain_checksum
from kqs.store.keyed import pair_of
from kqs.store.sqlite import batches, bulk, follow, groups, report, resources, retention, ticks, uniques
from kqs.store.sqlite.groups import ready_place
from kqs.store.sqlite.rows import MOST_ROW_BYTES, ManyRows, decode_orders, encode_json, json_list
from kqs.store.sqlite.schema import Place
from kqs.store.sqlite.session import Session

_PLAIN = ManyRows("insert into jobs (ord, type, prio, data, crc32c)", "(?,?,?,?,?)", "on conflict do nothing")
_CLAIMED = ManyRows(
    "insert into jobs (place, state, attempt, epoch, worker, ord, type, prio, data, crc32c, started_at)",
    f"({Place.RUNNING:d},{State.PROCESSING:d},1,?1,?2,?,?,?,?,?,?)",
    "on conflict do nothing",
)
# what `report` would make of a claimed one, whose counters and last word say nothing
_ENDED = ManyRows(
    "insert into jobs (place, state, attempt, epoch, worker, ord, type, prio, data, crc32c, started_at, ended_at, drop_at)",
    f"({Place.ENDED:d},{State.SUCCESS:d},1,?1,?2,?,?,?,?,?,?,?,?)",
    "on conflict do nothing",
)
_FULL = ManyRows(
    """insert into jobs
    (ord, id, type, prio, data, crc32c, due_at, expire_at, options, accepted_at,
     place, state, attempt, epoch, worker, started_at, watcher, resource, unique_key, grp, batch)""",
    "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    "on conflict do nothing",
)
_STORED = "select json_group_array(ord) from jobs where ord in (select value from json_each(?))"
_MADE_IDS_TAKEN = """
select json_group_array(ord) from jobs where ord in (select value from json_each(?)) and id is null
"""
_GIVEN_IDS_TAKEN = "select json_group_array(id) from jobs indexed by ids where id in (select value from json_each(?))"
_OVER = f"""
with wanted (id, made, ord, us) as (
  select json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]')
  from json_each(?))
select json_group_array(json_array(new, old)) from (
  select wanted.ord as new, jobs.ord as old from wanted cross join jobs indexed by ids on jobs.id = wanted.id
  where place = {Place.ENDED:d} and jobs.ord < wanted.ord and drop_at * 1e6 <= us
  union
  select wanted.ord, jobs.ord from wanted cross join jobs on jobs.ord = made
  where jobs.id is null and place = {Place.ENDED:d} and jobs.ord < wanted.ord and drop_at * 1e6 <= us)
"""

_decode_pairs = msgspec.json.Decoder(list[tuple[int, int]]).decode
_decode_ids = msgspec.json.Decoder(list[str]).decode

_SUCCESS_WORD = State.SUCCESS.word


class _Shapes(NamedTuple):
    """Jobs by what their rows need. All but `full` set nothing but type, priority and data."""

    plain: list[Accepted]
    claimed: list[Accepted]
    ended: list[Accepted]
    full: list[Accepted]


def insert(session: Session, jobs: Sequence[Accepted], fed_seq: int, worker: str, now: float) -> Known:
    """See Store.insert."""
    session.fed_to(fed_seq)
    if not jobs:
        return Known()
    if session.watched:
        session.given += [job for job in jobs if job.type in session.watched]
    fresh, known = _without_replayed(session, jobs)
    shapes = _by_shape(fresh, session.bulk_bytes)
    if shapes.plain:
        _insert_plain(session, shapes.plain)
    for name, claimed in _by_worker(shapes.claimed, worker).items():
        _insert_claimed(session, claimed, name)
    for name, ended in _by_worker(shapes.ended, worker).items():
        _insert_ended(session, ended, name)
    parked: set[int] = set()
    joined: dict[int, str] = {}
    if shapes.full:
        joined = _insert_full_of(session, shapes, worker, now, known, parked)
    if known:
        session.pay()  # a highest order without a row cannot stand for a debt
    session.last_order = max(session.last_order, max(job.order for job in jobs))
    return Known(known, parked, joined)


def _insert_full_of(
    session: Session, shapes: _Shapes, worker: str, now: float, known: list[int], parked: set[int]
) -> dict[int, str]:
    """As `_insert_any`, of all jobs that may need more than a row, and of what these mean for others."""
    joined: dict[int, str] = {}
    for jobs in keyed.in_turn(shapes.full):
        joined |= _insert_tied(session, jobs, worker, now, known, parked)
    return joined


def _insert_tied(
    session: Session, jobs: Sequence[Accepted], worker: str, now: float, known: list[int], parked: set[int]
) -> dict[int, str]:
    joined: dict[int, str] = {}
    thens = [job for job in jobs if job.members is not None]
    if thens:
        joined = _insert_thens(session, thens, worker, now, known, parked)
        jobs = [job for job in jobs if job.members is None]
    last_order = jobs[-1].order if jobs else 0
    members = [job for job in jobs if job.batch is not None]
    if members:
        members, refused = batches.parted(session, members, {job.order for job in thens if job.order in known})
        if refused:
            known += [job.order for job in refused]
            orders = frozenset(known)
            jobs = [job for job in jobs if job.order not in orders]
        batches.enter(session, members, ())
    if jobs:
        joined |= _insert_any(session, jobs, worker, now, known, parked)
    if members and known:
        batches.enter(session, members, known)
    if children := [job for job in (*thens, *jobs) if job.may_wait]:
        aliases = {job.id: joined[job.order] for job in jobs if job.order in joined}
        _stand(session, children, now, known, aliases, parked)
    if members or thens:
        batches.reach(session, [*thens, *members])
    batches.refuse(session, [job for job in thens if job.order in known], last_order)
    return joined


def _insert_thens(
    session: Session, jobs: Sequence[Accepted], worker: str, now: float, known: list[int], parked: set[int]
) -> dict[int, str]:
    joined = _insert_any(session, jobs, worker, now, known, parked)
    orders = frozenset(known)
    batches.begin(session, [job for job in jobs if job.order not in orders])
    return joined


def _stand(
    session: Session,
    jobs: Sequence[Accepted],
    now: float,
    known: Collection[int],
    aliases: Mapping[str, str],
    parked: set[int],
) -> None:
    """Let those of some jobs that were stored as held wait, or let them go where they would; `parked` has those that wait.

    Args: aliases: by the ids of jobs that were joined to others, those of these.
    """
    refused = frozenset(known)
    stored = [job for job in jobs if job.order not in refused]
    free = {job.order for job in stored} - follow.stand_new(session, stored, aliases)
    parked -= free
    needing = [job.order for job in stored if job.order in free and job.resource is not None and not job.due_at]
    if needing:
        parked.update(needing)
        resources.stand_ready(session, needing, now)


def _insert_any(
    session: Session, jobs: Sequence[Accepted], worker: str, now: float, known: list[int], parked: set[int]
) -> dict[int, str]:
    """Store jobs of any kind, but for those of ticks that are over and of unique keys that others have.

    Args: known, parked: the orders of those that are not stored, and of those that wait for their resource, are added.
    Returns: by order, the ids of the jobs that others were joined to.
    """
    if ticked := [job for job in jobs if job.tick is not None]:
        passed = ticks.refused(session, ticked)
        known += passed
        jobs = [job for job in jobs if job.order not in passed]
    free, others = keyed.parted(jobs)
    if free:
        known += _insert_full(session, free, worker, now, parked)
    if not others:
        return {}
    joined = _insert_keyed(session, others, worker, now, known, parked)
    known += joined
    return joined


def _without_replayed(session: Session, jobs: Sequence[Accepted]) -> tuple[Sequence[Accepted], list[int]]:
    """Part the jobs from those whose order is stored already. Live orders only grow, so only a replay has to look."""
    orders = [job.order for job in jobs]
    if min(orders) > session.last_order and len(set(orders)) == len(orders):
        return jobs, []
    session.pay()
    stored = _stored_orders(session, orders)
    fresh: list[Accepted] = []
    known: list[int] = []
    retaken = _retaken(session, [job for job in jobs if not job.given_id and job.order not in stored])
    for job in jobs:
        if job.order in stored or job.id in retaken:
            known.append(job.order)
        else:
            stored.add(job.order)
            fresh.append(job)
    return fresh, known


def _stored_orders(session: Session, orders: Iterable[int]) -> set[int]:
    (found,) = session.db.execute(_STORED, (json_list(orders),)).fetchone()
    return set(decode_orders(found))


def _retaken(session: Session, jobs: Sequence[Accepted]) -> set[str]:
    """Return which ids that we made for these jobs a later job has been given since."""
    if not jobs:
        return set()
    (found,) = session.db.execute(_GIVEN_IDS_TAKEN, (encode_json([job.id for job in jobs]).decode(),)).fetchone()
    return set(_decode_ids(found))


def _by_shape(jobs: Sequence[Accepted], bulk_bytes: int) -> _Shapes:
    plain, claimed, ended, full = shapes = _Shapes([], [], [], [])
    for job in jobs:
        has_times = job.due_at or job.expire_at is not None or job.accepted_at
        has_key = job.resource is not None or job.unique is not None or job.group is not None
        is_tied = job.after is not None or job.batch is not None or job.members is not None
        if has_times or job.given_id or has_key or is_tied or job.options is not None or job.held or len(job.data) > bulk_bytes:
            full.append(job)
        elif not job.claimed_at:
            plain.append(job)
        elif job.end is not None and _is_plain_success(job.end):
            ended.append(job)
        else:
            claimed.append(job)
    return shapes


def _is_plain_success(end: Report) -> bool:
    if end.state is not State.SUCCESS or end.result is not None or end.error is not None or end.progress is not None:
        return False
    return end.run_state == _SUCCESS_WORD and not (end.failures or end.ghosts or end.interrupted)


def _insert_plain(session: Session, jobs: Sequence[Accepted]) -> None:
    values: list[object] = []
    extend = values.extend
    for job in jobs:
        order, type_, prio, data = job.order, job.type, job.prio, job.data
        extend((order, type_, prio, data, plain_checksum(order, kind_checksum(type_, prio), data)))
    stored = _PLAIN.execute(session.db, values, _lengths(session, jobs))
    assert stored == len(jobs), "orders were checked and no id was given"
    session.tallies.add_all([job.type for job in jobs], State.NEW)


def _by_worker(jobs: list[Accepted], worker: str) -> dict[str, list[Accepted]]:
    """Part claimed jobs by who runs them: `worker`, if they do not say it."""
    if not any(job.worker for job in jobs):
        return {worker: jobs} if jobs else {}
    parted: dict[str, list[Accepted]] = {}
    for job in jobs:
        parted.setdefault(job.worker or worker, []).append(job)
    return parted


def _insert_claimed(session: Session, jobs: Sequence[Accepted], worker: str) -> None:
    values: list[object] = []
    extend = values.extend
    for job in jobs:
        order, type_, prio, data = job.order, job.type, job.prio, job.data
        extend((order, type_, prio, data, plain_checksum(order, kind_checksum(type_, prio), data), job.claimed_at))
    stored = _CLAIMED.execute(session.db, values, _lengths(session, jobs), shared=(session.epoch, worker))
    assert stored == len(jobs), "orders were checked and no id was given"
    session.tallies.add_all([job.type for job in jobs], State.PROCESSING)
    _report_ends(session, jobs)


def _insert_ended(session: Session, jobs: Sequence[Accepted], worker: str) -> None:
    values: list[object] = []
    extend = values.extend
    for job in jobs:
        order, type_, prio, data, end = job.order, job.type, job.prio, job.data, job.end
        assert end is not None, "it is of that shape"
        total = plain_checksum(order, kind_checksum(type_, prio), data)
        extend((order, type_, prio, data, total, job.claimed_at, end.ended_at, end.drop_at))
    stored = _ENDED.execute(session.db, values, _lengths(session, jobs), shared=(session.epoch, worker))
    assert stored == len(jobs), "orders were checked and no id was given"
    session.tallies.add_all([job.type for job in jobs], State.SUCCESS)


def _report_ends(session: Session, jobs: Sequence[Accepted]) -> None:
    """Report the ends of jobs that were just stored as claimed, where they have one."""
    if ends := [job.end for job in jobs if job.end is not None]:
        verdicts = report.report(session, ends)
        assert all(verdicts), "each is of attempt 1, which was just stored"


def _lengths(session: Session, jobs: Sequence[Accepted]) -> Sequence[int]:
    """Return how long data is, if that must be looked at."""
    return [len(job.data) for job in jobs] if session.bulk_bytes > MOST_ROW_BYTES else ()


def _insert_full(session: Session, jobs: Sequence[Accepted], worker: str, now: float, parked: set[int]) -> list[int]:
    """Store jobs of any kind; return the orders of those whose given id is known. Those that are parked join `parked`."""
    known: set[int] = set()
    # whether a given id is known shows as it is stored, and only then whether its job needs its resource
    later: set[int] = set()
    waiting: list[Accepted] = []
    owning = [job for job in jobs if job.resource is not None]
    if owning:
        resources.note_used(session)  # also where none needs it yet: it is part of what the checksum is of
    if any(job.group is not None for job in jobs):
        groups.note_used(session)
        session.heads.came(jobs)
    parked.update(job.order for job in jobs if job.may_wait)  # until they stand (`_stand`)
    if locked := [job for job in owning if job.may_need_resource(now) and job.order not in parked]:
        later = {job.order for job in locked if job.given_id}
        waiting = resources.stand_new(session, [job for job in locked if not job.given_id], now)
        parked.update(job.order for job in waiting)
    while jobs:
        refused = _insert_rows(session, jobs, worker, now, parked, later)
        known.update(job.order for job in refused)
        fresh = [job for job in jobs if job.order not in known]
        bulk.put(session.db, [(job.order, job.data) for job in fresh if len(job.data) > session.bulk_bytes])
        session.tallies.add([(job.type, _first_state(job, now, parked, later)) for job in fresh])
        _report_ends(session, fresh)
        # of each id one at least is stored now, and a job that has ended may make room for the next with its id
        jobs = _make_way(session, refused) if refused else ()
        known.difference_update(job.order for job in jobs)
    resources.park_new(session, waiting, now)
    if stored := later - known:
        resources.stand_ready(session, stored, now)
        parked |= stored
    return list(known)


def _insert_keyed(
    session: Session, jobs: Sequence[Accepted], worker: str, now: float, known: list[int], parked: set[int]
) -> dict[int, str]:
    """Store those of some jobs, which are decided in turn, whose key no waiting job has, nor an earlier one of them.

    Args: known, parked: the orders of those whose id is known, and of those that wait for their resource, are added.
    Returns: by order, the ids of the jobs that others were joined to.
    """
    joined: dict[int, str] = {}
    while jobs:
        first = keyed.first(jobs)
        holders = uniques.waiting(session, list(keyed.pairs_of(jobs)), now)
        free = [job for job in first if job.unique is None or pair_of(job) not in holders]
        refused = set(_insert_full(session, free, worker, now, parked))
        made = [job for job in free if job.unique is not None and job.order not in refused]
        uniques.put(session, made)
        holders |= keyed.holders_of(made)
        known += refused
        found = keyed.decided(jobs, free, holders)
        ids_known = _known_ids(session, [*found.conflicting, *found.repeated])
        known += [job.order for job in (*found.conflicting, *found.repeated) if job.id in ids_known]
        joined.update((job.order, holders[pair_of(job)]) for job in found.conflicting if job.id not in ids_known)
        jobs = keyed.undecided(found, ids_known)
    return joined


def _known_ids(session: Session, jobs: Sequence[Accepted]) -> set[str]:
    """Return the given ids of these jobs under which there is a record that makes no room for them."""
    given = [job for job in jobs if job.given_id]
    if not given:
        return set()
    (found,) = session.db.execute(_GIVEN_IDS_TAKEN, (encode_json([job.id for job in given]).decode(),)).fetchone()
    taken = {*_decode_ids(found), *_made_ids_taken(session, given)}
    over = _over(session, [job for job in given if job.id in taken])
    return taken - {job.id for job in given if job.order in over}


def _insert_rows(
    session: Session, jobs: Sequence[Accepted], worker: str, now: float, parked: Collection[int], later: Collection[int]
) -> list[Accepted]:
    """Insert the rows of these jobs; return those whose id is taken."""
    taken = _made_ids_taken(session, jobs)
    values: list[object] = []
    free = [job for job in jobs if not (job.given_id and job.id in taken)] if taken else jobs
    for job in free:
        values += _full_row(session, job, worker, now, parked, later)
    if _FULL.execute(session.db, values, _lengths(session, free)) == len(jobs):
        return []
    stored = _stored_orders(session, (job.order for job in jobs))
    return [job for job in jobs if job.order not in stored]


def _made_ids_taken(session: Session, jobs: Sequence[Accepted]) -> set[str]:
    """Return the given ids that are names of other jobs, here or in the store, which we made."""
    orders = [order for job in jobs if job.given_id and (order := session.ids.order_of(job.id)) is not None]
    if not orders:
        return set()
    (found,) = session.db.execute(_MADE_IDS_TAKEN, (json_list(orders),)).fetchone()
    return {*map(session.ids.of, decode_orders(found)), *(job.id for job in jobs if not job.given_id)}


def _make_way(session: Session, jobs: Sequence[Accepted]) -> list[Accepted]:
    """Delete the records with the ids of these jobs that were over when they were accepted; return the jobs with such a record.

    What a replay brings back is older than the record, or was accepted before that was over.
    """
    over = _over(session, jobs)
    if over:
        session.pay()
        retention.delete(session, list(set(over.values())))
    return [job for job in jobs if job.order in over]


def _over(session: Session, jobs: Sequence[Accepted]) -> dict[int, int]:
    """Return the orders of the records that make room for those of some jobs, by the orders of these."""
    order_of = session.ids.order_of
    wanted = [(job.id, order_of(job.id), job.order, round(room_at(job) * 1_000_000)) for job in jobs if job.given_id]
    (found,) = session.db.execute(_OVER, (encode_json(wanted).decode(),)).fetchone()
    return dict(_decode_pairs(found))


def _full_row(
    session: Session, job: Accepted, worker: str, now: float, parked: Collection[int], later: Collection[int]
) -> tuple[object, ...]:
    state = _first_state(job, now, parked, later)
    place = Place.LATER if state is State.DELAYED or job.order in parked else ready_place(job.group)
    run: tuple[object, ...] = (place, state, 0, None, None, None, None)
    if state is State.PROCESSING:
        run = (
            Place.RUNNING,
            state,
            1,
            session.epoch,
            job.worker or worker,
            job.claimed_at,
            session.epoch if job.held else None,
        )
    given_id = job.id if job.given_id else None
    data = job.data if len(job.data) <= session.bulk_bytes else None
    total = checksum(job.order, job.type, job.prio, job.data, given_id, job.expire_at, job.options, job.resource)
    total |= of_keys(job.group, job.unique)
    times = (None if job.order in parked else job.due_at or None, job.expire_at)
    first = (job.order, given_id, job.type, job.prio, data, total, *times, job.options, job.accepted_at or None)
    return (*first, *run, job.resource, job.unique, job.group, job.batch)


def _first_state(job: Accepted, now: float, parked: Collection[int], later: Collection[int]) -> State:
    if job.claimed_at and job.order not in parked and job.order not in later:
        return State.PROCESSING
    return State.DELAYED if job.due_at > now else State.NEW
