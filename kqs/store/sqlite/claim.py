"""Granting attempts, and finding the runs of dead workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kqs.job import NO_PROGRESS, Claim, Entry, Run, Tally
from kqs.states import State
from kqs.store.base import Granted
from kqs.store.parents import told
from kqs.store.sqlite import batches, content, progress, resources
from kqs.store.sqlite.content import Content, Row
from kqs.store.sqlite.rows import decode_orders, json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

_CLAIM = f"""
update jobs set place = {Place.RUNNING:d}, state = {State.PROCESSING:d}, attempt = attempt + 1,
                epoch = ?, worker = ?, started_at = ?, watcher = ?
where ord in (select value from json_each(?))
"""
# no later boot than this one was, but damage may have made an epoch of one: its run has nobody either
_OF_OTHERS = f"""
select ord from jobs indexed by running where place = {Place.RUNNING:d} and (watcher is null or watcher <> ?1) and epoch"""
_ORPHANS = f"""
select json_group_array(ord) from (
  {_OF_OTHERS} < ?1 union all {_OF_OTHERS} > ?1 union all {_OF_OTHERS} is null limit ?2)
"""
_ADOPT = f"""
update jobs set watcher = ?1
where ord in (select value from json_each(?2)) and place = {Place.RUNNING:d} and watcher <> ?1
returning ord
"""


def claim(
    session: Session,
    entries: Sequence[Entry],
    worker: str,
    now: float,
    keep_damaged_s: float | None = None,
    held: bool = False,
    most_bytes: int | None = None,
) -> Granted:
    """See Store.claim."""
    found = content.ready(session, [entry.order for entry in entries], now, keep_damaged_s, most_bytes)
    rows = found.rows
    if session.has_resources:
        resources.let_through(session, rows, now)
    if not rows:
        return Granted((), _left(entries, found))
    session.db.execute(_CLAIM, (session.epoch, worker, now, session.epoch if held else None, json_list(rows)))
    if session.has_groups:
        session.heads.taken(rows.values())
    runs = _runs(session, entries, found, now, held)
    session.tallies.remove([(row.type, row.state) for row in rows.values()])
    session.tallies.add([(row.type, State.PROCESSING) for row in rows.values()])
    return Granted(runs, _left(entries, found))


def _left(entries: Sequence[Entry], found: Content) -> Sequence[Entry]:
    return [entry for entry in entries if entry.order in found.left] if found.left else ()


def _runs(session: Session, entries: Sequence[Entry], found: Content, now: float, held: bool) -> list[Run]:
    epoch, data = session.epoch, found.data
    said = progress.get(session, [order for order, row in found.rows.items() if row.attempt]) if session.has_progress else {}
    thens = batches.tallies(session, found.rows)
    runs: list[Run] = []
    left = dict(found.rows)  # an entry may be repeated; its job is granted once
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
                None if row.expire_whole_s is None else row.expire_at,
                entry.handle,
                row.returned,
                row.state,
                held,
                said.get(entry.order) if said else None,
                row.resource,
                group=row.group,
                batch=told(thens[entry.order]) if entry.order in thens else None,
            )
        )
    return runs


def orphans(session: Session, limit: int, keep_damaged_s: float | None = None) -> list[Run]:
    """See Store.orphans."""
    while True:
        (packed,) = session.db.execute(_ORPHANS, (session.epoch, limit)).fetchone()
        orders = decode_orders(packed)
        found = content.running(session, orders, session.now(), keep_damaged_s)
        if found.rows or not orders:
            said = progress.known(session, found.rows)
            thens = batches.tallies(session, found.rows)
            return [_orphan(session, row, found.data[row.order], row.order in said, thens) for row in found.rows.values()]


def _orphan(session: Session, row: Row, data: bytes, has_progress: bool, thens: Mapping[int, Tally]) -> Run:
    return Run(
        Claim(row.order, row.id or session.ids.of(row.order), row.attempt, row.epoch),
        row.type,
        row.prio,
        data,
        row.options.encode() if row.options is not None else None,
        row.failures,
        row.ghosts,
        row.interrupted,
        row.started_at or 0.0,
        row.expire_at,
        None,
        row.returned,
        held=row.watcher is not None,
        progress=NO_PROGRESS if has_progress else None,
        resource=row.resource,
        is_cancelled=bool(row.is_cancelled),
        group=row.group,
        batch=told(thens[row.order]) if row.order in thens else None,
    )


def adopt(session: Session, runs: Sequence[Run]) -> list[bool]:
    """See Store.adopt."""
    orders = json_list([run.claim.order for run in runs])
    adopted = {order for (order,) in session.db.execute(_ADOPT, (session.epoch, orders)).fetchall()}
    resources.left(session, [run.claim for run in runs if run.claim.order not in adopted])  # nobody else will report them
    return [run.claim.order in adopted for run in runs]
