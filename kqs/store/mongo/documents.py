"""A job as a document.

    _id       the job's id, whoever made it
    order     as Accepted.order: unique on one server only
    node      of the server whose journal holds it
    place     where it stands; `state` is what it waits as, or ended as: a job that runs keeps the state that it waited in
    mark      of the write that stored or claimed it last (see session.py)
    owner     while it runs: the epoch of the boot that watches over it, which has claimed it, or, if it is `held`, is another's
              heir; the fence is (_id, attempt, epoch, place)
    wake_at   while it is later: when it is due
    resource  the key that no other job has while it runs
    parked    while it waits for that: in which place, as text that sorts by resource, priority, order
    called    the resource again, once it is its turn, until the run that it has then is over
    data      or, too long for a listing, data_long; or data_bulk (a GridFS file) with data_crc32c; likewise result
    data_bytes  how long data is that does not stand under `data`
    crc32c    of what decides what runs (checksum.py); older documents have none
    progress  how far the job's runs have come, where they said it
    group     by which jobs of its type take turns
    unique    its unique key; `pair` is that with its type (`key_of`), until the job ends
    attempt   claims so far; `returned` is how many of them were given back before their run began, and told to nobody
    begun     {worker, at} of the newest claims that were not given back
    done      {attempt, at, word, error} of the newest runs that ended; written apart, since no update can complete what another
              one began without `$` or a pipeline; this attempt is the one that people see

Version 1 wrote lists in place of those in `begun` and `done`: [worker, at] and [attempt, at, word, error]. They stay as they
are, so one record may have both.

    cancel_at, cancel_mark  a job that runs was cancelled, then, by the change with this mark
    born      of a job that was retried: the order it had first
    gone_by, gone_below  of a deleted one: the node whose server did that, and the first order of its jobs that came later
    past      {node: order}: up to which order other servers' journals may bring back what had this id before
    hold, batch, …   of jobs that wait for others, and of batches: held.py

Fields whose value is the usual one (None, 0, []) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from kqs.job import Accepted, Claim, Entry, JobRecord, Run, RunRecord, instant_of
from kqs.states import State
from kqs.store.base import LISTED_BYTES, MAX_RUNS
from kqs.store.checksum import checksum, reranked
from kqs.store.mongo.client import Document
from kqs.store.mongo.held import after_of, awaits_of, said


class Place(IntEnum):
    """Where a job stands. The numbers are stored."""

    READY = 0
    LATER = 1
    RUNNING = 2
    ENDED = 3
    GONE = 4  # deleted, but a journal may still bring it back (changes.py)


#: what is so of a job that waits
WAITS = {"place": {"$in": [int(Place.READY), int(Place.LATER)]}}
#: an `owner` that is no boot's epoch: its run goes to whoever asks for orphans first
NOBODY = 0.5
#: the `state` of what is gone, so that no question for another finds it
GONE_STATE = -1

#: what `with_prio` needs
RANKED_FIELDS = [
    "type",
    "prio",
    "expire_at",
    "options",
    "crc32c",
    "data",
    "data_long",
    "data_bytes",
    "data_bulk",
    "data_crc32c",
]
_ENTRY_FIELDS = ["order", "type", "prio", "group"]


def new_document(job: Accepted, node: str, mark: int, now: float) -> Document:
    """Return a new job's document, but for its data and its claim."""
    is_later = job.due_at > now and not job.claimed_at
    document: Document = {
        "_id": job.id,
        "order": job.order,
        "node": node,
        "place": int(Place.LATER if is_later else Place.READY),
        "state": int(State.DELAYED if is_later else State.NEW),
        "type": job.type,
        "prio": job.prio,
        "attempt": 0,
        "mark": mark,
        "crc32c": checksum(job.order, job.type, job.prio, job.data, job.id, job.expire_at, job.options, job.resource),
    }
    optional: Document = {"due_at": job.due_at or None, "expire_at": job.expire_at, "options": job.options}
    optional |= {"accepted_at": job.accepted_at or None, "resource": job.resource, "group": job.group}
    if job.unique is not None:
        optional |= {"unique": job.unique, "pair": key_of(job)}
    document.update((name, value) for name, value in optional.items() if value is not None)
    if is_later:
        document["wake_at"] = job.due_at
    if len(job.data) > LISTED_BYTES:
        document["data_bytes"] = len(job.data)
    return document


