"""What jobs are made of: read for many of them at once, within bounds, and checked."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from kqs.log import get_logger
from kqs.states import State
from kqs.store import base
from kqs.store.base import DAMAGED, LOGGED
from kqs.store.checksum import checksum, kind_checksum, of_keys, plain_checksum
from kqs.store.sqlite import batches, bulk, follow, resources
from kqs.store.sqlite.rows import cut, decode_orders, json_list, json_real, real
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

log = get_logger("kqs.store")

# One row for all jobs (see rows.py): what is short as JSON, short data joined, to be cut by length. Damage may have made
# another type of a column, and JSON cannot hold a blob.
_READ = f"""
select json_group_array(json_array(
         ord, state, cast(type as text), prio, cast(id as text), attempt, failures, ghosts, interrupted,
         returned, {json_real("expire_at")}, cast(options as text), crc32c, length(short),
         cast(resource as text), cast(grp as text), cast(unique_key as text){{more}})),
       cast(group_concat(short, '') as blob)
from (select *, case when length(data) <= ? then data end as short from jobs not indexed
      where ord in (select value from json_each(?)) and {{condition}})
"""
_OF_RUN = f", epoch, {json_real('started_at')}, watcher, cancel_at is not null"
_READY = _READ.format(more="", condition=f"place in ({Place.GROUPED:d}, {Place.READY:d})")
_RUNNING = _READ.format(more=_OF_RUN, condition=f"place = {Place.RUNNING:d}")
_LENGTHS = """
select json_group_array(json_array(ord, length(data)))
from jobs not indexed where ord in (select value from json_each(?)) and data is not null
"""
_LONG = """
select json_group_array(ord), cast(group_concat(data, '') as blob)
from jobs not indexed where ord in (select value from json_each(?))
"""
_EXPIRE_AT = "select expire_at from jobs where ord = ?"
_IDS = "select ord, cast(id as text) from jobs where ord in (select value from json_each(?))"
_END_DAMAGED = f"""
update jobs set place = {Place.ENDED:d}, state = {State.FAIL:d}, ended_at = ?, drop_at = ?, error = '{DAMAGED}',
                type = ifnull(cast(type as text), '')
where ord in (select value from json_each(?))
"""


class Row(msgspec.Struct, array_like=True, gc=False):
    """A job, but for its data. data_bytes: None where that is long or in bulk. epoch to is_cancelled only of a run."""

    order: int
    state: int
    type: str
    prio: int
    id: str | None
    attempt: int
    failures: int
    ghosts: int
    interrupted: int
    returned: int
    expire_whole_s: int | None
    expire_rest_s: float | None
    options: str | None
    checksum: int | None
    data_bytes: int | None
    resource: str | None
    group: str | None
    unique: str | None
    epoch: int = 0
    started_whole_s: int | None = None
    started_rest_s: float | None = None
    watcher: int | None = None
    is_cancelled: int = 0

    @property
    def are_runs_sound(self) -> bool:
        """Tell whether no more runs are counted, in whichever way they ended, than there were claims."""
        counted = (self.failures, self.ghosts, self.interrupted, self.returned)
        return min(counted) >= 0 and sum(counted) <= self.attempt

    @property
    def expire_at(self) -> float | None:
        """Return when it expires, in Unix seconds; None for never."""
        return real(self.expire_whole_s, self.expire_rest_s)

    @property
    def started_at(self) -> float | None:
        """Return when the run began, in Unix seconds."""
        return real(self.started_whole_s, self.started_rest_s)


_decode_rows = msgspec.json.Decoder(list[Row]).decode
_decode_lengths = msgspec.json.Decoder(list[tuple[int, int]]).decode


class Content(msgspec.Struct):
    """Jobs that were asked for and are there, by order; their data; and the orders of those that there was no room for."""

    rows: dict[int, Row]
    data: dict[int, bytes]
    left: set[int]


def ready(
    session: Session, orders: Sequence[int], now: float, keep_damaged_s: float | None, most_bytes: int | None = None
) -> Content:
    """Read jobs that are ready; end those that are damaged (see `Store.claim`)."""
    return _read(
        session,
        _READY,
        orders,
        now,
        keep_damaged_s,
        base.DATA_BYTES if most_bytes is None else most_bytes,
    )


def running(session: Session, orders: Sequence[int], now: float, keep_damaged_s: float | None) -> Content:
    """Read jobs that run; end those that are damaged."""
    return _read(session, _RUNNING, orders, now, keep_damaged_s, base.DATA_BYTES)


def _read(
    session: Session, query: str, orders: Sequence[int], now: float, keep_damaged_s: float | None, most_bytes: int
) -> Content:
    content = _read_at_once(session.db, query, orders, most_bytes)
    suspects = list(dict.fromkeys(orders)) if content is None else _damaged(session, content)
    if content is None:
        content = Content({}, {}, set())
    if suspects:
        # one by one, since a damaged record can spoil what is read of its neighbours
        damaged = _read_each(session, query, suspects, content, most_bytes)
        if damaged:
            resources.lost(session, damaged)
            if session.has_followers:
                follow.passed(session, _ids_of(session, damaged), State.FAIL)
            batches.ended(session, damaged, State.FAIL)
            _end_damaged(session, damaged, now, keep_damaged_s)
    return content


def _ids_of(session: Session, orders: Sequence[int]) -> list[str]:
    found = session.db.execute(_IDS, (json_list(orders),)).fetchall()
    return [id_ or session.ids.of(order) for order, id_ in found]


def _read_at_once(db: sqlite3.Connection, query: str, orders: Sequence[int], most_bytes: int) -> Content | None:
    """Read jobs, unchecked; None if one of them is so damaged that it cannot be read."""
    short = most_bytes // max(len(orders), 1)
    try:
        packed, joined = db.execute(query, (short, json_list(orders))).fetchone()
        rows = {row.order: row for row in _decode_rows(packed)}
    except (sqlite3.OperationalError, msgspec.DecodeError) as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
            raise
        return None
    pieces = cut(joined or b"", [row.data_bytes for row in rows.values()])
    content = Content(rows, {order: piece for order, piece in zip(rows, pieces, strict=True) if piece is not None}, set())
    if len(content.data) < len(rows):
        _add_long(db, content, [order for order in dict.fromkeys(orders) if order in rows], most_bytes)
    return content


def _read_each(session: Session, query: str, orders: Sequence[int], content: Content, most_bytes: int) -> list[int]:
    """Read jobs one by one into `content`, while there is room; return the orders of those that are damaged."""
    damaged: list[int] = []
    for order in orders:
        content.rows.pop(order, None)
        content.data.pop(order, None)
        if sum(map(len, content.data.values())) > most_bytes:
            content.left.add(order)
            continue
        one = _read_at_once(session.db, query, [order], most_bytes)
        if one is None or _damaged(session, one):
            damaged.append(order)
        else:
            content.rows |= one.rows
            content.data |= one.data
    return damaged


def _add_long(db: sqlite3.Connection, content: Content, orders: Sequence[int], most_bytes: int) -> None:
    """Add the data of those of `orders` where it is long or in bulk, while there is room; but the first one's in any case."""
    rows, data = content.rows, content.data
    first, missing = orders[0], [order for order in orders if order not in data]
    (packed,) = db.execute(_LENGTHS, (json_list(missing),)).fetchone()
    inline = dict(_decode_lengths(packed))
    in_bulk = bulk.lengths(db, [order for order in missing if order not in inline])
    total = sum(map(len, data.values()))
    taken: list[int] = []
    for order in missing:
        length = inline.get(order) or in_bulk.get(order, 0)
        if total + length > most_bytes and order != first:
            content.left.add(order)
            del rows[order]
        else:
            total += length
            taken.append(order)
    data |= long(db, {order: inline[order] for order in taken if order in inline})
    data |= bulk.get(db, [order for order in taken if order not in inline])


