"""Recording how runs ended: one bulk write, in which equal ends are one update, and a look when one of them was refused."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from pymongo import UpdateMany

from kqs.job import Claim, Report
from kqs.states import ENDED, State
from kqs.store.ends import OF_CANCELLED
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import RANKED_FIELDS, Place, an_end, named, pushed, unbegun, with_prio
from kqs.store.mongo.resources import Resources
from kqs.store.mongo.session import Session

_NO_RANK: Mapping[str, Any] = MappingProxyType({})
#: reports whose answer was lost and that did not come again, which are known: whoever asked for them may have given up
MOST_DOUBTED = 100_000
#: what decides over a report: job, which of those with its id, attempt, epoch
_Fence = tuple[str, int, int, int]


class _Judged(NamedTuple):
    """What reports have become. taken: of now, or of an attempt whose answer was lost. verdicts: what is answered to each.

    anew: which are to be judged anew, since their jobs were cancelled.
    """

    taken: Sequence[Report]
    verdicts: list[bool | None]
    anew: Collection[_Fence] = ()


class Reporter:
    """Applies reports for one server; one batch at a time.

    A report whose answer was lost may come again, in a batch like that or in another, or never: until it does, the marks of
    its attempts are known.
    """

    def __init__(self, session: Session, resources: Resources) -> None:
        self._session = session
        self._resources = resources
        self._doubted: dict[_Fence, set[int]] = {}

    async def report(self, reports: Sequence[Report]) -> list[bool | None]:
        """See Store.report."""
        if not reports:
            return []
        first = {_fence(one.claim): one for one in reversed(reports)}
        async with self._session.marking(partial(self._doubt, first)) as mark:
            results = await self._with_bulk_results(list(first.values()))
            ranks = await self._ranks(list(first.values()))
            aside = self._resources.aside(first.values())
            updates = _updates(list(first.values()), results, ranks, aside, mark, self._session.epoch)
            written = await self._session.jobs.bulk_write(updates, ordered=False)
            if written.matched_count == len(first) == len(reports):
                judged = _Judged(reports, [True] * len(reports))
            else:
                judged = await self._judged(reports, mark)
            await self._resources.over([one for fence, one in first.items() if fence not in judged.anew], aside)
        if self._doubted:
            for fence in first:
                self._doubted.pop(fence, None)
        self._session.tallies.remove([(one.type, State.PROCESSING) for one in judged.taken])
        self._session.tallies.add([(one.type, one.state) for one in judged.taken])
        if self._session.noted.is_used:
            self._session.noted.note([one.claim.id for one in judged.taken if one.state in ENDED])
        return judged.verdicts

    def _doubt(self, fences: Iterable[_Fence], mark: int) -> None:
        for fence in fences:
            self._doubted.setdefault(fence, set()).add(mark)
        while len(self._doubted) > MOST_DOUBTED:
            del self._doubted[next(iter(self._doubted))]

    async def _with_bulk_results(self, reports: list[Report]) -> dict[str, Document]:
        """Store long results; return by job id the fields that name them."""
        results: dict[str, Document] = {}
        for one in reports:
            if (stored := await put_result(self._session, one)) is not None:
                results[one.claim.id] = stored
        return results

    async def _ranks(self, reports: list[Report]) -> dict[str, Document]:
        """Return by job id the fields that change with the priority, of jobs that get another and are not damaged."""
        prios = {one.claim.id: one.prio for one in reports if one.prio is not None}
        if not prios:
            return {}
        found = await self._session.find(list(prios), {"crc32c": {"$exists": True}}, RANKED_FIELDS)
        ranks: dict[str, Document] = {}
        for document in found:
            data = None if "data_bytes" in document else await self._session.bulk.get("data", document)
            ranks[document["_id"]] = with_prio(document, prios[document["_id"]], data)
        return {job_id: rank for job_id, rank in ranks.items() if rank}

    async def _judged(self, reports: Sequence[Report], mark: int) -> _Judged:
        """Look at what the write has made of reports. Of a deleted job no run goes on here."""
        fields = ["order", "place", "attempt", "epoch", "mark", "cancel_at", "owner"]
        found = await self._session.find([one.claim.id for one in reports], {}, fields)
        documents = {document["_id"]: document for document in found}
        taken: dict[_Fence, Report] = {}
        anew: set[_Fence] = set()
        deleted: list[str] = []
        verdicts: list[bool | None] = []
        for one in reports:
            fence, document = _fence(one.claim), documents.get(one.claim.id)
            if document is None or fence != _fence_of(document):
                verdicts.append(False)
                continue
            if is_taken := document["mark"] in (mark, *self._doubted.get(fence, ())) and fence not in taken:
                taken[fence] = one
            if is_cancelled := _is_of_cancelled(document, one):
                anew.add(fence)
            elif one.by_watcher and document.get("owner", self._session.epoch) != self._session.epoch:
                self._resources.forget([one.claim])  # another server watches over it
            elif document["place"] == Place.GONE and "owner" in document:
                deleted.append(one.claim.id)
            is_repeated = one.state in ENDED and document["place"] == Place.ENDED
            verdicts.append(None if is_cancelled else is_taken or is_repeated)
        if deleted:
            is_over = {"_id": {"$in": deleted}, "owner": self._session.epoch, "place": int(Place.GONE)}
            await self._session.jobs.update_many(is_over, {"$unset": {"owner": ""}})
        return _Judged(list(taken.values()), verdicts, anew)


def _is_of_cancelled(document: Document, one: Report) -> bool:
    """Tell whether a run goes on whose job was cancelled, and its report does not know that."""
    return document["place"] == Place.RUNNING and "cancel_at" in document and one.state not in OF_CANCELLED


async def put_result(session: Session, one: Report) -> Document | None:
    """Store the result if it is long; return the fields that name it then."""
    if one.result is None or len(one.result) <= session.bulk_bytes:
        return None
    return await session.bulk.put("result", one.claim.id, one.result)


def end_new(document: Document, one: Report, bulk_result: Document | None) -> None:
    """Make of the document of a job that is about to be stored as claimed what a report of its end would."""
    assert one.has_begun, "what is told of a run that never began is no end of one"
    assert one.state in ENDED
    change = _change(one, bulk_result, document["mark"])
    document.update(change["$set"])
    for name in change["$unset"]:
        document.pop(name, None)
    for name, pushing in change["$push"].items():
        document[name] = pushing["$each"]


def _fence(claim: Claim) -> _Fence:
    return (claim.id, claim.order, claim.attempt, claim.epoch)


def _fence_of(document: Document) -> tuple[str, int, int, int | None]:
    return (document["_id"], document["order"], document["attempt"], document.get("epoch"))


def _updates(
    reports: Sequence[Report],
    results: dict[str, Document],
    ranks: dict[str, Document],
    aside: Mapping[str, str],
    mark: int,
    epoch: int,
) -> list[UpdateMany]:
    """Return one update for all reports that differ in nothing but their job."""
    alike: dict[Hashable, list[Claim]] = {}
    first: dict[Hashable, Report] = {}
    for one in reports:
        content = one.claim.id if one.claim.id in ranks or one.claim.id in aside else _content(one, results)
        alike.setdefault(content, []).append(one.claim)
        first.setdefault(content, one)
    return [
        UpdateMany(
            _are_running(alike[content], is_any=one.state in OF_CANCELLED) | ({"owner": epoch} if one.by_watcher else {}),
            _in_line(_change(one, results.get(one.claim.id), mark, ranks.get(one.claim.id, {})), aside.get(one.claim.id)),
        )
        for content, one in first.items()
    ]


def _in_line(change: Document, parked: str | None) -> Document:
    """Return the update of a job that waits again at once: parked in this place, where that is not None."""
    if parked is not None:
        change["$set"] |= {"place": int(Place.LATER), "parked": parked}
    return change


def _are_running(claims: Sequence[Claim], *, is_any: bool) -> Document:
    """Return the condition for jobs of one attempt and epoch that are running. No two jobs of a batch share id or order.

    Args: is_any: those that were cancelled as well.
    """
    not_cancelled: Document = {} if is_any else {"cancel_at": None}
    return not_cancelled | {
        "_id": {"$in": [claim.id for claim in claims]},
        "order": {"$in": [claim.order for claim in claims]},
        "attempt": claims[0].attempt,
        "epoch": claims[0].epoch,
        "place": int(Place.RUNNING),
    }


def _content(one: Report, results: dict[str, Document]) -> Hashable:
    if one.claim.id in results:
        return one.claim.id
    fence = (one.claim.attempt, one.claim.epoch)
    end = (one.state, one.run_state, one.ended_at, one.due_at, one.drop_at, one.result, one.error, one.has_begun)
    return (fence, end, one.failures, one.ghosts, one.interrupted, one.returned, one.by_watcher, one.progress)


def _change(one: Report, bulk_result: Document | None, mark: int, rank: Mapping[str, Any] = _NO_RANK) -> Document:
    if not one.has_begun:
        return _change_unbegun(one, mark)
    fields: Document = {
        "state": int(one.state),
        "mark": mark,
        "failures": one.failures,
        "ghosts": one.ghosts,
        "interrupted": one.interrupted,
        "owner": None,
        "held": None,
        "called": None,
        "error": one.error,
        "cancel_at": None,
        "cancel_mark": None,
        **(_ended(one, bulk_result) if one.state in ENDED else _waiting(one)),
    }
    if one.progress is not None:
        fields["progress"] = one.progress or None
    change: Document = {
        "$set": {name: value for name, value in fields.items() if value is not None} | dict(rank),
        "$unset": {name: "" for name, value in fields.items() if value is None},
        "$push": {"done": pushed(an_end(one.claim.attempt - one.returned, one.ended_at, one.run_state, one.error))},
    }
    return change


def _change_unbegun(one: Report, mark: int) -> Document:
    """Return the update that takes a claim out of the record again; the place and state that it waited in stand there still."""
    fields: Document = {"mark": mark, "place": int(Place.READY)}
    if one.state in ENDED:
        end = {**_ended(one, None), "state": int(one.state), "error": one.error}
        fields |= {name: value for name, value in end.items() if value is not None}
    unset = ["owner", "held", "called", "cancel_at", "cancel_mark", *(["pair", "pends"] if one.state in ENDED else [])]
    if one.progress:
        fields["progress"] = one.progress
    elif one.progress is not None:
        unset.append("progress")
    return {"$set": fields, "$unset": dict.fromkeys(unset, ""), **unbegun(one.claim.attempt, one.returned)}


def _ended(one: Report, bulk_result: Document | None) -> dict[str, Any]:
    end: dict[str, Any] = {
        "place": int(Place.ENDED),
        "ended_at": one.ended_at,
        "drop_at": one.drop_at,
        "pair": None,
        "pends": None,
    }
    if bulk_result is not None:
        return end | bulk_result
    return end if one.result is None else end | named("result", one.result)


def _waiting(one: Report) -> dict[str, Any]:
    return {
        "place": int(Place.LATER if one.due_at else Place.READY),
        "due_at": one.due_at or None,
        "wake_at": one.due_at or None,
    }
