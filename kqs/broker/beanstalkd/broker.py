"""The broker port over a pool of beanstalkds.

What is put is offered to the servers (`supply`), and what they do not take stays in the store. What is reserved, by a reserve
that asks or by a watch that waits in a server, is laid by (`hand`) until a caller takes it, so nothing depends on the caller
still being there. A reserved job stays reserved in its beanstalkd while it runs, for an operator to see, and is deleted when
its run ends; the store decides whether a job may run, so a reservation that is lost costs nothing.

Order holds within one server; between several it is as near as what they answer together.

Nothing is put before it is due, with a delay of beanstalkd's own. That would run late by up to a second, since a beanstalkd
counts whole ones; the store's own clock would have to watch over every such job all the same, since beanstalkd may lose it, or
an operator kick it out early, when the claim would refuse it; and what is cancelled meanwhile would lie there until its time.

Some things are noticed late, and looked at every `TICK_S`: jobs laid by that nobody fetched, tubes that are no longer paused,
types that may be refilled again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from kqs.broker.base import Refill
from kqs.broker.beanstalkd.body import Bodies
from kqs.broker.beanstalkd.hand import Hand
from kqs.broker.beanstalkd.pool import Pool
from kqs.broker.beanstalkd.supply import Supply, by_type
from kqs.broker.turns import Turns
from kqs.broker.waiters import Waiters
from kqs.config import BrokerSection
from kqs.job import Entry
from kqs.supervisor import Supervisor

#: between two looks at what nothing tells of, in s: jobs that nobody fetched, refills, watches
TICK_S = 0.5
#: how long a put waits for the servers at most, in s: they set the pace while they can, and hold nobody up when they cannot
PUT_WITHIN_S = 0.1
#: how long the answers of slower servers are waited for, in s: what comes together is handed out by rank
STRAGGLE_S = 0.02
#: a type that was asked for is watched for so long, in s
WANTED_S = 2.0


class BeanstalkdBroker:
    """See the module docstring. Call from the loop thread."""

    def __init__(
        self,
        supervisor: Supervisor,
        settings: BrokerSection,
        namespace: str = "",
        ttr_of: Callable[[str, bytes | None], float] = lambda type_, options: 30.0,
    ) -> None:
        """Args:

        namespace: stands in the names of tubes.
        ttr_of: the ttr in s of jobs of a type, with a job's own options or None, so that an operator sees it.
        """
        self._supervisor = supervisor
        self._settings = settings
        self._namespace = namespace
        self._ttr_of = ttr_of
        self.body_bytes: int | None = settings.body_bytes
        self._turns = Turns()
        self._hand = Hand(sorts=len(settings.servers) > 1)
        self._asked: dict[str, float] = {}  # types, and until when they count as wanted
        self._waiters = Waiters()
        self._tick_task: asyncio.Task[None] | None = None
        self._pool: Pool
        self._supply: Supply
        self._loop: asyncio.AbstractEventLoop

    async def start(self, refill: Refill, waiting: Mapping[str, int], store_id: str = "") -> None:
        """Begin; servers that are away join when they are back."""
        self._loop = asyncio.get_running_loop()
        bodies = Bodies(store_id, self._ttr_of)
        self._pool = Pool(self._settings, self._namespace, bodies, self, self._supervisor)
        max_entries = self._settings.max_entries
        self._supply = Supply(self._pool, max_entries, lambda type_: self._waiters.wake((type_,)), self._supervisor)
        try:
            await self._pool.start()
        except BaseException:
            await self._pool.stop()
            raise
        self._supply.start(refill, waiting)
        self._tick_task = self._supervisor.spawn(self._tick(), "beanstalkd-tick")

    async def close(self) -> None:
        """Disconnect; the servers make ready what was reserved."""
        task, self._tick_task = self._tick_task, None
        if task is not None:
            await self._supervisor.end(task)
            await self._supply.stop()
            await self._pool.stop()

    def problems(self) -> list[str]:
        """Return what is wrong, in words; nothing before the start."""
        return self._pool.problems() if self._tick_task is not None else []

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if stale := self._hand.take_stale(self._loop.time()):
                await self.release(stale)
            self._supply.refill_all()
            self.answered()
            self._pool.wake_watches()

    async def put(self, entries: Sequence[Entry]) -> None:
        """Offer ready jobs; return when the servers have them, or after `PUT_WITHIN_S`.

        Raises: as `reserve`.
        """
        self._raise_fault()
        groups = by_type(entries)
        for type_, group in groups.items():
            self._supply.offer(type_, group)
        await self._await_puts(groups)

    async def _await_puts(self, types: Iterable[str]) -> None:
        if unanswered := self._pool.unanswered_puts(types):
            await asyncio.wait(unanswered, timeout=PUT_WITHIN_S)

    async def recheck(self, types: Collection[str]) -> None:
        """Fetch what the store holds of these types; what is on the servers already comes twice, unless we put it there."""
        self.forgotten(types)

    async def reserve(self, weights: Mapping[str, int], count: int, most_of: Callable[[str], int] | None = None) -> list[Entry]:
        """Take up to `count` entries of the types in `weights`, in fair turns. Cancelling takes nothing.

        Raises: whatever a refill met that does not pass: damage or a bug, for the caller to die of. Nothing was taken.
        """
        self._raise_fault()
        self._asked.update(dict.fromkeys(weights, self._loop.time() + WANTED_S))
        types = frozenset(weights)
        has_asked = False
        while count > 0:
            missing = count - self._hand.count(types, most_of)
            waiting = {} if missing <= 0 or (has_asked and missing < count) else self._waiting(types, missing, most_of)
            if not waiting and missing < count:
                return self._handed_out(self._hand.take(types, count, most_of))
            if waiting:
                answers = self._pool.take(self._turns.share(waiting, weights, missing))
            elif not (answers := self._pool.unanswered_puts(types, only_resting=True)):
                break
            has_asked = True
            if len(answers) > 1:
                await asyncio.wait(answers, timeout=STRAGGLE_S)
            if not any(answer.done() for answer in answers):
                await self._waiters.wait(types, *answers)
        return []

    def _waiting(self, types: frozenset[str], missing: int, most_of: Callable[[str], int] | None) -> dict[str, int]:
        """Return how many of each type it is worth asking the servers for."""
        waiting = self._pool.waiting(types, missing)
        if most_of is None:
            return waiting
        wanted = {type_: min(count, most_of(type_) - self._hand.count((type_,))) for type_, count in waiting.items()}
        return {type_: count for type_, count in wanted.items() if count > 0}

    def _handed_out(self, taken: list[Entry]) -> list[Entry]:
        for type_ in {entry.type for entry in taken}:
            self._supply.refill(type_)
        self._pool.wake_watches()
        return taken

    async def wait_ready(self, types: frozenset[str], closed: frozenset[str] = frozenset()) -> None:
        """Return when an entry of one of `types` may have become ready, put by whomever."""
        if self._may_have(types):
            return
        self._pool.wake_watches()  # which look again at what is wanted, and first have a turn when this waits
        await self._waiters.wait(types, closed=closed)

    def wake(self, types: Collection[str] | None = None) -> None:
        """Have everybody return who is in `wait_ready`, for one of these types if some are named."""
        self._waiters.open(types)

    async def delete(self, entries: Sequence[Entry]) -> None:
        """Forget reserved entries, without waiting for the servers."""
        self._pool.delete(entries)

    async def forget(self, entries: Sequence[Entry]) -> None:
        """Delete waiting entries that were put, without waiting for the servers; whoever has one hears from the store."""
        for type_, group in by_type(entries).items():
            self._pool.forget(type_, group)

    async def release(self, entries: Sequence[Entry]) -> None:
        """Give reserved entries back, in their old places."""
        self._pool.release(entries)
        types = {entry.type for entry in entries}
        self._waiters.wake(types)
        await self._await_puts(types)

    def backlog(self, type_: str) -> bool:
        """Tell whether an entry of this type is believed to be waiting, on a server or in the store."""
        return type_ in self._hand or self._supply.is_partial(type_) or self._pool.count(type_) > 0

    def _raise_fault(self) -> None:
        if self._supply.fault is not None:
            raise self._supply.fault

    def taken(self, entry: Entry) -> None:
        """Lay a reserved job by, and wake who may want it."""
        is_first = entry.type not in self._hand
        self._hand.add(entry, self._loop.time())
        if is_first:
            self._waiters.wake((entry.type,))

    def refused(self, entries: Sequence[Entry]) -> None:
        """Leave jobs in the store that a server did not take."""
        for type_, group in by_type(entries).items():
            self._supply.leave(type_, min(group, key=lambda entry: entry.rank))

    def forgotten(self, types: Iterable[str]) -> None:
        """Have put again what the store still holds."""
        for type_ in list(types):
            self._supply.recheck(type_)

    def made_room(self, type_: str) -> None:
        """Put what waited for room."""
        self._supply.refill(type_)

    def is_partial(self, type_: str) -> bool:
        """Tell whether jobs of a type wait in the store."""
        return self._supply.is_partial(type_)

    def answered(self) -> None:
        """Wake those for whom there may be something now."""
        self._waiters.wake_where(self._may_have)

    def came_up(self) -> None:
        """Use a server that is back."""
        self._supply.refill_all()
        self.answered()

    def wanted(self) -> Iterable[str]:
        """Return the types that somebody would take jobs of, unless a job lies by already."""
        now = self._loop.time()
        self._asked = {type_: until for type_, until in self._asked.items() if until > now}
        return [type_ for type_ in self._waiters.types.union(self._asked) if type_ not in self._hand]

    def _may_have(self, types: frozenset[str]) -> bool:
        return any(type_ in self._hand or self._pool.waiting((type_,), 1) for type_ in types)
