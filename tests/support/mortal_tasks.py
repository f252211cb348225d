"""Lets a test end any background task of the server that calls `be_mortal` as it starts, in any way.

The server listens on `mortal.sock` in its folder. `tasks` answers the names of those that run; `cancel NAME`, `raise NAME` and
`return NAME` end the first whose name begins so, as if it had come to that by itself.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import types
from collections.abc import Coroutine, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import kqs.supervisor
from kqs.tasks import spawn

SOCKET = "mortal.sock"


class KilledError(Exception):
    """What a task dies of."""


class _Mortal:
    """A task, and the way in which it is to end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.how = ""
        self.task: asyncio.Task[Any]

    async def live(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do `work` until it is over, or the task is woken to end."""
        return await self._steps(work)

    @types.coroutine
    def _steps(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        step, given = work.send, None
        while True:
            try:
                awaited = step(given)
            except StopIteration as end:
                return end.value
            step, given = work.send, None
            try:
                yield awaited
            except BaseException as error:
                if self.how in ("raise", "return"):
                    with suppress(RuntimeError):  # it awaits something in its end
                        work.close()
                    if self.how == "raise":
                        raise KilledError from None
                    return None
                step, given = work.throw, error


_mortals: list[_Mortal] = []


def _spawn(work: Coroutine[Any, Any, Any], name: str, **settings: Any) -> asyncio.Task[Any]:
    mortal = _Mortal(name)
    mortal.task = spawn(mortal.live(work), name, **settings)
    _mortals.append(mortal)
    return mortal.task


def _end(how: str, name: str) -> None:
    mortal = next(mortal for mortal in _mortals if mortal.name.startswith(name) and not mortal.task.done())
    mortal.how = how
    mortal.task.cancel()


def _obey(listener: socket.socket) -> None:
    while True:
        peer, _ = listener.accept()
        with peer:
            order, _, name = peer.makefile().readline().strip().partition(" ")
            running = [mortal for mortal in _mortals if not mortal.task.done()]
            if order != "tasks":
                running[0].task.get_loop().call_soon_threadsafe(_end, order, name)
            peer.sendall("".join(f"{mortal.name}\n" for mortal in running).encode())


def be_mortal() -> None:
    """Make each task of this process one that can be ended, from now on."""
    vars(kqs.supervisor)["spawn"] = _spawn  # the name that it has imported
    Path(SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    listener.listen()
    threading.Thread(target=_obey, args=(listener,), daemon=True).start()
