"""Storing new jobs. A row binds as few values as its shape allows; most jobs set nothing but type and data.

A job whose run has ended already is stored as claimed, and its end reported in the same transaction; but the plain success of a
plain job, which most are, is one row from the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kqs.job import Accepted, Report
from kqs.states import State
from kqs.store.base import Known
from kqs.store.checksum import kind_checksum, plain_checksum
from kqs.store.sqlite import bulk, insert_full, report, taken_ids
from kqs.store.sqlite.rows import ManyRows
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

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
        session.tidings.given += [job for job in jobs if job.type in session.watched]
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
        joined = insert_full.insert_full(session, shapes.full, worker, now, known, parked)
    if known:
        session.pay()  # a highest order without a row cannot stand for a debt
    session.last_order = max(session.last_order, max(job.order for job in jobs))
    return Known(known, parked, joined)


def _without_replayed(session: Session, jobs: Sequence[Accepted]) -> tuple[Sequence[Accepted], list[int]]:
    """Part the jobs from those whose order is stored already. Live orders only grow, so only a replay has to look."""
    orders = [job.order for job in jobs]
    if min(orders) > session.last_order and len(set(orders)) == len(orders):
        return jobs, []
    session.pay()
    stored = taken_ids.stored_orders(session, orders)
    fresh: list[Accepted] = []
    known: list[int] = []
    retaken = taken_ids.retaken(session, [job for job in jobs if not job.given_id and job.order not in stored])
    for job in jobs:
        if job.order in stored or job.id in retaken:
            known.append(job.order)
        else:
            stored.add(job.order)
            fresh.append(job)
    return fresh, known


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
    stored = _PLAIN.execute(session.db, values, bulk.row_lengths(jobs, session.bulk_bytes))
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
    stored = _CLAIMED.execute(session.db, values, bulk.row_lengths(jobs, session.bulk_bytes), shared=(session.epoch, worker))
    assert stored == len(jobs), "orders were checked and no id was given"
    session.tallies.add_all([job.type for job in jobs], State.PROCESSING)
    report.report_new(session, jobs)


def _insert_ended(session: Session, jobs: Sequence[Accepted], worker: str) -> None:
    values: list[object] = []
    extend = values.extend
    for job in jobs:
        order, type_, prio, data, end = job.order, job.type, job.prio, job.data, job.end
        assert end is not None, "it is of that shape"
        total = plain_checksum(order, kind_checksum(type_, prio), data)
        extend((order, type_, prio, data, total, job.claimed_at, end.ended_at, end.drop_at))
    stored = _ENDED.execute(session.db, values, bulk.row_lengths(jobs, session.bulk_bytes), shared=(session.epoch, worker))
    assert stored == len(jobs), "orders were checked and no id was given"
    session.tallies.add_all([job.type for job in jobs], State.SUCCESS)
