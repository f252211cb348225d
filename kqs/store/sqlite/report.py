"""Recording how runs ended. Equal ends of a commit are one statement; ends with a result, an error or a due time are rows."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from kqs.job import ENDED, Report, State
from kqs.store.sqlite.rows import ManyRows, encode_json, json_list
from kqs.store.sqlite.schema import Place
from kqs.store.sqlite.session import Session

#: earlier runs kept per job; with the last one, which stands in the row's own columns, 100
_MAX_EARLIER_RUNS = 99

_FENCES = """
select json_group_array(json_array(ord, place, attempt, epoch)) from jobs where ord in (select value from json_each(?))
"""
_END_ALIKE = f"""
update jobs set place = {Place.ENDED:d}, state = ?, run_state = ?, ended_at = ?, drop_at = ?,
                failures = ?, ghosts = ?, interrupted = ?, error = null
where ord in (select value from json_each(?))
"""
# An upsert is the one statement that gives many rows values of their own by key: each row is known to exist, so each conflicts.
# The last condition makes a repeated row change nothing (see ManyRows).
_END = ManyRows(
    "insert into jobs (type, prio, ord, state, run_state, ended_at, drop_at, failures, ghosts, interrupted, result, error)",
    "('',0,?,?,?,?,?,?,?,?,?,?)",
    f"""on conflict (ord) do update set place = {Place.ENDED:d}, state = excluded.state, run_state = excluded.run_state,
    ended_at = excluded.ended_at, drop_at = excluded.drop_at, failures = excluded.failures, ghosts = excluded.ghosts,
    interrupted = excluded.interrupted, result = excluded.result, error = excluded.error
    where place = {Place.RUNNING:d}""",
)
_WAIT = ManyRows(
    "insert into jobs (type, prio, ord, place, state, due_at, failures, ghosts, interrupted, error, runs)",
    "('',0,?,?,?,?,?,?,?,?,?)",
    f"""on conflict (ord) do update set place = excluded.place, state = excluded.state, due_at = excluded.due_at,
    failures = excluded.failures, ghosts = excluded.ghosts, interrupted = excluded.interrupted, error = excluded.error,
    runs = excluded.runs, epoch = null, worker = null, started_at = null
    where place = {Place.RUNNING:d}""",
)
_RUNS = "select ord, worker, started_at, runs from jobs where ord in (select value from json_each(?))"


class _Fence(NamedTuple):
    order: int
    place: int
    attempt: int
    epoch: int | None


_decode_fences = msgspec.json.Decoder(list[_Fence]).decode


def report(session: Session, reports: Sequence[Report]) -> list[bool]:
    """See Store.report."""
    fences = _read_fences(session.db, reports)
    verdicts: list[bool] = []
    taken: list[Report] = []
    for one in reports:
        fence = fences.get(one.claim.order)
        is_own = fence is not None and (fence.attempt, fence.epoch) == (one.claim.attempt, one.claim.epoch)
        if is_own and fence is not None and fence.place == Place.RUNNING:
            taken.append(one)
            fences[one.claim.order] = _after(fence, one)
            verdicts.append(True)
        else:
            is_repeated = is_own and fence is not None and fence.place == Place.ENDED and one.state in ENDED
            verdicts.append(is_repeated)
    _apply(session, taken)
    return verdicts


def _read_fences(db: sqlite3.Connection, reports: Sequence[Report]) -> dict[int, _Fence]:
    (packed,) = db.execute(_FENCES, (json_list(one.claim.order for one in reports),)).fetchone()
    return {fence.order: fence for fence in _decode_fences(packed)}


def _after(fence: _Fence, one: Report) -> _Fence:
    """Return the fence that a later report of the same batch meets."""
    if one.state in ENDED:
        return fence._replace(place=Place.ENDED)
    return fence._replace(place=Place.READY, epoch=None)


def _apply(session: Session, reports: Sequence[Report]) -> None:
    alike: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    ends: list[object] = []
    waits: list[Report] = []
    for one in reports:
        session.count(one.type, State.PROCESSING, -1)
        session.count(one.type, one.state, 1)
        if one.state not in ENDED:
            waits.append(one)
            continue
        key = _end_columns(one)
        if one.result is None and one.error is None:
            alike[key].append(one.claim.order)
        else:
            ends += (one.claim.order, *key, one.result, one.error)
    for key, orders in alike.items():
        session.db.execute(_END_ALIKE, (*key, json_list(orders)))
    _END.execute(session.db, ends)
    if waits:
        _WAIT.execute(session.db, _wait_rows(session.db, waits))


def _end_columns(one: Report) -> tuple[object, ...]:
    run_state = None if one.run_state == one.state.word else one.run_state
    return (one.state, run_state, one.ended_at, one.drop_at, one.failures, one.ghosts, one.interrupted)


def _wait_rows(db: sqlite3.Connection, reports: Sequence[Report]) -> list[object]:
    earlier = {row[0]: row[1:] for row in db.execute(_RUNS, (json_list(one.claim.order for one in reports),))}
    values: list[object] = []
    for one in reports:
        worker, started_at, runs = earlier[one.claim.order]
        run = (one.claim.attempt, worker, started_at, one.ended_at, one.run_state, one.error)
        values += (
            one.claim.order,
            Place.LATER if one.due_at > one.ended_at else Place.READY,
            one.state,
            one.due_at or None,
            one.failures,
            one.ghosts,
            one.interrupted,
            one.error,
            _with_run(runs, encode_json(run).decode()),
        )
    return values


def _with_run(runs: str | None, line: str) -> str:
    if runs is None:
        return line
    lines = runs.split("\n")[-(_MAX_EARLIER_RUNS - 1) :]
    return "\n".join([*lines, line])