def key_of(job: Accepted) -> str:
    """Return under what the key of a job is taken that has one: no type has a null character."""
    assert job.unique is not None, "it has one"
    return pair_named(job.type, job.unique)


def pair_named(type_: str, unique: str) -> str:
    """Return the name of a type's key."""
    return f"{type_}\0{unique}"


def waits(document: Mapping[str, Any]) -> bool:
    """Tell whether the job is to run, and does not yet."""
    return document["place"] in (Place.READY, Place.LATER)


def is_intact(document: Mapping[str, Any], data: bytes | None) -> bool:
    """Tell whether the document is what was accepted, with `data`: None if that is damaged or missing."""
    if data is None:
        return False
    if "crc32c" not in document:
        return True
    order, type_, prio = (document.get(name, 0) for name in ("order", "type", "prio"))
    try:
        more = (document.get(name) for name in ("expire_at", "options", "resource"))
        found = checksum(order, type_, prio, data, document["_id"], *more)
    except TypeError:  # damage made another type of a field
        return False
    return bool(found == document["crc32c"])


def with_prio(document: Mapping[str, Any], prio: int, data: bytes | None) -> Document:
    """Return the fields that another priority changes; {} if the document is damaged, and does not tell.

    Args: data: where the document does not say how long it is.
    """
    try:
        length = document["data_bytes"] if data is None else len(data)
        rest = document["_id"], document.get("expire_at"), document.get("options")
        change = reranked(document["type"], document["prio"], prio, length, *rest)
        return {"prio": prio, "crc32c": document["crc32c"] ^ change}
    except (KeyError, TypeError):
        return {}


def claimed(epoch: int, mark: int, *, held: bool) -> Document:
    """Return the fields that a claim sets."""
    fields: Document = {"place": int(Place.RUNNING), "owner": epoch, "epoch": epoch, "mark": mark}
    return fields | {"held": True} if held else fields


def named(field: str, value: bytes) -> Document:
    """Return `data` or `result` under the name that its length gives it."""
    return {field if len(value) <= LISTED_BYTES else f"{field}_long": value}


def a_begin(worker: str, at: float) -> Document:
    """Return what `begun` says of a claim."""
    return {"worker": worker, "at": at}


def an_end(attempt: int, at: float, word: str, error: str | None) -> Document:
    """Return what `done` says of a run."""
    end: Document = {"attempt": attempt, "at": at, "word": word}
    return end if error is None else end | {"error": error}


def pushed(item: Document) -> Document:
    """Return the operand that appends to a list of runs."""
    return {"$each": [item], "$slice": -MAX_RUNS}


def unbegun(attempt: int, returned: int) -> Document:
    """Return the parts of an update after which an attempt is as if it had never begun, nor been claimed.

    returned: how many before it were so, too.
    """
    earlier = min(attempt - returned, MAX_RUNS) - 1
    return {"$inc": {"returned": 1}, "$push": {"begun": {"$each": [], "$slice": earlier}}}


def state_of(document: Mapping[str, Any]) -> State:
    """Return the state that the port knows."""
    return State.PROCESSING if document["place"] == Place.RUNNING else State(document["state"])


def is_there(now: float, replaceable: list[Document]) -> Document:
    """Return the condition for records that are neither gone nor over. Who has none of their ids has a new job (insert.py).

    Args: replaceable: as Servers'.
    """
    is_not_over = {"$or": [{"drop_at": {"$not": {"$lte": now}}}, {"$nor": replaceable}]}
    return {"place": {"$ne": int(Place.GONE)}, **is_not_over}


def entry_fields(body_bytes: int | None) -> list[str]:
    """Return the fields that `entry_of` needs; body_bytes: as for Store.ready."""
    if body_bytes is None:
        return _ENTRY_FIELDS
    return [*_ENTRY_FIELDS, "options", "data"]


def entry_of(document: Mapping[str, Any], body_bytes: int | None) -> Entry:
    """Return what the broker is told; body_bytes: as for Store.ready."""
    data = document.get("data", document.get("data_long"))
    if data is not None and (body_bytes is None or len(data) > body_bytes):
        data = None
    return Entry(
        document["order"],
        document["_id"],
        document["type"],
        document["prio"],
        None,
        document.get("options"),
        data,
        document.get("group"),
    )


