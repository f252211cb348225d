"""Batches: jobs that one more, the `then`, waits for. A row counts the members, and how they have ended, in their transactions.

A batch has the id of its `then`, and its row lives as long as that one's. A member names its batch in a column of its own, and
counts once: as it ends first, or is deleted before. What waits for the batch is told as if a job with the id `@ID` had ended
(follow.py); no job has such an id. It is complete, once and for ever, when it is closed, all of its own record is stored, and
as many have ended as were stored.

A batch whose `then` was not stored, since its id or key was taken, makes no jobs. As long as parts of its record are to come, a
row with the id `!ORDER` tells them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from kqs.job import Accepted, Tally
from kqs.states import State
from kqs.store.sqlite.rows import encode_json, json_list
from kqs.store.sqlite.session import Session

_BEGIN = """
insert into batches (id, ord, first_ord, is_open, last_order, reached) values (?, ?2, ?2, ?, ?, ?2) on conflict do nothing
"""
_REFUSE = """
insert into batches (id, ord, first_ord, is_open, last_order, reached) values (?, ?2, ?2, 0, ?, ?2) on conflict do nothing
"""
_REFUSED_ALL = "delete from batches where id = ? and last_order <= ?"
_FOUND = """
select json_group_array(json_array(id, first_ord, is_complete)) from batches where id in (select value from json_each(?))
"""
_ENTER = "update batches set made = made + ?, reached = max(reached, ?) where id = ?"
# members stand behind their `then`: what stands before it was one of an earlier batch of the same id
_OF_ORDERS = """
select json_group_array(json_array(batch, n)) from (
  select batch, count(*) as n from jobs cross join batches on batches.id = batch and first_ord < jobs.ord
  where jobs.ord in (select value from json_each(?)) group by batch)
"""
_COLUMNS = {State.SUCCESS: "success", State.FAIL: "fail", State.CANCELLED: "cancelled"}
_END = {name: f"update batches set {name} = {name} + ? where id = ?" for name in ("success", "fail", "cancelled", "deleted")}
_COMPLETE = """
update batches set is_complete = 1
where id in (select value from json_each(?)) and not is_complete and not is_open and reached >= last_order
  and success + fail + cancelled + deleted >= made
