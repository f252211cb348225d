"""SqliteStore: the store port on one SQLite file. Each method is an operation in a transaction, done by the store's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from kqs.clock import Clock
from kqs.config import StoreSection
from kqs.errors import StoreError, StoreUnavailableError
from kqs.filter import Filter
from kqs.job import Accepted, Claim, Entry, JobRecord, Progress, Report, Rescheduled, Run, Tally
from kqs.states import State
from kqs.store.base import (
    Change,
    Following,
    Granted,
    Holder,
    Known,
    Looked,
    News,
    Owner,
    Passed,
    Schedule,
    Slice,
    StoreInfo,
    Waiting,
)
from kqs.store.rotation import Terms, Turn, Turned
from kqs.store.sayings import Topic
from kqs.store.sharing import Sharing
from kqs.store.sqlite import (
    batches,
    claim,
    follow,
    groups,
    insert,
    pages,
    progress,
    queues,
    records,
    report,
    resources,
    retention,
    said,
    schedule,
    schema,
    subscriptions,
    suspended,
    ticks,
)
from kqs.store.sqlite import change as changing
from kqs.store.sqlite.connection import translated
from kqs.store.sqlite.here import StoreHere
from kqs.store.sqlite.operations import Runner
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.thread import StoreThread
from kqs.supervisor import Supervisor

#: so few new jobs with so little data are stored at once rather than handed to the thread: somebody may wait for them.
#: 64 KiB take 0.1 ms, no more than the hops; a MiB takes 2 ms and 16 MiB take 100, in which the loop would do nothing else
_FEW_JOBS = 4
_FEW_BYTES = 64 * 1024
#: by how much of itself the file may grow when all its jobs run: who ran them, when, how it ended; large disks have that anyway
_GROWTH_SHARE = 0.25
_MOST_OWED_BYTES = 64 * 1024 * 1024


class SqliteStore:
    """See kqs.store.base.Store."""

    is_shared = False
    is_first = True
    sharing: Sharing | None = None

    def __init__(
        self, path: Path, settings: StoreSection, clock: Clock, supervisor: Supervisor, *, is_passing: bool = False
    ) -> None:
        """Args: path: the file; it is created, mode 0600, in a directory that must exist.

        is_passing: it is in memory, and all is done on the loop.
        """
        self._session = Session(path, settings.cache_bytes, settings.bulk_bytes, clock.now, is_passing=is_passing)
        self._runner: Runner = StoreHere(self._session) if is_passing else StoreThread(self._session, supervisor)
        self._path = path

    def owner(self) -> Owner | None:
        """See Store.owner."""
        try:
            return schema.owner_of(self._path)
        except (sqlite3.Error, OSError, StoreError) as error:
            raise self._named(translated(error)) from error

    async def open(self, journal_id: str, node: str) -> StoreInfo:
        """See Store.open."""
        try:
            meta = await self._runner.start(lambda session: session.open(journal_id, node))
        except StoreError as error:
            raise self._named(error) from error
        return StoreInfo(epoch=meta.epoch, fed_seq=meta.fed_seq, last_order=meta.last_order, store_id=journal_id)

    def _named(self, error: Exception) -> Exception:
        """Return the error with the name of the file, which SQLite does not say."""
        said = str(error)
        return error if str(self._path) in said else type(error)(f"{said}: {self._path}")

    async def close(self) -> None:
        """See Store.close."""
        await self._runner.stop()

    def owed_bytes(self) -> int:
        """See Store.owed_bytes."""
        try:
            return min(int(self._path.stat().st_size * _GROWTH_SHARE), _MOST_OWED_BYTES)
        except OSError:
            return 0

    def give_back(self) -> None:
        """Give the disk what the file and its WAL hold and do not need, soon; where nobody waits for what was done."""

        def ask(session: Session) -> None:
            session.space.wants_room = True

        with suppress(StoreUnavailableError):
            self._runner.call(ask).add_done_callback(lambda done: done.cancelled() or done.exception())

    async def insert(self, jobs: Sequence[Accepted], fed_seq: int, worker: str, now: float) -> Known:
        """See Store.insert."""
        operation = partial(insert.insert, jobs=jobs, fed_seq=fed_seq, worker=worker, now=now)
        has_ends = any(job.end is not None for job in jobs)
        is_small = len(jobs) <= _FEW_JOBS and sum([len(job.data) + _end_bytes(job.end) for job in jobs]) <= _FEW_BYTES
        return await self._runner.call(operation, durable=has_ends, small=is_small)

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
        return await self._runner.call(
            partial(
                claim.claim,
                entries=entries,
                worker=worker,
                now=now,
                keep_damaged_s=keep_damaged_s,
                held=held,
                most_bytes=most_bytes,
            )
        )

    async def adopt(self, runs: Sequence[Run]) -> list[bool]:
        """See Store.adopt."""
        return await self._runner.call(partial(claim.adopt, runs=runs))

    async def take(self, claim: Claim) -> Run | None:
        """See Store.take. There are no other servers."""
        return None

    async def save(self, saved: Sequence[Progress], *, durable: bool) -> list[bool]:
        """See Store.save."""
        operation = partial(progress.save, progress=saved, durable=durable)
        return await self._runner.call(operation, durable=durable, small=not durable and len(saved) <= _FEW_JOBS)

    async def report(self, reports: Sequence[Report]) -> Sequence[bool | None]:
        """See Store.report."""
        is_small = len(reports) <= _FEW_JOBS and sum(map(_end_bytes, reports)) <= _FEW_BYTES
        return await self._runner.call(partial(report.report_all, reports=reports), durable=True, small=is_small)

    async def ready(self, type_: str, after: tuple[int, int] | None, limit: int, body_bytes: int | None = None) -> list[Entry]:
        """See Store.ready."""
        return await self._runner.call(partial(schedule.ready, type_=type_, after=after, limit=limit, body_bytes=body_bytes))

    async def grouped_types(self, among: Collection[str]) -> list[str]:
        """See Store.grouped_types."""
        return await self._runner.call(partial(groups.types, among=among))

    async def in_turn(self, type_: str, turn: Turn, count: int, terms: Terms) -> Turned:
        """See Store.in_turn."""
        look = partial(groups.in_turn, type_=type_, turn=turn, count=count, terms=terms)
        while (turned := await self._runner.call(look)) is None:
            pass
        return turned

    async def wake(self, before: float, limit: int, body_bytes: int | None = None) -> list[Entry]:
        """See Store.wake."""
        return await self._runner.call(partial(schedule.wake, before=before, limit=limit, body_bytes=body_bytes))

    async def reschedule(self, changes: Sequence[Rescheduled]) -> None:
        """See Store.reschedule."""
        await self._runner.call(partial(schedule.reschedule, changes=changes))

    async def next_due_at(self) -> float | None:
        """See Store.next_due_at."""
        return await self._runner.call(schedule.next_due_at)

    async def expire(
        self, now: float, limit: int, drop_after_s: float | None, by_type: Mapping[str, float | None] | None = None
    ) -> list[str]:
        """See Store.expire."""
        return await self._runner.call(
            partial(schedule.expire, now=now, limit=limit, drop_after_s=drop_after_s, by_type=by_type or {})
        )

    async def next_expire_at(self) -> float | None:
        """See Store.next_expire_at."""
        return await self._runner.call(schedule.next_expire_at)

    @property
    def on_called(self) -> Callable[[list[Entry]], None]:
        """See Store.on_called."""
        return self._runner.hearing.on_called

    @on_called.setter
    def on_called(self, on_called: Callable[[list[Entry]], None]) -> None:
        self._runner.hearing.on_called = on_called

    @property
    def on_followed(self) -> Callable[[], None]:
        """See Store.on_followed."""
        return self._runner.hearing.on_followed

    @on_followed.setter
    def on_followed(self, on_followed: Callable[[], None]) -> None:
        self._runner.hearing.on_followed = on_followed

    @property
    def on_waiting(self) -> Callable[[Waiting], None]:
        """See Store.on_waiting."""
        return self._runner.hearing.on_waiting

    @on_waiting.setter
    def on_waiting(self, on_waiting: Callable[[Waiting], None]) -> None:
        self._runner.hearing.on_waiting = on_waiting

    def watch(self, types: Collection[str]) -> None:
        """See Store.watch."""
        self._session.watched = frozenset(types)

    async def call_on(self, now: float) -> float | None:
        """See Store.call_on."""
        return await self._runner.call(partial(resources.call_on, now=now))

    async def follow(
        self, now: float, drop_after_s: float | None, by_type: Mapping[str, float | None] | None = None
    ) -> Following:
        """See Store.follow."""
        return await self._runner.call(
            partial(follow.follow, now=now, drop_after_s=drop_after_s, by_type=by_type or {}),
        )

    async def batches(self, ids: Sequence[str]) -> dict[str, bool]:
        """See Store.batches."""
        return await self._runner.call(partial(batches.are_open, ids=ids))

    async def seal_batch(self, batch_id: str) -> bool:
        """See Store.seal_batch."""
        return await self._runner.call(partial(batches.seal, batch_id=batch_id), durable=True)

    async def close_batch(self, batch_id: str) -> Tally | None:
        """See Store.close_batch."""
        return await self._runner.call(partial(batches.close, batch_id=batch_id), durable=True)

    async def holder(self, resource: str) -> Holder | None:
        """See Store.holder."""
        return await self._runner.call(partial(resources.holder, resource=resource))

    async def turn(self, record: JobRecord) -> Entry | None:
        """See Store.turn."""
        return await self._runner.call(partial(resources.turn, record=record))

    async def orphans(self, limit: int, keep_damaged_s: float | None = None) -> list[Run]:
        """See Store.orphans."""
        return await self._runner.call(partial(claim.orphans, limit=limit, keep_damaged_s=keep_damaged_s))

    async def job(self, job_id: str) -> JobRecord | None:
        """See Store.job."""
        return await self._runner.call(partial(records.job, job_id=job_id))

    async def look(self, job_ids: Sequence[str]) -> Looked:
        """See Store.look."""
        return await self._runner.call(partial(records.look, job_ids=job_ids))

    async def change(self, change: Change, after: object | None, first_order: int) -> Slice:
        """See Store.change."""
        self._runner.expect_slow()
        return await self._runner.call(partial(changing.change, change=change, after=after, first_order=first_order))

    async def news(self) -> News:
        """See Store.news. There are no other servers."""
        return News([], False, None)

    async def answer(self, question: int) -> None:
        """See Store.answer: nobody asks."""

    async def others_caught_up(self, node: str | None) -> Mapping[str, int]:
        """See Store.others_caught_up: there are none."""
        return {}

    async def page(
        self, wanted: Filter, after: int | None, limit: int, *, newest_first: bool = False
    ) -> tuple[list[JobRecord], int | None]:
        """See Store.page."""
        found = await self._runner.call(partial(pages.page, wanted=wanted, after=after, limit=limit, newest_first=newest_first))
        return found.records, found.next_after

    async def counts(self) -> dict[str, dict[State, int]]:
        """See Store.counts."""
        return await self._runner.call(records.counts)

    async def suspend(self, type_: str, at: float) -> bool:
        """See Store.suspend."""
        return await self._runner.call(partial(suspended.suspend, type_=type_, at=at), durable=True)

    async def resume(self, type_: str) -> bool:
        """See Store.resume."""
        return await self._runner.call(partial(suspended.resume, type_=type_), durable=True)

    async def say(self, topic: Topic, type_: str, text: bytes | None) -> bool:
        """See Store.say."""
        return await self._runner.call(partial(said.say, topic=topic, type_=type_, text=text), durable=True)

    async def said(self, topic: Topic) -> dict[str, bytes]:
        """See Store.said."""
        return await self._runner.call(partial(said.said, topic=topic))

    async def suspended(self) -> dict[str, float]:
        """See Store.suspended."""
        return await self._runner.call(suspended.suspended)

    async def subscribe(self, type_: str, subscriber: str) -> bool:
        """See Store.subscribe."""
        return await self._runner.call(partial(subscriptions.subscribe, type_=type_, subscriber=subscriber), durable=True)

    async def unsubscribe(self, type_: str, subscriber: str) -> bool:
        """See Store.unsubscribe."""
        return await self._runner.call(partial(subscriptions.unsubscribe, type_=type_, subscriber=subscriber), durable=True)

    async def subscriptions(self) -> dict[str, list[str]]:
        """See Store.subscriptions."""
        return await self._runner.call(subscriptions.subscriptions)

    async def put_schedule(self, schedule: Schedule, node: str | None = None) -> Schedule:
        """See Store.put_schedule."""
        return await self._runner.call(partial(ticks.put, schedule=schedule, node=node), durable=True)

    async def remove_schedule(self, name: str, node: str | None = None) -> bool:
        """See Store.remove_schedule."""
        return await self._runner.call(partial(ticks.remove, name=name, node=node), durable=True)

    async def schedules(self, names: Sequence[str] | None = None) -> list[Schedule]:
        """See Store.schedules."""
        return await self._runner.call(partial(ticks.schedules, names=names))

    async def schedule_changes(self) -> int:
        """See Store.schedule_changes. Nobody else changes any."""
        return 0

    async def suspend_schedule(self, name: str, at: float | None, since: float) -> Schedule | None:
        """See Store.suspend_schedule."""
        return await self._runner.call(partial(ticks.suspend, name=name, at=at, since=since), durable=True)

    async def pass_ticks(self, passed: Sequence[Passed]) -> list[bool]:
        """See Store.pass_ticks."""
        return await self._runner.call(partial(ticks.pass_ticks, passed=passed))

    async def before(self, type_: str, rank: tuple[int, int], most: int, group: str | None = None) -> int:
        """See Store.before."""
        return await self._runner.call(partial(queues.before, type_=type_, rank=rank, most=most, group=group))

    async def first_in_line(self, type_: str, most: int) -> list[str]:
        """See Store.first_in_line."""
        return await self._runner.call(partial(queues.first_in_line, type_=type_, most=most))

    async def oldest(self, types: Sequence[str], prios: int) -> dict[str, float]:
        """See Store.oldest."""
        return await self._runner.call(partial(queues.oldest, types=types, prios=prios))

    async def sweep(self, now: float, limit: int, before_order: int) -> int:
        """See Store.sweep."""
        return await self._runner.call(partial(retention.sweep, now=now, limit=limit, before_order=before_order))

    async def trim_successes(self, keep_count: int, limit: int, before_order: int) -> int:
        """See Store.trim_successes."""
        return await self._runner.call(
            partial(retention.trim_successes, keep_count=keep_count, limit=limit, before_order=before_order)
        )

    async def sync(self) -> int:
        """See Store.sync."""
        return await self._runner.call(Session.sync, durable=True)

    async def check(self) -> None:
        """See Store.check."""
        await self._runner.call(Session.check_files)


def _end_bytes(end: Report | None) -> int:
    """Return how many bytes a report brings."""
    return 0 if end is None else len(end.result or b"") + len(end.progress or b"")
