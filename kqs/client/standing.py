"""Calls that stand: their answer comes when there is something to answer, or never, and they end with their connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from kqs.client.runs import Run, heard
from kqs.errors import KqsError

if TYPE_CHECKING:
    from kqs.client.inflight import InFlight
    from kqs.client.workers import WorkersCalls


class StandingCall(msgspec.Struct, eq=False):
    """One call. ended: told its result, or why there is none; told once. event: told each intermediate answer."""

    line: bytes
    ended: Callable[[msgspec.Raw | KqsError], None]
    event: Callable[[msgspec.Raw], None]
    sent: bool = False


class Standing:
    """A standing call of a client, as an asynchronous context manager and iterator. It may be entered again."""

    _call: str
    _where: str

    def __init__(self, calls: InFlight, arg: bytes) -> None:
        """Args: arg: of the call, as JSON."""
        self._calls = calls
        self._arg = arg
        self._end: msgspec.Raw | KqsError | None = None
        self._changed = asyncio.Event()
        self._number: int | None = None
        self._stay = 0  # grows as it is entered, and as it is left: what comes for an earlier one was on its way then

    async def __aenter__(self) -> Self:
        self._end = None
        self._stay = stay = self._stay + 1
        self._number = self._calls.stand(self._call, self._arg, partial(self._ended, stay), partial(self._take, stay))
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self._number is not None:
            self._calls.withdraw(self._number)
            self._number = None
            self._stay += 1
        self._let_go()

    def __aiter__(self) -> Self:
        return self

    async def _wait(self, has_some: Callable[[], object]) -> None:
        """Return when there is something to take. Raises: StopAsyncIteration, ConnectionLostError, CallError: no more comes."""
        if self._number is None:
            raise RuntimeError(self._where)
        while not has_some():
            if self._end is not None:
                if isinstance(self._end, KqsError):
                    raise self._end
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    def _ended(self, stay: int, end: msgspec.Raw | KqsError) -> None:
        if stay == self._stay:
            self._end = end
            self._changed.set()

    def _take(self, stay: int, event: msgspec.Raw) -> None:
        """Take in an intermediate answer; stay: within which it was asked for."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """Let go of what came and nobody took."""
        raise NotImplementedError


class Work(Standing):
    """A standing order for runs: `async with client.work(...) as work`, and then `async for run in work`.

    Iteration ends when the server stops. It raises ConnectionLostError when the connection was lost: the runs that it gave are
    over then, but for held ones, and whoever wants more asks again. Left, it takes no more; what it was given and nobody took
    is given back.
    """

    _call = "work"
    _where = "runs are taken within `async with client.work(...) as work`"

    def __init__(self, calls: InFlight, worker: WorkersCalls, arg: bytes, held: bool) -> None:
        """Args: worker: who is given the runs. arg: as for Standing. held: it asks for runs that outlive the connection."""
        super().__init__(calls, arg)
        self._worker = worker
        self._held = held
        self._runs: deque[Run] = deque()

    async def __anext__(self) -> Run:
        while True:
            await self._wait(self._has_runs)
            run = self._runs.popleft()
            if not run.is_over:
                return run

    async def take(self) -> list[Run]:
        """Return all runs that are there, at least one, as soon as there is one.

        Raises: StopAsyncIteration, ConnectionLostError, CallError: as iteration.
        """
        while True:
            await self._wait(self._has_runs)
            runs = [run for run in self._runs if not run.is_over]
            self._runs.clear()
            if runs:
                return runs

    def _has_runs(self) -> bool:
        return bool(self._runs)

    def _let_go(self) -> None:
        runs, self._runs = self._runs, deque()
        self._worker.give_back(runs)

    def _take(self, stay: int, event: msgspec.Raw) -> None:
        runs = heard(event)
        if isinstance(runs, str):
            self._worker.end_run(runs)
            return
        if stay != self._stay:
            self._worker.give_back(runs)  # it was left, and these were on their way
            return
        self._worker.note_runs(runs, self._held)
        self._runs.extend(runs)
        self._changed.set()
