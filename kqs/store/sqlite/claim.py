"""Granting attempts, and finding the runs of dead workers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kqs.job import Claim, Entry, Run, State
from kqs.store.base import DAMAGED
from kqs.store.sqlite import bulk
from kqs.store.sqlite.rows import cut, json_list
from kqs.store.sqlite.schema import Place
from kqs.store.sqlite.session import Session

# one row for all jobs (see rows.py): the small columns as JSON, all data joined, to be cut by length
_READY = f"""
select json_group_array(json_array(ord, state, type, attempt, failures, ghosts, interrupted, returned, expire_at is not null,
                                   length(data), cast(options as text))),
       cast(group_concat(data, '') as blob)
from jobs not indexed
where ord in (select value from json_each(?)) and place = {Place.READY:d} and (expire_at is null or expire_at > ?)
"""
_CLAIM = f"""
update jobs set place = {Place.RUNNING:d}, state = {State.PROCESSING:d}, attempt = attempt + 1,
                epoch = ?, worker = ?, started_at = ?
where ord in (select value from json_each(?))
"""
_EXPIRE_AT = "select ord, expire_at from jobs where ord in (select value from json_each(?))"
_END_DAMAGED = f"""
update jobs set place = {Place.ENDED:d}, state = {State.FAIL:d}, ended_at = ?, error = '{DAMAGED}'
where ord in (select value from json_each(?))
"""
_ORPHANS = f"""
select ord, id, attempt, epoch, type, prio, data, options, failures, ghosts, interrupted, started_at, expire_at,
       null, returned
from jobs indexed by running where place = {Place.RUNNING:d} and epoch < ? limit ?
"""


class _Ready(msgspec.Struct, array_like=True, gc=False):
    order: int
    state: int
    type: str
    attempt: int
    failures: int
    ghosts: int
    interrupted: int
    returned: int
    expires: int
    data_bytes: int | None  # None: in bulk
    options: str | None


_decode_ready = msgspec.json.Decoder(list[_Ready]).decode


def claim(session: Session, entries: Sequence[Entry], worker: str, now: float) -> list[Run]:
    """See Store.claim. A job whose bulk data is damaged ends as fail instead."""
    orders = json_list(entry.order for entry in entries)
    packed, joined = session.db.execute(_READY, (orders, now)).fetchone()
    rows = {row.order: row for row in _decode_ready(packed)}
    if not rows:
        return []
    pieces = cut(joined or b"", [row.data_bytes for row in rows.values()])
    data = {order: piece for order, piece in zip(rows, pieces, strict=True) if piece is not None}
    if len(data) < len(rows):
        _add_bulk(session, rows, data, now)
    session.db.execute(_CLAIM, (session.epoch, worker, now, json_list(rows)))
    runs = _runs(session.epoch, entries, rows, data, now)
    session.tallies.remove([(row.type, row.state) for row in rows.values()])
    session.tallies.add([(row.type, State.PROCESSING) for row in rows.values()])
    _add_expire_at(session, runs, rows)
    return runs


def _add_bulk(session: Session, rows: dict[int, _Ready], data: dict[int, bytes], now: float) -> None:
    """Add what is kept in bulk to `data`; end the jobs whose data is damaged, and take them out of `rows`."""
    data |= bulk.get(session.db, [order for order in rows if order not in data])
    damaged = [order for order in rows if order not in data]
    if damaged:
        session.db.execute(_END_DAMAGED, (now, json_list(damaged)))
    for order in damaged:
        row = rows.pop(order)
        session.tallies.remove([(row.type, row.state)])
        session.tallies.add([(row.type, State.FAIL)])


def _runs(epoch: int, entries: Sequence[Entry], rows: dict[int, _Ready], data: dict[int, bytes], now: float) -> list[Run]:
    runs: list[Run] = []
    left = dict(rows)  # an entry may be repeated; its job is granted once
    for entry in entries:
        row = left.pop(entry.order, None)
        if row is None:
            continue
        runs.append(
            Run(
                Claim(entry.order, entry.id, row.attempt + 1, epoch),
                row.type,
                entry.prio,
                data[entry.order],
                row.options.encode() if row.options is not None else None,
                row.failures,
                row.ghosts,
                row.interrupted,
                now,
                None,
                entry.handle,
                row.returned,
                row.state,
            )
        )
    return runs


def _add_expire_at(session: Session, runs: Sequence[Run], rows: dict[int, _Ready]) -> None:
    # as a number of its own: SQLite's JSON rounds to 15 digits, and an instant with microseconds has 16
    expiring = [order for order, row in rows.items() if row.expires]
    if expiring:
        expire_at = dict(session.db.execute(_EXPIRE_AT, (json_list(expiring),)).fetchall())
        for run in runs:
            run.expire_at = expire_at.get(run.claim.order)


def orphans(session: Session, limit: int) -> list[Run]:
    """See Store.orphans."""
    found = session.db.execute(_ORPHANS, (session.epoch, limit)).fetchall()
    data = bulk.get(session.db, [row[0] for row in found if row[6] is None])
    return [
        Run(
            Claim(order, id_ or session.ids.of(order), attempt, epoch),
            type_,
            prio,
            own_data if own_data is not None else data.get(order, b"null"),
            *rest,
        )
        for order, id_, attempt, epoch, type_, prio, own_data, *rest in found
    ]
