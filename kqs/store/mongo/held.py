"""What documents say of jobs that wait for others, and of batches.

    after, after_any_end   the jobs that it waits for, or waited for
    hold      while it is held: text that sorts by age
    awaits    while it is held: the ids of those that it waits for still, `@` and its own where it is a `then`; or UNREADY: its
              insert is not done; or DOOMED: it has waited in vain, for the reason in `why`; or FREE: for nothing any more
    let_due   while it is held: when it is due once it is let go
    batch     which batch it is a member of, or was; `member` is its own name in that
    pends     the batch again, until it has ended
    members   of a `then`: {open, last, reached, version}: more may come; the order of the last one of its own record; up to
              which order these are stored; a number that grows with whatever changes who is a member, or where that stands
    tally     of a `then` whose batch is complete: {count, success, fail, cancelled, deleted}

No job's id is like what begins with these signs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kqs.job import Accepted, After, Tally
from kqs.states import State
from kqs.store.mongo.client import Document
from kqs.store.parents import told

UNREADY = "?"
DOOMED = "!"
FREE = "+"
_BATCH = "@"

#: what a job loses that is not held any more
OF_A_HOLD = ("hold", "awaits", "why", "let_due")
#: and one that ends
OF_THE_WAIT = ("wake_at", *OF_A_HOLD)
#: of a batch, how many members have ended in which way
COUNTS = ("success", "fail", "cancelled", "deleted")
COUNT_OF: dict[int, str] = {State.SUCCESS: "success", State.FAIL: "fail", State.CANCELLED: "cancelled"}


def held_fields(job: Accepted, node: str) -> Document:
    """Return what the document of such a job says beside others', as it is stored."""
    document: Document = {"hold": hold_key(job.order, node), "awaits": [UNREADY]}
    if job.after is not None:
        document["after"] = list(dict.fromkeys(job.after.ids))
        if job.after.is_any_end:
            document["after_any_end"] = True
    if job.due_at:
        document["let_due"] = job.due_at
    if job.members is not None:
        members = {"last": job.members.last_order, "reached": job.order, "version": 0}
        document["members"] = members | ({"open": True} if job.members.is_open else {})
    return document


def hold_key(order: int, node: str) -> str:
    """Return what `hold` says of a job."""
    return f"{order:020d}{node}"


def member_fields(batch_id: str, order: int, node: str) -> Document:
    """Return what the document of a member says beside others'."""
    return {"batch": batch_id, "member": f"{batch_id}\x01{order:020d}{node}", "pends": batch_id}


def sign_of(batch_id: str) -> str:
    """Return what stands for a batch among the jobs that are waited for."""
    return f"{_BATCH}{batch_id}"


def batch_of(sign: str) -> str | None:
    """Return the batch that this stands for; None: it is a job's id, or another sign."""
    return sign[1:] if sign.startswith(_BATCH) else None


def jobs_of(signs: Iterable[str]) -> list[str]:
    """Return those that are ids of jobs."""
    return [sign for sign in signs if sign[0] not in (_BATCH, UNREADY, DOOMED, FREE)]


def asks_of(document: Mapping[str, Any]) -> list[str]:
    """Return all that a job waits for that is held anew."""
    signs = list(document.get("after", ()))
    if "members" in document and "tally" not in document:
        signs.append(sign_of(document["_id"]))
    return signs


def after_of(document: Mapping[str, Any]) -> After | None:
    """Return the jobs that one waits for, or waited for."""
    if "after" not in document:
        return None
    return After(tuple(document["after"]), document.get("after_any_end", False))


def awaits_of(document: Mapping[str, Any]) -> list[str]:
    """Return the ids of the jobs that one waits for still, as far as is known."""
    signs = document.get("awaits", [])
    return list(document.get("after", [])) if UNREADY in signs else jobs_of(signs)


def tally_of(document: Mapping[str, Any], counts: Mapping[str, int] | None) -> Tally | None:
    """Return how the batch of a `then` stands. counts: as far as it is not complete."""
    found = document.get("tally", counts)
    if found is None:
        return None
    ended = {name: found.get(name, 0) for name in COUNTS}
    return Tally(document["_id"], found["count"], is_open="open" in document.get("members", {}), **ended)


def said(document: Mapping[str, Any]) -> bytes | None:
    """Return what the run of a `then` is told; None: it is none."""
    tally = tally_of(document, None)
    return None if tally is None else told(tally)
