"""Jobs that need a resource: of all that name the same, one runs at a time, whichever servers they are on.

A resource that anybody has or waits for has one document in `locks`, its *line*:

    _id       the resource
    job, order, attempt, epoch   who has it; without them it is open: whoever is called may take it. Some older servers wrote
              no order
    open      a number of whoever opened it
    waited    jobs may be parked for it, so that who has it must not just delete the line

A job in the line is *parked* (`parked` tells its rank, which an index sorts), or *called*: ready, the resource in `called`.
Who is neither may have the resource only where there is no line, or as one who comes before all who are called. The order of
steps keeps this true whoever dies between two:

1. A claim comes before its line. So a line whose job does not run under that claim is over, and anybody may open it. But where
   the job was deleted as it ran, the run has the line until it is reported, as long as who watches over it, `owner`, lives.
2. Who parks a job sets `waited` after that; who gives a resource back looks for parked jobs after it has opened the line, and
   deletes the line only if nobody has set `waited` since. So one of the two sees the other.
3. What a death leaves, an open line without a called job or a parked job without a line, the eldest server finds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pymongo import UpdateOne

from kqs.job import Accepted, Claim, Entry, Report
from kqs.states import WAITING, State
from kqs.store.base import Holder
from kqs.store.mongo.calling import SLICE, Calling
from kqs.store.mongo.client import Document, write_unless_taken
from kqs.store.mongo.documents import (
    NOBODY,
    Place,
    began_at,
    claim_of,
    parked_key,
    unbegun,
)
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session

_BEFORE_ALL = (-1, -1)
_RUNS: Document = {"place": int(Place.RUNNING)}
_FENCE = ("job", "order", "attempt", "epoch")


class _Held(NamedTuple):
    """A claim that has its resource."""

    resource: str
    job: str
    attempt: int
    epoch: int
    prio: int
    order: int

    @property
    def line(self) -> Document:
        return dict(zip(("_id", *_FENCE), (self.resource, self.job, self.order, self.attempt, self.epoch), strict=True))

    @property
    def fence(self) -> Document:
        """The condition for its line. A new job may have the id of one that was deleted, and the same attempt."""
        return self.line | {"order": {"$in": [self.order, None]}}

    @property
    def claim(self) -> Claim:
        return Claim(self.order, self.job, self.attempt, self.epoch)


class Resources:
    """See the module docstring. For one server."""

    def __init__(self, session: Session, servers: Servers, tell: Callable[[list[Entry]], None]) -> None:
        """Args: tell: given jobs that were called."""
        self._session = session
        self._jobs = session.jobs
        self._locks = session.locks
        self._held: dict[Claim, _Held] = {}  # what our runs have, and those that were found with dead servers
        self._servers = servers
        #: those who wait
        self.calls = Calling(session, servers, tell)
        self._swept_line = ""

    async def stand_new(self, jobs: Sequence[Accepted]) -> dict[str, Accepted]:
        """Find out which of these jobs may have their resource, before they are stored: the others are to be parked.

        Returns: by resource, the job that is to be stored as called. `joined` follows.
        """
        groups: defaultdict[str, list[Accepted]] = defaultdict(list)
        for job in jobs:
            groups[job.resource or ""].append(job)
        names = list(groups)
        opened = await self.calls.open(names, [name for name in names if len(groups[name]) > 1])
        return {name: min(groups[name], key=lambda job: (job.prio, job.order)) for name in opened}

    async def joined(self, stored: Iterable[Mapping[str, Any]], called: Mapping[str, Accepted], *, is_doubted: bool) -> None:
        """Take in which jobs were stored after `stand_new`. is_doubted: an earlier attempt may have opened their lines."""
        documents = [document for document in stored if "called" in document or "parked" in document]
        there = {document["called"] for document in documents if "called" in document}
        waiting = {document["resource"] for document in documents if "parked" in document}
        self.calls.called([document for document in documents if "called" in document])
        for name in called.keys() - there:  # it was known
            await self.calls.hand_on(name)
        await self.calls.wait_for(waiting - called.keys())
        if is_doubted:
            for name in waiting - there:
                await self.calls.hand_on(name)

    async def take(self, documents: Sequence[Document]) -> list[Document]:
        """Let jobs that were just claimed have their resources; return those that may not, which are parked."""
        wanting: defaultdict[str, list[Document]] = defaultdict(list)
        for document in documents:
            wanting[document["resource"]].append(document)
        firsts = {name: min(group, key=_rank_of) for name, group in wanting.items()}
        granted = await self._take(list(firsts.values()))
        refused_names = [name for name, first in firsts.items() if first["_id"] not in granted and "called" not in first]
        if passed_over := [one for name in refused_names if (one := _first_called(wanting[name])) is not None]:
            granted |= await self._take(passed_over)
        refused = [document for document in documents if document["_id"] not in granted]
        if refused:
            await self._park(refused)
        held = [_held(document) for document in documents if document["_id"] in granted]
        self._held.update((one.claim, one) for one in held)  # not before: a claim that fails is undone, and never reported
        return refused

    async def _take(self, firsts: Sequence[Document]) -> set[str]:
        """Make these the holders of their lines, no two of one; return who is. Who is called finds one, the others make it.

        Where there is an open one, the others may have it only if they come before all who are called: then they were on their
        way to a lane before these were.
        """
        called = [one for one in firsts if "called" in one]
        doubtful = called
        granted: set[str] = set()
        if len(called) < len(firsts):
            free = [one for one in firsts if "called" not in one]
            taken = await write_unless_taken(self._locks.insert_many([_held(one).line for one in free], ordered=False))
            granted = {one["_id"] for index, one in enumerate(free) if index not in taken}
            others = [free[index] for index in sorted(taken)]
            called = [*called, *await self._before_all_called(others)]
            doubtful = [*doubtful, *others]
        if called:
            writes = [UpdateOne({"_id": one["resource"], "job": None}, _taking(_held(one))) for one in called]
            await self._locks.bulk_write(writes, ordered=False)
        if doubtful:
            granted |= await self._recognise(doubtful)
        return granted

    async def _before_all_called(self, documents: Sequence[Document]) -> list[Document]:
        """Return those of these jobs for whose resource others are called, all of which come after them."""
        if not documents:
            return []
        found = self._jobs.find({"called": {"$in": [one["resource"] for one in documents]}}, ["called", "prio", "order"])
        first: dict[str, tuple[int, int]] = {}
        for other in await found.to_list(None):
            first[other["called"]] = min(_rank_of(other), first.get(other["called"], _rank_of(other)))
        return [one for one in documents if _rank_of(one) < first.get(one["resource"], _BEFORE_ALL)]

    async def _recognise(self, documents: list[Document]) -> set[str]:
        """Return which of these jobs have their resource. A line that names an older claim of the job is its own."""
        names = [document["resource"] for document in documents]
        lines = {line["_id"]: line async for line in self._locks.find({"_id": {"$in": names}}, list(_FENCE))}
        granted: set[str] = set()
        for document in documents:
            held, line = _held(document), lines.get(document["resource"])
            if line is None:
                if "called" in document and not await write_unless_taken(self._locks.insert_many([held.line])):
                    granted.add(held.job)
            elif line.get("job") == held.job and line.get("order") in (held.order, None):
                older = {name: line.get(name) for name in ("_id", *_FENCE)}
                if older == held.line or (await self._locks.update_one(older, _taking(held))).matched_count:
                    granted.add(held.job)
        return granted

    async def _park(self, documents: Sequence[Document]) -> None:
        """Give claims back that were granted to no run, and wait for the resources."""
        written = await self._jobs.bulk_write([_parking(document) for document in documents], ordered=False)
        if others := len(documents) - written.matched_count:
            cancelled = await self._leave_cancelled(documents)
            if cancelled < others:
                self._session.tallies.doubt()  # another server has deleted some at once, as runs
        await self.calls.wait_for({document["resource"] for document in documents})

    async def _leave_cancelled(self, documents: Sequence[Document]) -> int:
        """Leave those of these claims to `orphans` whose jobs were cancelled meanwhile: they are to end, not to wait again.

        Returns: how many.
        """
        were_cancelled = {"mark": documents[0]["mark"], **_RUNS, "cancel_at": {"$gt": 0.0}}
        ids = [document["_id"] for document in documents]
        await self._jobs.update_many({"_id": {"$in": ids}, **were_cancelled}, {"$set": {"owner": NOBODY}})
        left = await self._session.find(ids, were_cancelled, ["type", "state"])
        self._session.tallies.remove([(one["type"], one["state"]) for one in left])
        self._session.tallies.add([(one["type"], State.PROCESSING) for one in left])
        return len(left)

    def aside(self, reports: Iterable[Report]) -> dict[str, str]:
        """Return by job what those are parked as that wait again at once after a run."""
        if not self._held:
            return {}
        return {
            one.claim.id: parked_key(held.resource, held.prio if one.prio is None else one.prio, held.order)
            for one in reports
            if (held := self._held.get(one.claim)) is not None and one.state in WAITING and not (one.due_at and one.has_begun)
        }

    async def over(self, reports: Iterable[Report], aside: Mapping[str, str]) -> None:
        """Free the resources of runs that are over, were their jobs deleted before; those `aside` are parked."""
        if not self._held:
            return
        ended = [held for one in reports if (held := self._held.get(one.claim)) is not None]
        await self._free(ended, aside)
        self.forget([held.claim for held in ended])

    def found(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Take in running jobs that may be reported from here, though they were claimed elsewhere."""
        for document in documents:
            if document.get("resource") is not None:
                held = _held(document)
                self._held[held.claim] = held

    def has(self, claim: Claim) -> bool:
        """Tell whether a run that is to be reported from here has a resource."""
        return claim in self._held

    def forget(self, claims: Iterable[Claim]) -> None:
        """Take in that these runs are over, or others watch over them."""
        for claim in claims:
            self._held.pop(claim, None)

    async def gone(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Hand on what jobs had, or were called for, that ended with no report. `documents`: as they stood before."""
        ran = [one for one in documents if one.get("resource") is not None and one["place"] == Place.RUNNING]
        await self._free([_held(one) for one in ran if "epoch" in one], {})
        for name in {one["called"] for one in documents if "called" in one}:
            await self.calls.hand_on(name)

    async def _free(self, ended: Sequence[_Held], aside: Mapping[str, str]) -> None:
        alone: defaultdict[tuple[int, int], list[_Held]] = defaultdict(list)
        for held in ended:
            if held.job not in aside:
                alone[(held.attempt, held.epoch)].append(held)
        deleted = 0
        for (attempt, epoch), group in alone.items():
            names, ids = [held.resource for held in group], [held.job for held in group]
            orders = {"$in": [None, *(held.order for held in group)]}
            fence: Document = {"_id": {"$in": names}, "job": {"$in": ids}, "order": orders, "attempt": attempt, "epoch": epoch}
            fence["waited"] = None
            deleted += (await self._locks.delete_many(fence)).deleted_count
        if deleted == len(ended):
            return
        async with self._session.marking() as mark:
            opening = {"$set": {"open": mark}, "$unset": dict.fromkeys(_FENCE, "")}
            await self._locks.bulk_write([UpdateOne(held.fence, opening) for held in ended], ordered=False)
            names = [held.resource for held in ended]
            opened = self._locks.find({"_id": {"$in": names}, "open": mark}, ["_id"])
            for line in await opened.to_list(None):
                await self.calls.hand_on(line["_id"])

    async def sweep(self) -> None:
        """Put right what deaths and lost answers have left, in a slice of the lines."""
        found = self._locks.find({"_id": {"$gt": self._swept_line}}).sort("_id", 1)
        lines = await found.limit(SLICE).to_list(None)
        self._swept_line = lines[-1]["_id"] if len(lines) == SLICE else ""
        await self._sweep_held([line for line in lines if "job" in line])
        await self.calls.sweep(lines, are_last=not self._swept_line)

    async def _sweep_held(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Open lines whose job does not run under the claim that they name: it never will again.

        The run of one that was deleted does so, as long as somebody who lives watches over it.
        """
        if not lines:
            return
        of_runs = {"$or": [_RUNS, {"place": int(Place.GONE), "owner": {"$gt": 0}}]}
        fields = ["order", "attempt", "epoch", "place", "owner"]
        found = await self._session.find([line["job"] for line in lines], of_runs, fields)
        living = await self._servers.living() if any(one["place"] == Place.GONE for one in found) else set()
        running = [one for one in found if one["place"] == Place.RUNNING or one["owner"] in living]
        over = _without(set(map(claim_of, running)), lines)
        if over:  # a new job may stand where it said of a deleted one who watches over its run
            over = _without(await self._servers.called_off_claims(), over)
        held = [(line["_id"], line["job"], line["attempt"], line["epoch"], 0, line.get("order", 0)) for line in over]
        await self._free([_Held(*one) for one in held], {})

    async def holder(self, resource: str) -> Holder | None:
        """See Store.holder."""
        line = await self._locks.find_one({"_id": resource, "job": {"$gte": ""}})
        if line is None:
            return None
        runs = {"place": {"$in": [int(Place.RUNNING), int(Place.GONE)]}}  # or did, as its job was deleted
        is_it = {"_id": line["job"], **runs, "attempt": line["attempt"], "epoch": line["epoch"]}
        document = await self._jobs.find_one(is_it, ["begun"])
        return None if document is None else Holder(line["job"], began_at(document))


def _rank_of(document: Mapping[str, Any]) -> tuple[int, int]:
    return (document["prio"], document["order"])


def _first_called(group: Sequence[Document]) -> Document | None:
    """Return the first of a resource's claims that is called; None: none is."""
    return min((one for one in group if "called" in one), key=_rank_of, default=None)


def _held(document: Mapping[str, Any]) -> _Held:
    return _Held(*(document[name] for name in ("resource", "_id", "attempt", "epoch", "prio", "order")))


def _without(claims: Collection[Claim], lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those of some lines that name none of these claims, as far as they tell."""
    known = {(order, claim.id, claim.attempt, claim.epoch) for claim in claims for order in (claim.order, None)}
    return [line for line in lines if (line.get("order"), line["job"], line["attempt"], line["epoch"]) not in known]


def _taking(held: _Held) -> Document:
    """Return the update that makes it the holder of a line."""
    return {"$set": {name: held.line[name] for name in _FENCE}, "$unset": {"open": ""}}


def _parking(document: Mapping[str, Any]) -> UpdateOne:
    """Return the update that parks a job which we have claimed; the claim is as if it had not been."""
    return UpdateOne(
        {"_id": document["_id"], "mark": document["mark"], "place": int(Place.RUNNING), "cancel_at": None},
        {
            "$set": {
                "place": int(Place.LATER),
                "parked": parked_key(document["resource"], document["prio"], document["order"]),
            },
            "$unset": {"owner": "", "held": "", "called": "", "due_at": ""},
            **unbegun(document["attempt"], document.get("returned", 0)),
        },
    )
