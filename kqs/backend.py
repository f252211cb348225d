"""What the server's calls are answered from: the journal, the feeder, the queue and the workers, seen as one."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from kqs.errors import CallError, StoreUnavailableError
from kqs.filter import Filter
from kqs.job import JobRecord, Returned
from kqs.outcome import Outcome
from kqs.parts import Parts
from kqs.queue.changes import Done, Request
from kqs.queue.configuring import ALL
from kqs.queue.limiting import Said
from kqs.queue.rules import is_recorded_as
from kqs.remote.tokens import Named
from kqs.rpc.parameters import JobsQuery, TypesQuery
from kqs.rpc.shown import shown_batch, shown_job
from kqs.schedules.roster import Entry
from kqs.schedules.shown import shown
from kqs.states import WAITING, waiting_count
from kqs.store.base import Verb
from kqs.store.ticks import Plan, tick_of
from kqs.underway import UnderWay
from kqs.views.views import Views
from kqs.views.vitals import Vitals
from kqs.wire.jobs import Given

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode

#: jobs whose being known is asked about in one question
LOOKED_AT_ONCE = 200
#: `jobs` with a cursor looks no longer than so, in s
PAGE_S = 0.02
#: records that it makes an answer of in one turn of the loop
PAGE_JOBS = 50


class ServerBackend:
    """Implements `kqs.rpc.backend.Backend`. Call from the loop thread."""

    def __init__(self, parts: Parts) -> None:
        self.inserter = parts.inserter
        self.desk = parts.desk
        self._feeder = parts.feeder
        self._queue = queue = parts.queue
        self._schedules = parts.schedules
        self._clock = parts.clock
        self.events = queue.events
        self.wait = queue.events.ends.wait
        self.forget = queue.events.ends.forget
        self.seen = queue.events.ends.seen
        self.search = queue.events.ends.search
        self._views = Views(parts, self._record)
        self._vitals = Vitals(parts, self._views)
        self._checks = UnderWay()  # of all that jobs to be kept name of others
        self._joining = UnderWay()  # from the question whether a batch is open until those are kept that join it
        queue.neighbours.on_question = self._store_what_is_promised

    async def stats(self) -> dict[str, int | float]:
        """Return plain numbers by name. See Vitals."""
        return await self._vitals.stats()

    async def health(self, *, draining: bool) -> dict[str, Any]:
        """Return a verdict and what is wrong. See Vitals."""
        return await self._vitals.health(draining=draining)

    async def report_unwatched(self, named: Named, end: Outcome | Returned | None) -> bool:
        """Take the end of a run that is not watched over here: another server's, or one that it repeats.

        Args: end: None: it never began, of which no record could tell afterwards.
        Returns: False: the run is over, and has not ended so.
        """
        await self._catch_up()
        await self._queue.settle()
        record = await _told(self._queue.reads.job(named.claim.id))
        if record is None or record.order != named.claim.order or _is_later(record, named):
            return False
        if any(run.attempt == named.attempt and run.state == "processing" for run in record.runs):
            return await self._queue.runs.report_unwatched(record, named.claim, named.attempt, end)
        return end is not None and any(run.attempt == named.attempt and is_recorded_as(end, run) for run in record.runs)

    async def suspend(self, type_: str) -> dict[str, Any]:
        """Let no job of a type begin, on any server of the store. Raises: CallError."""
        changed = await _told(self._queue.suspensions.suspend(type_))
        return {"type": type_, "suspended": True, "changed": changed}

    async def resume(self, type_: str) -> dict[str, Any]:
        """Let jobs of a type begin again. Raises: CallError."""
        changed = await _told(self._queue.suspensions.resume(type_))
        return {"type": type_, "suspended": False, "changed": changed}

    async def put_schedule(self, name: str, plan: Plan) -> dict[str, Any]:
        """Keep a checked schedule; return it as `schedules` shows it. Raises: CallError."""
        await _told(self._schedules.put(name, plan))
        return (await self.schedules([name], 1))[0]

    async def remove_schedule(self, name: str, *, is_forced: bool) -> dict[str, Any]:
        """Keep a schedule no more. Raises: CallError."""
        await _told(self._schedules.remove(name, is_forced=is_forced))
        return {"name": name}

    async def suspend_schedule(self, name: str) -> dict[str, Any]:
        """Let a schedule tick no more. Raises: CallError."""
        return {"schedule": name, "suspended": True, "changed": await _told(self._schedules.suspend(name))}

    async def resume_schedule(self, name: str) -> dict[str, Any]:
        """Let a schedule tick again. Raises: CallError."""
        return {"schedule": name, "suspended": False, "changed": await _told(self._schedules.resume(name))}

    async def fire(self, name: str) -> str:
        """Insert a schedule's job now; return its id. Raises: CallError, JournalError."""
        return await _told(self._schedules.fire(name))

    async def schedule_names(self) -> list[str]:
        """Return the names of all schedules, in order. Raises: CallError."""
        await _told(self._schedules.settle())
        return self._schedules.names

    async def schedules(self, names: list[str], next_count: int) -> list[dict[str, Any]]:
        """Return schedules by their names, with so many of their next instants; those that are gone are left out."""
        entries = await _told(self._schedules.shown(names))
        return await _told(shown(entries, next_count, self._last_state))

    async def _last_state(self, entry: Entry) -> str | None:
        schedule = entry.schedule
        if not schedule.tick_at:
            return None
        record = await self._queue.reads.job(tick_of(schedule.name, schedule.tick_at))
        return None if record is None else record.state.word

    async def limit(self, type_: str, named: Mapping[str, Any] | None) -> dict[str, Any]:
        """Have limits of a type above those of the configuration, or those again (None). Raises: CallError."""
        limiting = self._queue.limiting
        changed = await _told(limiting.reset(type_) if named is None else limiting.say(type_, Said(**named)))
        return {"type": type_, "limits": limiting.shown(type_), "changed": changed}

    async def configure(self, type_: str | None, named: Mapping[str, Any] | None) -> dict[str, Any]:
        """Have options of a type, or of all, above those of the configuration, or those again (None). Raises: CallError."""
        configuring, name = self._queue.configuring, ALL if type_ is None else type_
        changed = await _told(configuring.reset(name) if named is None else configuring.say(name, named))
        cascade = self._queue.cascade
        options = msgspec.structs.asdict(cascade.base if type_ is None else cascade.of_type[type_])
        about = {} if type_ is None else {"type": type_}
        return {**about, "options": options, "by_call": configuring.said(name), "changed": changed}

    async def close_batch(self, batch_id: str) -> dict[str, Any] | None:
        """Let no more jobs into a batch; return how it stands, None: there is none of this id. Raises: CallError."""
        await self._catch_up(unflushed=True)
        await self._checks.over()  # jobs that were sent before join it
        if not await _told(self._queue.seal_batch(batch_id)):
            await self._others_caught_up(None)  # it may be another server's
            await _told(self._queue.seal_batch(batch_id))
        await self._joining.over()
        await self._catch_up(unflushed=True)
        await self._others_caught_up(None)
        tally = await _told(self._queue.close_batch(batch_id))
        return None if tally is None else shown_batch(tally)

    async def check_order(self, given: Given) -> None:
        """Return when the jobs that are asked for are known, here or in the journal, and the batches are open.

        These stay so for as long as whoever has awaited this does not let go of the loop: keep the jobs at once. It returns
        for who asks again under ids that are known, too: that makes nothing. Raises: CallError.
        """
        with self._checks.one():
            if given.asked:
                self._queue.house.expect_children()
            await self._catch_up(unflushed=True)
            try:
                await self._check_asked(given.asked, given.batches)
            except CallError:
                if not given.askers or await self._unknown(given.askers):
                    raise

    async def _check_asked(self, job_ids: Sequence[str], batch_ids: Sequence[str]) -> None:
        unknown = await self._unknown(job_ids)
        if unknown and self._queue.is_shared:
            await self._others_caught_up(unknown)
            unknown = await self._unknown(unknown)
        if unknown:
            more = f", nor one of {len(unknown) - 1} others" if len(unknown) > 1 else ""
            raise CallError(f"after: no job has the id {unknown[0]!r}{more}", "bad_job")
        if not batch_ids:
            return
        await self._find_batches(batch_ids)
        with self._joining.one():  # whom others wait for: nothing that waits for others belongs here
            are_open = await _told(self._queue.reads.batches(batch_ids))
        for batch_id in batch_ids:
            if batch_id not in are_open:
                raise CallError(f"batch: no batch has the id {batch_id!r}", "bad_job")
            if not are_open[batch_id]:
                raise CallError(f"batch: the batch {batch_id!r} is closed", "bad_job")

    async def _find_batches(self, ids: Sequence[str]) -> None:
        """Let other servers store those of these batches that this one does not know."""
        if self._queue.is_shared:
            found = await _told(self._queue.reads.batches(ids))
            if missing := [id_ for id_ in ids if id_ not in found]:
                await self._others_caught_up(missing)

    async def _unknown(self, job_ids: Sequence[str]) -> list[str]:
        unknown: list[str] = []
        for start in range(0, len(job_ids), LOOKED_AT_ONCE):
            part = job_ids[start : start + LOOKED_AT_ONCE]
            looked = await _told(self._queue.reads.look(part))
            unknown += [job_id for job_id in part if job_id not in looked.there or job_id in looked.over]
        return unknown

    async def subscribe(self, type_: str, subscriber: str) -> dict[str, Any]:
        """Let a type have copies of what is inserted of another. Raises: CallError."""
        changed = await _told(self._queue.subscriptions.subscribe(type_, subscriber))
        return {"type": type_, "subscriber": subscriber, "subscribed": True, "changed": changed}

    async def unsubscribe(self, type_: str, subscriber: str) -> dict[str, Any]:
        """Let it have no more of them. Raises: CallError."""
        changed = await _told(self._queue.subscriptions.unsubscribe(type_, subscriber))
        return {"type": type_, "subscriber": subscriber, "subscribed": False, "changed": changed}

    async def job(self, job_id: str) -> dict[str, Any] | None:
        """Return all that is known of a job, also of one that is accepted but not fed yet."""
        record = await self._record(job_id)
        return None if record is None else self.shown(record)

    async def explain(self, job_id: str) -> dict[str, Any] | None:
        """Return why a job is where it is, in a sentence and its facts; None: nobody knows it. Raises: CallError."""
        return await _told(self._views.explain(job_id))

    async def types(self, query: TypesQuery) -> list[dict[str, Any]]:
        """Return how types stand, by name, beginning after `query.after`. Raises: CallError."""
        await self._catch_up()
        return await _told(self._views.types(query))

    async def has_waiting(self, types: Collection[str]) -> bool:
        """Tell whether a job of these types waits, due or not. Raises: CallError."""
        await self._catch_up()
        counts = (await _told(self._views.counted())).counts
        return any(waiting_count(counts[type_]) for type_ in types if type_ in counts)

    async def workers(self) -> list[dict[str, Any]]:
        """Return who runs jobs of this server."""
        return await self._views.workers()

    async def _record(self, job_id: str) -> JobRecord | None:
        lagged = self._feeder.lag_records  # before the store is asked: it may catch up while it answers
        record = await _told(self._queue.reads.job(job_id))
        if record is None and lagged:
            await self._catch_up()
            record = await _told(self._queue.reads.job(job_id))
        if record is None and self._queue.is_shared:
            await self._others_caught_up([job_id])
            record = await _told(self._queue.reads.job(job_id))
        return record

    async def jobs(self, query: JobsQuery) -> tuple[list[Raw], int | None]:
        """Return jobs in order of acceptance, from where `query` says on, and the order to go on from; None: there are no more.

        They are up to `query.limit`, or with a cursor what was found of those in a while.
        """
        await self._catch_up()
        after = int(query.cursor, 16) if query.cursor else None
        if query.after is not None:
            after = await self._order_of(query.after)
        wanted, until = query.filter(self._clock.now()), math.inf
        if wanted.ids is not None:
            await self._others_caught_up(wanted.ids)
        if query.cursor is not None:
            until = self._clock.monotonic() + PAGE_S
        shown: list[Raw] = []
        while True:
            most = min(PAGE_JOBS, query.limit - len(shown))
            records, after = await _told(self._queue.reads.page(wanted, after, most, newest_first=query.newest))
            shown += [Raw(_encode(self.shown(record))) for record in records]
            if after is None or len(shown) == query.limit or self._clock.monotonic() >= until:
                return shown, after

    async def change(
        self,
        verb: Verb,
        wanted: Filter,
        *,
        is_forced: bool = False,
        is_dry: bool = False,
        on_slice: Callable[[Done], None] | None = None,
    ) -> Done:
        """Do with all jobs that fit what their owner asks, also with those that are accepted but not fed yet.

        They are durable when this returns. Args: on_slice: told now and then what is done so far.
        """
        ids = self.inserter.ids
        before_order = ids.take(1, self._clock.now())  # behind what another server has retried
        await self._store_all()
        reached = await self._others_caught_up(wanted.ids)

        def take(count: int) -> int:
            return ids.take(count, self._clock.now())

        request = Request(verb, wanted, before_order, reached, is_forced=is_forced, is_dry=is_dry)
        return await _told(self._queue.changes.do(request, take, on_slice))

    async def _catch_up(self, *, unflushed: bool = False) -> None:
        """Let the store take what is journaled. Raises: CallError: it does not, so nobody knows yet."""
        try:
            await self._feeder.catch_up(unflushed=unflushed)
        except StoreUnavailableError:
            raise CallError("the store is behind the journal, try again later", "busy") from None

    async def _store_all(self) -> None:
        """Let the store take all that was accepted here, and the ends of all runs. Raises: CallError: it does not."""
        await self._catch_up(unflushed=True)
        await self._queue.settle()

    async def _store_what_is_promised(self) -> None:
        """As `_store_all`, with jobs that were told that their batches are open. Raises: CallError."""
        await self._joining.over()
        await self._store_all()

    async def _others_caught_up(self, job_ids: Sequence[str] | None) -> dict[str, int]:
        """Let other servers store what they have accepted, where these jobs may be among it; None: any may.

        Returns: as `Store.others_caught_up`. Raises: CallError: one does not tell that it has, so nobody knows.
        """
        reached: dict[str, int] = {}
        if not self._queue.is_shared:
            return reached
        nodes: set[str | None] = {None}
        if job_ids is not None:
            there = (await _told(self._queue.reads.look(job_ids))).there
            nodes = {self.inserter.ids.node_of(job_id) for job_id in job_ids if job_id not in there}
        for node in [None] if None in nodes else nodes - {self.inserter.ids.node}:
            try:
                reached |= await self._queue.others_caught_up(node)
            except StoreUnavailableError as error:
                raise CallError(f"{error}, try again later", "busy") from None
        return reached

    async def _order_of(self, job_id: str) -> int:
        record = await _told(self._queue.reads.job(job_id))
        order = self.inserter.ids.order_of(job_id) if record is None else record.order  # its record may be over by now
        if order is None:
            raise CallError(f"after: no job has the id {job_id!r}", "not_found")
        return order

    @property
    def has_waits(self) -> bool:
        """Tell whether inserts of jobs of any type wait for their end without saying so."""
        return self._queue.cascade.has_waits

    def default_wait_s(self, type_: str) -> float:
        """Return how long an insert of a job of this type waits for its end if it does not say."""
        return self._queue.cascade.of_type[type_].wait or 0.0

    async def settle(self) -> None:
        """Return when the ends of all runs that are over are durable, and told. Raises: CallError: the store is behind."""
        await self._catch_up()
        await self._queue.settle()

    def options(self, type_: str, own: bytes | None, prio: int) -> dict[str, Any]:
        """Return the resolved options of a job as `job` shows them."""
        options = msgspec.structs.asdict(self._queue.cascade.resolve(type_, own)) | {"prio": prio}
        del options["wait"]  # of its insert
        return options

    def shown(self, record: JobRecord) -> dict[str, Any]:
        """Return a record as `job` does."""
        return shown_job(record, self.options(record.type, record.options, record.prio))


async def _told(answer: Awaitable[T]) -> T:
    """Return what the store answers. Raises: CallError: it cannot be asked."""
    try:
        return await answer
    except StoreUnavailableError:
        raise CallError("the store cannot be asked now, try again later", "busy") from None


def _is_later(record: JobRecord, named: Named) -> bool:
    """Tell whether the last run of a job was claimed by another boot than this run of the same number.

    A power cut may cost the store a claim, and the next boot makes another.
    """
    return record.state not in WAITING and record.attempt == named.attempt and record.epoch != named.claim.epoch