def long(db: sqlite3.Connection, lengths: dict[int, int]) -> dict[int, bytes]:
    """Return data that stands in the records, by order, unchecked. lengths: by order; their sum is the caller's to bound."""
    if not lengths:
        return {}
    packed, joined = db.execute(_LONG, (json_list(lengths),)).fetchone()
    orders = decode_orders(packed)
    pieces = cut(joined, [lengths[order] for order in orders])
    return {order: piece for order, piece in zip(orders, pieces, strict=True) if piece is not None}


def _damaged(session: Session, content: Content) -> list[int]:
    """Return the orders of the jobs that do not fit their checksum."""
    damaged: list[int] = []
    kinds: dict[tuple[str, int], int] = {}
    data = content.data
    for order, row in content.rows.items():
        is_plain = row.id is None and row.options is None and row.expire_whole_s is None
        is_fresh = row.attempt >= 0 and not (row.failures or row.ghosts or row.interrupted or row.returned)
        if is_plain and is_fresh and row.resource is None and row.group is None and row.unique is None and order in data:
            kind = (row.type, row.prio)
            begun = kinds.get(kind)
            if begun is None:
                begun = kinds[kind] = kind_checksum(*kind)
            if plain_checksum(order, begun, data[order]) == row.checksum:
                continue
        if not _is_intact(session, row, data.get(order)):
            damaged.append(order)
    return damaged


def _is_intact(session: Session, row: Row, data: bytes | None) -> bool:
    if data is None or not row.are_runs_sound:
        return False
    if row.checksum is None:
        return row.order <= session.unchecked_to
    options = None if row.options is None else row.options.encode()
    more, keys = (options, row.resource), of_keys(row.group, row.unique)
    total = checksum(row.order, row.type, row.prio, data, row.id, row.expire_at, *more)
    if session.fits(row.order, row.checksum, total, keys):
        return True
    # an instant far from ours did not travel exactly
    (expire_at,) = session.db.execute(_EXPIRE_AT, (row.order,)).fetchone()
    total = checksum(row.order, row.type, row.prio, data, row.id, expire_at, *more)
    return session.fits(row.order, row.checksum, total, keys)


def _end_damaged(session: Session, orders: list[int], now: float, keep_s: float | None) -> None:
    """End jobs whatever their columns hold. Damage may also have parted a row from its entries in the indexes."""
    ids = [session.ids.of(order) for order in orders[:LOGGED]]
    log.error("stored jobs are damaged, they have failed", ids=ids, count=len(orders))
    db, values = session.db, (now, None if keep_s is None else now + keep_s, json_list(orders))
    db.execute("savepoint damaged")
    try:
        db.execute(_END_DAMAGED, values)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        db.execute("rollback to damaged")
        db.execute("reindex jobs")
        db.execute(_END_DAMAGED, values)
    db.execute("release damaged")
    session.tallies.recount(db)
