"""Recording how runs ended. Equal ends of a commit are one statement; ends with a result, an error or a due time are rows."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from kqs.job import Accepted, Claim, Report
from kqs.states import ENDED, State
from kqs.store.base import MAX_RUNS
from kqs.store.checksum import reranked
from kqs.store.ends import OF_CANCELLED
from kqs.store.sqlite import batches, follow, groups, progress, resources
from kqs.store.sqlite.groups import READY_PLACE
from kqs.store.sqlite.rows import ManyRows, encode_json, json_list, json_real, real
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

_FENCES = """
select json_group_array(json_array(ord, place, attempt, epoch)) from jobs where ord in (select value from json_each(?))
"""
_CANCELLED = f"""
select json_group_array(json_array(ord, attempt, epoch)) from jobs
where ord in (select value from json_each(?)) and place = {Place.RUNNING:d} and cancel_at is not null
"""
_END_ALIKE = f"""
update jobs set place = {Place.ENDED:d}, state = ?, run_state = ?, ended_at = ?, drop_at = ?,
                failures = ?, ghosts = ?, interrupted = ?, error = null
where ord in (select value from json_each(?))
"""
# the same with the fence
_END_RUNNING = f"{_END_ALIKE} and place = {Place.RUNNING:d} and attempt = ? and epoch = ?"
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
    f"""on conflict (ord) do update set
    place = case when excluded.place = {Place.READY:d} then {READY_PLACE} else excluded.place end,
    state = excluded.state, due_at = excluded.due_at,
    failures = excluded.failures, ghosts = excluded.ghosts, interrupted = excluded.interrupted, error = excluded.error,
    runs = excluded.runs, epoch = null, worker = null, started_at = null
    where place = {Place.RUNNING:d}""",
)
# one row for all jobs (see rows.py)
_RUNS = f"""
select json_group_array(json_array(ord, worker, {json_real("started_at")}, returned, runs))
from jobs where ord in (select value from json_each(?))
"""
# where no run began
_UNCLAIM = f"""
update jobs set place = {READY_PLACE}, state = ?, returned = returned + 1, epoch = null, worker = null, started_at = null
where ord in (select value from json_each(?))
"""
_END_UNBEGUN = f"""
update jobs set place = {Place.ENDED:d}, state = ?, ended_at = ?, drop_at = ?, error = ?,
                returned = returned + 1, worker = null, started_at = null
where ord in (select value from json_each(?))
"""
# one row for all jobs (see rows.py)
_RANKED = f"""
select json_group_array(json_array(ord, type, prio, id, {json_real("expire_at")}, cast(options as text), crc32c,
                                   ifnull(length(data), (select length(data) from bulk where bulk.ord = jobs.ord))))
