"""How far runs are: rows beside those of their jobs, so that to save it writes nothing else of these again.

A row goes with its job, or when a report says so. Most stores have none: `session.has_progress` spares them to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from kqs.crc import crc32c
from kqs.job import Progress
from kqs.store.sqlite.rows import ManyRows, cut, decode_orders, json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

_RUNNING = f"""
select json_group_array(json_array(ord, attempt, epoch)) from jobs
where ord in (select value from json_each(?)) and place = {Place.RUNNING:d}
"""
_PUT = ManyRows(
    "insert into progress (ord, crc32c, data)",
    "(?,?,?)",
    "on conflict (ord) do update set crc32c = excluded.crc32c, data = excluded.data",
)
# one row for all (see rows.py). Whatever damage made of a column, it must not fail the statement
_GET = """
select json_group_array(json_array(ord, cast(crc32c as integer), length(cast(data as blob)))),
       cast(group_concat(cast(data as blob), '') as blob)
from progress where ord in (select value from json_each(?))
"""
_KNOWN = "select json_group_array(ord) from progress where ord in (select value from json_each(?))"
_DELETE = "delete from progress where ord in (select value from json_each(?))"

_decode_fences = msgspec.json.Decoder(list[tuple[int, int, int | None]]).decode
_decode_found = msgspec.json.Decoder(list[tuple[int, int, int]]).decode


def save(session: Session, progress: Sequence[Progress], durable: bool) -> list[bool]:
    """See Store.save."""
    session.check_files()
    (packed,) = session.db.execute(_RUNNING, (json_list([one.claim.order for one in progress]),)).fetchone()
    running = {order: fence for order, *fence in _decode_fences(packed)}
    verdicts = [running.get(one.claim.order) == [one.claim.attempt, one.claim.epoch] for one in progress]
    put(session, {one.claim.order: one.value for one, is_taken in zip(progress, verdicts, strict=True) if is_taken})
    if durable:
        session.sync()
    return verdicts


def put(session: Session, values: Mapping[int, bytes]) -> None:
    """Keep progress by order; NO_PROGRESS is none."""
    rows: list[object] = []
    gone: list[int] = []
    for order, value in values.items():
        if value:
            rows += (order, _checksum(order, value), value)
        else:
            gone.append(order)
    if rows:
        session.has_progress = True
        _PUT.execute(session.db, rows)
    if gone:
        delete(session, json_list(gone))


def get(session: Session, orders: Iterable[int]) -> dict[int, bytes]:
    """Return progress by order, where there is some; what is damaged is left out."""
    if not session.has_progress:
        return {}
    packed, joined = session.db.execute(_GET, (json_list(orders),)).fetchone()
    found = _decode_found(packed)
    pieces = cut(joined or b"", [length for _, _, length in found])
    return {
        order: value
        for (order, checksum, _), value in zip(found, pieces, strict=True)
        if value and _checksum(order, value) == checksum
    }


def known(session: Session, orders: Iterable[int]) -> set[int]:
    """Return of which jobs there is some."""
    if not session.has_progress:
        return set()
    (packed,) = session.db.execute(_KNOWN, (json_list(orders),)).fetchone()
    return set(decode_orders(packed))


def delete(session: Session, orders_json: str) -> None:
    """Forget that of these jobs, where there is some."""
    if session.has_progress:
        session.db.execute(_DELETE, (orders_json,))


def _checksum(order: int, value: bytes) -> int:
    return int(crc32c(value, (order >> 32) ^ (order & 0xFFFFFFFF)))
