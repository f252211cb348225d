"""What owners do with many jobs at once: cancel, retry, delete. One slice is one look, one bulk write, and a look at its work.

Each record is changed by one update, as it was found and not otherwise; what another server has changed meanwhile is looked at
anew. Of two servers that do the same at once, one counts each record: whose mark it bears.

A deleted record stays, unseen and uncounted, as long as a journal may bring its job back: an insert of its id is known, unless
that was accepted later. A job that takes its place remembers in `past` up to which order others' journals may do so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from pymongo import UpdateMany, UpdateOne

from kqs.job import Claim, Entry, instant_of
from kqs.states import Event, State, next_state
from kqs.store import change as bounds
from kqs.store.base import Change, Changed, News, Slice, Verb
from kqs.store.checksum import checksum
from kqs.store.keep import own_expire_s, own_keep_s
from kqs.store.mongo import retention, uniques, walk
from kqs.store.mongo.client import DRIVER_ERRORS, Document
from kqs.store.mongo.documents import (
    GONE_STATE,
    WAITS,
    Place,
    claim_of,
    is_there,
    made_before,
    pair_named,
    parked_key,
    state_of,
)
from kqs.store.mongo.follow import Follower
from kqs.store.mongo.held import OF_THE_WAIT, asks_of, hold_key
from kqs.store.mongo.resources import Resources
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session
from kqs.store.showing import most_shown

#: how often a slice looks again at what somebody else changed between its look and its write
_ROUNDS = 5
#: all that a deleted record need not tell
_NEEDLESS = [
    *("data", "data_long", "data_bytes", "data_bulk", "data_crc32c", "result", "result_long", "result_bulk", "result_crc32c"),
    *("begun", "done", "options", "progress", "error", "due_at", "wake_at", "expire_at", "crc32c", "accepted_at", "ended_at"),
    *("failures", "ghosts", "interrupted", "held", "cancel_at", "cancel_mark"),
    *("resource", "parked", "called", "unique", "pair"),
    *("hold", "awaits", "why", "let_due", "after", "after_any_end", "pends", "tally"),
]
#: and what a job that waits again must not
_OF_THE_END = [
    *("error", "result", "result_long", "result_bulk", "result_crc32c", "due_at", "wake_at", "ended_at", "drop_at", "epoch"),
    *("failures", "ghosts", "interrupted", "cancel_at", "cancel_mark", "batch", "member"),
]
_Attempt = tuple[Change, object | None]


class _Alike(NamedTuple):
    """What records have in common that one update changes. keep_s: None: for ever. run: attempt and epoch, of what runs."""

    place: int
    state: int
    keep_s: float | None
    run: tuple[int, int] | None


class Changer:
    """Changes for one server; one slice at a time. A slice that failed is repeated with the same change, or never."""

    def __init__(self, session: Session, servers: Servers, resources: Resources, follower: Follower) -> None:
        self._follower = follower
        self._session = session
        self._node = session.node
        self._resources = resources
        self._servers = servers
        #: of an attempt whose answer was lost: its marks, and what it was about to change
        self._doubted: tuple[_Attempt, list[int], dict[str, Document]] | None = None

    async def change(self, change: Change, after: object | None, first_order: int) -> Slice:
        """See Store.change. It is whole for each record."""
        session, doubted = self._session, self._doubts_of(change, after)
        at = walk.way(change, may_hold=session.noted.is_used) if after is None else after
        assert isinstance(at, walk.At), "what the last slice said"
        if (part := await self._settled(change, doubted, at)) is not None:
            return part
        asked = self._asked(change)
        is_read = change.verb is Verb.RETRY
        found, to_go_on = await walk.find(session, asked, change.wanted.match, at, change.slice_jobs, is_read=is_read)
        part = Slice([], [], [], to_go_on)
        part.skipped = [one["_id"] for one in found if _is_spared(change, one)]
        todo = [one for one in found if not _is_spared(change, one)] if part.skipped else found
        if change.is_dry:
            part.changed = [_changed(one) for one in todo]
            return part
        self._doubted = ((change, after), *doubted)
        for order, one in enumerate(todo, first_order):
            one["next_order"] = order
        orders = {one["_id"]: one["next_order"] for one in todo}
        changed: dict[str, Document] = {}
        for _ in range(_ROUNDS):
            changed.update(await self._write(change, todo, *doubted))
            left = [one["_id"] for one in todo if one["_id"] not in changed]
            if not left:
                break
            at = walk.way_to(left)
            again, _ = await walk.find(session, asked, change.wanted.match, at, len(left), is_read=is_read)
            for one in again:
                one["next_order"] = orders[one["_id"]]
            todo = [one for one in again if not _is_spared(change, one)]
        self._doubted = None
        await self._follow(change, part, changed)
        return part

    def _doubts_of(self, change: Change, after: object | None) -> tuple[list[int], dict[str, Document]]:
        if self._doubted is not None and self._doubted[0] == (change, after):
            return self._doubted[1], self._doubted[2]
        return [], {}

    async def _settled(self, change: Change, doubted: tuple[list[int], dict[str, Document]], at: walk.At) -> Slice | None:
        """Return what an attempt whose answer was lost has done, as a slice of its own; None: nothing."""
        marks, before = doubted
        if not marks:
            return None
        if not (done := await self._marked(marks, before)):
            return None
        self._doubted = None
        part = Slice([], [], [], at)
        await self._follow(change, part, done)
        return part

    async def _marked(self, marks: Sequence[int], before: Mapping[str, Document]) -> dict[str, Document]:
        """Return those of some records that bear one of these marks, as they were before."""
        ours = {"$in": list(marks)}
        found = await self._session.find(list(before), {"$or": [{"mark": ours}, {"cancel_mark": ours}]}, ["_id"])
        done = {one["_id"] for one in found}
        return {job_id: one for job_id, one in before.items() if job_id in done}

    def _asked(self, change: Change) -> list[Document]:
        fits: dict[Verb, Document] = {
            Verb.CANCEL: {"$or": [WAITS, {"place": int(Place.RUNNING), "cancel_at": None}]},
            Verb.RETRY: {
                "place": int(Place.ENDED),
                "state": {"$in": [int(State.FAIL), int(State.CANCELLED)]},
                "$or": self._ended_before(change),
            },
            Verb.DELETE: {},
        }
        there = is_there(self._session.now(), self._servers.replaceable)
        asked = (there, fits[change.verb], self._accepted_before(change), *walk.conditions(change.wanted))
        return [one for one in asked if one]

    def _accepted_before(self, change: Change) -> Document:
        """Return how what was accepted before this was asked for is told from the rest.

        What is retried gets an order of the server that was asked for that, in whoever's journal it stands. So its first one
        tells, but where it is to be retried, lest that be done twice.
        """
        if change.verb is Verb.RETRY:
            return {"$or": [{"order": {"$lt": change.before_order}}, {"node": {"$ne": self._node}}]}
        ends = {node: order + 1 for node, order in change.reached.items()} | {self._node: change.before_order}
        before = [made_before(node, end) for node, end in ends.items()]
        return {"$or": [*before, {"node": {"$nin": list(ends)}}]}  # nobody's who is not asked comes later

    def _ended_before(self, change: Change) -> list[Document]:
        """Return how what had ended when this was asked for is told from what was retried since, and has failed again.

        What has ended later than it is now did so by another clock, or before ours was set back: that says nothing. It is
        retried once, since whatever is gets an order behind those that are meant.
        """
        was_not_retried = [{"order": {"$lt": change.before_order}}, {"born": None}]
        return [{"ended_at": {"$lte": change.now}}, {"ended_at": {"$gt": self._session.now()}, "$or": was_not_retried}]

    async def _write(
        self, change: Change, found: list[Document], marks: list[int], before: dict[str, Document]
    ) -> dict[str, Document]:
        """Change these; return all that was, now or by an attempt whose answer was lost, as it was before, by id."""
        before.update((one["_id"], one) for one in found)
        if change.verb is not Verb.CANCEL:
            await self._follower.settle([one for one in found if one["place"] == Place.ENDED])
        async with self._session.marking(marks.append) as mark:
            is_first = not marks
            matched = 0
            if found:
                writes = self._updates(change, found, mark)
                matched = (await self._session.jobs.bulk_write(writes, ordered=False)).matched_count
            if is_first and matched == len(found):
                done = {one["_id"]: one for one in found}
            else:
                done = await self._marked([*marks, mark], before)
        marks.append(mark)
        return done

    def _updates(self, change: Change, found: list[Document], mark: int) -> list[UpdateOne | UpdateMany]:
        if change.verb is Verb.RETRY:
            self._servers.reach(max(one["next_order"] for one in found))
            return [self._revival(change, one, mark) for one in found]
        alike: defaultdict[_Alike, list[Document]] = defaultdict(list)
        for one in found:
            is_running = one["place"] == Place.RUNNING
            ends = change.verb is Verb.CANCEL and not is_running
            keep_s = own_keep_s(one.get("options"), change.keep.of(one["type"])) if ends else None
            run = (one["attempt"], one["epoch"]) if is_running else None
            alike[_Alike(one["place"], one["state"], keep_s, run)].append(one)
        return [self._update(change, kind, documents, mark) for kind, documents in alike.items()]

    def _update(self, change: Change, kind: _Alike, documents: list[Document], mark: int) -> UpdateMany:
        where: Document = {
            "_id": {"$in": [one["_id"] for one in documents]},
            "order": {"$in": [one["order"] for one in documents]},
            "place": kind.place,
            "state": kind.state,
        }
        if kind.run is not None:
            where["attempt"], where["epoch"] = kind.run
        if change.verb is Verb.DELETE:
            return UpdateMany(where, self._burial(change, mark, runs=kind.run is not None))
        if kind.run is not None:  # its mark stays: whoever has claimed it just now knows it by that
            return UpdateMany({**where, "cancel_at": None}, {"$set": {"cancel_at": change.now, "cancel_mark": mark}})
        return UpdateMany(where, _cancellation(change, kind, mark))

    def _burial(self, change: Change, mark: int, *, runs: bool) -> Document:
        gone: Document = {
            "place": int(Place.GONE),
            "state": GONE_STATE,
            "drop_at": change.now,
            "mark": mark,
            "gone_by": self._node,
            "gone_below": min(change.before_order, self._servers.fed_order + 1),
        }
        needless = [name for name in _NEEDLESS if not (runs and name == "begun")]
        return {"$set": gone, "$unset": dict.fromkeys(needless, "")}

    def _revival(self, change: Change, one: Document, mark: int) -> UpdateOne:
        order = one["next_order"]
        where = {name: one[name] for name in ("_id", "order", "place", "state", "attempt")}
        expire_s = own_expire_s(one.get("options"), change.expire.of(one["type"]))
        expire_at = None if expire_s is None else change.now + expire_s
        fields: Document = {
            "order": order,
            "place": int(Place.READY),
            "state": int(next_state(State(one["state"]), Event.REVIVE)),
            "mark": mark,
            "born": one.get("born", one["order"]),
            "accepted_at": one.get("accepted_at", instant_of(one["order"])),
        }
        unset = [*_OF_THE_END]
        if expire_at is None:
            unset.append("expire_at")
        else:
            fields["expire_at"] = expire_at
        if one.get("unique") is not None:
            fields["pair"] = pair_named(one["type"], one["unique"])
        if asks := asks_of(one):
            fields |= {"place": int(Place.LATER), "hold": hold_key(order, one["node"]), "awaits": asks}
        elif (resource := one.get("resource")) is not None:
            fields |= {"place": int(Place.LATER), "parked": parked_key(resource, one["prio"], order)}
        fields |= _rechecked(one, order, expire_at)
        one["revived"] = fields
        return UpdateOne(where, {"$set": fields, "$unset": dict.fromkeys(unset, "")})

    async def _follow(self, change: Change, part: Slice, changed: dict[str, Document]) -> None:
        """Tell and count what was changed, and take away what is not needed any more."""
        documents = list(changed.values())
        part.changed = [_changed(one) for one in documents]
        counted = [one for one in documents if change.verb is not Verb.CANCEL or one["place"] != Place.RUNNING]
        self._session.tallies.remove([(one["type"], state_of(one)) for one in counted])
        match change.verb:
            case Verb.RETRY:
                await self._follow_revived(change, part, documents)
            case Verb.CANCEL:
                await self._follow_ended(counted)
                self._session.tallies.add([(one["type"], State.CANCELLED) for one in counted])
            case Verb.DELETE:
                await self._follow_ended(counted)
                await self._forget(documents)
        await self._call_off(change, [one for one in documents if one["place"] == Place.RUNNING])

    async def _follow_revived(self, change: Change, part: Slice, documents: list[Document]) -> None:
        revived = [one["revived"] for one in documents]
        await self._resources.calls.wait_for({one["resource"] for one in documents if "parked" in one["revived"]})
        await self._session.bulk.delete({"result_bulk": one.get("result_bulk")} for one in documents)
        self._session.tallies.add([(one["type"], State(one["revived"]["state"])) for one in documents])
        asking = [one["_id"] for one in documents if "awaits" in one["revived"]]
        held = await self._follower.ask_again(asking) if asking else set()
        free = [one for one in documents if one.get("resource") is None and one["_id"] not in held]
        part.ready = [_entry(change, one, one["revived"]["order"]) for one in free]
        part.expire_at = min((now["expire_at"] for now in revived if "expire_at" in now), default=None)

    async def _follow_ended(self, counted: list[Document]) -> None:
        """Give on what jobs held, or are waited for by others, that are over with this."""
        # what runs though it was deleted has its resource until it is reported
        await self._resources.gone([one for one in counted if one["place"] != Place.RUNNING])
        self._session.noted.note([one["_id"] for one in counted if one["place"] != Place.ENDED])

    async def _forget(self, documents: list[Document]) -> None:
        await self._session.bulk.delete(documents)
        await uniques.forget(self._session, uniques.keys_of(documents))
        with suppress(*DRIVER_ERRORS):  # it is swept later
            await retention.forget(self._session, self._servers, self._follower, documents)

    async def _call_off(self, change: Change, running: list[Document]) -> None:
        """Let other servers know of runs that are to end; ours are told with the answer."""
        runs = set(map(claim_of, running))
        self._servers.told |= runs
        if change.verb is Verb.DELETE:
            self._servers.told_gone |= runs
        others = {one["owner"] for one in running if "owner" in one} - {self._session.epoch}
        if others:
            with suppress(*DRIVER_ERRORS):  # they look now and then without it
                await self._servers.ring(others)


def _cancellation(change: Change, kind: _Alike, mark: int) -> Document:
    end: Document = {
        "place": int(Place.ENDED),
        "state": int(next_state(State(kind.state), Event.CANCEL)),
        "error": change.error,
        "mark": mark,
        "ended_at": change.now,
    }
    if kind.keep_s is not None:
        end["drop_at"] = change.now + kind.keep_s
    # without an epoch, no report can take this end for its own
    unset = (*OF_THE_WAIT, "epoch", "parked", "called", "pair", "pends")
    return {"$set": end, "$unset": dict.fromkeys(unset, "")}


def _is_spared(change: Change, one: Document) -> bool:
    """Tell whether a job is passed over since it runs."""
    return change.verb is Verb.DELETE and not change.is_forced and one["place"] == Place.RUNNING


def _changed(one: Document) -> Changed:
    return _as_it_was(one, state_of(one), claim_of(one) if one["place"] == Place.RUNNING else None)


def _as_it_was(one: Document, state: State, claim: Claim | None) -> Changed:
    attempt = one["attempt"] - one.get("returned", 0)
    return Changed(one["order"], one["_id"], one["type"], one["prio"], state, claim, attempt)


def _rechecked(one: Document, order: int, expire_at: float | None) -> Document:
    """Return the checksum from now on: it fits as the old one does, or not."""
    data = one.get("data")
    if data is None or "crc32c" not in one:
        return {}
    rest, more = (one["type"], one["prio"], data, one["_id"]), (one.get("options"), one.get("resource"))
    was = checksum(one["order"], *rest, one.get("expire_at"), *more)
    return {"crc32c": checksum(order, *rest, expire_at, *more) ^ was ^ one["crc32c"]}


def _entry(change: Change, one: Document, order: int) -> Entry:
    entry = Entry(order, one["_id"], one["type"], one["prio"], group=one.get("group"))
    if change.body_bytes is not None:
        entry.options = one.get("options")
        data, most = one.get("data"), most_shown(change.body_bytes, bounds.SLICE)
        entry.data = data if data is not None and len(data) <= most and "data_bulk" not in one else None
    return entry


async def news(session: Session, servers: Servers, resources: Resources) -> News:
    """See Store.news. Who has done something that concerns us rings; the look that this leads to is along an index.

    A deleted run that has a resource shows that it is on, by its owner, until it is reported; so does one in `called_off`. Of
    these, what is to be forgotten was heard of in an earlier look.
    """
    if not await servers.has_rung():
        return News([], False, servers.question)
    replaced = [one | {"_id": one["job"]} for one in servers.called_off]
    if over := {claim for claim in map(claim_of, replaced) if claim in servers.told and not resources.has(claim)}:
        with suppress(*DRIVER_ERRORS):  # it is found again
            await servers.forget_called_off(over)
    cancelled = {"$or": [{"cancel_at": {"$gt": 0.0}}, {"place": int(Place.GONE)}]}
    fields = ["order", "attempt", "epoch", "place", "type", "prio", "returned"]
    found = await session.jobs.find({"owner": session.epoch, **cancelled}, fields).to_list(None)
    claims = list(dict.fromkeys(map(claim_of, (*found, *replaced))))
    fresh = [claim for claim in claims if claim not in servers.told]
    servers.told = set(claims)
    buried = {claim_of(one): one for one in replaced if "type" in one}  # an older version does not say it
    buried |= {claim_of(one): one for one in found if one["place"] == Place.GONE}
    deleted = [_deleted(one) for claim, one in buried.items() if claim not in servers.told_gone]
    servers.told_gone = set(buried)
    servers.heard()
    if gone := [one["_id"] for one in found if one["place"] == Place.GONE and not resources.has(claim_of(one))]:
        with suppress(*DRIVER_ERRORS):  # it is found again
            is_heard = {"_id": {"$in": gone}, "owner": session.epoch, "place": int(Place.GONE)}
            await session.jobs.update_many(is_heard, {"$unset": {"owner": ""}})
    return News(fresh, True, servers.question, deleted)


def _deleted(one: Document) -> Changed:
    """Return a job whose run was ours, as it was before its deletion."""
    return _as_it_was(one, State.PROCESSING, claim_of(one))