from jobs where ord in (select value from json_each(?)) and crc32c is not null
"""
# see `_END`
_RERANK = ManyRows(
    "insert into jobs (type, ord, prio, crc32c)",
    "('',?,?,?)",
    "on conflict (ord) do update set prio = excluded.prio, crc32c = excluded.crc32c where prio <> excluded.prio",
)
#: jobs whose earlier runs are read at a time: those of one may be 400 kB
_RUNS_AT_ONCE = 256
#: more kinds of equal ends than this, and each as a row is cheaper than each kind as a statement
_MOST_ALIKE = 16

#: order, place, attempt, epoch
_Fence = tuple[int, int, int, int | None]

_decode_fences = msgspec.json.Decoder(list[_Fence]).decode
_decode_claims = msgspec.json.Decoder(list[tuple[int, int, int | None]]).decode
_decode_ranked = msgspec.json.Decoder(
    list[tuple[int, str, int, str | None, int | None, float | None, str | None, int, int]]
).decode
_decode_runs = msgspec.json.Decoder(list[tuple[int, str, int, float, int, str | None]]).decode

#: by State
_IS_END = [state in ENDED for state in sorted(State)]
_WORDS = [state.word for state in sorted(State)]


def report_all(session: Session, reports: Sequence[Report]) -> Sequence[bool | None]:
    """See Store.report."""
    session.pay()
    verdicts = _report_any(session, reports)
    resources.left(session, (one.claim for one in reports))
    return verdicts


def _report_any(session: Session, reports: Sequence[Report]) -> Sequence[bool | None]:
    if not session.cancelled:
        return report(session, reports)
    orders = [one.claim.order for one in reports if one.claim.order in session.cancelled]
    if not orders:
        return report(session, reports)
    (packed,) = session.db.execute(_CANCELLED, (json_list(orders),)).fetchone()
    fences = set(_decode_claims(packed))
    refused = [_is_refused(one, fences) for one in reports]
    verdicts = iter(report(session, [one for one, is_refused in zip(reports, refused, strict=True) if not is_refused]))
    session.uncancelled += [one.claim.order for one in reports if one.state in OF_CANCELLED and _fence(one.claim) in fences]
    return [None if is_refused else next(verdicts) for is_refused in refused]


def _fence(claim: Claim) -> tuple[int, int, int | None]:
    return (claim.order, claim.attempt, claim.epoch)


def _is_refused(one: Report, fences: set[tuple[int, int, int | None]]) -> bool:
    return one.state not in OF_CANCELLED and _fence(one.claim) in fences


def report(session: Session, reports: Sequence[Report]) -> list[bool]:
    """See Store.report, but for jobs that were cancelled."""
    if _end_if_running(session, reports):
        return [True] * len(reports)
    (packed,) = session.db.execute(_FENCES, (json_list([one.claim.order for one in reports]),)).fetchone()
    fences = {fence[0]: fence for fence in _decode_fences(packed)}
    granted = [_granted(one.claim) for one in reports]
    if len(fences) == len(reports) and fences == {fence[0]: fence for fence in granted}:
        _apply(session, reports)
        return [True] * len(reports)
    return _report_some(session, reports, granted, fences)


def report_new(session: Session, jobs: Sequence[Accepted]) -> None:
    """Record how the runs of jobs ended that were just stored as claimed, where they have."""
    if ends := [job.end for job in jobs if job.end is not None]:
        verdicts = report(session, ends)
        assert all(verdicts), "each is of attempt 1, which was just stored"


def _end_if_running(session: Session, reports: Sequence[Report]) -> bool:
    """End the jobs of a batch if nothing is to be said but that, of any of them, and all fences let it through.

    It is what nearly all batches are, and spares them a look at the fences first: a ninth of what a short job costs here.
    """
    alike: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for one in reports:
        if one.result is not None or one.error is not None or one.progress is not None:
            return False
        if not (one.has_begun and _IS_END[one.state]):
            return False
        claim = one.claim
        alike[(*_end_columns(one), claim.attempt, claim.epoch)].append(claim.order)
    if len(alike) > _MOST_ALIKE:
        return False
    session.db.execute("savepoint fences")
    ended = 0
    for (*columns, attempt, epoch), orders in alike.items():
        ended += session.db.execute(_END_RUNNING, (*columns, json_list(orders), attempt, epoch)).rowcount
    if ended < len(reports):
        session.db.execute("rollback to fences")
    session.db.execute("release fences")
    if ended < len(reports):
        return False
    _count(session, reports)
    if session.has_resources:
        resources.over(session, reports)
    return True


def _granted(claim: Claim) -> _Fence:
    """Return the fence of a run that may still be reported."""
    return (claim.order, Place.RUNNING, claim.attempt, claim.epoch)


def _report_some(
    session: Session, reports: Sequence[Report], granted: Sequence[_Fence], fences: dict[int, _Fence]
) -> list[bool]:
    """Apply those that the fences let through; `fences` moves on, since one batch may report a job twice."""
    verdicts: list[bool] = []
    taken: list[Report] = []
    for one, running in zip(reports, granted, strict=True):
        order, _, attempt, epoch = running
        ended = (order, Place.ENDED, attempt, epoch)
        is_end = _IS_END[one.state]
        is_taken = fences.get(order) == running
        verdicts.append(is_taken or (is_end and fences.get(order) == ended))
        if is_taken:
            taken.append(one)
            fences[order] = ended if is_end else (order, Place.READY, attempt, None)
    _apply(session, taken)
    return verdicts


def _apply(session: Session, reports: Sequence[Report]) -> None:
    alike: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    ends: list[object] = []
    lengths: list[int] = []
    waits: list[Report] = []
    unbegun: list[Report] = []
    for one in reports:
        if not one.has_begun:
            unbegun.append(one)
        elif not _IS_END[one.state]:
            waits.append(one)
        elif one.result is None and one.error is None:
            alike[_end_columns(one)].append(one.claim.order)
        else:
            ends += (one.claim.order, *_end_columns(one), one.result, one.error)
            lengths.append(len(one.result or b""))
    if len(alike) > _MOST_ALIKE:
        _end_each(session.db, alike)
    else:
        for columns, orders in alike.items():
            session.db.execute(_END_ALIKE, (*columns, json_list(orders)))
    _END.execute(session.db, ends, lengths)
    _apply_waits(session, waits)
    session.heads.returned(one.claim.order for one in reports if not _IS_END[one.state])
    if unbegun:
        _apply_unbegun(session.db, unbegun)
    if said := {one.claim.order: one.progress for one in reports if one.progress is not None}:
        progress.put(session, said)
    _count(session, reports)
    if session.has_resources:
        resources.over(session, reports)


def _apply_waits(session: Session, waits: list[Report]) -> None:
    db = session.db
    prios = {one.claim.order: one.prio for one in waits if one.prio is not None}
    if prios and session.has_groups:
        groups.leave(db, json_list(prios))
    for start in range(0, len(waits), _RUNS_AT_ONCE):
        _WAIT.execute(db, _wait_rows(db, waits[start : start + _RUNS_AT_ONCE]))
    if prios:
        _rerank(db, prios)


def _count(session: Session, reports: Sequence[Report]) -> None:
    session.tallies.remove([(one.type, State.PROCESSING) for one in reports])
    session.tallies.add([(one.type, one.state) for one in reports])
    if session.has_followers or session.has_batches:
        by_end: defaultdict[State, list[Claim]] = defaultdict(list)
        for one in reports:
            if _IS_END[one.state]:
                by_end[one.state].append(one.claim)
        for state, claims in by_end.items():
            follow.passed(session, [claim.id for claim in claims], state)
            batches.ended(session, [claim.order for claim in claims], state)


def _apply_unbegun(db: sqlite3.Connection, reports: Sequence[Report]) -> None:
    alike: defaultdict[tuple[str, tuple[object, ...]], list[int]] = defaultdict(list)
    for one in reports:
        change: tuple[str, tuple[object, ...]] = (_UNCLAIM, (one.state,))
        if _IS_END[one.state]:
            change = (_END_UNBEGUN, (one.state, one.ended_at, one.drop_at, one.error))
        alike[change].append(one.claim.order)
    for (statement, columns), orders in alike.items():
        db.execute(statement, (*columns, json_list(orders)))


def _end_each(db: sqlite3.Connection, alike: dict[tuple[object, ...], list[int]]) -> None:
    values: list[object] = []
    for columns, orders in alike.items():
        for order in orders:
            values += (order, *columns, None, None)
    _END.execute(db, values)


def _end_columns(one: Report) -> tuple[object, ...]:
    run_state = None if one.run_state == _WORDS[one.state] else one.run_state
    return (one.state, run_state, one.ended_at, one.drop_at, one.failures, one.ghosts, one.interrupted)


def _wait_rows(db: sqlite3.Connection, reports: Sequence[Report]) -> list[object]:
    (packed,) = db.execute(_RUNS, (json_list(one.claim.order for one in reports),)).fetchone()
    earlier = {row[0]: row[1:] for row in _decode_runs(packed)}
    values: list[object] = []
    for one in reports:
        worker, whole_s, rest_s, returned, runs = earlier[one.claim.order]
        run = (one.claim.attempt - returned, worker, real(whole_s, rest_s), one.ended_at, one.run_state, one.error)
        values += (
            one.claim.order,
            Place.LATER if one.due_at else Place.READY,
            one.state,
            one.due_at or None,
            one.failures,
            one.ghosts,
            one.interrupted,
            one.error,
            with_run(runs, encode_json(run).decode()),
        )
    return values


def _rerank(db: sqlite3.Connection, prios: dict[int, int]) -> None:
    """Give jobs other priorities, by order; what is damaged, or has no checksum yet, keeps its own."""
    (packed,) = db.execute(_RANKED, (json_list(prios),)).fetchone()
    try:
        ranked = _decode_ranked(packed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    values: list[object] = []
    for order, type_, was, given_id, whole_s, rest_s, options, crc, data_bytes in ranked:
        prio, own = prios[order], options.encode() if options is not None else None
        change = reranked(type_, was, prio, data_bytes, given_id, real(whole_s, rest_s), own)
        values += (order, prio, crc ^ change)
    _RERANK.execute(db, values)


def with_run(runs: str | None, line: str) -> str:
    """Return the runs of a record with one more, as a line; not all of them for ever."""
    if runs is None:
        return line
    # with this one and the next, which the row's own columns will hold
    lines = runs.split("\n")[-(MAX_RUNS - 2) :]
    return "\n".join([*lines, line])
