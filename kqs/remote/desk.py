"""Where remote workers are served: who waits for which types, which runs they have, and what becomes of these.

A run is somebody's from its delivery to its report, its deadline, or the loss of the connection that asked for it, whichever
comes first; anybody who has its token may report it. A held one outlives that connection, and this server as well: until its
deadline, counted anew from the loss or the start, it is his who has the token.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from weakref import WeakSet

from kqs.job import Returned, Run
from kqs.log import get_logger
from kqs.outcome import Failed, Outcome
from kqs.queue.leases import Lease
from kqs.queue.queue import Queue
from kqs.remote.party import Order, Party
from kqs.remote.pool import Pool
from kqs.remote.runs import OpenRun, without_long
from kqs.remote.tokens import Named, Tokens
from kqs.supervisor import Supervisor, when_done

log = get_logger("kqs.remote")

#: who is doubted is tried out so long after it lost a run, in s: no longer, for a worker need not say a word of that
TRIAL_S = 1.0
#: how long a pool outlives its last order, in s: who asks for one job at a time asks for the same types again
LINGER_S = 2.0
#: no more do at a time: each is looked at whenever jobs are inserted
MOST_LINGERING = 100


class Desk:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, queue: Queue, grace_s: float, supervisor: Supervisor) -> None:
        """Args: grace_s: how long `stop` waits; -1: for ever."""
        self._queue = queue
        self._source = queue.runs
        self._grace_s = grace_s
        self._supervisor = supervisor
        self._pools: dict[tuple[frozenset[str], str, bool], Pool] = {}
        #: where those stand who ask for nothing, held runs or not: no consumer of the queue, so nobody takes them for takers.
        #: They outlast `drain`: of runs that are to end is told as long as there are some
        self.listeners = {held: Pool(self._source, "", (), held=held) for held in (False, True)}
        self._runs: dict[str, OpenRun] = {}
        self._held_count = 0  # of these
        self._called_off: dict[str, OpenRun] = {}  # of these, held ones without a party whose jobs were cancelled
        self._parties: WeakSet[Party] = WeakSet()
        self._tokens = Tokens("")
        self._on_lost, self._on_cancel = self._run_lost, self._run_cancelled  # bound once, not for each run
        self._freed: Counter[Order] = Counter()  # runs that are over, for which nobody has come yet
        self._drained = asyncio.Event()
        self._timers: dict[Pool, asyncio.TimerHandle] = {}
        #: reports of remote workers; of those, failures
        self.done_count = self.failed_count = 0
        self._is_started = False
        self._is_stopping = False

    def start(self, store_id: str) -> None:
        """Let those have jobs who asked for some, now that the store with this id is there."""
        self._tokens = Tokens(store_id)
        self._is_started = True
        self._source.on_adopted = self.adopt
        self.adopt(self._source.adopted)
        for pool in self._pools.values():
            self._source.add_consumer(pool.consumer)

    @property
    def runs_count(self) -> int:
        """Return how many runs are in remote hands."""
        return len(self._runs)

    @property
    def _waited_count(self) -> int:
        """Return how many of these a stop waits for."""
        return len(self._runs) - self._held_count

    @property
    def is_started(self) -> bool:
        """Tell whether the store is there, so that it can be told which runs are none."""
        return self._is_started

    def party(self, address: str = "") -> Party:
        """Return a new party, which has nothing. address: where it is, for people."""
        party = Party(self, address, self._source.clock.now())
        self._parties.add(party)
        return party

    @property
    def parties(self) -> list[Party]:
        """Return those who ask for jobs, or have done so and are still there."""
        return [party for party in self._parties if not party.is_gone]

    @property
    def away(self) -> list[OpenRun]:
        """Return the held runs whose workers are away."""
        return [run for run in self._runs.values() if run.party is None] if self._held_count else []

    def pool(self, types: frozenset[str], worker: str, *, held: bool) -> Pool:
        """Return where those stand in line who ask for these types under that name, to hold their runs or not."""
        pool = self._pools.get((types, worker, held))
        if pool is None:
            pool = self._pools[types, worker, held] = Pool(self._source, worker, types, held=held)
            if self._is_started:
                self._source.add_consumer(pool.consumer)
        elif (timer := self._timers.pop(pool, None)) is not None:
            timer.cancel()
        return pool

    def note_left(self, pool: Pool) -> None:
        """Take in that somebody left the line."""
        is_asking = pool is not self.listeners[pool.consumer.is_held]
        if is_asking and not pool.orders and not self._is_stopping and pool not in self._timers:
            if len(self._timers) >= MOST_LINGERING:
                longest = next(iter(self._timers))
                self._timers[longest].cancel()
                self._retire(longest)
            self._timers[pool] = self._supervisor.call_later(LINGER_S, "remote", self._retire, pool)

    def _retire(self, pool: Pool) -> None:
        del self._timers[pool]
        del self._pools[pool.consumer.types, pool.consumer.worker, pool.consumer.is_held]
        if self._is_started:
            self._supervisor.spawn(self._source.remove_consumer(pool.consumer), "remote-leave", when_done)

    def begin(self, runs: Sequence[Run], party: Party | None, order: Order | None) -> dict[str, OpenRun]:
        """Let runs begin in the hands of a party, or go on in those of whoever has their tokens; return them by these."""
        begin, token_of, on_lost, on_cancel = self._source.begin, self._tokens.of, self._on_lost, self._on_cancel
        worker = None if party is None else party.worker
        now = self._source.clock.monotonic()
        begun: dict[str, OpenRun] = {}
        for run in runs:
            token, kept = token_of(run), without_long(run)
            lease = begin(kept, on_lost, now, on_cancel, goes_on=party is None)
            begun[token] = OpenRun(kept, token, lease, run.data, run.progress, party, order, worker, run.is_cancelled)
            self._held_count += run.held
        self._runs.update(begun)
        return begun

    def _open(self, lease: Lease) -> OpenRun:
        return self._runs[self._tokens.of(lease.run)]

    def _note_called_off(self, run: OpenRun) -> None:
        if run.is_cancelled and run.party is None:
            self._called_off[run.token] = run

    def called_off(self, worker: str) -> list[OpenRun]:
        """Return the runs without a party that are to end, and that the worker of this name may have in hand."""
        return [run for run in self._called_off.values() if run.worker in (None, worker)] if self._called_off else []

    def adopt(self, runs: Sequence[Run]) -> None:
        """Watch over held runs whose server is gone."""
        unknown = [run for run in runs if self._tokens.of(run) not in self._runs]
        for begun in self.begin(unknown, None, None).values():
            begun.data, begun.progress = b"", None
            self._note_called_off(begun)
        if unknown:
            log.info("held runs go on", count=len(unknown))

    async def take(self, named: Named) -> OpenRun | None:
        """Return a held run that another server has watched over until now; None: it is over, or not held.

        Raises: StoreUnavailableError.
        """
        await self._queue.settle()  # it may have been reported just now
        if self._source.is_leaving(named.claim):
            return None
        run = await self._source.take(named.claim)
        if run is None:
            return None
        self.adopt([run])
        return self._runs.get(self._tokens.of(run))

    def left(self, named: Named) -> bool:
        """Take in that whoever had a run that was lost is done with it; False: nothing waits for that."""
        return self._source.left_by(named.claim)

    def lose_worker(self, worker: str, runs: Sequence[OpenRun]) -> None:
        """Tell whoever listens that a worker is gone that had these runs."""
        self._source.lose_worker(worker, [run.run for run in runs])

    def let_go(self, run: OpenRun) -> None:
        """Let a held run go on without its party, which is gone; its ttr counts from now."""
        run.party = run.order = None
        run.lease.context.touch()
        self._note_called_off(run)

    def run(self, token: str) -> OpenRun | None:
        """Return the run of a token, if it is in somebody's hands here."""
        return self._runs.get(token)

    def watched(self, token: str) -> OpenRun | None:
        """Return the run of a token if it is watched over here for certain.

        Who has lost the connection of a held run may have said to another server of the store that it goes on: see `take`.
        """
        run = self._runs.get(token)
        return None if run is not None and run.party is None and self._source.is_shared else run

    def named(self, token: str) -> Named | None:
        """Return what a token names; None: it is none of this store's."""
        return self._tokens.named(token)

    def may_report(self, run: OpenRun) -> bool:
        """Tell whether there is room for the result of a run. If not, it may be said later, and has its ttr for that anew."""
        if not self._source.has_too_many_results:
            return True
        run.lease.context.touch()
        return False

    def report(self, run: OpenRun, outcome: Outcome, told: Callable[[bool], None]) -> None:
        """Take the report of a run; `told` is called when it is durable."""
        party = run.party
        self._close(run)
        taken = self._source.report(run.lease, outcome)
        assert taken, "a run is forgotten when its lease ends"
        self.done_count += 1
        self.failed_count += isinstance(outcome, Failed)
        if party is not None:
            party.done_count += 1
            party.failed_count += isinstance(outcome, Failed)
        self._source.when_stored(run.run, told)

    def release(self, run: OpenRun, end: Returned | None, told: Callable[[bool], None]) -> None:
        """Take a run back that its worker does not want; `told` as for `report`. end: None: it has not begun there."""
        self._close(run)
        if end is None:
            self._source.cancel(run.lease)
        else:
            self._source.release(run.lease, end.delay_s, end.prio)
        self._source.when_stored(run.run, told)

    def touch(self, run: OpenRun) -> float:
        """Give a run another ttr; return how long it has then, in s."""
        run.lease.context.touch()
        return self.left_s(run)

    @property
    def has_much_to_save(self) -> bool:
        """Tell whether nothing should be saved now: the store is far behind."""
        return self._source.has_much_to_save

    def save(self, run: OpenRun, progress: bytes, told: Callable[[bool], None]) -> None:
        """Touch a run, and keep how far it is. told: called when that is kept; with False if the run turns out to be over."""
        run.lease.context.touch()
        self._source.save(run.lease, progress, told)

    def left_s(self, run: OpenRun) -> float:
        """Return how long a run has, in s."""
        return run.lease.next_deadline - self._source.clock.monotonic()

    def lose(self, run: OpenRun, reason: str) -> None:
        """Take a run back whose worker is gone."""
        self._close(run)
        self._source.lose(run.lease, reason)

    def _run_lost(self, lease: Lease) -> None:
        run = self._open(lease)
        self._tell_lost(run)
        if run.party is not None:
            run.party.overdue_count += 1
            run.party.doubt()
        self._close(run)

    def try_later(self, party: Party) -> None:
        """Have one who is doubted tried out soon."""
        self._supervisor.call_later(TRIAL_S, "remote", party.try_out)

    def _run_cancelled(self, lease: Lease) -> None:
        """Tell whoever has the run: it is theirs to end, as long as they say that it goes on."""
        run = self._open(lease)
        run.is_cancelled = True
        self._note_called_off(run)
        self._tell_lost(run)

    def _tell_lost(self, run: OpenRun) -> None:
        if run.order is not None:
            run.order.tell_lost(run)
        elif run.party is None:  # its worker may be back, by whichever connection: after a start nobody knows its name
            for party in self.parties:
                if run.worker in (None, party.worker):
                    party.tell_away(run)

    def _close(self, run: OpenRun) -> None:
        del self._runs[run.token]
        self._called_off.pop(run.token, None)
        self._held_count -= run.run.held
        if run.party is not None:
            run.party.close(run)
        if run.order is not None:
            if not self._freed:
                self._supervisor.call_soon("remote", self._make_room)
            self._freed[run.order] += 1
        if not self._waited_count:
            self._drained.set()

    def _make_room(self) -> None:
        """Let others come for the runs that were over in this tick, all at once: what is claimed together costs less."""
        freed, self._freed = self._freed, Counter()
        for order, count in freed.items():
            order.pool.make_room(order, count)

    def drain(self) -> None:
        """Let nobody have more, and say so. Idempotent."""
        self._is_stopping = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for pool in self._pools.values():
            for order in list(pool.orders):
                order.end()

    async def stop(self) -> None:
        """Let nobody have more; wait for the runs as long as grace lasts; give the others back, but leave the held ones."""
        self.drain()
        pools, self._pools = self._pools, {}
        for pool in pools.values() if self._is_started else ():
            await self._source.remove_consumer(pool.consumer)
        if self._waited_count:
            await self._grace()
        for run in list(self._runs.values()):
            self._close(run)
            if run.run.held:
                self._source.leave(run.lease)
            else:
                self._source.release(run.lease)

    async def _grace(self) -> None:
        grace_s = None if self._grace_s < 0 else self._grace_s
        log.info("waiting for remote runs to finish", count=self._waited_count, grace_s=grace_s)
        self._drained.clear()
        try:
            async with asyncio.timeout(grace_s):
                await self._drained.wait()
        except TimeoutError:
            log.warning("grace is over, giving remote runs back", count=self._waited_count)
