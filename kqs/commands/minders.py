"""The minders that there are: one a command at work, and some that wait for the next. Call from the loop thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kqs.commands.channel import Channel, MinderLostError
from kqs.commands.keeper import Keeper
from kqs.log import get_logger
from kqs.supervisor import Supervisor

_log = get_logger("kqs.commands")

#: minders that are asked for at a time: what stands in the keeper's socket is bounded by the system
STARTING = 16
#: how long one that nobody needs is kept, in s, up to twice; each takes a process and 1 to 2 MB
SPARE_S = 10.0
#: how long a stop waits for helper processes, in s
CLOSE_WITHIN_S = 1.0


class Minders:
    """See the module docstring. The keeper is started with the first one, and again whenever it has gone."""

    def __init__(self, supervisor: Supervisor, of: str = "commands") -> None:
        """Args: of: what they mind, for the log."""
        self._of = of
        self._supervisor = supervisor
        self._keeper: Keeper | None = None
        self._idle: list[Channel] = []
        self._spare_count = 0  # of those, the ones that nobody has needed since the last look
        self._starting = asyncio.Semaphore(STARTING)
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = asyncio.Event()
        self._has_ended.set()
        self._is_closed = False

    async def take(self) -> Channel:
        """Return a channel to a minder that is free, which must be given back. Raises: OSError: there is none to be had."""
        if (idle := self._take_idle()) is not None:
            return idle
        async with self._starting:
            return self._take_idle() or await self._start()

    def _take_idle(self) -> Channel | None:
        while self._idle:
            channel = self._idle.pop()
            self._spare_count = min(self._spare_count, len(self._idle))
            if channel.is_free:
                return channel
        return None

    async def make(self, passed: Sequence[int]) -> Channel:
        """Return a channel to a new minder, for one child process, which is closed with its end. Raises: OSError: as `take`.

        Args: passed: see `Keeper.fork`.
        """
        async with self._starting:
            return await self._start(passed)

    async def _start(self, passed: Sequence[int] = ()) -> Channel:
        if self._is_closed:
            raise MinderLostError("the server stops")
        if self._keeper is None:
            self._has_ended.clear()
            try:
                self._keeper = Keeper(self._supervisor, self._note_end)
            except OSError:
                self._has_ended.set()
                raise
        try:
            ours = self._keeper.fork(passed)
        except (BrokenPipeError, ConnectionResetError):  # it was killed, and its end is still to be told
            raise MinderLostError("the process that makes others was killed") from None
        channel = Channel(ours, self._supervisor)
        await channel.meet()
        return channel

    def give_back(self, channel: Channel) -> None:
        """Keep a minder for the next command, if it can take one; have one that does not do as it is told killed."""
        if channel.is_stuck and self._keeper is not None:
            self._keeper.kill(channel.pid)
        if self._is_closed or not channel.is_free:
            channel.close()
            return
        self._idle.append(channel)
        if self._timer is None:
            self._spare_count = 0
            self._look_later()

    def _look_later(self) -> None:
        self._timer = self._supervisor.call_later(SPARE_S, "commands", self._look)

    def _look(self) -> None:
        """Let go of those that nobody has needed since the last look."""
        self._timer = None
        for channel in self._idle[: self._spare_count]:
            channel.close()
        del self._idle[: self._spare_count]
        self._spare_count = len(self._idle)
        if self._idle:
            self._look_later()

    def _note_end(self) -> None:
        self._keeper = None
        self._has_ended.set()
        if not self._is_closed:
            _log.warning(f"the helper process of {self._of} was killed; another is started when it is needed")

    def close(self) -> None:
        """Let go of all that are idle, and start no more. Idempotent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            self._idle.pop().close()
        if self._keeper is not None:
            self._keeper.close()

    async def wait_closed(self) -> None:
        """Return when the helper processes have ended, or after CLOSE_WITHIN_S."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._has_ended.wait()
        except TimeoutError:
            _log.warning(f"{self._of} and their helper processes take long to end, going on without them")
