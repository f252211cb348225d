"""Letting jobs that have ended wait again, at the tail: under new orders, by which rows stand and are known to each other.

The id stays, so from then on it is kept in the row as one that a client gave, and so is the instant of acceptance. Nothing but
the row, its long data and its progress goes by the order; of a replay see insert.py, `_retaken`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kqs.job import Entry, Event, State, instant_of, next_state
from kqs.store import base
from kqs.store import change as bounds
from kqs.store.base import Change
from kqs.store.checksum import checksum
from kqs.store.keep import own_expire_s
from kqs.store.sqlite import progress, resources, uniques, walk
from kqs.store.sqlite.groups import READY_PLACE
from kqs.store.sqlite.report import with_run
from kqs.store.sqlite.rows import ManyRows, encode_json, json_list, json_real, real
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.walk import Found

# one row for all jobs (see rows.py)
_READ = f"""
select json_group_array(json_array(
  ord, {json_real("expire_at")}, {json_real("accepted_at")}, crc32c, attempt, returned, cast(worker as text),
  {json_real("started_at")}, {json_real("ended_at")}, state, cast(run_state as text), cast(error as text),
  cast(runs as text), data is null, cast(resource as text), cast(grp as text)))
from jobs not indexed where ord in (select value from json_each(?))
"""
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
#: jobs whose earlier runs are read at a time: those of one may be 400 kB
_AT_ONCE = 256


class _Row(msgspec.Struct, array_like=True, gc=False):
    order: int
    expire_whole_s: int | None
    expire_rest_s: float | None
    accepted_whole_s: int | None
    accepted_rest_s: float | None
    checksum: int | None
    attempt: int
    returned: int
    worker: str | None
    started_whole_s: int | None
    started_rest_s: float | None
    ended_whole_s: int | None
    ended_rest_s: float | None
    state: int
    run_state: str | None
    error: str | None
    runs: str | None
    is_in_bulk: bool | int
    resource: str | None
    group: str | None


_decode_rows = msgspec.json.Decoder(list[_Row], strict=False).decode


def revive(session: Session, change: Change, found: Sequence[Found], first_order: int) -> tuple[list[Entry], float | None]:
    """Let these jobs wait from now on under orders from `first_order` on.

    Returns: them as the broker is to know them, but for those with a resource, which are called; and when the first expires.
    """
    entries: list[Entry] = []
    needing: list[int] = []
    expire_ats: list[float] = []
    by_order = {row.order: (new, row) for new, row in enumerate(found, first_order)}
    for start in range(0, len(found), _AT_ONCE):
        orders = [row.order for row in found[start : start + _AT_ONCE]]
        (packed,) = session.db.execute(_READ, (json_list(orders),)).fetchone()
        rows = {row.order: row for row in _decode_rows(packed)}
        values: list[Any] = []
        moved: list[tuple[int, int]] = []
        for part, data in walk.data_of(session.db, orders):
            for order in part:
                new, job = by_order[order]
                expire_at = _expire_at(change, job)
                values += _values(session, rows[order], job, new, expire_at, data.get(order))
                moved += [(order, new)] if rows[order].is_in_bulk else []
                if rows[order].resource is not None:
                    needing.append(new)
                else:
                    shown = None if rows[order].is_in_bulk else data.get(order)
                    entries.append(_entry(session, change, job, new, shown, rows[order].group))
                expire_ats += [] if expire_at is None else [expire_at]
        _REVIVE.execute(session.db, values, filler=_NO_ROW)
        if moved:
            session.db.execute(_MOVE_BULK, (encode_json(moved).decode(),))
    _move_progress(session, {row.order: new for new, row in enumerate(found, first_order)})
    uniques.put_again(session, range(first_order, first_order + len(found)))
    if needing:
        resources.stand_ready(session, needing, session.now())
    session.last_order = max(session.last_order, first_order + len(found) - 1)
    return entries, min(expire_ats, default=None)


def _expire_at(change: Change, job: Found) -> float | None:
    expire_s = own_expire_s(job.options, change.expire.of(job.type))
    return None if expire_s is None else change.now + expire_s


def _values(
    session: Session, row: _Row, job: Found, order: int, expire_at: float | None, data: bytes | None
) -> tuple[object, ...]:
    job_id = job.id or session.ids.of(job.order)
    accepted_at = real(row.accepted_whole_s, row.accepted_rest_s)
    return (
        row.order,
        order,
        job_id,
        instant_of(row.order) if accepted_at is None else accepted_at,
        expire_at,
        _checksum(row, job, order, job_id, expire_at, data),
        _runs(row),
    )


def _checksum(row: _Row, job: Found, order: int, job_id: str, expire_at: float | None, data: bytes | None) -> int | None:
    """Return the job's checksum from now on: it fits as the old one does, or not."""
    if data is None:
        return row.checksum
    options = None if job.options is None else job.options.encode()
    resource = row.resource
    found = checksum(order, job.type, job.prio, data, job_id, expire_at, options, resource)
    if row.checksum is None:
        return found
    was_at = real(row.expire_whole_s, row.expire_rest_s)
    was = checksum(job.order, job.type, job.prio, data, job.id, was_at, options, resource)
    return found ^ was ^ row.checksum


def _runs(row: _Row) -> str | None:
    """Return the earlier runs, with the one that ended the job."""
    started_at = real(row.started_whole_s, row.started_rest_s)
    if started_at is None:
        return row.runs
    ended_at = real(row.ended_whole_s, row.ended_rest_s) or started_at
    word = row.run_state or State(row.state).word
    run = (row.attempt - row.returned, row.worker or "", started_at, ended_at, word, row.error)
    return with_run(row.runs, encode_json(run).decode())


def _entry(session: Session, change: Change, job: Found, order: int, data: bytes | None, group: str | None) -> Entry:
    entry = Entry(order, job.id or session.ids.of(job.order), job.type, job.prio, group=group)
    if change.body_bytes is not None and group is None:
        entry.options = None if job.options is None else job.options.encode()
        most = min(change.body_bytes, base.DATA_BYTES // bounds.SLICE)
        entry.data = data if data is not None and len(data) <= most else None
    return entry


def _move_progress(session: Session, moved: dict[int, int]) -> None:
    said = progress.get(session, moved)
    if said:
        progress.put(session, {moved[order]: value for order, value in said.items()})
    progress.delete(session, json_list(moved))
