"""Which types are suspended: kept in the store, heard of from there, and told to admission, which lets no job of them begin.

Here nothing of a type begins from the call on, before the store has it; other servers of the store hear of it by
looking (neighbours.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kqs.clock import Clock
from kqs.errors import CallError
from kqs.queue.admission import Admission
from kqs.store.sayings import SayingsPort

#: all of them are read at each look
MAX_SUSPENDED = 1000


class Suspensions:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, store: SayingsPort, admission: Admission, wake: Callable[[], None], clock: Clock) -> None:
        """Args: wake: has everybody look again who waits for jobs."""
        self._store = store
        self._admission = admission
        self._wake = wake
        self._clock = clock
        self._turn = asyncio.Lock()

    async def suspend(self, type_: str) -> bool:
        """Let no job of this type begin until `resume`; durable when it returns. False: it was so already.

        Raises: CallError: there are too many. StoreError: it may be so or not.
        """
        async with self._turn:
            suspended = dict(self._admission.suspended)
            if len(suspended) >= MAX_SUSPENDED and type_ not in suspended:
                raise CallError(f"{MAX_SUSPENDED} types are suspended, which is the most; resume some first", "busy")
            now = self._clock.now()
            self._tell({type_: now} | suspended)
            try:
                return await self._store.suspend(type_, now)
            except BaseException:
                self._tell(suspended)
                raise

    async def resume(self, type_: str) -> bool:
        """Let jobs of this type begin again; durable when it returns. False: it was not suspended.

        Raises: StoreError: it may be so or not.
        """
        async with self._turn:
            was_suspended = await self._store.resume(type_)
            self._tell({other: since for other, since in self._admission.suspended.items() if other != type_})
            return was_suspended

    async def look(self) -> None:
        """Take in what the store says. Raises: StoreError."""
        async with self._turn:
            self._tell(await self._store.suspended())

    def _tell(self, suspended: dict[str, float]) -> None:
        if suspended != self._admission.suspended:
            self._admission.suspend(suspended)
            self._wake()
