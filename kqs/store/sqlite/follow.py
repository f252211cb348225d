"""Jobs that wait for others. Who waits for whom stands in a table of its own, a row for each job that is waited for.

Such a job is *held*: it stands in no index of ready jobs and in no broker, as parked ones do. Invariants, at the end of each
transaction:

1. A held job has a row in `awaited` for each job that has not ended yet, or whose end is not followed yet; no other has any.
2. What has ended while somebody waited for it stands in `passed` as long as rows of `awaited` name it. If it waits again by
   then, or its id is another job's, and somebody else comes to wait for that, both go by a name `!N!ID`.

So the end of a job costs one look, however many wait for it, and what follows is done in slices (`follow`), each of which may
be the last before a kill: what is left stands in the tables. Chains are followed step by step: who fails is passed as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

import msgspec

from kqs.job import Accepted, After, Entry
from kqs.options import MOST_AFTER
from kqs.states import ENDED, Event, State, next_state
from kqs.store.base import Following
from kqs.store.keep import own_keep_s
from kqs.store.keyed import led_on
from kqs.store.parents import DELETED, in_vain, is_bad
from kqs.store.sqlite import batches, resources
from kqs.store.sqlite.groups import READY_PLACE
from kqs.store.sqlite.rows import ManyRows, encode_json, json_list
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.tables import Place

#: pairs of `awaited` that a slice looks at, and how often in it who failed is followed
SLICE = 500
_ROUNDS = 50

_AWAIT = ManyRows("insert into awaited (parent, child)", "(?,?)", "on conflict do nothing")
_PUT_PASSED = ManyRows("insert into passed (parent, outcome)", "(?,?)", "on conflict do nothing")
_NOTE_PASSED = """
insert into passed (parent, outcome)
select value, ?2 from json_each(?1) where exists (select 1 from awaited where parent = value)
on conflict do nothing
"""
_NOTE = """
update jobs set after_ids = said.value
from (select json_extract(value, '$[0]') as ord, json_extract(value, '$[1]') as value from json_each(?)) as said
where jobs.ord = said.ord
"""
# one row for all jobs (see rows.py)
_STATES = """
with wanted (id, made) as (select json_extract(value, '$[0]'), json_extract(value, '$[1]') from json_each(?))
select json_group_array(json_array(name, state)) from (
  select wanted.id as name, state from wanted cross join jobs indexed by ids on jobs.id = wanted.id
  union all
  select wanted.id, state from wanted cross join jobs on jobs.ord = made where jobs.id is null)
"""
_ENDED_OF = "select json_group_array(parent) from passed where parent in (select value from json_each(?))"
_APART = "select json_group_array(parent) from passed where parent like ?"
_PAIRS = """
select json_group_array(json_array(parent, outcome, child)) from (
  select passed.parent, outcome, child from passed cross join awaited on awaited.parent = passed.parent limit ?)
"""
_HELD = f"""
select json_group_array(json_array(ord, cast(id as text), cast(type as text), prio, state, cast(options as text),
                                   resource is not null, cast(grp as text), cast(after_ids as text)))
from jobs where ord in (select value from json_each(?)) and place = {Place.LATER:d} and due_at is null
"""
# by the child: by the parent, which may have any number, each slice would look at all that are left
_FORGET_PAIRS = """
delete from awaited where child in (select json_extract(value, '$[2]') from json_each(?1)) and (+parent, +child) in (
  select json_extract(value, '$[0]'), json_extract(value, '$[2]') from json_each(?1))
"""
_FORGET = "delete from awaited where child in (select value from json_each(?))"
_FOLLOWED = """
delete from passed where parent in (select value from json_each(?))
  and not exists (select 1 from awaited where awaited.parent = passed.parent)
