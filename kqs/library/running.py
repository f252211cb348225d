"""`run_jobs`: how many runs a program lets begin, and for how long. What a run then does: kqs.library.hands.

Two ways to be given runs. As long as their number is bounded, so many are reserved at a time, that none is taken which does not
begin. Without a bound they are a standing order, which is told of cancellations at once.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from kqs.client import Client, ConnectionLostError, Run, Work
from kqs.errors import CallError
from kqs.handlers import Handler, Registry, default_registry
from kqs.library.apart import Apart
from kqs.library.hands import Hands
from kqs.log import get_logger
from kqs.options import MAX_SECONDS
from kqs.states import WAITING, State
from kqs.supervisor import Supervisor, when_done, with_its_answer
from kqs.wire.runs import MAX_ROOM, MAX_RUNS

log = get_logger("kqs.library")

#: one `reserve` waits no longer than that, in s, and is asked again then
LONGEST_WAIT_S = 3600.0
#: whose jobs one call counts
MOST_TYPES = 1000
#: new jobs that wait, and what is retried at once, are given to whoever asks within so long, in s, unless something keeps them
CLAIM_S = 0.2
#: or within so many times what a look in vain took: a slow store gives back what that has claimed, and claims, as slowly
PATIENCE = 4
#: a queue that is stopping is asked again after so long, in s
DRAINED_S = 0.5


class Running:
    """Runs jobs of the types that have a handler here, `concurrency` at a time."""

    def __init__(self, client: Client, supervisor: Supervisor, concurrency: int, apart: Apart) -> None:
        self._client = client
        self._apart = apart
        self._concurrency = concurrency
        self._worker = ""  # who runs the jobs, as their records say
        self._registry = Registry()
        self._supervisor = supervisor
        self._hands: Hands | None = None
        self._changed = asyncio.Event()  # a run is over, or the handlers are others
        self._rests = asyncio.Event()  # `run` does not go on
        self._rests.set()
        self._is_closed = False
        #: tells whether it makes sense to look for jobs of these types, without a wait
        self.may_have: Callable[[list[str]], Awaitable[bool]] = self._has_waiting

    def add(self, type_: str, function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
        """Have `function` run jobs of a type; return its own options, also those that its decorator says.

        Raises: HandlerError: it cannot, or the type has another.
        """
        declared = default_registry.get(type_)
        if declared is not None and declared.function is function:
            of_retry = {} if declared.retry_delay is None else {"retry_delay": declared.retry_delay}
            options = {**declared.options, **of_retry, **options}
        handler = self._registry.add(type_, function, options)
        self._changed.set()
        return handler.options

    def remove(self, type_: str) -> bool:
        """Have nobody here run jobs of a type from now on; runs that have begun go on. False: it had no handler."""
        self._changed.set()
        return self._registry.remove(type_)

    def type_of(self, function: Callable[..., Any]) -> str | None:
        """Return the type whose jobs a function runs here."""
        return next((one for one in self._registry.types if _function(self._registry.get(one)) is function), None)

    async def run(self, count_limit: int | None, time_limit_s: float | None) -> int:
        """See Queue.run_jobs. Raises: RuntimeError: it goes on already."""
        if not self._rests.is_set():
            raise RuntimeError("run_jobs goes on already in this queue; add_handler takes effect in it at once")
        most, until, is_once = _limits(count_limit, time_limit_s, asyncio.get_running_loop().time())
        hands = self._hands = self._hands or self._new_hands()
        self._worker = f"{socket.gethostname()}:{os.getpid()}"  # not before: a program may make a queue, fork, and open it then
        self._rests.clear()
        try:
            if most is math.inf and until is not None:
                begun = await self._run_all(hands, until)
            else:
                begun = await self._run_some(hands, most, until, is_once=is_once)
            await self._until_over(hands)
            await self._apart.settle()
        except BaseException:
            await hands.stop()
            raise
        else:
            return begun
        finally:
            self._rests.set()

    def _new_hands(self) -> Hands:
        return Hands(self._client, self._supervisor, self._concurrency, self._apart, self._changed.set)

    async def close(self) -> None:
        """Cancel and give back what runs; `run` raises ConnectionLostError then."""
        self._is_closed = True
        self._changed.set()
        await self._rests.wait()
        if self._hands is not None:
            await self._hands.close()
            self._hands = None

    async def _run_some(self, hands: Hands, most: float, until: float | None, *, is_once: bool) -> int:
        """Run up to `most` jobs, until `until`; None: as long as there are some. is_once: look for some once."""
        begun, asking = 0, None
        try:
            while begun < most and (until is None or _now() < until):
                self._check_open()
                self._changed.clear()
                room = int(min(self._concurrency - hands.count, most - begun, MAX_RUNS))
                if asking is None and room > 0 and self._registry.types:
                    asking = self._ask(hands, room, until)
                if asking is None and until is None and not hands.count and not hands.has_returned:
                    break
                await self._either(asking, until)
                self._check_open()
                if asking is not None and asking.done():
                    runs, asking = asking.result(), None
                    begun += self._begin(hands, runs)
                    is_idle = not runs and until is None and not hands.has_returned
                    if is_once or (is_idle and not hands.count):
                        break
                    if is_idle:
                        await self._changed.wait()
        finally:
            await self._drop(asking)
        return begun

    def _ask(self, hands: Hands, room: int, until: float | None) -> asyncio.Task[list[Run]]:
        wait_s = 0.0 if until is None else min(max(0.0, until - _now()), LONGEST_WAIT_S)
        is_back, hands.has_returned = hands.has_returned, False
        return self._supervisor.spawn(self._reserve(room, wait_s, is_back=is_back), "library-reserve", with_its_answer)

    async def _run_all(self, hands: Hands, until: float) -> int:
        """Run jobs until `until`, in as many lanes as there are."""
        begun = 0
        while _now() < until:
            self._check_open()
            self._changed.clear()
            types = sorted(self._registry.types)
            if not types:
                async with self._told():
                    await self._either(None, until)
                continue
            try:
                async with self._client.work(types, self._concurrency, worker=self._worker) as work:
                    while self._goes_on(types, until):
                        begun += self._begin(hands, await self._take(work, types, until))
            except StopAsyncIteration:
                await asyncio.sleep(DRAINED_S)
            except CallError as error:
                if error.call_code != "draining":
                    raise
                await asyncio.sleep(DRAINED_S)
            except ConnectionLostError as error:
                if not self._client.is_open:
                    raise
                log.warning("the connection was lost, and with it its runs", error=str(error))
        async with self._told():
            await self._until_over(hands)
        return begun

    def _told(self) -> Work:
        """Return what brings no runs, and tells which of an order that was left are cancelled; an older server refuses it."""
        return self._client.work((), 0, worker=self._worker)

    async def _until_over(self, hands: Hands) -> None:
        """Return when nothing is in hand. Raises: ConnectionLostError: it was closed."""
        while hands.count:
            self._check_open()
            self._changed.clear()
            await self._either(None, None)

    def _goes_on(self, types: list[str], until: float) -> bool:
        return _now() < until and types == sorted(self._registry.types) and not self._is_closed

    def _check_open(self) -> None:
        """Raises: ConnectionLostError: it was closed."""
        if self._is_closed:
            raise ConnectionLostError("the queue was closed")

    async def _take(self, work: Work, types: list[str], until: float) -> list[Run]:
        """Return the next runs of a standing order; none if it is to go on no more. Raises: as `Work.take`."""
        taking = self._supervisor.spawn(work.take(), "library-take", with_its_answer)
        is_taken = False
        try:
            while not taking.done() and self._goes_on(types, until):
                self._changed.clear()
                await self._either(taking, until)
            is_taken = taking.done()
        finally:
            if not is_taken:
                await self._drop(taking)
        return taking.result() if is_taken else []

    async def _drop(self, asking: asyncio.Task[list[Run]] | None) -> None:
        """Want no more what was asked for; runs that have come are given back."""
        if asking is not None:
            await self._supervisor.end(asking)
            if not asking.cancelled() and asking.exception() is None:
                self._client.give_back(asking.result())

    async def _reserve(self, room: int, wait_s: float, *, is_back: bool) -> list[Run]:
        """Return up to `room` runs; without a wait, of what was inserted before, if the store has heard of it or not.

        is_back: a job that ran here may wait again, and is on its way.
        """
        types, began = sorted(self._registry.types), _now()
        try:
            if not wait_s and not await self.may_have(types):
                return []
            runs = await self._client.reserve(types, room, wait_s, worker=self._worker)
            if not runs and not wait_s and (is_back or await self._may_come(types)):
                claim_s = max(CLAIM_S, PATIENCE * (_now() - began))
                runs = await self._client.reserve(types, room, claim_s, worker=self._worker)
            return runs
        except CallError as error:
            if error.call_code == "draining":
                await asyncio.sleep(min(wait_s, DRAINED_S))
                return []
            raise

    async def _has_waiting(self, types: list[str]) -> bool:
        counts = await self._counts(types)
        return counts is None or any(counts[state.word] for state in WAITING)

    async def _may_come(self, types: list[str]) -> bool:
        """Tell whether jobs are new, or claimed for others: maybe for us, as the last look was over, and soon given back."""
        in_hand = 0 if self._hands is None else self._hands.count
        counts = await self._counts(types)
        return counts is None or counts[State.NEW.word] > 0 or counts[State.PROCESSING.word] > in_hand

    async def _counts(self, types: list[str]) -> Counter[str] | None:
        """Return how many jobs of these types are in which state; None: there are too many types to tell.

        It is answered when the store has what is journaled.
        """
        known = await self._client.types(limit=MOST_TYPES)
        if len(known) == MOST_TYPES:
            return None
        counts: Counter[str] = Counter()
        for one in known:
            if one["type"] in types:
                counts.update(one["counts"])
        return counts

    def _begin(self, hands: Hands, runs: list[Run]) -> int:
        """Let runs begin; those whose handler is gone are given back. Returns: how many have begun."""
        begun = [(run, handler) for run in runs if (handler := self._registry.get(run.type)) is not None]
        for run, handler in begun:
            hands.begin(run, handler)
        self._client.give_back([run for run in runs if self._registry.get(run.type) is None])
        return len(begun)

    async def _either(self, task: asyncio.Task[list[Run]] | None, until: float | None) -> None:
        """Return when the task has ended, something has changed, or it is `until`."""
        changed = self._supervisor.spawn(self._changed.wait(), "library-changed", when_done)
        timeout_s = None if until is None or until is math.inf else max(0.0, until - _now())
        try:
            await asyncio.wait([changed, *([] if task is None else [task])], timeout=timeout_s, return_when="FIRST_COMPLETED")
        finally:
            await self._supervisor.end(changed)


def _limits(count_limit: int | None, time_limit_s: float | None, now: float) -> tuple[float, float | None, bool]:
    """Return how many runs may begin, until when, and whether to look for some only once.

    until: by the loop's clock; None: as long as there are some. Raises: ValueError: a limit is no number.
    """
    if not (count_limit is None or _is_whole(count_limit)):
        raise ValueError(f"count_limit: expected a whole number, or None, got {count_limit!r:.60}")
    if not (time_limit_s is None or _is_whole(time_limit_s) or _is_real(time_limit_s)):
        raise ValueError(f"time_limit_s: expected a number of seconds, or None, got {time_limit_s!r:.60}")
    if count_limit is None and time_limit_s is None:
        return 1, None, True
    most = math.inf if count_limit is None or count_limit < 0 else count_limit
    if time_limit_s is None:
        return most, None, False
    if time_limit_s == 0:
        return most, None, True
    return most, math.inf if not 0 <= time_limit_s <= MAX_SECONDS else now + time_limit_s, False


def checked_concurrency(value: object) -> int:
    """Return it. Raises: ValueError: so many jobs cannot run at a time."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_ROOM:
        raise ValueError(f"concurrency: expected a whole number from 1 to {MAX_ROOM}, got {value!r:.60}")
    return value


def _is_real(value: object) -> bool:
    return isinstance(value, float) and not math.isnan(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _function(handler: Handler | None) -> Callable[..., Any] | None:
    return None if handler is None else handler.function
