"""Jobs that wait for a resource which others have: they are *parked*, and *called* once it is their turn.

What a line is, and in which order its steps go, is said in resources.py: here lines are opened, waited in, and handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kqs.job import Entry, JobRecord
from kqs.store.base import CALL_S
from kqs.store.mongo.client import Document, write_unless_taken
from kqs.store.mongo.documents import Place, entry_fields, entry_of, parked_keys, parked_name
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session

#: how often a server of several looks for jobs that others have called, in s: their type may be taken here alone
SEEK_S = 0.25
#: lines looked at in one round; and names of parked jobs, each of which costs a round trip
SLICE = 1000
_NAMES = 50
#: how often a step is tried anew because others were faster; what is left then is the eldest's
_TRIES = 20
_RANKED = entry_fields(None)


class Calling:
    """See the module docstring. For one server."""

    def __init__(self, session: Session, servers: Servers, tell: Callable[[list[Entry]], None]) -> None:
        """Args: tell: given jobs that were called."""
        self._session = session
        self._jobs = session.jobs
        self._locks = session.locks
        self._monotonic = session.monotonic
        self._servers = servers
        self._tell = tell
        self._watched: dict[str, float] = {}  # open lines, and since when; in that order
        self._has_lines = False
        self._seen_called: dict[tuple[str, int, int], bool] = {}  # by job, order and attempt: whether it was told of
        self._seen_open: dict[str, int] = {}
        self._swept_parked = ""

    async def open(self, names: Sequence[str], waited: Sequence[str] = ()) -> list[str]:
        """Make lines where there are none; return for which."""
        if not names:
            return []
        async with self._session.marking() as mark:
            lines: list[Document] = [
                {"_id": name, "open": mark} | ({"waited": True} if name in waited else {}) for name in names
            ]
            taken = await write_unless_taken(self._locks.insert_many(lines, ordered=False))
        return [name for index, name in enumerate(names) if index not in taken]

    async def wait_for(self, waiting: Iterable[str]) -> None:
        """See that parked jobs are called one day."""
        names = list(waiting)
        for _ in range(_TRIES):
            if not names:
                return
            await self._locks.update_many({"_id": {"$in": names}}, {"$set": {"waited": True}})
            lines = {line["_id"]: line async for line in self._locks.find({"_id": {"$in": names}}, ["job"])}
            for name, line in lines.items():
                if "job" not in line:
                    self._watched.setdefault(name, self._monotonic())
            missing = [name for name in names if name not in lines]
            opened = await self.open(missing, missing)
            for name in opened:
                await self.hand_on(name)
            names = [name for name in missing if name not in opened]

    async def hand_on(self, name: str) -> None:
        """Call the first that is parked for an open line, but of no type that is called; close the line if nobody is.

        As many are called as were in vain: a second for each of many types that nobody takes would be long.
        """
        for _ in range(_TRIES):
            found = self._jobs.find({"called": name, "place": int(Place.READY)}, ["type"])
            types = {document["type"] for document in await found.to_list(None)}
            for _ in range(max(1, len(types))):
                first = await self._first_parked(name, types)
                if first is None:
                    if types or not await self._is_waited_still(name):
                        return
                    break
                if not await self._call_parked(first, name):
                    break
                types.add(first["type"])
            else:
                return

    async def _first_parked(self, name: str, passed_over: Iterable[str]) -> Document | None:
        """Return the first that is parked, of none of these types."""
        low, high = parked_keys(name)
        of_others: Document = {"type": {"$nin": sorted(passed_over)}} if passed_over else {}
        parked = self._jobs.find({"parked": {"$gt": low, "$lt": high}, **of_others}, [*_RANKED, "parked"])
        found = await parked.sort("parked", 1).limit(1).to_list(None)
        return found[0] if found else None

    async def _call_parked(self, first: Document, name: str) -> bool:
        """Call a job; False: somebody else was faster."""
        is_it = {"_id": first["_id"], "parked": first["parked"]}
        change = {"$set": {"place": int(Place.READY), "called": name}, "$unset": {"parked": ""}}
        if not (await self._jobs.update_one(is_it, change)).matched_count:
            return False
        self.called([first | {"called": name}])
        return True

    async def _is_waited_still(self, name: str) -> bool:
        """Delete an open line that nobody waits in; tell whether somebody has joined it meanwhile."""
        is_open: Document = {"_id": name, "job": None}
        if (await self._locks.delete_one({**is_open, "waited": None})).deleted_count:
            self._watched.pop(name, None)
            return False
        return bool((await self._locks.update_one({**is_open, "waited": True}, {"$unset": {"waited": ""}})).matched_count)

    def called(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Take in that jobs are called, as their documents say."""
        now = self._monotonic()
        for document in documents:
            self._watched.pop(document["called"], None)
            self._watched[document["called"]] = now
        if documents:
            self._tell([entry_of(document, None) for document in documents])

    async def call_on(self, now: float) -> float | None:
        """See Store.call_on."""
        at = self._monotonic()
        overdue = dict([(name, since) for name, since in self._watched.items() if at - since >= CALL_S][:SLICE])
        for name in overdue:
            del self._watched[name]
        try:
            await self._call_others(list(overdue))
        except BaseException:
            self._watched = overdue | self._watched
            raise
        waits_s = [CALL_S - (at - since) for since in list(self._watched.values())[:1]]
        if self._has_lines and not self._servers.is_alone:
            await self._look_abroad()
            waits_s.append(SEEK_S)
        return now + max(0.0, min(waits_s)) if waits_s else None

    async def _call_others(self, names: Sequence[str]) -> None:
        """Call others for those of these resources that are free."""
        if names:
            lines = self._locks.find({"_id": {"$in": names}, "job": None}, ["_id"])
            for line in await lines.to_list(None):
                await self.hand_on(line["_id"])

    async def _look_abroad(self) -> None:
        """Tell of jobs that were called, and stood so at the last look already; each once."""
        found = self._jobs.find({"called": {"$gt": ""}, "place": int(Place.READY)}, [*_RANKED, "attempt"]).limit(SLICE)
        seen: dict[tuple[str, int, int], bool] = {}
        late: list[Entry] = []
        for document in await found.to_list(None):
            key = (document["_id"], document["order"], document["attempt"])
            seen[key] = key in self._seen_called
            if self._seen_called.get(key) is False:
                late.append(entry_of(document, None))
        self._seen_called = seen
        if late:
            self._tell(late)

    async def look(self) -> None:
        """Learn whether anybody uses resources at all."""
        self._has_lines = await self._locks.find_one({}, ["_id"]) is not None

    async def sweep(self, lines: Sequence[Mapping[str, Any]], *, are_last: bool) -> None:
        """Call others for those of these lines that stood open at the last sweep; see that all who are parked have a line.

        Args: are_last: there are none behind them.
        """
        is_open = {line["_id"]: line.get("open", 0) for line in lines if "job" not in line}
        stuck = [name for name, mark in is_open.items() if self._seen_open.get(name) == mark]
        for name in stuck:
            await self.hand_on(name)
        self._seen_open = ({} if are_last else self._seen_open) | is_open
        await self._sweep_parked()

    async def _sweep_parked(self) -> None:
        """Make lines where jobs are parked for a resource that has none."""
        names: list[str] = []
        for _ in range(_NAMES):
            found = self._jobs.find({"parked": {"$gt": self._swept_parked}}, ["parked"]).sort("parked", 1).limit(1)
            first = await found.to_list(None)
            if not first:
                self._swept_parked = ""
                break
            names.append(parked_name(first[0]["parked"]))
            self._swept_parked = parked_keys(names[-1])[1]
        if names:
            lines = await self._locks.find({"_id": {"$in": names}}, ["_id"]).to_list(None)
            await self.wait_for({*names}.difference(line["_id"] for line in lines))

    async def turn(self, record: JobRecord) -> Entry | None:
        """See Store.turn."""
        called = {"called": record.resource, "place": int(Place.READY)}
        if record.resource is None or await self._jobs.find_one({"_id": record.id, **called}, ["_id"]) is not None:
            return None
        found = await self._jobs.find(called, _RANKED).sort([("prio", 1), ("order", 1)]).limit(1).to_list(None)
        return entry_of(found[0], None) if found else None
