"""Storing jobs of any kind: such as have an id of their own, a key, a time, long data, or others to wait for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from kqs.job import Accepted
from kqs.states import State
from kqs.store import keyed
from kqs.store.checksum import checksum, of_keys
from kqs.store.keyed import pair_of
from kqs.store.sqlite import batches, bulk, follow, groups, report, resources, taken_ids, ticks, uniques
from kqs.store.sqlite.groups import ready_place
from kqs.store.sqlite.rows import ManyRows
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

_FULL = ManyRows(
    """insert into jobs
    (ord, id, type, prio, data, crc32c, due_at, expire_at, options, accepted_at,
     place, state, attempt, epoch, worker, started_at, watcher, resource, unique_key, grp, batch)""",
    "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    "on conflict do nothing",
)


def insert_full(
    session: Session, jobs: Sequence[Accepted], worker: str, now: float, known: list[int], parked: set[int]
) -> dict[int, str]:
    """Store jobs of any kind, and do what these mean for others.

    Args: known, parked: the orders of those that are not stored, and of those that wait for others, are added.
    Returns: by order, the ids of the jobs that others were joined to.
    """
    joined: dict[int, str] = {}
    for each in keyed.in_turn(jobs):
        joined |= _insert_tied(session, each, worker, now, known, parked)
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
        aliases = keyed.aliases_of(jobs, joined)
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

    See `insert_full`.
    """
    if ticked := [job for job in jobs if job.tick is not None]:
        passed = ticks.refused(session, ticked)
        known += passed
        jobs = [job for job in jobs if job.order not in passed]
    free, others = keyed.parted(jobs)
    if free:
        known += _insert_free(session, free, worker, now, parked)
    if not others:
        return {}
    joined = _insert_keyed(session, others, worker, now, known, parked)
    known += joined
    return joined


def _insert_free(session: Session, jobs: Sequence[Accepted], worker: str, now: float, parked: set[int]) -> list[int]:
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
        report.report_new(session, fresh)
        # of each id one at least is stored now, and a job that has ended may make room for the next with its id
        jobs = taken_ids.make_way(session, refused) if refused else ()
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

    See `insert_full`; of those that are not stored, only such as have a known id are added.
    """
    joined: dict[int, str] = {}
    while jobs:
        first = keyed.first(jobs)
        holders = uniques.waiting(session, list(keyed.pairs_of(jobs)), now)
        free = [job for job in first if job.unique is None or pair_of(job) not in holders]
        refused = set(_insert_free(session, free, worker, now, parked))
        made = [job for job in free if job.unique is not None and job.order not in refused]
        uniques.put(session, made)
        holders |= keyed.holders_of(made)
        known += refused
        found = keyed.decided(jobs, free, holders)
        ids_known = taken_ids.known(session, [*found.conflicting, *found.repeated])
        known += [job.order for job in (*found.conflicting, *found.repeated) if job.id in ids_known]
        joined.update((job.order, holders[pair_of(job)]) for job in found.conflicting if job.id not in ids_known)
        jobs = keyed.undecided(found, ids_known)
    return joined


def _insert_rows(
    session: Session, jobs: Sequence[Accepted], worker: str, now: float, parked: Collection[int], later: Collection[int]
) -> list[Accepted]:
    """Insert the rows of these jobs; return those whose id is taken."""
    taken = taken_ids.made(session, jobs)
    values: list[object] = []
    free = [job for job in jobs if not (job.given_id and job.id in taken)] if taken else jobs
    for job in free:
        values += _full_row(session, job, worker, now, parked, later)
    if _FULL.execute(session.db, values, bulk.row_lengths(free, session.bulk_bytes)) == len(jobs):
        return []
    stored = taken_ids.stored_orders(session, (job.order for job in jobs))
    return [job for job in jobs if job.order not in stored]


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