def claim_of(document: Mapping[str, Any]) -> Claim:
    """Return the claim of the run that the document says is in progress, or was last."""
    return Claim(document["order"], document["_id"], document["attempt"], document["epoch"])


def run_of(document: Mapping[str, Any], data: bytes, handle: object = None) -> Run:
    """Return the run that the document says is in progress."""
    return Run(
        claim_of(document),
        document["type"],
        document["prio"],
        data,
        document.get("options"),
        document.get("failures", 0),
        document.get("ghosts", 0),
        document.get("interrupted", 0),
        began_at(document),
        document.get("expire_at"),
        handle,
        document.get("returned", 0),
        document["state"],
        document.get("held", False),
        document.get("progress"),
        document.get("resource"),
        is_cancelled="cancel_at" in document,
        group=document.get("group"),
        batch=said(document),
    )


def record_of(document: Mapping[str, Any], data: bytes | None, result: bytes | None) -> JobRecord:
    """Return all that the document says of a job."""
    return JobRecord(
        order=document["order"],
        id=document["_id"],
        type=document["type"],
        state=state_of(document),
        prio=document["prio"],
        due_at=document.get("due_at") or 0.0,
        expire_at=document.get("expire_at"),
        data=data,
        options=document.get("options"),
        attempt=_attempt(document),
        failures=document.get("failures", 0),
        ghosts=document.get("ghosts", 0),
        interrupted=document.get("interrupted", 0),
        accepted_at=document.get("accepted_at", instant_of(document["order"])),
        ended_at=document.get("ended_at"),
        drop_at=document.get("drop_at"),
        result=result,
        error=document.get("error"),
        runs=_runs(document),
        epoch=document.get("epoch") if document["place"] in (Place.RUNNING, Place.ENDED) else None,
        progress=document.get("progress"),
        unique=document.get("unique"),
        group=document.get("group"),
        resource=document.get("resource"),
        cancel_at=document.get("cancel_at") if document["place"] == Place.RUNNING else None,
        after=after_of(document),
        awaits=awaits_of(document),
        batch=document.get("batch"),
    )


def began_at(document: Mapping[str, Any]) -> float:
    """Return when the last run began, in Unix seconds."""
    began: float = _begin_of(document["begun"][-1])[1]
    return began


def parked_key(resource: str, prio: int, order: int) -> str:
    """Return the place of a parked job. What no name of a resource holds ends it, so that each has its own stretch."""
    return f"{resource}\x01{prio:010d}{order:020d}"


def parked_keys(resource: str) -> tuple[str, str]:
    """Return between which texts the places of a resource are."""
    return (f"{resource}\x01", f"{resource}\x02")


def parked_name(key: str) -> str:
    """Return the resource that a parked job waits for."""
    return key.partition("\x01")[0]


def _attempt(document: Mapping[str, Any]) -> int:
    attempt: int = document["attempt"] - document.get("returned", 0)
    return attempt


def _runs(document: Mapping[str, Any]) -> list[RunRecord]:
    """Join what began with what ended. A run that nobody was told of (its claim's answer was lost) is none."""
    done = {end[0]: end for end in map(_end_of, document.get("done", ()))}
    runs: list[RunRecord] = []
    begun, last = document.get("begun", []), _attempt(document)
    for attempt, (worker, started_at) in enumerate(map(_begin_of, begun), last - len(begun) + 1):
        if attempt in done:
            _, ended_at, word, error = done[attempt]
            runs.append(RunRecord(attempt, worker, started_at, ended_at, word, error))
        elif document["place"] == Place.RUNNING and attempt == last:
            runs.append(RunRecord(attempt, worker, started_at))
    return runs


def _begin_of(item: Any) -> tuple[str, float]:
    worker, at = item if isinstance(item, list) else (item["worker"], item["at"])
    return worker, at


def _end_of(item: Any) -> tuple[int, float, str, str | None]:
    if isinstance(item, list):
        attempt, at, word, error = item
        return attempt, at, word, error
    return item["attempt"], item["at"], item["word"], item.get("error")


def made_before(node: str, order: int) -> Document:
    """Return the condition for jobs of a node's journal that came before an order there.

    One that was retried has an order of whichever server was asked for that, which tells nothing of its journal.
    """
    return {"node": node, "$or": [{"born": None, "order": {"$lt": order}}, {"born": {"$lt": order}}]}
