"""Storing new jobs. A row binds as few values as its shape allows; most jobs set nothing but type and data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kqs.job import Accepted, State
from kqs.store.sqlite import bulk
from kqs.store.sqlite.rows import ManyRows, decode_orders, json_list
from kqs.store.sqlite.schema import Place
from kqs.store.sqlite.session import Session

_PLAIN = ManyRows("insert into jobs (ord, type, prio, data)", "(?,?,?,?)", "on conflict do nothing")
_CLAIMED = ManyRows(
    "insert into jobs (place, state, attempt, ord, type, prio, data, epoch, worker, started_at)",
    f"({Place.RUNNING:d},{State.PROCESSING:d},1,?,?,?,?,?,?,?)",
    "on conflict do nothing",
)
_FULL = ManyRows(
    """insert into jobs
    (ord, id, type, prio, data, due_at, expire_at, options, accepted_at, place, state, attempt, epoch, worker, started_at)""",
    "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    "on conflict do nothing",
)
_STORED = "select json_group_array(ord) from jobs where ord in (select value from json_each(?))"
_IS_MADE_ID_TAKEN = "select exists (select 1 from jobs where ord = ? and id is null)"


def insert(session: Session, jobs: Sequence[Accepted], fed_seq: int, worker: str, now: float) -> list[int]:
    """See Store.insert."""
    session.fed_to(fed_seq)
    if not jobs:
        return []
    fresh, known = _without_replayed(session, jobs)
    plain, claimed, full = _by_shape(fresh, session.bulk_bytes)
    if plain:
        _insert_plain(session, plain)
    if claimed:
        _insert_claimed(session, claimed, worker)
    if full:
        known += _insert_full(session, full, worker, now)
    session.last_order = max(session.last_order, max(job.order for job in jobs))
    return known


def _without_replayed(session: Session, jobs: Sequence[Accepted]) -> tuple[Sequence[Accepted], list[int]]:
    """Part the jobs from those whose order is stored already. Live orders only grow, so only a replay has to look."""
    orders = [job.order for job in jobs]
    if min(orders) > session.last_order and len(set(orders)) == len(orders):
        return jobs, []
    session.pay()
    stored = _stored_orders(session, orders)
    fresh: list[Accepted] = []
    known: list[int] = []
    for job in jobs:
        if job.order in stored:
            known.append(job.order)
        else:
            stored.add(job.order)
            fresh.append(job)
    return fresh, known


def _stored_orders(session: Session, orders: Iterable[int]) -> set[int]:
    (found,) = session.db.execute(_STORED, (json_list(orders),)).fetchone()
    return set(decode_orders(found))


def _by_shape(jobs: Sequence[Accepted], bulk_bytes: int) -> tuple[list[Accepted], list[Accepted], list[Accepted]]:
    plain: list[Accepted] = []
    claimed: list[Accepted] = []
    full: list[Accepted] = []
    for job in jobs:
        has_times = job.due_at or job.expire_at is not None or job.accepted_at
        if has_times or job.given_id or job.options is not None or len(job.data) > bulk_bytes:
            full.append(job)
        elif job.claimed_at:
            claimed.append(job)
        else:
            plain.append(job)
    return plain, claimed, full


def _insert_plain(session: Session, jobs: Sequence[Accepted]) -> None:
    values: list[object] = []
    extend = values.extend
    for job in jobs:
        extend((job.order, job.type, job.prio, job.data))
    stored = _PLAIN.execute(session.db, values)
    assert stored == len(jobs), "orders were checked and no id was given"
    session.tallies.add([(job.type, State.NEW) for job in jobs])


def _insert_claimed(session: Session, jobs: Sequence[Accepted], worker: str) -> None:
    values: list[object] = []
    extend = values.extend
    epoch = session.epoch
    for job in jobs:
        extend((job.order, job.type, job.prio, job.data, epoch, worker, job.claimed_at))
    stored = _CLAIMED.execute(session.db, values)
    assert stored == len(jobs), "orders were checked and no id was given"
    session.tallies.add([(job.type, State.PROCESSING) for job in jobs])


def _insert_full(session: Session, jobs: Sequence[Accepted], worker: str, now: float) -> list[int]:
    """Store jobs of any kind; return the orders of those whose given id is known."""
    known = [job.order for job in jobs if _names_a_made_id(session, job)]
    fresh = [job for job in jobs if job.order not in known] if known else jobs
    values: list[object] = []
    for job in fresh:
        values += _full_row(session, job, worker, now)
    if _FULL.execute(session.db, values) < len(fresh):
        stored = _stored_orders(session, (job.order for job in fresh))
        known += [job.order for job in fresh if job.order not in stored]
        fresh = [job for job in fresh if job.order in stored]
    bulk.put(session.db, [(job.order, job.data) for job in fresh if len(job.data) > session.bulk_bytes])
    session.tallies.add([(job.type, _first_state(job, now)) for job in fresh])
    return known


def _names_a_made_id(session: Session, job: Accepted) -> bool:
    order = session.ids.order_of(job.id) if job.given_id else None
    return order is not None and bool(session.db.execute(_IS_MADE_ID_TAKEN, (order,)).fetchone()[0])


def _full_row(session: Session, job: Accepted, worker: str, now: float) -> tuple[object, ...]:
    state = _first_state(job, now)
    run: tuple[object, ...] = (Place.LATER if state is State.DELAYED else Place.READY, state, 0, None, None, None)
    if job.claimed_at:
        run = (Place.RUNNING, state, 1, session.epoch, worker, job.claimed_at)
    given_id = job.id if job.given_id else None
    data = job.data if len(job.data) <= session.bulk_bytes else None
    times = (job.due_at or None, job.expire_at)
    return (job.order, given_id, job.type, job.prio, data, *times, job.options, job.accepted_at or None, *run)


def _first_state(job: Accepted, now: float) -> State:
    if job.claimed_at:
        return State.PROCESSING
    return State.DELAYED if job.due_at > now else State.NEW
