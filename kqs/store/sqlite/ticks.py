"""Schedules: a small table. Storing the job of a tick moves its schedule on in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kqs.job import Accepted
from kqs.store.sqlite.session import Session
from kqs.store.ticks import Passed, Plan, Schedule, name_of

_COLUMNS = "name, plan, origin, created_at, since, revision, passed_at, tick_at, missed, skipped, suspended_at, nodes"
_ALL = f"select {_COLUMNS} from schedules order by name"
_SOME = f"select {_COLUMNS} from schedules where name in (select value from json_each(?)) order by name"
_PUT = f"""
insert into schedules ({_COLUMNS}) values (?,?,?,?,?,?,0,0,0,0,null,?)
on conflict do update set plan = excluded.plan, origin = excluded.origin, created_at = excluded.created_at,
  since = excluded.since, revision = excluded.revision, nodes = excluded.nodes,
  passed_at = case when passed_at > excluded.since and revision <> excluded.revision then 0 else passed_at end
"""
_DELETE = "delete from schedules where name = ?"
_SET_NODES = "update schedules set nodes = ? where name = ?"
_SUSPEND = "update schedules set suspended_at = ? where name = ? and suspended_at is null"
_RESUME = "update schedules set suspended_at = null, since = max(since, ?) where name = ? and suspended_at is not null"
_MOVE = """
update schedules set passed_at = ?, missed = missed + ?, skipped = skipped + ? where name = ? and revision = ? and passed_at = ?
"""
_TICK = "update schedules set passed_at = ?1, tick_at = ?1 where name = ?2 and passed_at < ?1"
_HAS = "select exists (select 1 from schedules where name = ?)"

_encode = msgspec.json.Encoder().encode
_decode_plan = msgspec.json.Decoder(Plan).decode
_decode_nodes = msgspec.json.Decoder(frozenset[str]).decode


def put(session: Session, schedule: Schedule, node: str | None) -> Schedule:
    """See Store.put_schedule."""
    session.pay()
    old = _one(session, schedule.name)
    nodes = frozenset() if node is None else frozenset([node])
    if old is not None and node is not None:
        nodes |= old.nodes
    plan = _encode(schedule.plan).decode()
    times = (schedule.created_at, schedule.since, schedule.revision)
    session.db.execute(_PUT, (schedule.name, plan, schedule.origin, *times, _encode(sorted(nodes)).decode()))
    found = _one(session, schedule.name)
    assert found is not None, "it was just stored"
    return found


def remove(session: Session, name: str, node: str | None) -> bool:
    """See Store.remove_schedule."""
    session.pay()
    if node is not None:
        old = _one(session, name)
        if old is None or node not in old.nodes:
            return False
        if others := old.nodes - {node}:
            session.db.execute(_SET_NODES, (_encode(sorted(others)).decode(), name))
            return True
    return session.db.execute(_DELETE, (name,)).rowcount == 1


def schedules(session: Session, names: Sequence[str] | None) -> list[Schedule]:
    """See Store.schedules."""
    if names is None:
        rows = session.db.execute(_ALL).fetchall()
    else:
        rows = session.db.execute(_SOME, (_encode(names).decode(),)).fetchall()
    return [_schedule(row) for row in rows]


def suspend(session: Session, name: str, at: float | None, since: float) -> Schedule | None:
    """See Store.suspend_schedule."""
    session.pay()
    session.db.execute(*((_RESUME, (since, name)) if at is None else (_SUSPEND, (at, name))))
    return _one(session, name)


def pass_ticks(session: Session, passed: Sequence[Passed]) -> list[bool]:
    """See Store.pass_ticks."""
    session.pay()
    rows = [(one.passed_at, one.missed, one.skipped, one.name, one.revision, one.expected) for one in passed]
    return [session.db.execute(_MOVE, row).rowcount == 1 for row in rows]


def refused(session: Session, jobs: Sequence[Accepted]) -> set[int]:
    """Let schedules have passed the ticks whose jobs are about to be stored; return the orders of those they had passed."""
    session.pay()
    found: set[int] = set()
    for job in jobs:
        name = name_of(job.id)
        if not session.db.execute(_TICK, (job.tick, name)).rowcount and session.db.execute(_HAS, (name,)).fetchone()[0]:
            found.add(job.order)
    return found


def _one(session: Session, name: str) -> Schedule | None:
    found = schedules(session, [name])
    return found[0] if found else None


def _schedule(row: tuple[Any, ...]) -> Schedule:
    name, plan, *rest, nodes = row
    fields: list[Any] = [name, _decode_plan(plan), *rest, _decode_nodes(nodes)]
    return Schedule(*fields)
