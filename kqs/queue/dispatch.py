"""How ready jobs reach those who run them.

Each consumer is served by one task, which sleeps until there is room and something ready; while a claim is being committed,
what becomes ready and free gathers for the next one. New jobs may skip the broker (see admission.py).
"""

from __future__ import annotations

import asyncio

from kqs.errors import BrokerError, KqsError, StoreUnavailableError
from kqs.job import Entry
from kqs.log import get_logger
from kqs.queue.admission import Admission, Wanted
from kqs.queue.basis import Basis
from kqs.queue.consumer import Consumer
from kqs.store.base import Granted
from kqs.supervisor import when_done
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

#: how long to wait before asking a store or broker that failed again, in s
RETRY_WAIT_S = 0.2
#: entries of one claim: enough that a commit of its own costs them nothing, few enough for one statement
CLAIM_ENTRIES = 4000


class Dispatcher:
    """Serves every consumer. Owns their tasks; call from the loop thread."""

    def __init__(self, basis: Basis, admission: Admission) -> None:
        self._store = basis.store
        self._broker = basis.broker
        self._clock = basis.clock
        self._ends = basis.events.ends
        self._admission = admission
        self._wishes = basis.wishes
        self._keep_damaged_s = basis.keep_damaged_s
        self._supervisor = basis.supervisor
        self._tasks: dict[Consumer, asyncio.Task[None]] = {}

    def add(self, consumer: Consumer) -> None:
        """Begin to bring `consumer` jobs."""
        self._admission.enter(consumer)
        self._tasks[consumer] = self._supervisor.spawn(
            self._serve(consumer), f"consumer-{consumer.worker}", lambda task: consumer.stopped and when_done(task)
        )

    async def remove(self, consumer: Consumer) -> None:
        """Bring nothing more to a consumer that has stopped. Idempotent."""
        if (task := self._tasks.pop(consumer, None)) is not None:
            self._admission.leave(consumer)
            await self._supervisor.end(task)

    async def stop(self) -> None:
        """Bring nobody anything any more."""
        await self._supervisor.end(*self._tasks.values())

    async def _serve(self, consumer: Consumer) -> None:
        """Bring `consumer` jobs until it stops. The body of a task. Raises: StoreError: trouble that does not pass."""
        trouble = Trouble(log, "cannot reserve, trying again", "reserves again", self._clock.monotonic)
        while not consumer.stopped:
            await consumer.wait_room()
            try:
                await self._bring(consumer)
            except (StoreUnavailableError, BrokerError) as error:
                trouble.met(error=str(error))
                await asyncio.sleep(RETRY_WAIT_S)
            else:
                trouble.over()

    async def _bring(self, consumer: Consumer) -> None:
        wanted = self._admission.wanted(consumer)
        if wanted.most <= 0:
            return
        entries: list[Entry] = []
        if wanted.types:  # else none of them may begin
            entries = await self._broker.reserve(wanted.weights, min(wanted.most, CLAIM_ENTRIES), wanted.most_of)
        if not entries:
            if self._admission.wanted(consumer).types is wanted.types:  # else others may begin than might before
                await self._wait_ready(consumer, wanted)
            return
        taken, surplus = self._admission.fit(consumer, entries)
        try:
            await self._deliver(consumer, taken)
        finally:
            if surplus:
                await self._broker.release(surplus)

    async def _deliver(self, consumer: Consumer, entries: list[Entry]) -> None:
        runs = Granted()
        consumer.reserve(len(entries))
        try:
            if entries:
                now, held, most = self._clock.now(), consumer.is_held, consumer.most_bytes
                runs = await self._store.claim(entries, consumer.worker, now, self._keep_damaged_s(), held, most)
        except KqsError:
            await self._broker.release(entries)
            raise
        finally:
            self._admission.settle(entries, runs)
            consumer.settle(len(entries), runs)
        self._broker.claimed(entries)
        if len(runs) < len(entries):
            await self._return(entries, runs)

    async def _wait_ready(self, consumer: Consumer, wanted: Wanted) -> None:
        self._want_more()
        consumer.on_room = self._want_more
        try:
            await self._broker.wait_ready(wanted.types, wanted.closed)
        finally:
            consumer.on_room = None

    def _want_more(self) -> None:
        self._wishes.more()

    async def _return(self, entries: list[Entry], runs: Granted) -> None:
        """Have the broker forget what is not ready any more, and keep what was left."""
        kept = {(run.claim.id, run.handle) for run in runs} | {(entry.id, entry.handle) for entry in runs.left}
        gone = [entry for entry in entries if (entry.id, entry.handle) not in kept]  # a copy may come beside its job
        self._ends.search([entry.id for entry in gone])  # they may have ended, too
        await self._broker.delete(gone)
        if runs.left:
            await self._broker.release(list(runs.left))
