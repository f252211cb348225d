"""What follows from the ends of runs, once they are in the store: it is told and measured, and jobs that wait again are put."""

from __future__ import annotations

from collections.abc import Sequence

from kqs.job import Entry, Report, Run, entry_again
from kqs.queue.basis import Basis
from kqs.queue.meter import Meter
from kqs.queue.timetable import Timetable
from kqs.states import WAITING


class Aftermath:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, basis: Basis, timetable: Timetable, meter: Meter) -> None:
        self._broker = basis.broker
        self._events = basis.events
        self._timetable = timetable
        self._meter = meter

    async def follow(self, batch: list[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        """Do what follows from reports, now that they are in the store. accepted: which of them are; the others were stale."""
        if self._events.hears_ends:
            self._events.reported(batch, accepted)
        ready: list[Entry] = []
        held: list[Entry] = []
        self._meter.reported(batch if all(accepted) else [one for one, ok in zip(batch, accepted, strict=True) if ok])
        for (run, report), ok in zip(batch, accepted, strict=True):
            if run.handle is not None:
                held.append(Entry(run.claim.order, run.claim.id, run.type, run.prio, run.handle))
            if ok and report.state in WAITING:
                if report.ended_at > run.started_at:  # else it is when that began, maybe by another server's clock
                    self._timetable.note_instant(report.ended_at)
                self._timetable.note(report.due_at, run.expire_at)
                if not report.due_at and run.resource is None:  # the store calls it when that is free
                    ready.append(entry_again(run, self._broker.body_bytes))
        if held:
            await self._broker.delete(held)
        if ready:
            await self._broker.put(ready)
