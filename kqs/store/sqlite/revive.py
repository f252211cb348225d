"""Letting jobs that have ended wait again, at the tail: under new orders, by which rows stand and are known to each other.

The id stays, so from then on it is kept in the row as one that a client gave, and so is the instant of acceptance. Nothing but
the row, its long data and its progress goes by the order; of a replay see `taken_ids.retaken`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from kqs.job import Entry, instant_of
from kqs.states import Event, State, next_state
from kqs.store import change as bounds
from kqs.store.base import Change
from kqs.store.checksum import checksum, given, of_keys, reordered, with_keys
from kqs.store.keep import own_expire_s
from kqs.store.showing import most_shown
from kqs.store.sqlite import batches, content, follow, groups, matching, progress, resources, uniques
from kqs.store.sqlite.groups import READY_PLACE
from kqs.store.sqlite.report import with_run
from kqs.store.sqlite.rows import ManyRows, encode_json, json_list, real
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.walk import Whole

# one row for all jobs (see rows.py)
_RUNS = "select json_group_array(json_array(ord, cast(runs as text))) from jobs where ord in (select value from json_each(?))"
_REVIVE = ManyRows(
    "with moved (was, ord, id, accepted_at, expire_at, crc32c, runs) as (",
    "(?,?,?,?,?,?,?)",
    f""") update jobs set ord = moved.ord, id = moved.id, accepted_at = moved.accepted_at, expire_at = moved.expire_at,
    crc32c = moved.crc32c, runs = moved.runs, place = {READY_PLACE}, state = {next_state(State.FAIL, Event.REVIVE):d},
    failures = 0, ghosts = 0, interrupted = 0, due_at = null, started_at = null, ended_at = null, drop_at = null,
    epoch = null, worker = null, watcher = null, run_state = null, error = null, result = null, cancel_at = null
    from moved where jobs.ord = moved.was""",
)
#: no job has this order
_NO_ROW = (-1, -1, None, None, None, None, None)
_MOVE_BULK = """
update bulk set ord = moved.ord
from (select json_extract(value, '$[0]') as was, json_extract(value, '$[1]') as ord from json_each(?)) as moved
where bulk.ord = moved.was
"""

_decode_runs = msgspec.json.Decoder(list[tuple[int, str]]).decode


class _Moving(NamedTuple):
    """A job that gets another order."""

    job: Whole
    id: str
    order: int
    expire_at: float | None


def revive(session: Session, change: Change, found: Sequence[Whole], first_order: int) -> tuple[list[Entry], float | None]:
    """Let these jobs wait from now on under orders from `first_order` on.

    Returns: them as the broker is to know them, but for those with a resource, which are called; and when the first expires.
    """
    moving = _moving(session, change, found, first_order)
    expire_ats = [one.expire_at for one in moving if one.expire_at is not None]
    runs, data = _long_runs(session, found), _data(session, change, found)
    values: list[Any] = []
    for one in moving:
        values += _values(session, one, runs, data)
    _REVIVE.execute(session.db, values, filler=_NO_ROW)
    session.heads.returned(one.order for one in moving)
    if in_bulk := [(one.job.order, one.order) for one in moving if one.job.inline_bytes is None]:
        session.db.execute(_MOVE_BULK, (encode_json(in_bulk).decode(),))
    _move_progress(session, found, first_order)
    uniques.put_again(session, range(first_order, first_order + len(found)))
    batches.revived(session, {job.order: order for order, job in enumerate(found, first_order)})
    held = follow.stand_again(session, [one.order for one in moving])
    moving = [one for one in moving if one.order not in held]
    if needing := [one.order for one in moving if one.job.resource is not None]:
        resources.stand_ready(session, needing, session.now())
    session.last_order = max(session.last_order, first_order + len(found) - 1)
    return _entries(session, change, moving, data), min(expire_ats, default=None)


def _moving(session: Session, change: Change, found: Sequence[Whole], first_order: int) -> list[_Moving]:
    suffix, moving = session.ids.suffix, list[_Moving]()
    for order, job in enumerate(found, first_order):
        expire_s = change.expire.of(job.type)
        if job.options is not None:
            expire_s = own_expire_s(job.options, expire_s)
        expire_at = None if expire_s is None else change.now + expire_s
        moving.append(_Moving(job, job.id or f"{job.order:013x}{suffix}", order, expire_at))
    return moving


def _long_runs(session: Session, found: Sequence[Whole]) -> dict[int, str]:
    """Return the earlier runs, by order, of those jobs that are found without."""
    orders = [job.order for job in found if job.runs is None and job.runs_length]
    if not orders:
        return {}
    (packed,) = session.db.execute(_RUNS, (json_list(orders),)).fetchone()
    return dict(_decode_runs(packed))


def _data(session: Session, change: Change, found: Sequence[Whole]) -> dict[int, bytes]:
    """Return the data of those jobs, by order, that the broker is to show, or that were stored without a checksum."""
    data: dict[int, bytes] = {}
    if change.body_bytes is not None:
        most = most_shown(change.body_bytes, bounds.SLICE)
        lengths = {job.order: job.inline_bytes for job in found if job.inline_bytes is not None and job.inline_bytes <= most}
        data = content.long(session.db, lengths)
    unchecked_to = session.unchecked_to
    if unchecked_to and (unchecked := [job.order for job in found if job.checksum is None and job.order <= unchecked_to]):
        for _, part in matching.data_of(session.db, unchecked):
            data |= part
    return data


def _values(session: Session, one: _Moving, runs: Mapping[int, str], data: Mapping[int, bytes]) -> tuple[object, ...]:
    """Return those columns that do not become the same in all jobs."""
    job, job_id, order, expire_at = one
    was, options = job.order, None if job.options is None else job.options.encode()
    now = given(job_id, options, expire_at)
    if job.checksum is not None:
        before = given(job.id, options, real(job.expire_whole_s, job.expire_rest_s))
        check = reordered(job.checksum, job.data_bytes, (was, order), before, now)
        if was <= session.unkeyed_to:
            check = with_keys(check, of_keys(job.group, job.unique))
    elif was <= session.unchecked_to and was in data:
        check = checksum(order, job.type, job.prio, data[was], job_id, expire_at, options, job.resource)
        check |= of_keys(job.group, job.unique)
    else:
        check = None
    accepted_at = real(job.accepted_whole_s, job.accepted_rest_s)
    return (
        was,
        order,
        job_id,
        instant_of(was) if accepted_at is None else accepted_at,
        expire_at,
        check,
        _runs(job, job.runs or runs.get(was)),
    )


def _runs(job: Whole, earlier: str | None) -> str | None:
    """Return the earlier runs, with the one that ended the job."""
    started_at = real(job.started_whole_s, job.started_rest_s)
    if started_at is None:
        return earlier
    ended_at = real(job.ended_whole_s, job.ended_rest_s) or started_at
    word = job.run_state or job.state.word
    run = encode_json((job.attempt - job.returned, job.worker or "", started_at, ended_at, word, job.error)).decode()
    return run if earlier is None else with_run(earlier, run)


def _entries(session: Session, change: Change, moving: Sequence[_Moving], data: Mapping[int, bytes]) -> list[Entry]:
    free = [one for one in moving if one.job.resource is None]
    in_groups = groups.groups_of(session, json_list(one.order for one in free)) if session.has_groups else {}
    entries = [Entry(order, job_id, job.type, job.prio, group=in_groups.get(order)) for job, job_id, order, _ in free]
    if change.body_bytes is not None:
        most = most_shown(change.body_bytes, bounds.SLICE)
        for entry, (job, *_) in zip(entries, free, strict=True):
            entry.options = None if job.options is None else job.options.encode()
            entry.data = data.get(job.order) if job.inline_bytes is not None and job.inline_bytes <= most else None
    return entries


def _move_progress(session: Session, found: Sequence[Whole], first_order: int) -> None:
    if session.has_progress:
        moved = {job.order: order for order, job in enumerate(found, first_order)}
        said = progress.get(session, moved)
        if said:
            progress.put(session, {moved[order]: value for order, value in said.items()})
        progress.delete(session, json_list(moved))
