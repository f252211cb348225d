"""Jobs that wait for others. Who waits for whom stands in the documents of those that wait (held.py), and nowhere else.

What is to be done is read from the documents, whenever a hint (noted.py) or a sweep leads to them: who held job awaits what has
ended is let go, or fails, or awaits it no more. So any server may do it, twice, and after a kill between any two steps.

1. A job is held before it is ready, and let go by one update, which needs only that it is held still.
2. Whoever makes one await others says so to the other servers, and has those looked at once more after that: whoever has ended
   one of them before finds nobody who awaits it, but is found; whoever does later notes it.
3. Before a document that says how a job has ended is taken away, or waits again, that is written to those that await it
   (`settle`): they are DOOMED or FREE then, if that decides, and fail or go when `follow` comes to them.
4. What awaits anything is a job whose parents are stored: until all of an insert are, its children are UNREADY, and nobody
   decides about them but an insert of the same, which a journal repeats; or, when its server is dead, whoever finds all of
   their parents stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from kqs.job import Accepted, Entry
from kqs.states import Event, State, next_state
from kqs.store.base import Following
from kqs.store.keep import own_keep_s
from kqs.store.keyed import led_on
from kqs.store.mongo.batches import Batches
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import Place, entry_fields, entry_of
from kqs.store.mongo.held import DOOMED, FREE, UNREADY, asks_of, batch_of, jobs_of, sign_of
from kqs.store.mongo.letting_go import IS_HELD, Now, Writes
from kqs.store.mongo.resources import Resources
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session
from kqs.store.parents import DELETED, in_vain, is_bad

#: held jobs, and hints, that a round looks at; rounds of a slice
SLICE = 500
_ROUNDS = 50
#: ids of one question
_IDS = 5000
_FIELDS = [
    *entry_fields(None),
    *("node", "state", "mark", "options", "resource", "hold", "awaits", "after_any_end", "let_due", "why"),
    *("members", "tally"),
]
_DECIDED = {DOOMED: DELETED, FREE: int(State.SUCCESS)}

#: how jobs have ended that are waited for, by what stands for them in `awaits`; what is not in it has not
Outcomes = Mapping[str, int]
#: returns the retention of a job's record, in s; None: for ever
Keep = Callable[[Mapping[str, Any]], float | None]


class Applied:
    """What outcomes have made of held jobs. free: the documents of those that were let go. failed: the ids of those that did.

    due_at: when the first is due of those that were let go and are not.
    """

    def __init__(self) -> None:
        self.free: list[Document] = []
        self.failed: list[str] = []
        self.due_at: float | None = None

    def due(self, at: float | None) -> None:
        """Take in that one is due then; None: none is."""
        if at is not None:
            self.due_at = at if self.due_at is None else min(self.due_at, at)


class Follower:
    """See the module docstring. For one server."""

    def __init__(self, session: Session, servers: Servers, resources: Resources, tell: Callable[[list[Entry]], None]) -> None:
        """Args: tell: given jobs that were let go and are ready."""
        self._session = session
        self._node = session.node
        self._jobs = session.jobs
        self._noted = session.noted
        self._servers = servers
        self._resources = resources
        self._tell = tell
        self._upkept_to = self._ends_to = ""
        self.batches = Batches(session)

    async def stand_new(
        self,
        jobs: Sequence[Accepted],
        aliases: Mapping[str, str],
        known: Collection[int],
        doubt: Callable[[int], None],
        now: float,
    ) -> set[int]:
        """Hold jobs whose insert is about to be done, or let them go; return the orders of those that are not ready.

        Args: aliases: by the ids of jobs that were joined to others, those of these. known: the orders of those that stood in
            the store before. doubt: given the marks of what is written. now: by which was told which of them are due.
        """
        waiting = [job for job in jobs if job.may_wait]
        found = await self._session.find([job.id for job in waiting], {"awaits": UNREADY}, [*_FIELDS, "after"])
        named = {(job.id, job.order) for job in waiting}
        adopted = {job.id for job in waiting if job.adopted}
        ours = [
            one for one in found if one["_id"] in adopted or (one["node"] == self._node and (one["_id"], one["order"]) in named)
        ]
        for one in ours:
            if "after" in one:
                one["after"] = led_on(one["after"], aliases)
            one["asks"] = asks_of(one)
        say = self._noted.use()
        applied = await self._ask(ours, now, doubt)
        if say:
            await self._say_held()
        self._noted.note({sign for one in ours for sign in one["asks"]})
        if late := [one for one in applied.free if one["order"] in known]:
            self._tell([entry_of(one, None) for one in late])
        freed = {one["order"] for one in applied.free}
        return {job.order for job in waiting} - freed

    async def ask_again(self, ids: list[str]) -> set[str]:
        """Let those of some jobs go that are held and need not be; return the ids of those that are not ready."""
        say = self._noted.use()
        found = await self._session.find(ids, IS_HELD, _FIELDS)
        applied = await self._ask(found, self._session.now())
        if say:
            await self._say_held()
        self._noted.note({sign for one in found for sign in one["awaits"]})
        return {one["_id"] for one in found} - {one["_id"] for one in applied.free}

    async def _say_held(self) -> None:
        await self._servers.say_held()
        self._noted.said()

    async def _ask(self, held: Sequence[Document], now: float, doubt: Callable[[int], None] | None = None) -> Applied:
        """Let those go that wait for nothing. Whether a batch is complete is left to `follow`."""
        asked = {sign for one in held for sign in _asks(one)}
        return await self._apply(held, await self._outcomes(jobs_of(asked)), now, None, doubt)

    async def follow(self, now: float, keep: Keep) -> Following:
        """See Store.follow."""
        whole = Applied()
        left = SLICE
        for _ in range(_ROUNDS):
            if left <= 0 or not self._noted.has_any:
                break
            held, applied = await self._round(now, keep)
            left -= len(held)
            whole.failed += applied.failed
            whole.due(applied.due_at)
            if applied.free:
                self._tell([entry_of(one, None) for one in applied.free])
        return Following(whole.failed, whole.due_at, self._noted.has_any)

    async def _round(self, now: float, keep: Keep) -> tuple[Sequence[Document], Applied]:
        """Look at a slice of what was noted, or else of all that is held; return what that was."""
        swept_to = self._noted.swept_to
        hints = self._noted.take(SLICE)
        try:
            if hints or swept_to is None:
                held, outcomes = await self._led_to(hints)
            else:
                held, outcomes, self._noted.swept_to = await self._next_held(swept_to)
            return held, await self._apply(held, outcomes, now, keep)
        except BaseException:
            self._noted.put_back(hints)
            self._noted.swept_to = swept_to
            raise

    async def _led_to(self, hints: list[str]) -> tuple[Sequence[Document], Outcomes]:
        """Return some of those that await what was hinted at, and how that has ended."""
        ended = await self._outcomes(hints, with_batches=True)
        if not ended:
            return [], {}
        held = await self._jobs.find({**IS_HELD, "awaits": {"$in": list(ended)}}, _FIELDS).limit(SLICE).to_list(None)
        if len(held) == SLICE:
            self._noted.put_back(ended)
        if held:  # once more: what they await was held to have ended before they were found, and may have been retried
            ended = await self._outcomes({sign for one in held for sign in one["awaits"]}.intersection(ended))
        return held, ended

    async def _next_held(self, after: str) -> tuple[Sequence[Document], Outcomes, str | None]:
        """Return the next that are held, how what they await has ended, and where to go on; None: they are the last."""
        found = self._jobs.find({**IS_HELD, "hold": {"$gt": after}}, _FIELDS).sort("hold", 1).limit(SLICE)
        held: list[Document] = await found.to_list(None)
        outcomes = await self._outcomes({sign for one in held for sign in one["awaits"]})
        return held, outcomes, held[-1]["hold"] if len(held) == SLICE else None

    async def _outcomes(self, signs: Iterable[str], *, with_batches: bool = False) -> dict[str, int]:
        """Return how those of these have ended that have. with_batches: and batches of which a job among them is a member."""
        signs = list(signs)
        ids = jobs_of(signs)
        outcomes = {sign: outcome for sign in signs if (outcome := _DECIDED.get(sign)) is not None}
        batches = dict.fromkeys([batch for sign in signs if (batch := batch_of(sign)) is not None])
        for start in range(0, len(ids), _IDS):
            part = ids[start : start + _IDS]
            found = {one["_id"]: one for one in await self._session.find(part, {}, ["place", "state", "batch"])}
            outcomes.update((id_, outcome) for id_ in part if (outcome := _outcome(found.get(id_))) is not None)
            if with_batches:
                batches.update(dict.fromkeys([one["batch"] for one in found.values() if "batch" in one]))
        if batches:
            complete = await self.batches.complete(list(batches))
            outcomes.update((sign_of(batch), int(State.SUCCESS)) for batch in complete)
        return outcomes

    async def _apply(
        self,
        held: Sequence[Document],
        outcomes: Outcomes,
        now: float,
        keep: Keep | None,
        doubt: Callable[[int], None] | None = None,
        *,
        lets_go: bool = True,
    ) -> Applied:
        """Do what outcomes mean for held jobs; those that an insert has made (UNREADY) await others from then on.

        Args: keep: None: those that waited in vain are DOOMED, else they fail. lets_go: those that wait for nothing any more
            are let go, else they are FREE. doubt: given the mark of what is written.
        """
        applied = Applied()
        async with self._session.marking() as mark:
            if doubt is not None:
                doubt(mark)
            writes = Writes(mark)
            for one in held:
                if "asks" in one or UNREADY not in one["awaits"]:
                    _plan(writes, one, outcomes, now, keep, lets_go=lets_go)
            if not writes.planned:
                return applied
            written = await self._jobs.bulk_write(writes.all(), ordered=False)
            done = set(writes.planned)
            if written.matched_count < len(writes.planned):
                done = {one["_id"] for one in await self._session.find(list(writes.planned), {"mark": mark}, ["_id"])}
                self._noted.note(outcomes)  # others were faster with some, which may await others of these still
        await self._tell_of([one for id_, one in writes.planned.items() if id_ in done], applied)
        return applied

    async def _tell_of(self, done: Iterable[Document], applied: Applied) -> None:
        names: set[str] = set()
        failed: list[Document] = []
        for one in done:
            match one["now"]:
                case Now.HELD:
                    self._noted.heard()
                    self._noted.note(set(one["new"]).intersection(_DECIDED))
                case Now.FAILED:
                    failed.append(one)
                case Now.FREE:
                    applied.free.append(one)
                case Now.LATER:
                    applied.due(one["let_due"])
                case Now.PARKED:
                    names.add(one["resource"])
        if failed:
            applied.failed = [one["_id"] for one in failed]
            tallies = self._session.tallies
            tallies.remove([(one["type"], one["state"]) for one in failed])
            tallies.add([(one["type"], next_state(State(one["state"]), Event.EXPIRE)) for one in failed])
            self._noted.note(applied.failed)
        if names:
            await self._resources.calls.wait_for(names)

    async def bury(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """As `settle`, before they are taken away: the next job of the id of a `then` among them has other members."""
        await self.settle(documents)
        if thens := [one["_id"] for one in documents if "members" in one]:
            await self.batches.disband(thens)

    async def settle(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Before these documents, of jobs that have ended or are gone, are no more what they were, keep what they tell.

        They have place, state, and where these are in them `batch` and `member`.
        """
        await self.batches.keep_ends(documents)
        outcomes = {one["_id"]: outcome for one in documents if (outcome := _outcome(one)) is not None}
        awaiting = {**IS_HELD, "awaits": {"$in": list(outcomes)}}
        while outcomes and (held := await self._jobs.find(awaiting, _FIELDS).limit(SLICE).to_list(None)):
            await self._apply(held, outcomes, self._session.now(), None, lets_go=False)

    async def look(self) -> None:
        """Learn whether any job is held."""
        self._noted.found(is_any=await self._jobs.find_one({"hold": {"$gt": ""}}, ["_id"]) is not None)

    async def sweep(self) -> None:
        """Look at the next slice of all that is held: no hint that was lost costs more than some of these."""
        if self._noted.is_used:
            held, outcomes, following = await self._next_held(self._upkept_to)
            self._upkept_to = following or ""
            if outcomes:
                self._noted.note(outcomes)
            if unready := [one for one in held if UNREADY in one["awaits"]]:
                await self._finish(unready)

    async def _finish(self, unready: Sequence[Mapping[str, Any]]) -> None:
        """Do what is left of the inserts of dead servers, for jobs whose parents are all stored.

        What others wait for stands in the journals of those servers, and they wait for these.
        """
        living = await self._servers.living_nodes()
        ids = [one["_id"] for one in unready if one["node"] not in living]
        orphans = await self._session.find(ids, {"awaits": UNREADY}, [*_FIELDS, "after"])
        parents = {id_ for one in orphans for id_ in one.get("after", ())}
        there = {one["_id"] for one in await self._session.find(list(parents), {}, ["_id"])}
        able = [one for one in orphans if there.issuperset(one.get("after", ()))]
        for one in able:
            one["asks"] = asks_of(one)
        await self._apply(able, {}, self._session.now(), None, lets_go=False)
        self._noted.note({sign for one in able for sign in one["asks"]})

    async def sweep_ends(self) -> None:
        """Delete ends of members whose batch needs them no more, a slice of them."""
        self._ends_to = await self.batches.sweep(self._ends_to)