returning id
"""
_TELL = """
insert into passed (parent, outcome) select ?1, ?2 where exists (select 1 from awaited where parent = ?1) on conflict do nothing
"""
_TALLY = "id, made, success, fail, cancelled, deleted, is_open"
_OF_THENS = f"""
select json_group_array(json_array(ord, json_array({_TALLY}))) from batches where ord in (select value from json_each(?))
"""
# what `is_open` says of a batch that takes those on their way, and no others
_SEALED = 2
_SEAL = f"update batches set is_open = {_SEALED} where id = ? and is_open = 1"
_BY_ID = f"select {_TALLY} from batches where id = ?"
_ARE_OPEN = "select json_group_array(json_array(id, is_open)) from batches where id in (select value from json_each(?))"
_INCOMPLETE = """
select json_group_array(json_array(ord, id)) from batches where ord in (select value from json_each(?)) and not is_complete
"""
_MOVE = """
update batches set ord = moved.ord
from (select json_extract(value, '$[0]') as was, json_extract(value, '$[1]') as ord from json_each(?)) as moved
where batches.ord = moved.was
"""
_LEAVE = "update jobs set batch = null where ord in (select value from json_each(?)) and batch is not null"
_DELETE = "delete from batches where ord in (select value from json_each(?))"

_decode_found = msgspec.json.Decoder(list[tuple[str, int, int]]).decode
_decode_counts = msgspec.json.Decoder(list[tuple[str, int]]).decode
_decode_thens = msgspec.json.Decoder(list[tuple[int, tuple[str, int, int, int, int, int, int]]]).decode
_decode_orders = msgspec.json.Decoder(list[tuple[int, str]]).decode


def parent_of(batch_id: str) -> str:
    """Return what stands for a batch among the jobs that others wait for."""
    return f"@{batch_id}"


def begin(session: Session, thens: Iterable[Accepted]) -> None:
    """Begin the batches of `then`s that are about to stand: also of one that was refused before a journal repeated it."""
    for job in thens:
        assert job.members is not None, "it is a then"
        session.has_batches = True
        session.db.execute("delete from batches where id = ?", (_refused_id(job.order),))
        session.db.execute("delete from passed where parent = ?", (parent_of(job.id),))  # of an earlier batch of that id
        session.db.execute(_BEGIN, (job.id, job.order, job.members.is_open, job.members.last_order))


def refuse(session: Session, thens: Iterable[Accepted], stored: int) -> None:
    """Have what is to come of the records of `then`s that were not stored, behind the order `stored`, not be stored either."""
    for job in thens:
        assert job.members is not None, "it is a then"
        if job.members.last_order > max(stored, job.order):
            session.db.execute(_REFUSE, (_refused_id(job.order), job.order, job.members.last_order))


def parted(session: Session, jobs: Sequence[Accepted], taken: Collection[int]) -> tuple[list[Accepted], list[Accepted]]:
    """Part the members of batches from those that are not to be stored, since the `then` of their record was not.

    What can be no member any more loses its batch. Args: taken: the orders of `then`s that were not stored just before.
    """
    wanted = {job.batch for job in jobs} | {_refused_id(job.batch_order) for job in jobs}
    (packed,) = session.db.execute(_FOUND, (_json(list(wanted)),)).fetchone()
    found = {id_: (first, is_complete) for id_, first, is_complete in _decode_found(packed)}
    kept: list[Accepted] = []
    refused: dict[int, list[Accepted]] = {}
    for job in jobs:
        assert job.batch is not None, "it is a member"
        if job.batch_order in taken or _refused_id(job.batch_order) in found:
            refused.setdefault(job.batch_order, []).append(job)
            continue
        first, is_complete = found.get(job.batch, (0, 1))
        if is_complete or (first != job.batch_order if job.batch_order else first > job.order):
            job.batch = None
        kept.append(job)
    for order, members in refused.items():
        session.db.execute(_REFUSED_ALL, (_refused_id(order), members[-1].order))
    return kept, [job for members in refused.values() for job in members]


def _refused_id(order: int) -> str:
    return f"!{order}"


def enter(session: Session, jobs: Iterable[Accepted], known: Collection[int]) -> None:
    """Count jobs as members: before they are stored, with nothing known, and those of `known` orders back afterwards."""
    sign, counted = (1, None) if not known else (-1, frozenset(known))
    made: Counter[str] = Counter()
    for job in jobs:
        if job.batch is not None and (counted is None or job.order in counted):
            made[job.batch] += sign
    for id_, count in made.items():
        session.db.execute(_ENTER, (count, 0, id_))


def reach(session: Session, jobs: Iterable[Accepted]) -> None:
    """Take in that all members up to these are stored, or known."""
    reached: dict[str, int] = {}
    for job in jobs:
        if (id_ := job.batch or (job.id if job.members is not None else None)) is not None:
            reached[id_] = max(reached.get(id_, 0), job.order)
    for id_, order in reached.items():
        session.db.execute(_ENTER, (0, order, id_))
    _complete(session, reached)


def ended(session: Session, orders: Iterable[int], state: State | None) -> None:
    """Count jobs that end so, or, None, are deleted before they have ended. Those that are deleted must be there still."""
    if not session.has_batches:
        return
    (packed,) = session.db.execute(_OF_ORDERS, (json_list(orders),)).fetchone()
    counts = dict(_decode_counts(packed))
    for id_, count in counts.items():
        session.db.execute(_END["deleted" if state is None else _COLUMNS[state]], (count, id_))
    _complete(session, counts)


def _complete(session: Session, ids: Collection[str]) -> None:
    if not ids:
        return
    for (id_,) in session.db.execute(_COMPLETE, (_json(list(ids)),)).fetchall():
        if session.db.execute(_TELL, (parent_of(id_), State.SUCCESS)).rowcount > 0:
            session.tidings.follows = True


def seal(session: Session, batch_id: str) -> bool:
    """See Store.seal_batch."""
    session.pay()
    session.db.execute(_SEAL, (batch_id,))
    return session.db.execute(_BY_ID, (batch_id,)).fetchone() is not None


def close(session: Session, batch_id: str) -> Tally | None:
    """See Store.close_batch."""
    session.pay()
    session.db.execute("update batches set is_open = 0 where id = ?", (batch_id,))
    _complete(session, [batch_id])
    row = session.db.execute(_BY_ID, (batch_id,)).fetchone()
    return None if row is None else _tally(row)


def are_open(session: Session, ids: Collection[str]) -> dict[str, bool]:
    """See Store.batches."""
    (packed,) = session.db.execute(_ARE_OPEN, (_json(list(ids)),)).fetchone()
    return {id_: is_open == 1 for id_, is_open in _decode_counts(packed)}


def tallies(session: Session, orders: Iterable[int]) -> dict[int, Tally]:
    """Return how the batches stand whose `then`s have these orders."""
    if not session.has_batches:
        return {}
    (packed,) = session.db.execute(_OF_THENS, (json_list(orders),)).fetchone()
    return {order: _tally(row) for order, row in _decode_thens(packed)}


def _tally(row: Sequence[Any]) -> Tally:
    id_, made, success, fail, cancelled, deleted, is_open = row
    return Tally(id_, made, success, fail, cancelled, deleted, bool(is_open))


def incomplete(session: Session, orders: Iterable[int]) -> dict[int, str]:
    """Return, of those of some `then`s whose batch is not complete, by order, what they wait for."""
    if not session.has_batches:
        return {}
    (packed,) = session.db.execute(_INCOMPLETE, (json_list(orders),)).fetchone()
    return {order: parent_of(id_) for order, id_ in _decode_orders(packed)}


def revived(session: Session, moved: Mapping[int, int]) -> None:
    """Take in that jobs stand under other orders, by those that they had: members have counted, and are none any more."""
    if session.has_batches:
        session.db.execute(_MOVE, (_json(list(moved.items())),))
        session.db.execute(_LEAVE, (json_list(moved.values()),))


def delete(session: Session, orders_json: str) -> None:
    """Forget the batches of these `then`s."""
    if session.has_batches:
        session.db.execute(_DELETE, (orders_json,))


def _json(value: object) -> str:
    return encode_json(value).decode()