"""
_STILL = "select json_group_array(value) from json_each(?) where exists (select 1 from awaited where child = value)"
_HOLD = f"""
update jobs set place = {Place.LATER:d}, due_at = null
where ord in (select value from json_each(?)) and place < {Place.RUNNING:d}
"""
# by the order: by the place, each slice would look at all jobs that are held
_LET_GO = f"""
update jobs set due_at = free.due_at, place = case when free.due_at is null then {READY_PLACE} else {Place.LATER:d} end
from (select json_extract(value, '$[0]') as ord, json_extract(value, '$[1]') as due_at from json_each(?)) as free
where jobs.ord = free.ord and +place = {Place.LATER:d} and +jobs.due_at is null
"""
# an upsert, as in report.py
_FAIL = ManyRows(
    "insert into jobs (type, prio, ord, state, ended_at, drop_at, error)",
    "('',0,?,?,?,?,?)",
    f"""on conflict (ord) do update set place = {Place.ENDED:d}, state = excluded.state, error = excluded.error,
    ended_at = excluded.ended_at, drop_at = excluded.drop_at
    where place < 2""",
)
_AGAIN = """
select json_group_array(json_array(ord, cast(after_ids as text))) from jobs
where ord in (select value from json_each(?)) and after_ids is not null
"""
_AWAITS = "select json_group_array(parent) from (select parent from awaited where child = ? and parent < '@' limit ?)"
_AWAITS_ALSO = "select json_group_array(parent) from (select parent from awaited where child = ? and parent >= 'A' limit ?)"


class _Said(msgspec.Struct, array_like=True, gc=False):
    """What is kept with a job that waited, for when it is let go, and for when it is retried."""

    is_any_end: bool
    due_at: float
    ids: list[str]


class _Held(msgspec.Struct, array_like=True, gc=False):
    order: int
    id: str | None
    type: str
    prio: int
    state: State
    options: str | None
    has_resource: int
    group: str | None
    after_ids: str | None

    @property
    def said(self) -> _Said:
        return _Said(False, 0.0, []) if self.after_ids is None else decode_said(self.after_ids)


decode_said = msgspec.json.Decoder(_Said).decode
_decode_states = msgspec.json.Decoder(list[tuple[str, int]]).decode
_decode_ids = msgspec.json.Decoder(list[str]).decode
_decode_orders = msgspec.json.Decoder(list[int]).decode
_decode_pairs = msgspec.json.Decoder(list[tuple[str, int, int]]).decode
_decode_held = msgspec.json.Decoder(list[_Held]).decode
_decode_again = msgspec.json.Decoder(list[tuple[int, str]]).decode


def after_of(after_ids: str | None) -> After | None:
    """Return what a column says of the jobs that one waits for, or waited for."""
    if after_ids is None:
        return None
    said = decode_said(after_ids)
    return After(tuple(said.ids), said.is_any_end) if said.ids else None


def stand_new(session: Session, jobs: Sequence[Accepted], aliases: Mapping[str, str]) -> set[int]:
    """Hold jobs that were just stored as held, or let them go; return the orders of those that are held.

    Args: aliases: by the ids of jobs that were joined to others, those of these.
    """
    said: dict[int, _Said] = {}
    for job in jobs:
        after = job.after or After(())
        said[job.order] = _Said(after.is_any_end, job.due_at, led_on(after.ids, aliases))
    _note(session, said)
    return _stand(session, said, {job.order: batches.parent_of(job.id) for job in jobs if job.members is not None})


def stand_again(session: Session, orders: Sequence[int]) -> set[int]:
    """Hold those of some retried jobs, which stand as ready, that wait for others; return their orders.

    Those that wait for nothing any more are ready: what they waited for has ended.
    """
    (packed,) = session.db.execute(_AGAIN, (json_list(orders),)).fetchone()
    said = {order: decode_said(text) for order, text in _decode_again(packed)}
    thens = batches.incomplete(session, orders)
    if delayed := {order: one for order, one in said.items() if one.due_at}:
        for one in delayed.values():
            one.due_at = 0.0
        _note(session, delayed)
    for order in thens:
        said.setdefault(order, _Said(False, 0.0, []))
    if not said:
        return set()
    session.db.execute(_HOLD, (json_list(said),))
    return _stand(session, said, thens)


def _note(session: Session, said: Mapping[int, _Said]) -> None:
    session.db.execute(_NOTE, (_json([(order, _json(one)) for order, one in said.items()]),))


def _stand(session: Session, said: Mapping[int, _Said], thens: Mapping[int, str]) -> set[int]:
    db = session.db
    wanted = {id_: None for one in said.values() for id_ in one.ids}
    states = _states(session, list(wanted))
    (packed,) = db.execute(_ENDED_OF, (_json(list(wanted)),)).fetchone()
    passed = set(_decode_ids(packed))
    for id_ in [id_ for id_ in passed if id_ in states and states[id_] not in ENDED]:
        _set_apart(session, id_)
        passed.remove(id_)
        session.tidings.follows = True
    awaited: list[object] = []
    ended: dict[str, int] = {}
    held: set[int] = set()
    for order, one in said.items():
        for id_ in one.ids:
            state = states.get(id_, DELETED)
            if id_ not in passed:
                if state == State.SUCCESS or (one.is_any_end and is_bad(state)):
                    continue
                if is_bad(state):
                    ended[id_] = state
            awaited += (id_, order)
            held.add(order)
        if order in thens:
            awaited += (thens[order], order)
            held.add(order)
    session.has_followers = session.has_followers or bool(awaited)
    _AWAIT.execute(db, awaited)
    _PUT_PASSED.execute(db, [value for pair in ended.items() for value in pair])
    session.tidings.follows |= bool(ended or passed)
    db.execute(_LET_GO, (_json([(order, one.due_at or None) for order, one in said.items() if order not in held]),))
    session.heads.returned(said)
    return held


def _set_apart(session: Session, id_: str) -> None:
    """Part whom an end concerns that is not followed yet from those who wait for the next: the job waits again, or is another.

    The end has a name of its own then, which no job has.
    """
    taken = set(_decode_ids(session.db.execute(_APART, (f"!%!{id_}",)).fetchone()[0]))
    name = next(name for number in count() if (name := f"!{number}!{id_}") not in taken)
    session.db.execute("update awaited set parent = ?2 where parent = ?1", (id_, name))
    session.db.execute("update passed set parent = ?2 where parent = ?1", (id_, name))


def _id_of(parent: str) -> str:
    """Return the id of the job whose end is meant."""
    return parent.rpartition("!")[2]


def _states(session: Session, ids: Sequence[str]) -> dict[str, int]:
    order_of = session.ids.order_of
    (packed,) = session.db.execute(_STATES, (_json([(id_, order_of(id_)) for id_ in ids]),)).fetchone()
    return dict(_decode_states(packed))


def passed(session: Session, ids: Iterable[str], outcome: int) -> None:
    """Take in that jobs end so: one of `ENDED`, or DELETED."""
    if session.has_followers:
        found = session.db.execute(_NOTE_PASSED, (_json(list(ids)), outcome)).rowcount
        session.tidings.follows |= found > 0


def gone(session: Session, orders: Iterable[int]) -> None:
    """Forget whom jobs wait for that are about to end, or to be deleted, while they wait."""
    if session.has_followers:
        session.db.execute(_FORGET, (json_list(orders),))


def awaits(session: Session, order: int) -> list[str]:
    """Return the ids of the jobs that one waits for still."""
    if not session.has_followers:
        return []
    found: list[str] = []
    for query in (_AWAITS, _AWAITS_ALSO):  # all but what stands for a batch
        (packed,) = session.db.execute(query, (order, MOST_AFTER)).fetchone()
        found += map(_id_of, _decode_ids(packed))
    return found


def follow(session: Session, now: float, drop_after_s: float | None, by_type: Mapping[str, float | None]) -> Following:
    """See Store.follow."""
    db = session.db
    failed: list[str] = []
    due_at: float | None = None
    left = SLICE
    for _ in range(_ROUNDS):
        (packed,) = db.execute(_PAIRS, (left,)).fetchone()
        pairs = _decode_pairs(packed)
        if not pairs:
            db.execute("delete from passed")
            return Following(failed, due_at, False)
        session.pay()
        db.execute(_FORGET_PAIRS, (packed,))
        held = _held(session, {child for _, _, child in pairs})
        whys: dict[int, str] = {}
        for parent, outcome, child in pairs:
            if outcome != State.SUCCESS and child in held and not held[child].said.is_any_end:
                whys.setdefault(child, in_vain(_id_of(parent), outcome))
        if whys:
            failed += _fail(session, {order: (held[order], why) for order, why in whys.items()}, now, drop_after_s, by_type)
        db.execute(_FOLLOWED, (_json(list({parent for parent, _, _ in pairs})),))
        rest = [order for order in held if order not in whys]
        (still,) = db.execute(_STILL, (json_list(rest),)).fetchone()
        first = _let_go(session, [held[order] for order in set(rest).difference(_decode_orders(still))], now)
        due_at = first if due_at is None else min(due_at, due_at if first is None else first)
        left -= len(pairs)
        if left <= 0:
            break
    return Following(failed, due_at, True)


def _held(session: Session, orders: Iterable[int]) -> dict[int, _Held]:
    (packed,) = session.db.execute(_HELD, (json_list(orders),)).fetchone()
    return {one.order: one for one in _decode_held(packed)}


def _let_go(session: Session, jobs: Sequence[_Held], now: float) -> float | None:
    """Let held jobs go, and have the queue told of those that are ready; return when the first of the others is due."""
    if not jobs:
        return None
    due = {one.order: at for one in jobs if (at := one.said.due_at) > now}
    session.db.execute(_LET_GO, (_json([(one.order, due.get(one.order)) for one in jobs]),))
    session.heads.returned(one.order for one in jobs)
    free = [one for one in jobs if one.order not in due]
    if needing := [one.order for one in free if one.has_resource]:
        resources.stand_ready(session, needing, now)
    made_id = session.ids.of
    session.tidings.called += [
        Entry(one.order, one.id or made_id(one.order), one.type, one.prio, group=one.group)
        for one in free
        if not one.has_resource
    ]
    return min(due.values(), default=None)


def _fail(
    session: Session,
    jobs: Mapping[int, tuple[_Held, str]],
    now: float,
    drop_after_s: float | None,
    by_type: Mapping[str, float | None],
) -> list[str]:
    """End held jobs as failed, each for its reason; return their ids."""
    values: list[object] = []
    for order, (one, why) in jobs.items():
        keep_s = own_keep_s(one.options, by_type.get(one.type, drop_after_s))
        values += (order, next_state(one.state, Event.EXPIRE), now, None if keep_s is None else now + keep_s, why)
    gone(session, jobs)
    _FAIL.execute(session.db, values)
    session.tallies.remove([(one.type, one.state) for one, _ in jobs.values()])
    session.tallies.add([(one.type, next_state(one.state, Event.EXPIRE)) for one, _ in jobs.values()])
    ids = [one.id or session.ids.of(order) for order, (one, _) in jobs.items()]
    passed(session, ids, State.FAIL)
    batches.ended(session, jobs, State.FAIL)
    return ids


def _json(value: object) -> str:
    return encode_json(value).decode()
