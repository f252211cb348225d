"""Which jobs have a key that no second waiting job of their type may have: rows beside those of their jobs.

A row stands from the insert of its job on. Whether that still waits is asked of the job itself, so whoever claims, ends or
gives back a job has nothing to do here; rows of jobs that have ended go when somebody asks for their key, or with the records.
Most stores have none: `session.has_uniques` spares them to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from kqs.job import Accepted
from kqs.store.keyed import Pair
from kqs.store.sqlite.rows import ManyRows, encode_json, json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

_PUT = ManyRows("insert into uniques (type, key, ord)", "(?,?,?)", "on conflict do nothing")
_PUT_AGAIN = """
insert into uniques (type, key, ord)
select type, unique_key, ord from jobs where ord in (select value from json_each(?)) and unique_key is not null
on conflict do nothing
"""
# of each of these pairs, the rows whose jobs have ended, or are gone
_FORGET = f"""
delete from uniques where (type, key, ord) in (
  select uniques.type, uniques.key, uniques.ord
  from (select json_extract(value, '$[0]') as type, json_extract(value, '$[1]') as key from json_each(?)) as wanted
  cross join uniques on uniques.type = wanted.type and uniques.key = wanted.key
  left join jobs on jobs.ord = uniques.ord
  where jobs.ord is null or place = {Place.ENDED:d})
"""
# of each of these pairs, the first job that waits: one row for all (see rows.py)
_WAITING = f"""
select json_group_array(json_array(number, ord, id)) from (
  select number, min(jobs.ord) as ord, jobs.id as id
  from (select key as number, json_extract(value, '$[0]') as type, json_extract(value, '$[1]') as key
        from json_each(?1)) as wanted
  cross join uniques on uniques.type = wanted.type and uniques.key = wanted.key
  cross join jobs on jobs.ord = uniques.ord
  where place < {Place.RUNNING:d} and (expire_at is null or expire_at > ?2)
  group by number)
"""
_DELETE = "delete from uniques where ord in (select value from json_each(?))"

_decode_waiting = msgspec.json.Decoder(list[tuple[int, int, str | None]]).decode


def waiting(session: Session, pairs: Sequence[Pair], now: float) -> dict[Pair, str]:
    """Return, of those of some pairs that a waiting job has, the id of the oldest such job."""
    if not session.has_uniques:
        return {}
    packed = encode_json(pairs).decode()
    session.db.execute(_FORGET, (packed,))
    (found,) = session.db.execute(_WAITING, (packed, now)).fetchone()
    return {pairs[number]: id_ or session.ids.of(order) for number, order, id_ in _decode_waiting(found)}


def put(session: Session, jobs: Iterable[Accepted]) -> None:
    """Keep the keys of jobs that were just stored, and all of which have one."""
    values: list[object] = []
    for job in jobs:
        values += (job.type, job.unique, job.order)
    if values:
        session.has_uniques = True
        _PUT.execute(session.db, values)


def put_again(session: Session, orders: Iterable[int]) -> None:
    """Keep the keys of jobs that had ended, and wait again."""
    if session.db.execute(_PUT_AGAIN, (json_list(orders),)).rowcount > 0:
        session.has_uniques = True


def delete(session: Session, orders_json: str) -> None:
    """Forget the keys of these jobs, where they have one."""
    if session.has_uniques:
        session.db.execute(_DELETE, (orders_json,))