def _asks(one: Mapping[str, Any]) -> Sequence[str]:
    """Return what a held job awaits, or is about to."""
    asked: Sequence[str] = one["asks"] if "asks" in one else one["awaits"]
    return asked


def _outcome(one: Mapping[str, Any] | None) -> int | None:
    """Return how a job has ended; None: it has not."""
    if one is None or one["place"] == Place.GONE:
        return DELETED
    return int(one["state"]) if one["place"] == Place.ENDED else None


def _left(one: Mapping[str, Any], outcomes: Outcomes) -> tuple[list[str], str | None]:
    """Return what a job awaits still, and why it does so in vain, if it does."""
    asked = _asks(one)
    left = [sign for sign in asked if sign not in outcomes]
    if DOOMED in asked:
        return left, str(one.get("why", ""))
    if one.get("after_any_end"):
        return left, None
    bad = next((sign for sign in asked if is_bad(outcomes.get(sign))), None)
    return left, None if bad is None else in_vain(bad, outcomes[bad])


def _plan(writes: Writes, one: Document, outcomes: Outcomes, now: float, keep: Keep | None, *, lets_go: bool) -> None:
    """Have a held job become what outcomes mean for it. Args: as for `_apply`."""
    left, why = _left(one, outcomes)
    if why is not None and keep is not None:
        writes.fail(one, why, now, keep(one))
    elif why is not None:
        writes.hold(one, [DOOMED], why)
    elif not left and lets_go:
        writes.let_go(one, now)
    elif left != one["awaits"]:
        writes.hold(one, left or [FREE])


def keeper(drop_after_s: float | None, by_type: Mapping[str, float | None]) -> Keep:
    """Return the retention of what fails. Args: as for Store.expire."""
    return lambda one: own_keep_s(one.get("options"), by_type.get(one["type"], drop_after_s))
