"""The child processes of a server: as many as are wanted, whatever becomes of one. Call from the loop thread."""

from __future__ import annotations

import asyncio
import os
import sys

from kqs.children.child import Child, Door, End
from kqs.children.slot import Slot
from kqs.children.words import brief_of
from kqs.commands.minders import Minders
from kqs.config import Config
from kqs.log import get_logger
from kqs.supervisor import Supervisor, when_done

log = get_logger("kqs.children")

#: how often it is looked whether a handler holds a child, in s
LOOK_S = 1.0
#: how long children have after the server's runs are over, in s: their handlers may clean up, and the interpreter goes
LEAVE_S = 5.0
#: how long one that is killed may take to be gone, in s
KILL_S = 3.0


class Children:
    """See the module docstring."""

    def __init__(self, config: Config, supervisor: Supervisor, types: frozenset[str]) -> None:
        """Args: types: whose jobs run here."""
        self._config = config
        self._supervisor = supervisor
        self._count = config.worker.processes if config.worker.concurrency and types else 0
        #: whose jobs the children run
        self.types = types if self._count else frozenset[str]()
        self._minders = Minders(supervisor, "child processes")
        self._slots: list[Slot] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._leavers: dict[Child, asyncio.Task[End]] = {}
        self.starting = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_stopping = False

    def start(self, door: Door) -> None:
        """Begin to start them. door: serves their connections."""
        if not self._count or self._is_stopping:
            return

        def make(number: int) -> Child:
            path = [place for place in sys.path if isinstance(place, str)]  # tools put other things there
            brief = brief_of(self._config, number, path)
            return Child(number, brief, str(self._config.folder.absolute()), self._minders, door, self._supervisor)

        self._slots = [Slot(number, make, self, self._supervisor) for number in range(1, self._count + 1)]
        self._tasks = [self._supervisor.spawn(slot.keep(), "children") for slot in self._slots]
        self._look_later()

    async def room(self) -> None:
        """Return when not more leave than are to stay, so that never more than twice as many are there."""
        await self._has_room.wait()

    def add(self, child: Child, ended: asyncio.Task[End]) -> None:
        """Take one that is about to ask for no more."""
        self._leavers[child] = ended
        if len(self._leavers) > self._count:
            self._has_room.clear()
        self._supervisor.spawn(self._see_off(child, ended), "children-leave", when_done)

    async def _see_off(self, child: Child, ended: asyncio.Task[End]) -> None:
        await asyncio.wait([ended])
        del self._leavers[child]
        if len(self._leavers) <= self._count:
            self._has_room.set()
        if not ended.cancelled():
            end = ended.result()
            told = {"child": child.number, "pid": child.pid}
            if end.is_sound:
                log.info("a child process has ended", **told)
            else:
                log.warning("a child process has died", how=end.how, runs=end.runs_count, **told)

    def _look_later(self) -> None:
        self._timer = self._supervisor.call_later(LOOK_S, "children", self._look)

    def _look(self) -> None:
        for child, _ in self._living():
            child.look()
        self._look_later()

    def _living(self) -> list[tuple[Child, asyncio.Task[End]]]:
        in_place = [(slot.child, slot.ended) for slot in self._slots]
        return [(child, ended) for child, ended in [*in_place, *self._leavers.items()] if child and ended and not ended.done()]

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        return [] if self._is_stopping else [problem for slot in self._slots for problem in slot.problems()]

    def notes(self) -> list[str]:
        """Return what there is to know, in words."""
        if not self._count:
            return []
        pids = [str(slot.pid) for slot in self._slots if slot.pid]
        note = f"{len(pids)} of {self._count} child {'process runs' if self._count == 1 else 'processes run'}"
        if pids:
            note = f"{note}: {', '.join(pids)}"
        died = sum(slot.restarts_count for slot in self._slots)
        return [f"{note}; {died} {'has' if died == 1 else 'have'} died since the start" if died else note]

    def stats(self) -> dict[str, int]:
        """Return plain numbers by name."""
        if not self._count:
            return {}
        stats = {
            "children_running": sum(bool(slot.pid) for slot in self._slots),
            "children_leaving": len(self._leavers),
            "children_restarts": sum(slot.restarts_count for slot in self._slots),
            "children_recycled": sum(slot.recycled_count for slot in self._slots),
        }
        return stats | {f"child_{number}_pid": slot.pid for number, slot in enumerate(self._slots, 1)}

    async def drain(self) -> None:
        """Have all ask for no more, and end when their runs have. Idempotent."""
        if self._is_stopping:
            return
        self._is_stopping = True
        if self._timer is not None:
            self._timer.cancel()
        await self._supervisor.end(*self._tasks)
        living = self._living()
        for child, _ in living:
            child.end()
        await self._supervisor.end(*[ended for child, ended in living if child.is_unborn])

    async def stop(self) -> None:
        """Return when all have ended; kill who has not soon. Their runs are over, or are taken back when they are gone."""
        await self.drain()
        await self._await(LEAVE_S)
        if living := self._living():
            log.warning("child processes do not end, killing them", pids=", ".join(str(child.pid) for child, _ in living))
            for child, _ in living:
                child.end()
            await self._await(KILL_S)
        for child, _ in self._living():
            child.give_up()
        await self._await(KILL_S)
        self._minders.close()
        await self._minders.wait_closed()

    async def _await(self, within_s: float) -> None:
        if living := [ended for _, ended in self._living()]:
            await asyncio.wait(living, timeout=within_s)
