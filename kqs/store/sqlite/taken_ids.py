"""Which ids records have already, and which of these records make room for a new job of their id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from kqs.job import Accepted, room_at
from kqs.store.sqlite import retention
from kqs.store.sqlite.rows import decode_orders, encode_json, json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

_STORED = "select json_group_array(ord) from jobs where ord in (select value from json_each(?))"
_MADE_IDS_TAKEN = """
select json_group_array(ord) from jobs where ord in (select value from json_each(?)) and id is null
"""
_GIVEN_IDS_TAKEN = "select json_group_array(id) from jobs indexed by ids where id in (select value from json_each(?))"
_OVER = f"""
with wanted (id, made, ord, us) as (
  select json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]')
  from json_each(?))
select json_group_array(json_array(new, old)) from (
  select wanted.ord as new, jobs.ord as old from wanted cross join jobs indexed by ids on jobs.id = wanted.id
  where place = {Place.ENDED:d} and jobs.ord < wanted.ord and drop_at * 1e6 <= us
  union
  select wanted.ord, jobs.ord from wanted cross join jobs on jobs.ord = made
  where jobs.id is null and place = {Place.ENDED:d} and jobs.ord < wanted.ord and drop_at * 1e6 <= us)
"""

_decode_pairs = msgspec.json.Decoder(list[tuple[int, int]]).decode
_decode_ids = msgspec.json.Decoder(list[str]).decode


def stored_orders(session: Session, orders: Iterable[int]) -> set[int]:
    """Return those of these orders that there are records of."""
    (found,) = session.db.execute(_STORED, (json_list(orders),)).fetchone()
    return set(decode_orders(found))


def retaken(session: Session, jobs: Sequence[Accepted]) -> set[str]:
    """Return which ids that we made for these jobs a later job has been given since."""
    if not jobs:
        return set()
    (found,) = session.db.execute(_GIVEN_IDS_TAKEN, (encode_json([job.id for job in jobs]).decode(),)).fetchone()
    return set(_decode_ids(found))


def known(session: Session, jobs: Sequence[Accepted]) -> set[str]:
    """Return the given ids of these jobs under which there is a record that makes no room for them."""
    given = [job for job in jobs if job.given_id]
    if not given:
        return set()
    (found,) = session.db.execute(_GIVEN_IDS_TAKEN, (encode_json([job.id for job in given]).decode(),)).fetchone()
    taken = {*_decode_ids(found), *made(session, given)}
    over = _over(session, [job for job in given if job.id in taken])
    return taken - {job.id for job in given if job.order in over}


def made(session: Session, jobs: Sequence[Accepted]) -> set[str]:
    """Return the given ids that are names of other jobs, here or in the store, which we made."""
    orders = [order for job in jobs if job.given_id and (order := session.ids.order_of(job.id)) is not None]
    if not orders:
        return set()
    (found,) = session.db.execute(_MADE_IDS_TAKEN, (json_list(orders),)).fetchone()
    return {*map(session.ids.of, decode_orders(found)), *(job.id for job in jobs if not job.given_id)}


def make_way(session: Session, jobs: Sequence[Accepted]) -> list[Accepted]:
    """Delete the records with the ids of these jobs that were over when they were accepted; return the jobs with such a record.

    What a replay brings back is older than the record, or was accepted before that was over.
    """
    over = _over(session, jobs)
    if over:
        session.pay()
        retention.delete(session, list(set(over.values())))
    return [job for job in jobs if job.order in over]


def _over(session: Session, jobs: Sequence[Accepted]) -> dict[int, int]:
    """Return the orders of the records that make room for those of some jobs, by the orders of these."""
    order_of = session.ids.order_of
    wanted = [(job.id, order_of(job.id), job.order, round(room_at(job) * 1_000_000)) for job in jobs if job.given_id]
    (found,) = session.db.execute(_OVER, (encode_json(wanted).decode(),)).fetchone()
    return dict(_decode_pairs(found))
