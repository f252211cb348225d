"""What an open MongoStore owns: its connection, its parts, and the tasks that say that it lives and keep it up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from motor.motor_asyncio import AsyncIOMotorClient

from kqs.errors import StoreCorruptError, StoreError
from kqs.job import Accepted
from kqs.log import get_logger
from kqs.store.base import Known
from kqs.store.mongo import changes, client
from kqs.store.mongo.claim import Claimer
from kqs.store.mongo.client import Document
from kqs.store.mongo.collections import Collections
from kqs.store.mongo.follow import Follower
from kqs.store.mongo.insert import Inserter
from kqs.store.mongo.lanes import Lane, Lanes
from kqs.store.mongo.questions import Questions
from kqs.store.mongo.report import Reporter
from kqs.store.mongo.resources import Resources
from kqs.store.mongo.servers import BEAT_S, Servers
from kqs.store.mongo.session import Session
from kqs.store.mongo.shares import Shares
from kqs.supervisor import Supervisor
from kqs.trouble import Trouble

log = get_logger("kqs.store")

T = TypeVar("T")

#: rounds of upkeep between two looks for files that no job names
_ROUNDS_PER_SWEEP = 120


async def recount_alone(session: Session, servers: Servers) -> None:
    """Count all jobs as the only server; whoever has come meanwhile may have changed some."""
    await session.tallies.recount()
    await servers.living()
    if not servers.is_alone:
        session.tallies.doubt()


class Opened:
    """See the module docstring."""

    def __init__(
        self,
        connection: AsyncIOMotorClient[Document],
        collections: Collections,
        session: Session,
        servers: Servers,
        resources: Resources,
        follower: Follower,
        supervisor: Supervisor,
    ) -> None:
        self.session = session
        self.servers = servers
        self.lanes = Lanes(supervisor)
        self.resources = resources
        self.shares = Shares(collections.shares, session, servers)
        self.questions = Questions(collections, servers, supervisor)
        self.follower = follower
        self.inserter = Inserter(session, servers, resources, follower)
        self.claimer = Claimer(session, servers, resources)
        self.reporter = Reporter(session, resources)
        self.changer = changes.Changer(session, servers, resources, follower)
        self._connection = connection
        self._supervisor = supervisor
        self._fault: StoreCorruptError | None = None
        self._rounds = 0
        # apart: a write that hangs holds up the upkeep behind it, and must not make others take us for dead
        self._services = [
            supervisor.spawn(self._every_beat(what), f"store {name}")
            for name, what in (("heartbeat", self.say_alive), ("upkeep", self.keep_up))
        ]

    def write(self, lane: Lane, operation: Callable[[], Coroutine[Any, Any, T]]) -> Awaitable[T]:
        """Run a write in its turn.

        Raises: StoreCorruptError: this boot is not the journal's newest any more.
        """
        if self._fault is not None:
            raise self._fault

        async def doubting() -> T:
            # it may have done something that nobody has counted, and count again what it has when it is repeated
            try:
                return await operation()
            except (*client.DRIVER_ERRORS, OSError, StoreError):
                self.session.tallies.doubt()
                raise

        return self.lanes.write(lane, doubting)

    def write_alive(self, lane: Lane, operation: Callable[[], Coroutine[Any, Any, T]]) -> Awaitable[T]:
        """As `write`, for what may claim jobs: who was cut off says first that it lives, or others would run them too."""

        async def beat_first() -> T:
            if self.servers.is_overdue:
                await self.servers.beat()
            return await operation()

        return self.write(lane, beat_first)

    async def insert(self, jobs: Sequence[Accepted], fed_seq: int, worker: str, now: float) -> Known:
        """Store jobs; only then is the journal fed so far. A replay of what is stored already is harmless."""
        known = await self.inserter.insert(jobs, worker, now) if jobs else Known()
        self.servers.fed_to(fed_seq, max((job.order for job in jobs), default=0))
        return known

    async def close(self) -> None:
        """Finish what was asked, say that this boot is over, disconnect."""
        await self._supervisor.end(*self._services)
        await self.questions.close()
        await self.lanes.close()
        try:
            await self.session.tallies.flush()
            await self.servers.beat()
            await self.servers.leave(doubts=self.session.tallies.is_doubtful)
        except (*client.DRIVER_ERRORS, StoreError) as error:
            log.warning("leaving MongoDB without saying so", error=str(error))
        self._connection.close()

    async def say_alive(self) -> None:
        """Beat, and look who else does, however seldom somebody asks for orphans."""
        try:
            await self.servers.beat()
            await self.servers.living()
        except StoreCorruptError as error:
            self._fault = error
            raise
        except client.DRIVER_ERRORS as error:
            raise client.translated(error) from error

    async def keep_up(self) -> None:
        """Undo claims whose answer was lost, write the totals or count anew, and now and then sweep long data."""
        self._rounds += 1
        await self.lanes.write(Lane.CLAIM, self.claimer.take_back)
        if self.session.tallies.needs_recount:
            await self._recount()
        else:
            await self.lanes.look(self.session.tallies.flush)
        if self.session.tallies.may_settle:
            await self.lanes.look(self.session.tallies.settle)
        await self.lanes.look(self.session.tallies.look_at_waiting)
        await self.lanes.look(self.resources.calls.look)
        await self.lanes.look(self.follower.look)
        if self.servers.is_eldest:
            await self.lanes.write(Lane.CALL, self.resources.sweep)
            await self.lanes.look(self.follower.sweep)
        if self._rounds % _ROUNDS_PER_SWEEP == 0:
            if self.servers.is_eldest:
                await self.lanes.look(self.follower.sweep_ends)
            await self.lanes.look(partial(self.session.bulk.sweep, self.session.monotonic()))

    async def _every_beat(self, what: Callable[[], Awaitable[None]]) -> None:
        """Do it for ever. Raises: what does not pass."""
        trouble = Trouble(log, "MongoDB is not kept up to date, trying again", "MongoDB is kept up to date again")
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await what()
            except StoreCorruptError:
                raise
            except StoreError as error:
                trouble.met(error=str(error))
            else:
                trouble.over()

    async def _recount(self) -> None:
        await self.lanes.look(self.servers.living)
        if self.servers.is_alone:
            await self.lanes.alone(partial(recount_alone, self.session, self.servers))
        else:
            await self.lanes.look(self.session.tallies.verify)
