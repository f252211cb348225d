"""A supervisor for parts of a node: a fault that the test does not expect fails it (see tests/conftest.py)."""

from __future__ import annotations

import asyncio

from kqs.supervisor import Supervisor


class StrictSupervisor(Supervisor):
    """`faults` are those that nobody has taken."""

    made: list[StrictSupervisor] = []  # noqa: RUF012 - in the running test

    def __init__(self) -> None:
        super().__init__(self._note)
        self.faults: list[tuple[str, BaseException]] = []
        self._is_told = asyncio.Event()
        self.made.append(self)

    @property
    def names(self) -> list[str]:
        """Return the names of the tasks that run, the oldest first."""
        return [watched.name for watched in self._watched.values()]

    def _note(self, name: str, error: BaseException) -> None:
        self.faults.append((name, error))
        self._is_told.set()

    async def told(self) -> tuple[str, BaseException]:
        """Wait for the fault and take it."""
        async with asyncio.timeout(10):
            await self._is_told.wait()
        return self.faults.pop()
