"""Looking at records: one, several as listings show them, and how many there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, get_type_hints

import msgspec

from kqs.job import MAX_PROGRESS_BYTES, JobRecord, RunRecord, instant_of
from kqs.states import ENDED, WAITING, State
from kqs.store.base import DAMAGED, LISTED_BYTES, MOST_ENDS, Looked
from kqs.store.checksum import checksum, of_keys
from kqs.store.sqlite import batches, bulk, follow, progress
from kqs.store.sqlite.rows import json_list
from kqs.store.sqlite.session import Session


class _Row(NamedTuple):
    """The columns a record is made of."""

    ord: int
    id: str | None
    type: str
    state: int
    prio: int
    due_at: float | None
    expire_at: float | None
    data: bytes | None
    options: bytes | None
    attempt: int
    returned: int
    epoch: int | None
    failures: int
    ghosts: int
    interrupted: int
    accepted_at: float | None
    started_at: float | None
    ended_at: float | None
    drop_at: float | None
    worker: str
    run_state: str | None
    result: bytes | None
    error: str | None
    runs: str | None
    crc32c: int | None
    resource: str | None
    unique_key: str | None
    cancel_at: float | None
    grp: str | None
    after_ids: str | None
    batch: str | None


_BY_HINT: dict[object, tuple[tuple[type, ...], object]] = {
    int: ((int,), 0),
    int | None: ((int, type(None)), None),
    float | None: ((float, int, type(None)), None),
    str: ((str,), ""),
    str | None: ((str, type(None)), None),
    bytes | None: ((bytes, type(None)), None),
}
#: by column: what its values are, and what stands for one that damage made something else
_SOUND: dict[str, tuple[tuple[type, ...], object]] = {name: _BY_HINT[hint] for name, hint in get_type_hints(_Row).items()}
_STATES = frozenset(State)

_COLUMNS = ", ".join(_Row._fields)
_SHORT = {name: f"case when length({name}) <= {LISTED_BYTES} then {name} end" for name in ("data", "result")}
_LISTED = ", ".join({**_SHORT, "runs": "null"}.get(name, name) for name in _Row._fields)
_UNREAD = ", ".join({"data": "null"}.get(name, name) for name in _Row._fields)
_DROP_AT = _Row._fields.index("drop_at")
_FROM_ORDER = "from jobs where ord = :order and id is null"
_FROM_ID = "from jobs indexed by ids where id = :id"

_decode_run = msgspec.json.Decoder(tuple[int, str, float, float, str, str | None]).decode


def job(session: Session, job_id: str) -> JobRecord | None:
    """See Store.job."""
    row = _row(session, job_id, _COLUMNS)
    return None if row is None or _is_over(row[_DROP_AT], session.now()) else _whole(session, _Row._make(row))


def look(session: Session, job_ids: Sequence[str]) -> Looked:
    """See Store.look. There are no other servers, so nobody has to ask often."""
    there: set[str] = set()
    over: set[str] = set()
    ended: list[str] = []
    now = session.now()
    for job_id in job_ids:
        row = _row(session, job_id, "state, drop_at")
        if row is not None:
            state, drop_at = row
            there.add(job_id)
            if _is_over(drop_at, now):
                over.add(job_id)
            if state in ENDED and len(ended) < MOST_ENDS:
                ended.append(job_id)
    found = [_record(session, _Row._make(row)) for job_id in ended if (row := _row(session, job_id, _UNREAD)) is not None]
    _add_progress(session, found, MAX_PROGRESS_BYTES)
    _add_order(session, found)
    return Looked(frozenset(there), found, frozenset(over))


def _is_over(drop_at: object, now: float) -> bool:
    """Tell whether the retention of a record is over; what damage made of a column is no instant."""
    return isinstance(drop_at, (int, float)) and drop_at <= now


def _row(session: Session, job_id: str, columns: str) -> tuple[Any, ...] | None:
    """Return these columns of a job, if there is one of this id."""
    order = session.ids.order_of(job_id)
    row: tuple[Any, ...] | None = None
    if order is not None:
        row = session.db.execute(f"select {columns} {_FROM_ORDER}", {"order": order}).fetchone()
    if row is None:
        row = session.db.execute(f"select {columns} {_FROM_ID}", {"id": job_id}).fetchone()
    return row


def listed(session: Session, orders: list[int]) -> list[JobRecord]:
    """Return these records, in this order, as listings show them."""
    rows = session.db.execute(
        f"select {_LISTED} from jobs not indexed where ord in (select value from json_each(?))", (json_list(orders),)
    ).fetchall()
    found = {row[0]: _record(session, _Row._make(row)) for row in rows}
    shown = [found[order] for order in orders]
    _add_progress(session, shown, LISTED_BYTES)
    _add_order(session, shown)
    return shown


def _add_progress(session: Session, records: list[JobRecord], most_bytes: int) -> None:
    """Add the progress of those jobs that have some of up to `most_bytes`."""
    said = progress.get(session, [record.order for record in records])
    for record in records if said else ():
        if (value := said.get(record.order)) is not None and len(value) <= most_bytes:
            record.progress = value


def _add_order(session: Session, records: list[JobRecord]) -> None:
    """Add what those jobs wait for that do, and how the batches stand whose `then`s they are."""
    for record in records:
        if record.after is not None and record.state in WAITING:
            record.awaits = follow.awaits(session, record.order)
    thens = batches.tallies(session, [record.order for record in records])
    for record in records if thens else ():
        record.tally = thens.get(record.order)


def counts(session: Session) -> dict[str, dict[State, int]]:
    """See Store.counts."""
    found: defaultdict[str, dict[State, int]] = defaultdict(dict)
    for type_, state, n in session.tallies.read(session.db):
        found[type_][state] = n
    return dict(found)


def _whole(session: Session, row: _Row) -> JobRecord:
    data = row.data if row.data is not None else bulk.get(session.db, [row.ord]).get(row.ord)
    record = _record(session, row._replace(data=data), is_whole=True)
    _add_progress(session, [record], MAX_PROGRESS_BYTES)
    _add_order(session, [record])
    return record


def _is_intact(session: Session, row: _Row) -> bool:
    if row.data is None:
        return False
    if row.crc32c is None:
        return row.ord <= session.unchecked_to
    try:
        total = checksum(row.ord, row.type, row.prio, row.data, row.id, row.expire_at, row.options, row.resource)
        return session.fits(row.ord, row.crc32c, total, of_keys(row.grp, row.unique_key))
    except TypeError:  # damage made another type of a column
        return False


def _record(session: Session, row: _Row, *, is_whole: bool = False) -> JobRecord:
    is_damaged = (is_whole or row.data is not None) and not _is_intact(session, row)
    try:
        return _shown(session, row if not is_damaged else _salvaged(row), is_damaged)
    except (AttributeError, TypeError, ValueError, msgspec.DecodeError):  # damage in what no checksum is of
        return _shown(session, _salvaged(row), is_damaged)


def _shown(session: Session, row: _Row, is_damaged: bool) -> JobRecord:
    return JobRecord(
        order=row.ord,
        id=row.id or session.ids.of(row.ord),
        type=row.type,
        state=State(row.state),
        prio=row.prio,
        due_at=row.due_at or 0.0,
        expire_at=row.expire_at,
        data=b"null" if is_damaged else row.data,
        options=row.options,
        attempt=row.attempt - row.returned,
        failures=row.failures,
        ghosts=row.ghosts,
        interrupted=row.interrupted,
        accepted_at=instant_of(row.ord) if row.accepted_at is None else row.accepted_at,
        ended_at=row.ended_at,
        drop_at=row.drop_at,
        result=row.result,
        error=DAMAGED if is_damaged else row.error,
        runs=_earlier_runs(row.runs) + _last_run(row),
        epoch=row.epoch,
        resource=row.resource,
        unique=row.unique_key,
        group=row.grp,
        after=follow.after_of(row.after_ids),
        batch=row.batch,
        cancel_at=row.cancel_at if row.state == State.PROCESSING else None,
    )


def _salvaged(row: _Row) -> _Row:
    """Return what can be shown of a damaged row: columns that are not of their type are left out, and earlier runs too."""
    sound = {
        name: value if isinstance(value, kinds) else otherwise
        for (name, (kinds, otherwise)), value in zip(_SOUND.items(), row, strict=True)
    }
    if sound["state"] not in _STATES:
        sound["state"] = State.FAIL
    return _Row(**{**sound, "runs": None, "after_ids": None})  # type: ignore[arg-type]  # each is of a kind in _SOUND


def _earlier_runs(runs: str | None) -> list[RunRecord]:
    return [] if runs is None else [RunRecord(*_decode_run(line)) for line in runs.split("\n")]


def _last_run(row: _Row) -> list[RunRecord]:
    if row.started_at is None:
        return []
    state, attempt = State(row.state), row.attempt - row.returned
    if state not in ENDED:
        return [RunRecord(attempt, row.worker, row.started_at)]
    return [RunRecord(attempt, row.worker, row.started_at, row.ended_at, row.run_state or state.word, row.error)]
