"""Runs that are over while their handlers may still be at them: what no two may have at once is kept for these meanwhile.

Whoever has such a run was told to end it, and says when its handler has ended. One that does not heed that, or a worker that is
not heard of, is waited for no longer than `LEAVE_S`. Call from the loop thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from kqs.supervisor import Judgement, Supervisor

T = TypeVar("T")

#: who was told to end a run has so long, in s; a command that is asked to end has been killed by then, and a thread was waited
#: for (kqs.commands.channel, kqs.minding.minder, kqs.executor.threads)
LEAVE_S = 1.0


class _One(NamedTuple):
    then: Callable[[], None]
    limit: Judgement


class Leaving(Generic[T]):
    """See the module docstring. Runs are named by whatever tells them apart."""

    def __init__(self, supervisor: Supervisor, name: str) -> None:
        """Args: name: whose they are, for the supervisor."""
        self._supervisor = supervisor
        self._name = name
        self._runs: dict[T, _One] = {}

    def __contains__(self, run: T) -> bool:
        return run in self._runs

    def add(self, run: T, then: Callable[[], None]) -> None:
        """Call `then` once whoever has the run has left it, or does not within `LEAVE_S`."""
        self._runs[run] = _One(then, self._supervisor.judge_later(LEAVE_S, self._name, self._wait_no_more, run))

    def left(self, run: T) -> bool:
        """Take in that nobody is at a run any more; False: nothing waited for that."""
        one = self._runs.pop(run, None)
        if one is None:
            return False
        one.limit.cancel()
        one.then()
        return True

    def _wait_no_more(self, run: T) -> None:
        self.left(run)

    def close(self) -> None:
        """Wait for nobody any more."""
        for run in list(self._runs):
            self.left(run)
