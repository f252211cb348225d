"""Looking at records: one, a page of them, and how many there are."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec

from kqs.job import ENDED, JobRecord, RunRecord, State
from kqs.store.sqlite import bulk
from kqs.store.sqlite.session import Session

#: records a filtered listing looks at in one go; the thread commits for others between two of them
SLICE = 20_000

_COLUMNS = """ord, id, type, state, prio, due_at, expire_at, data, options, attempt, failures, ghosts, interrupted,
ended_at, drop_at, result, error, runs, worker, started_at, run_state"""
_IS_THERE = "(drop_at is null or drop_at > :now)"
_BY_ORDER = f"select {_COLUMNS} from jobs where ord = :order and id is null and {_IS_THERE}"
_BY_ID = f"select {_COLUMNS} from jobs indexed by ids where id = :id and {_IS_THERE}"
_COUNTS = "select type, state, n from tallies where n > 0"

_decode_run = msgspec.json.Decoder(tuple[int, str, float, float, str, str | None]).decode


class Page(msgspec.Struct):
    """One slice of a listing. next_after: the order to go on from; None when there is no more."""

    records: list[JobRecord]
    next_after: int | None


class Filter(msgspec.Struct, frozen=True):
    """What `Store.jobs` is asked for."""

    type_: str | None
    state: State | None
    newest_first: bool


def job(session: Session, job_id: str) -> JobRecord | None:
    """See Store.job."""
    now = session.now()
    order = session.ids.order_of(job_id)
    row = None
    if order is not None:
        row = session.db.execute(_BY_ORDER, {"order": order, "now": now}).fetchone()
    if row is None:
        row = session.db.execute(_BY_ID, {"id": job_id, "now": now}).fetchone()
    return None if row is None else _records(session, [row])[0]


def page(session: Session, wanted: Filter, after: int | None, limit: int) -> Page:
    """Return up to `limit` records out of the next SLICE records after the order `after`."""
    step, direction = ("<", "desc") if wanted.newest_first else (">", "asc")
    beyond = f"{'' if after is None else f'ord {step} :after'}"
    where = f"where {beyond}" if beyond else ""
    values = {
        "after": after,
        "slice": SLICE - 1,
        "now": session.now(),
        "limit": limit,
        "type": wanted.type_,
        "state": wanted.state,
    }
    edge = session.db.execute(f"select ord from jobs {where} order by ord {direction} limit 1 offset :slice", values).fetchone()
    conditions = [_IS_THERE]
    if beyond:
        conditions.append(beyond)
    if edge is not None:
        values["edge"] = edge[0]
        conditions.append(f"ord {step}= :edge")
    if wanted.type_ is not None:
        conditions.append("+type = :type")
    if wanted.state is not None:
        conditions.append("+state = :state")
    rows = session.db.execute(
        f"select {_COLUMNS} from jobs where {' and '.join(conditions)} order by ord {direction} limit :limit", values
    ).fetchall()
    return Page(_records(session, rows), None if edge is None else edge[0])


def counts(session: Session) -> dict[str, dict[State, int]]:
    """See Store.counts."""
    session.flush()
    found: defaultdict[str, dict[State, int]] = defaultdict(dict)
    for type_, state, n in session.db.execute(_COUNTS):
        found[type_][State(state)] = n
    return dict(found)


def _records(session: Session, rows: list[Any]) -> list[JobRecord]:
    data = bulk.get(session.db, [row[0] for row in rows if row[7] is None])
    return [_record(session, row, data) for row in rows]


def _record(session: Session, row: tuple[Any, ...], bulk_data: dict[int, bytes]) -> JobRecord:
    order, id_, type_, state, prio, due_at, expire_at, data, options, *counters = row[:13]
    ended_at, drop_at, result, error, runs, worker, started_at, run_state = row[13:]
    if data is None and (data := bulk_data.get(order)) is None:
        data, error = b"null", bulk.DAMAGED
    return JobRecord(
        order,
        id_ or session.ids.of(order),
        type_,
        State(state),
        prio,
        due_at or 0.0,
        expire_at,
        data,
        options,
        *counters,
        order / 1_000_000,
        ended_at,
        drop_at,
        result,
        error,
        _earlier_runs(runs) + _last_run(State(state), counters[0], worker, started_at, ended_at, run_state, error),
    )


def _earlier_runs(runs: str | None) -> list[RunRecord]:
    return [] if runs is None else [RunRecord(*_decode_run(line)) for line in runs.split("\n")]


def _last_run(
    state: State,
    attempt: int,
    worker: str,
    started_at: float | None,
    ended_at: float | None,
    word: str | None,
    error: str | None,
) -> list[RunRecord]:
    if started_at is None:
        return []
    if state not in ENDED:
        return [RunRecord(attempt, worker, started_at)]
    return [RunRecord(attempt, worker, started_at, ended_at, word or state.word, error)]
