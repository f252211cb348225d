"""What owners do with many jobs at once: cancel, retry, delete. One slice is one operation."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from kqs.job import Claim
from kqs.states import Event, State, next_state
from kqs.store.base import Change, Changed, Slice, Verb
from kqs.store.keep import own_keep_s
from kqs.store.sqlite import batches, follow, resources, retention, revive, walk
from kqs.store.sqlite.rows import json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place
from kqs.store.sqlite.walk import Found

_CANCEL = f"""
update jobs set place = {Place.ENDED:d}, state = {State.CANCELLED:d}, error = ?, ended_at = ?, drop_at = ?
where ord in (select value from json_each(?)) and place < 2
"""
_MARK = f"update jobs set cancel_at = ? where ord in (select value from json_each(?)) and place = {Place.RUNNING:d}"

#: what must be so of the jobs that each verb changes, or tells of, beside what is asked for. What has ended later than it is
#: now did so before the clock was set back
_CONDITIONS = {
    Verb.CANCEL: f"(+place < 2 or (+place = {Place.RUNNING:d} and cancel_at is null))",
    Verb.RETRY: f"+place = {Place.ENDED:d} and +state in ({State.FAIL:d}, {State.CANCELLED:d}) "
    "and (ended_at <= :asked_at or ended_at > :now)",
    Verb.DELETE: "true",
}


def change(session: Session, change: Change, after: object | None, first_order: int) -> Slice:
    """See Store.change."""
    wanted = walk.conditions(
        change.wanted,
        session.now(),
        _CONDITIONS[change.verb],
        "ord < :before_order",
        before_order=change.before_order,
        asked_at=change.now,
    )._replace(is_whole=change.verb is Verb.RETRY)
    if after is None:
        after = walk.way(session, change)
    assert isinstance(after, walk.At), "what the last slice said"
    found, to_go_on = walk.find(session.db, wanted, after, min(change.slice_jobs, session.most_dropped))
    part = Slice([], [], [], to_go_on)
    if change.verb is Verb.DELETE and not change.is_forced:
        part.skipped = [_id_of(session, row) for row in found if row.place == Place.RUNNING]
        found = [row for row in found if row.place != Place.RUNNING]
    part.changed = _changed(session, found)
    if found and not change.is_dry:
        session.pay()
        _DO[change.verb](session, change, found, part, first_order)
    return part


def _id_of(session: Session, row: Found) -> str:
    return row.id or session.ids.of(row.order)


def _changed(session: Session, found: Sequence[Found]) -> list[Changed]:
    suffix, running = session.ids.suffix, Place.RUNNING
    changed: list[Changed] = []
    for row in found:
        order, attempt = row.order, row.attempt
        job_id = row.id or f"{order:013x}{suffix}"
        claim = Claim(order, job_id, attempt, row.epoch) if row.place == running else None
        changed.append(Changed(order, job_id, row.type, row.prio, row.state, claim, attempt - row.returned))
    return changed


def _cancel(session: Session, change: Change, found: Sequence[Found], _part: Slice, _first_order: int) -> None:
    running = [row.order for row in found if row.place == Place.RUNNING]
    if running:
        session.cancelled.update(running)
        session.db.execute(_MARK, (change.now, json_list(running)))
    by_keep: defaultdict[float | None, list[int]] = defaultdict(list)
    waiting = [row for row in found if row.place != Place.RUNNING]
    for row in waiting:
        by_keep[own_keep_s(row.options, change.keep.of(row.type))].append(row.order)
    orders = [row.order for row in waiting]
    resources.gone(session, orders)
    follow.gone(session, orders)
    follow.passed(session, [_id_of(session, row) for row in waiting], State.CANCELLED)
    batches.ended(session, orders, State.CANCELLED)
    for keep_s, orders in by_keep.items():
        drop_at = None if keep_s is None else change.now + keep_s
        session.db.execute(_CANCEL, (change.error, change.now, drop_at, json_list(orders)))
    _count(session, waiting, Event.CANCEL)


def _retry(session: Session, change: Change, found: Sequence[Found], part: Slice, first_order: int) -> None:
    whole = [row for row in found if isinstance(row, walk.Whole)]
    part.ready, part.expire_at = revive.revive(session, change, whole, first_order)
    _count(session, found, Event.REVIVE)


def _count(session: Session, rows: Sequence[Found], event: Event) -> None:
    session.tallies.remove(Counter([(row.type, row.number) for row in rows]))
    for (type_, state), n in Counter([(row.type, row.state) for row in rows]).items():
        session.tallies.add({(type_, next_state(state, event)): n})


def _delete(session: Session, _change: Change, found: Sequence[Found], _part: Slice, _first_order: int) -> None:
    retention.delete(session, [row.order for row in found])


_DO: dict[Verb, Any] = {Verb.CANCEL: _cancel, Verb.RETRY: _retry, Verb.DELETE: _delete}
