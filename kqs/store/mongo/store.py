"""MongoStore: the store port on a MongoDB that many servers may share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from kqs.clock import Clock
from kqs.config import StoreSection
from kqs.errors import StoreUnavailableError
from kqs.filter import Filter
from kqs.job import Accepted, Claim, Entry, JobRecord, Progress, Report, Rescheduled, Run, Tally
from kqs.log import get_logger
from kqs.states import State
from kqs.store.base import (
    Change,
    Following,
    Granted,
    Holder,
    Known,
    Looked,
    News,
    Passed,
    Schedule,
    Slice,
    StoreInfo,
    Waiting,
)
from kqs.store.mongo import (
    changes,
    client,
    groups,
    pages,
    progress,
    queues,
    records,
    retention,
    said,
    schedule,
    schema,
    subscriptions,
    suspended,
    ticks,
)
from kqs.store.mongo.batches import Batches
from kqs.store.mongo.collections import Collections
from kqs.store.mongo.follow import Follower, keeper
from kqs.store.mongo.lanes import Lane
from kqs.store.mongo.opened import Opened, recount_alone
from kqs.store.mongo.resources import Resources
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session
from kqs.store.mongo.sharing import SharingInTurn
from kqs.store.mongo.tallies import Tallies
from kqs.store.rotation import Terms, Turn, Turned
from kqs.store.sayings import Topic
from kqs.store.sharing import Sharing
from kqs.supervisor import Supervisor

log = get_logger("kqs.store")

T = TypeVar("T")

#: a document holds 16 MB, and data and result may both stand in it
MOST_INLINE_BYTES = 4 * 1024 * 1024


class MongoStore:
    """See kqs.store.base.Store. Ordinary work costs per batch: insert 1 round trip, claim 2, report 1.

    A claim of data so long that it must be weighed costs 4.
    """

    is_shared = True

    def __init__(self, settings: StoreSection, clock: Clock, supervisor: Supervisor, namespace: str = "") -> None:
        """Args: settings: `uri` names the servers and the database. namespace: stands in the names of collections."""
        self._uri = settings.uri or "mongodb://localhost"
        self._bulk_bytes = min(settings.bulk_bytes, MOST_INLINE_BYTES)
        self._clock = clock
        self._supervisor = supervisor
        self._namespace = namespace
        self._open: Opened | None = None
        self.sharing: Sharing | None = SharingInTurn(lambda: self._there)
        self.on_called: Callable[[list[Entry]], None] = _nobody
        self.on_followed: Callable[[], None] = lambda: None
        self.on_waiting: Callable[[Waiting], None] = _nobody
        self._watched: frozenset[str] = frozenset()

    def owner(self) -> None:
        """See Store.owner."""

    async def open(self, journal_id: str, node: str) -> StoreInfo:
        """See Store.open."""
        assert self._open is None, "opened twice"
        connection = client.connect(self._uri)
        try:
            collections = Collections(connection.get_default_database(client.DATABASE), self._namespace)
            epoch, store_id = await schema.prepare(collections, journal_id)
            servers = Servers(collections, journal_id, node, self._clock.monotonic)
            await servers.register(epoch)
            session = Session(collections, node, epoch, self._bulk_bytes, self._clock)
            resources = Resources(session, servers, lambda called: self.on_called(called))
            follower = Follower(session, servers, resources, lambda called: self.on_called(called))
            session.noted.on_noted = lambda: self.on_followed()
            servers.on_held, servers.on_gone = session.noted.heard, session.noted.sweep
            await follower.look()
            servers.on_lapse = session.tallies.doubt
            await servers.living()
            if servers.is_alone:
                await recount_alone(session, servers)
            elif servers.was_killed:
                session.tallies.doubt()
            session.tallies.watch(self._watched, lambda waiting: self.on_waiting(Waiting(waiting, ())))
            await session.tallies.look_at_waiting()
        except BaseException as error:
            connection.close()
            if isinstance(error, client.DRIVER_ERRORS):
                raise client.translated(error) from error
            raise
        self._open = Opened(connection, collections, session, servers, resources, follower, self._supervisor)
        return StoreInfo(epoch=epoch, fed_seq=servers.fed_seq, last_order=servers.last_order, store_id=store_id)

    async def close(self) -> None:
        """See Store.close. A database that is away is not waited for longer than its time-outs."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened.close()

    async def insert(self, jobs: Sequence[Accepted], fed_seq: int, worker: str, now: float) -> Known:
        """See Store.insert."""
        there = self._there
        operation: Callable[[], Coroutine[Any, Any, Known]] = partial(there.insert, jobs, fed_seq, worker, now)
        if self._watched:
            operation = partial(self._insert_telling, there.session.tallies, jobs, operation)
        return await there.write_alive(Lane.INSERT, operation)

    async def _insert_telling(
        self, tallies: Tallies, jobs: Sequence[Accepted], insert: Callable[[], Coroutine[Any, Any, Known]]
    ) -> Known:
        known = await insert()
        taken = [job for job in jobs if job.type in self._watched]
        self.on_waiting(Waiting(tallies.waiting, taken))
        return known

    def watch(self, types: Collection[str]) -> None:
        """See Store.watch."""
        self._watched = frozenset(types)

    async def claim(
        self,
        entries: Sequence[Entry],
        worker: str,
        now: float,
        keep_damaged_s: float | None = None,
        held: bool = False,
        most_bytes: int | None = None,
    ) -> Granted:
        """See Store.claim."""
        operation = partial(self._there.claimer.claim, entries, worker, now, keep_damaged_s, held, most_bytes)
        return await self._there.write_alive(Lane.CLAIM, operation)

    async def adopt(self, runs: Sequence[Run]) -> list[bool]:
        """See Store.adopt."""
        return await self._there.write_alive(Lane.CLAIM, partial(self._there.claimer.adopt, runs))

    async def take(self, claim: Claim) -> Run | None:
        """See Store.take."""
        return await self._there.write_alive(Lane.CLAIM, partial(self._there.claimer.take, claim))

    async def save(self, saved: Sequence[Progress], *, durable: bool) -> list[bool]:
        """See Store.save. It goes in turn with reports, since the last one of a run comes after all that it has saved."""
        return await self._there.write(Lane.REPORT, partial(progress.save, self._there.session, saved))

    async def report(self, reports: Sequence[Report]) -> Sequence[bool | None]:
        """See Store.report."""
        return await self._there.write(Lane.REPORT, partial(self._there.reporter.report, reports))

    async def ready(self, type_: str, after: tuple[int, int] | None, limit: int, body_bytes: int | None = None) -> list[Entry]:
        """See Store.ready."""
        return await self._look(schedule.ready, type_, after, limit, body_bytes)

    async def grouped_types(self, among: Collection[str]) -> list[str]:
        """See Store.grouped_types. A question for each type."""
        return await self._look(groups.types, among)

    async def in_turn(self, type_: str, turn: Turn, count: int, terms: Terms) -> Turned:
        """See Store.in_turn. One or two questions and, where groups have many jobs, one a group, of MOST_GROUPS at most."""
        return await self._look(groups.in_turn, type_, turn, count, terms)

    async def wake(self, before: float, limit: int, body_bytes: int | None = None) -> list[Entry]:
        """See Store.wake."""
        return await self._keep_house(schedule.wake, before, limit, body_bytes)

    async def reschedule(self, changes: Sequence[Rescheduled]) -> None:
        """See Store.reschedule."""
        await self._keep_house(schedule.reschedule, self._there.servers, changes)

    async def next_due_at(self) -> float | None:
        """See Store.next_due_at."""
        return await self._look(schedule.next_due_at)

    async def expire(
        self, now: float, limit: int, drop_after_s: float | None, by_type: Mapping[str, float | None] | None = None
    ) -> list[str]:
        """See Store.expire."""
        return await self._keep_house(schedule.expire, self._there.resources, now, limit, drop_after_s, by_type or {})

    async def next_expire_at(self) -> float | None:
        """See Store.next_expire_at."""
        return await self._look(schedule.next_expire_at)

    async def follow(
        self, now: float, drop_after_s: float | None, by_type: Mapping[str, float | None] | None = None
    ) -> Following:
        """See Store.follow."""
        keep = keeper(drop_after_s, by_type or {})
        return await self._there.write(Lane.HOUSEKEEPING, partial(self._there.follower.follow, now, keep))

    async def batches(self, ids: Sequence[str]) -> dict[str, bool]:
        """See Store.batches."""
        return await self._there.lanes.look(partial(self._batches.are_open, ids))

    async def seal_batch(self, batch_id: str) -> bool:
        """See Store.seal_batch."""
        return await self._there.write(Lane.HOUSEKEEPING, partial(self._there.follower.batches.seal, batch_id))

    async def close_batch(self, batch_id: str) -> Tally | None:
        """See Store.close_batch."""
        return await self._there.write(Lane.HOUSEKEEPING, partial(self._there.follower.batches.close, batch_id))

    async def call_on(self, now: float) -> float | None:
        """See Store.call_on."""
        return await self._there.write(Lane.CALL, partial(self._there.resources.calls.call_on, now))

    async def holder(self, resource: str) -> Holder | None:
        """See Store.holder."""
        return await self._there.lanes.look(partial(self._there.resources.holder, resource))

    async def turn(self, record: JobRecord) -> Entry | None:
        """See Store.turn."""
        return await self._there.lanes.look(partial(self._there.resources.calls.turn, record))

    async def orphans(self, limit: int, keep_damaged_s: float | None = None) -> list[Run]:
        """See Store.orphans."""
        return await self._there.lanes.look(partial(self._there.claimer.orphans, limit, keep_damaged_s))

    async def job(self, job_id: str) -> JobRecord | None:
        """See Store.job."""
        return await self._look(records.job, self._there.servers, self._batches, job_id)

    async def look(self, job_ids: Sequence[str]) -> Looked:
        """See Store.look."""
        return await self._look(records.look, self._there.servers, job_ids)

    async def change(self, change: Change, after: object | None, first_order: int) -> Slice:
        """See Store.change. It goes after all writes asked for before, and before those of housekeeping that come later."""
        return await self._there.write(Lane.HOUSEKEEPING, partial(self._there.changer.change, change, after, first_order))

    async def news(self) -> News:
        """See Store.news."""
        return await self._look(changes.news, self._there.servers, self._there.resources)

    async def answer(self, question: int) -> None:
        """See Store.answer."""
        await self._there.lanes.look(partial(self._there.servers.answer, question))

    async def others_caught_up(self, node: str | None) -> Mapping[str, int]:
        """See Store.others_caught_up."""
        return await self._there.lanes.look(partial(self._there.questions.others_caught_up, node))

    async def page(
        self, wanted: Filter, after: int | None, limit: int, *, newest_first: bool = False
    ) -> tuple[list[JobRecord], int | None]:
        """See Store.page."""
        return await self._look(pages.page, self._there.servers, self._batches, wanted, after, limit, newest_first)

    async def counts(self) -> dict[str, dict[State, int]]:
        """See Store.counts; how exact they are is said in tallies.py."""
        return await self._there.lanes.look(self._there.session.tallies.read)

    async def suspend(self, type_: str, at: float) -> bool:
        """See Store.suspend."""
        return await self._look(suspended.suspend, self._there.servers, type_, at)

    async def resume(self, type_: str) -> bool:
        """See Store.resume."""
        return await self._look(suspended.resume, self._there.servers, type_)

    async def say(self, topic: Topic, type_: str, text: bytes | None) -> bool:
        """See Store.say."""
        return await self._look(said.say, self._there.servers, topic, type_, text)

    async def said(self, topic: Topic) -> dict[str, bytes]:
        """See Store.said."""
        return await self._look(said.said, topic)

    async def suspended(self) -> dict[str, float]:
        """See Store.suspended."""
        return await self._look(suspended.suspended)

    async def subscribe(self, type_: str, subscriber: str) -> bool:
        """See Store.subscribe."""
        return await self._look(subscriptions.subscribe, self._there.servers, type_, subscriber)

    async def unsubscribe(self, type_: str, subscriber: str) -> bool:
        """See Store.unsubscribe."""
        return await self._look(subscriptions.unsubscribe, self._there.servers, type_, subscriber)

    async def subscriptions(self) -> dict[str, list[str]]:
        """See Store.subscriptions."""
        return await self._look(subscriptions.subscriptions)

    async def put_schedule(self, schedule: Schedule, node: str | None = None) -> Schedule:
        """See Store.put_schedule."""
        return await self._look(ticks.put, schedule, node)

    async def remove_schedule(self, name: str, node: str | None = None) -> bool:
        """See Store.remove_schedule."""
        return await self._look(ticks.remove, name, node)

    async def schedules(self, names: Sequence[str] | None = None) -> list[Schedule]:
        """See Store.schedules."""
        return await self._look(ticks.schedules, names)

    async def schedule_changes(self) -> int:
        """See Store.schedule_changes."""
        return await self._look(ticks.changes)

    async def suspend_schedule(self, name: str, at: float | None, since: float) -> Schedule | None:
        """See Store.suspend_schedule."""
        return await self._look(ticks.suspend, name, at, since)

    async def pass_ticks(self, passed: Sequence[Passed]) -> list[bool]:
        """See Store.pass_ticks."""
        return await self._look(ticks.pass_ticks, passed)

    async def before(self, type_: str, rank: tuple[int, int], most: int, group: str | None = None) -> int:
        """See Store.before."""
        return await self._look(queues.before, type_, rank, most, group)

    async def first_in_line(self, type_: str, most: int) -> list[str]:
        """See Store.first_in_line. It costs two round trips for each priority of the type."""
        return await self._look(queues.first_in_line, type_, most)

    async def oldest(self, types: Sequence[str], prios: int) -> dict[str, float]:
        """See Store.oldest. It costs a round trip for each priority of a type, a few of them at a time."""
        return await self._look(queues.oldest, types, prios)

    async def sweep(self, now: float, limit: int, before_order: int) -> int:
        """See Store.sweep."""
        return await self._keep_house(retention.sweep, self._there.servers, self._there.follower, now, limit, before_order)

    async def trim_successes(self, keep_count: int, limit: int, before_order: int) -> int:
        """See Store.trim_successes."""
        return await self._keep_house(
            retention.trim_successes, self._there.servers, self._there.follower, keep_count, limit, before_order
        )

    async def sync(self) -> int:
        """See Store.sync."""
        return await self._there.lanes.look(self._there.servers.beat)

    async def check(self) -> None:
        """See Store.check. Its files are MongoDB's."""

    @property
    def is_first(self) -> bool:
        """See Store: the eldest server is."""
        return self._open is not None and self._open.servers.is_eldest

    def owed_bytes(self) -> int:
        """See Store.owed_bytes: it is on no disk of ours."""
        return 0

    def give_back(self) -> None:
        """See Store.give_back: it is on no disk of ours."""

    @property
    def _there(self) -> Opened:
        if self._open is None:
            raise StoreUnavailableError("the store is not open")
        return self._open

    @property
    def _batches(self) -> Batches:
        return self._there.follower.batches

    def _look(self, operation: Callable[..., Coroutine[Any, Any, T]], *args: object) -> Awaitable[T]:
        return self._there.lanes.look(partial(operation, self._there.session, *args))

    def _keep_house(self, operation: Callable[..., Coroutine[Any, Any, T]], *args: object) -> Awaitable[T]:
        return self._there.write(Lane.HOUSEKEEPING, partial(operation, self._there.session, *args))


def _nobody(_news: object) -> None:
    return None
