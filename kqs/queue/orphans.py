"""The runs of servers that died, this one's last boot among them: held ones are adopted, and all others go back as ghosts."""

from __future__ import annotations

from collections.abc import Sequence

from kqs.job import Report, Run
from kqs.log import get_logger
from kqs.queue.aftermath import Aftermath
from kqs.queue.basis import Basis
from kqs.queue.runs import Runs
from kqs.queue.timetable import SLICE

log = get_logger("kqs.queue")


class Orphans:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, basis: Basis, runs: Runs, aftermath: Aftermath) -> None:
        self._basis = basis
        self._runs = runs
        self._aftermath = aftermath

    async def recover(self) -> None:
        """Take all that are there. Raises: StoreUnavailableError: some may be left."""
        store, keep_damaged_s = self._basis.store, self._basis.keep_damaged_s
        while orphans := await store.orphans(SLICE, keep_damaged_s()):
            if held := [run for run in orphans if run.held]:
                await self._adopt(held)
            if lost := [run for run in orphans if not run.held]:
                await self._give_back(lost)

    async def _adopt(self, held: Sequence[Run]) -> None:
        basis = self._basis
        adopted = await basis.store.adopt(held)
        self._runs.on_adopted([basis.broker.found(run) for run, is_ours in zip(held, adopted, strict=True) if is_ours])

    async def _give_back(self, lost: Sequence[Run]) -> None:
        now = self._basis.clock.now()
        ends = [(run, self._runs.died(run, now)) for run in lost]
        await self._runs.reporter.commit(ends, self._given_back, is_patient=False)

    async def _given_back(self, ends: list[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        # other servers look for orphans too: what is stale here was given back by them
        ours = [end for end, ok in zip(ends, accepted, strict=True) if ok]
        if ours:
            log.info("gave back runs of a server that died", count=len(ours))
            if self._basis.events.is_heard:
                self._basis.events.worker_lost(None, [run for run, _ in ours])
        await self._aftermath.follow(ours, [True] * len(ours))
